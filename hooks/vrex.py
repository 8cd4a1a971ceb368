"""Risk extrapolation: a penalty on the variance of the domain losses, which is a reweighting of the domains.

Shape legend: D domains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from igascale.hooks._annealing import Annealing
from igascale.hooks.base import AdapterFactors, DomainFactorGrads, FactorGrads, HookContext, WeightedHook

#: Above this multiple of a domain's share in the mean, one domain steers the update.
DOMINATING = 10.0


class VRex(WeightedHook):
    r"""V-REx: the mean loss plus lambda times the variance of the domain losses.

    .. math::
        \bar L + \lambda \frac1D \sum_n (L_n - \bar L)^2
        \quad\Rightarrow\quad g = \frac1D \sum_n \bigl(1 + 2\lambda (L_n - \bar L)\bigr)\, g_n

    The second form is the gradient of the first, exactly: no second backward pass. L_n are the losses of the whole
    step, over all ranks and micro-batches, so that accumulation does not change the objective.

    Reference: `Out-of-Distribution Generalization via Risk Extrapolation <https://arxiv.org/abs/2003.00688>`_, Eq. 8.

    Differs from the paper: Eq. 8 adds the variance to the sum of the losses, not to their mean: its beta is D lambda. The
    mean is what DomainBed has. DomainBed starts a new Adam at the step where lambda jumps; this keeps Adam's moments,
    and relies on ``rescale`` to keep the gradients of one size.

    Statistics, the same for every adapter:
        * ``smallest_weight``, ``largest_weight``: of the domains, before rescaling, in units of the mean's 1/D.
        * ``loss_gap``: largest less smallest domain loss, nats.

    Args:
        penalty: lambda, >= 0, per nat. 10 as in DomainBed; 0 is the mean.
        anneal_steps: optimizer steps with lambda = 1 before, >= 0. DomainBed has 500.
        rescale: divide the whole objective by lambda where that exceeds 1, as the authors' code does (DomainBed does not).
            Adam hardly notices (its epsilon apart); ``optimizer.max_grad_norm`` applies to the divided gradient.

    Raises:
        ValueError: for a value that is not allowed, naming the option.

    Example:
        >>> import torch
        >>> context = HookContext(domains=("law", "maths"), losses=torch.tensor([1.0, 1.5]).double())
        >>> VRex(penalty=1.0).weights(torch.eye(2), context)
        tensor([0.2500, 0.7500], dtype=torch.float64)
    """

    min_domains: int = 2
    statistics = ("smallest_weight", "largest_weight", "loss_gap")

    def __init__(self, *, penalty: float = 10.0, anneal_steps: int = 0, rescale: bool = True) -> None:
        self.annealing = Annealing(penalty, anneal_steps, rescale)

    def weights(self, gram: Tensor, ctx: HookContext) -> Tensor:
        """See the class; the Gramian is not used."""
        losses_D = _losses(ctx)
        return self._relative_weights(losses_D, ctx.step) / (len(losses_D) * self.annealing.divisor(ctx.step))

    def combine(
        self,
        grads: Mapping[str, DomainFactorGrads],
        adapters: Mapping[str, AdapterFactors],
        ctx: HookContext,
    ) -> dict[str, FactorGrads]:
        """Weighted sum over domains, with the figures of the class."""
        losses_D = _losses(ctx)
        smallest, largest = self._relative_weights(losses_D, ctx.step).aminmax()
        figures = (smallest, largest, losses_D.max() - losses_D.min())
        stats = dict(zip(self.statistics, figures))
        return {fqn: replace(g, stats=stats) for fqn, g in super().combine(grads, adapters, ctx).items()}

    def _relative_weights(self, losses_D: Tensor, step: int) -> Tensor:
        return 1 + 2 * self.annealing.weight(step) * (losses_D - losses_D.mean())

    def alarms(self, stats: Mapping[str, float]) -> dict[str, str]:
        """Tell of weights that turn descent into ascent or leave one domain in charge."""
        smallest, largest, gap = (stats.get(name, 1.0) for name in self.statistics)
        told = {}
        if smallest < 0:
            told["ascent"] = (
                f"the losses of the domains are {gap:.3g} nats apart and the penalty pushes the loss of the easiest domain up "
                f"(its weight is {smallest:.3g} times that in the mean). Lower penalty, or raise anneal_steps."
            )
        if largest > DOMINATING:
            told["dominating domain"] = (
                f"the hardest domain weighs {largest:.3g} times what it does in the mean: the penalty hides the losses. "
                "Lower penalty, or raise anneal_steps."
            )
        return told


def _losses(ctx: HookContext) -> Tensor:
    if ctx.losses is None:
        raise ValueError("vrex needs the domain losses: HookContext(losses=...)")
    return ctx.losses.double()
