"""Invariant risk minimisation, IRMv1, without a second derivative.

Shape legend: D domains, T supervised tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from igascale.hooks._annealing import Annealing
from igascale.hooks._figures import ratio
from igascale.hooks.base import AdapterFactors, DomainFactorGrads, FactorGrads, GradientHook, HookContext

#: Above this ratio of the penalty's gradient to the mean gradient, training looks at the penalty alone.
DOMINATING = 10.0


def dummy_scale_derivative(logits_TV: Tensor, labels_T: Tensor) -> Tensor:
    r"""Derivative of each token's cross-entropy in a factor on its logits, at factor 1.

    .. math:: \frac{d}{dw} \bigl(-\log\operatorname{softmax}(w z)_y\bigr)\Big|_{w=1} = \mathbb E_{v \sim p}[z_v] - z_y

    Args:
        logits_TV: unnormalised.
        labels_T: token ids.

    Returns:
        ``[T]``, differentiable.
    """
    # Relative to the label's logit: the large common part of all logits never enters.
    relative_TV = logits_TV - logits_TV.gather(-1, labels_T[:, None])
    return (logits_TV.softmax(-1) * relative_TV).sum(-1)


class InvariantRiskMinimization(GradientHook):
    r"""IRMv1: the mean loss plus lambda times the squared derivative of each domain's loss in a dummy scale.

    .. math::
        \frac1D \sum_n \bigl(L_n + \lambda D_n^2\bigr), \quad
        D_n = \frac{d}{dw} L_n(w z)\Big|_{w=1}
        \quad\Rightarrow\quad g = \frac1D \sum_n \bigl(g_n + 2\lambda D_n \nabla D_n\bigr)

    One scale on all logits of all supervised tokens. D_n is the mean of :func:`dummy_scale_derivative` over the same
    tokens, with the same weights, as L_n. Its gradient comes from a second ordinary backward pass (the trainer's, by
    :attr:`auxiliary`); fused attention has no second derivative and needs none.

    Accumulation: D_n is the mean over the WHOLE step, all micro-batches of all ranks, and is squared afterwards. How a
    step is cut into micro-batches changes nothing; squaring per micro-batch would add the variance of D_n to the penalty.

    Reference: `Invariant Risk Minimization <https://arxiv.org/abs/1907.02893>`_, the objective named IRMv1.

    Differs from the paper: its mean over domains instead of the sum, as in the authors' code: the same direction.
    Like that code and unlike DomainBed, D_n is squared, not estimated without bias as a product over even and odd
    samples: with few samples the penalty never reaches zero. DomainBed also starts a new Adam where lambda jumps; this
    does not.

    Statistics, per adapter:
        * ``penalty_ratio``: norm of the penalty's part of g over that of the mean gradient's part, at most 1e6.

    Args:
        penalty: lambda, >= 0. 100 as in DomainBed; 0 is the mean. The paper's coloured digits took 10^4.
        anneal_steps: optimizer steps with lambda = 1 before, >= 0. 100 as in the authors' code; DomainBed has 500.
        rescale: divide the whole objective by lambda where that exceeds 1, as the authors' code does (DomainBed does not).
            Adam hardly notices (its epsilon apart); ``optimizer.max_grad_norm`` applies to the divided gradient.

    Raises:
        ValueError: for a value that is not allowed, naming the option; a context without the auxiliary gradients.

    Example:
        >>> grads = {"q_proj": DomainFactorGrads(torch.tensor([[[1.0]], [[3.0]]]), torch.zeros(2, 1, 1))}
        >>> values = torch.tensor([0.5, -1.0]).double()  # D_n; here its gradients are those of the losses
        >>> context = HookContext(domains=("law", "maths"), aux=grads, aux_values=values)
        >>> InvariantRiskMinimization(penalty=1.0).combine(grads, {}, context)["q_proj"].a
        tensor([[-0.5000]])
    """

    min_domains: int = 2
    statistics = ("penalty_ratio",)

    def __init__(self, *, penalty: float = 100.0, anneal_steps: int = 100, rescale: bool = True) -> None:
        self.annealing = Annealing(penalty, anneal_steps, rescale)
        self.auxiliary = dummy_scale_derivative

    def combine(
        self,
        grads: Mapping[str, DomainFactorGrads],
        adapters: Mapping[str, AdapterFactors],
        ctx: HookContext,
    ) -> dict[str, FactorGrads]:
        """Mean gradient plus the penalty's; see the class."""
        if grads and (ctx.aux_values is None or not grads.keys() <= ctx.aux.keys()):
            raise ValueError("irm needs the gradients of its auxiliary statistic: HookContext(aux=..., aux_values=...)")
        return {fqn: self._combine_adapter(g, ctx.aux[fqn], ctx) for fqn, g in grads.items()}

    def _combine_adapter(self, grads: DomainFactorGrads, aux: DomainFactorGrads, ctx: HookContext) -> FactorGrads:
        assert ctx.aux_values is not None
        share = 1 / (len(grads.a) * self.annealing.divisor(ctx.step))
        mean_D = torch.full((len(grads.a),), share, dtype=torch.float64)
        penalty_D = 2 * self.annealing.weight(ctx.step) * share * ctx.aux_values.double()
        pairs = [
            (torch.tensordot(mean_D.to(x), x, 1), torch.tensordot(penalty_D.to(y), y, 1))
            for x, y in ((grads.a, aux.a), (grads.b, aux.b))
        ]
        mean, penalty = (torch.cat([t.flatten() for t in part]).norm(dtype=torch.float64) for part in zip(*pairs))
        (mean_a, penalty_a), (mean_b, penalty_b) = pairs
        return FactorGrads(mean_a + penalty_a, mean_b + penalty_b, stats={"penalty_ratio": ratio(penalty, mean)})

    def alarms(self, stats: Mapping[str, float]) -> dict[str, str]:
        """Tell of a penalty that leaves nothing of the loss."""
        found = stats.get("penalty_ratio", 0.0)
        if not found > DOMINATING:
            return {}
        return {
            "penalty dominates": (
                f"the penalty's gradient is {found:.3g} times that of the loss: training looks at the penalty alone, and "
                "logits that say nothing satisfy it. Lower penalty, or raise anneal_steps."
            )
        }
