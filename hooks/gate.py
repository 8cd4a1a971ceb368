"""Gate: one scalar per adapter, from how much domains disagree about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from igascale.hooks._masking import FactorMaskHook, MaskingHook, SecondMoment, noise_share, ratio, variance_sum
from igascale.hooks._options import flag, number, one_of
from igascale.hooks.base import AdapterFactors, DomainFactorGrads, FactorGrads, HookContext
from igascale.linalg.contrasts import build_contrasts
from igascale.linalg.histogram import of_constant
from igascale.linalg.masks import domain_mean

Space = Literal["factor", "weight"]


class Gate(MaskingHook):
    r"""The mean gradient of each adapter, times a scalar.

    .. math:: g = w\, \bar g, \qquad w = \exp\!\left(-\tau \frac{\sum V}{\sum \bar g^2}\right)

    with V the population variance (1/D) over domains: the mask of Invariant Gradient Alignment with its relative
    variance taken over the whole adapter, which is what is left of it if it must not depend on the choice of
    coordinates. No ``[O, I]`` matrix is needed in either space.

    Reference: none for the rule; the numerator is the Gradient Invariance Residual of `Invariant Gradient Alignment
    <https://arxiv.org/abs/2606.05025>`_, Eq. 14, the mask its Eq. 6.

    Statistics: those of :class:`~igascale.hooks._masking.FactorMaskHook`, with ``mean_mask`` = w and ``gir`` and
    ``noise_share`` of the chosen space, both before the removal of noise.

    Args:
        tau: strength, >= 0; 0 is the plain mean.
        space: V and the mean of the gradients of A and B (``factor``) or of their reconstruction ``b_n A + B a_n``.
        remove_noise: take the estimated sampling noise out of ``sum V``; where it is not known V stays as it is.
        second_moment: ``adam``, or ``max``: Adam's v follows the larger of this and the plain mean gradient.
        shuffled: control: the scalars of adapters of one shape change places, over all ranks. An adapter that is alone
            with its shape keeps its own.

    Raises:
        ValueError: for a value that is not allowed, naming the option.

    Example:
        >>> a = torch.tensor([[[1.0]], [[3.0]]])  # mean 2, variance 1
        >>> grads = {"q_proj": DomainFactorGrads(a, torch.zeros(2, 1, 1))}
        >>> Gate(tau=4.0).combine(grads, {}, HookContext())["q_proj"].a  # 2 exp(-4 * 1 / 2^2)
        tensor([[0.7358]])
    """

    statistics = FactorMaskHook.statistics
    draws_mask = True

    def __init__(
        self,
        *,
        tau: float = 0.5,
        space: Space = "factor",
        remove_noise: bool = False,
        second_moment: SecondMoment = "max",
        shuffled: bool = False,
    ) -> None:
        super().__init__(second_moment, shuffled)
        self.tau = number("tau", tau)
        self.space: Space = one_of("space", space, Space)
        self.remove_noise = self.noise_decides = flag("remove_noise", remove_noise)
        self.off = self.tau == 0

    def combine(
        self,
        grads: Mapping[str, DomainFactorGrads],
        adapters: Mapping[str, AdapterFactors],
        ctx: HookContext,
    ) -> dict[str, FactorGrads]:
        """Scale the mean gradient of every adapter."""
        figures = {fqn: self._gir(g, adapters.get(fqn)) for fqn, g in grads.items()}
        scalars = {fqn: torch.exp(-self.tau * self._conflict(gir, noise)) for fqn, (gir, noise) in figures.items()}
        if self.shuffled:  # also on a rank that owns no adapter: the others wait for its share
            scalars = _shuffle(scalars, grads, ctx)
        return {fqn: self._scaled(g, scalars[fqn], figures[fqn], ctx.wants_histogram) for fqn, g in grads.items()}

    def _scaled(
        self, g: DomainFactorGrads, w: Tensor, figures: tuple[Tensor, Tensor], wants_histogram: bool
    ) -> FactorGrads:
        mean_a, mean_b = domain_mean(g.a), domain_mean(g.b)
        a, b = mean_a * w.to(mean_a.dtype), mean_b * w.to(mean_b.dtype)  # w = 1 changes nothing, to the last bit
        nothing = (mean_a == 0).all() & (mean_b == 0).all()
        change, cosine = torch.where(nothing, 0.0, 1 - w), torch.where(nothing | (w == 0), 0.0, 1.0)
        reference_a, reference_b = (mean_a, mean_b) if self.uses_reference else (None, None)
        stats = dict(zip(self.statistics, (w, change, *figures, cosine)))
        histogram = of_constant(w[None], a.numel() + b.numel())[0] if wants_histogram else None
        return FactorGrads(a, b, reference_a, reference_b, stats, histogram)

    def _gir(self, g: DomainFactorGrads, factors: AdapterFactors | None) -> tuple[Tensor, Tensor]:
        """``sum V / sum gbar^2`` and the share of noise in it, 0-d float64."""
        if self.space == "factor":
            variance = variance_sum(g)
            mean_sq = sum((domain_mean(x.double()).square().sum() for x in (g.a, g.b)), torch.zeros_like(variance))
            return ratio(variance, mean_sq), noise_share(g, variance, row=1)
        assert factors is not None  # a hook is given the factors of every adapter
        c = build_contrasts(*(t.double()[None] for t in (g.a, g.b, factors.A, factors.B)))
        unit = torch.where(c.finite_N[0], c.scale_N[0].square(), torch.nan)
        variance = c.variance_sum_N[0] * unit
        return ratio(variance, c.mean_sq_N[0] * unit), noise_share(g, variance, row=0)

    def _conflict(self, gir: Tensor, noise: Tensor) -> Tensor:
        """The ratio that the scalar is made from; V stays as it is where its noise is not known."""
        return torch.where(noise.isnan(), gir, gir * (1 - noise).clamp_min(0)) if self.remove_noise else gir


def _shuffle(
    scalars: Mapping[str, Tensor], grads: Mapping[str, DomainFactorGrads], ctx: HookContext
) -> dict[str, Tensor]:
    """The scalars of all adapters of all ranks, permuted among adapters of one shape; of them those of ``grads``."""
    shapes = ctx.shapes or {fqn: (g.b.shape[1], g.a.shape[2], g.a.shape[1]) for fqn, g in grads.items()}
    zero = torch.zeros((), dtype=torch.float64)
    w_M = ctx.sum_over_shards(torch.stack([scalars.get(fqn, zero).cpu() for fqn in shapes] or [zero]))
    place = {fqn: m for m, fqn in enumerate(shapes)}
    generator = ctx.generator("shuffle")
    source: dict[str, str] = {}
    for shape in dict.fromkeys(shapes.values()):
        alike = [fqn for fqn in shapes if shapes[fqn] == shape]
        order = torch.randperm(len(alike), generator=generator).tolist()
        source |= {fqn: alike[k] for fqn, k in zip(alike, order)}
    return {fqn: w_M[place[source[fqn]]].to(g.a.device) for fqn, g in grads.items()}
