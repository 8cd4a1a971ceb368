"""What the rules that attenuate the mean gradient have in common: reference gradient, control, figures, alarms.

Shape legend: D domains, R LoRA rank, I in-features, O out-features, X the two dimensions of a factor.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from igascale.hooks._figures import (
    LARGEST_RATIO,
    figures,
    inverse_sparsity,
    mask_histogram,
    noise_share,
    ratio,
    variance_sum,
)
from igascale.hooks._options import flag, one_of
from igascale.hooks.base import AdapterFactors, DomainFactorGrads, FactorGrads, GradientHook, HookContext
from igascale.linalg.masks import domain_mean

__all__ = [
    "LARGEST_RATIO",
    "FactorMaskHook",
    "MaskingHook",
    "SecondMoment",
    "inverse_sparsity",
    "noise_share",
    "ratio",
    "variance_sum",
]

SecondMoment = Literal["adam", "max"]


class MaskingHook(GradientHook):
    """A rule that returns the mean gradient, attenuated where domains disagree.

    Args:
        second_moment: ``adam``, or ``max``: Adam's second moment follows the larger of the masked and the plain mean
            gradient. Adam alone divides a lasting attenuation out again.
        shuffled: control: put the same mask values in random places. What is gained with it on is not the mask's aim.

    Attributes:
        off: the options ask for plain averaging; then nobody is told that the mask does nothing.
        strengthen: how to make the mask stronger, a sentence for the alarms.
        weaken: the same for weaker, without the full stop.
    """

    min_domains: int = 2
    uses_noise = True
    noise_decides = False
    off: bool = False
    strengthen: str = "Raise tau."
    weaken: str = "Lower tau"

    def __init__(self, second_moment: SecondMoment, shuffled: bool) -> None:
        self.second_moment: SecondMoment = one_of("second_moment", second_moment, SecondMoment)
        self.shuffled = flag("shuffled", shuffled)
        self.uses_reference = second_moment == "max"

    def warnings(self) -> list[str]:
        """One line for each choice that was measured to undo the mask."""
        told = []
        if self.shuffled:
            told.append("shuffled=True: a control, the mask's values are in random places.")
        if self.second_moment == "adam" and not self.off:
            told.append(
                "second_moment='adam': Adam's second moment divides a lasting mask out again; measured: a gate gained .01 "
                "out-of-distribution, against .07 to .16 with 'max'. Use 'max'."
            )
        return told

    def alarms(self, stats: Mapping[str, Tensor | float]) -> dict[str, str]:
        """What a user should be told about a step, with the remedy; a figure that is missing or NaN is not judged."""
        value = {name: float(stats[name]) for name in stats}
        change, mask = value.get("relative_change", 0.5), value.get("mean_mask", 1.0)
        noise, cosine = value.get("noise_share", 0.0), value.get("grad_cosine", 1.0)
        told = [
            (
                "inactive mask",
                change < 0.01 and not self.off,
                f"the mask is inactive: it changes the gradient by {change:.2g} of its norm (<1%), so this is plain "
                f"averaging. {self.strengthen}",
            ),
            (
                "starving mask",
                # A mask alone changes the gradient by 1 at most: what changes it by more has been scaled up again.
                mask < 0.1 or 0.95 < change < 1.001,
                f"the mask starves training: it changes the gradient by {change:.0%}, mean mask {mask:.2g}. "
                f"{self.weaken}, or average more groups per step: with few, most of V is sampling noise.",
            ),
            (
                "noise-dominated",
                noise > 0.8,
                f"{min(noise, 1.0):.0%} of the variance between domains is sampling noise, not conflict. "
                "Average more groups per step.",
            ),
            (
                "not a descent direction",
                cosine < 0,
                f"the update is not a descent direction: its cosine with the mean gradient is {cosine:.2f}. "
                f"{self.weaken}.",
            ),
        ]
        return {name: text for name, applies, text in told if applies}


class FactorMaskHook(MaskingHook):
    """An elementwise mask on the gradients of A and B, each by itself.

    Statistics, per adapter:
        * ``mean_mask``: mean of the mask over the elements of A and B, before any rescaling.
        * ``relative_change``: ``||g - mean|| / ||mean||``, A and B as one vector.
        * ``gir``: ``sum V / sum mean^2`` before the mask, V the population variance over domains; at most 1e6.
        * ``noise_share``: estimated share of ``sum V`` that is sampling noise (:mod:`igascale.noise`); NaN if unknown.
        * ``grad_cosine``: between the gradient returned and the plain domain mean.
    """

    statistics: tuple[str, ...] = ("mean_mask", "relative_change", "gir", "noise_share", "grad_cosine")
    draws_mask = True

    @abstractmethod
    def mask(self, x_DXX: Tensor) -> Tensor:
        """The mask ``[X, X]`` of one factor's per-domain gradients, on their device and in their precision."""

    def gain(self, mask_XX: Tensor) -> Tensor | float:
        """What the masked gradient is multiplied by; some published masks make up for what they remove."""
        return 1.0

    def combine(
        self,
        grads: Mapping[str, DomainFactorGrads],
        adapters: Mapping[str, AdapterFactors],
        ctx: HookContext,
    ) -> dict[str, FactorGrads]:
        """Mask both factors of every adapter."""
        return {fqn: self._combine_adapter(fqn, g, ctx) for fqn, g in grads.items()}

    def _combine_adapter(self, fqn: str, grads: DomainFactorGrads, ctx: HookContext) -> FactorGrads:
        means, results, masks = [], [], []
        for name, x_DXX in (("a", grads.a), ("b", grads.b)):
            mean_XX, mask_XX = domain_mean(x_DXX), self.mask(x_DXX)
            gain = self.gain(mask_XX)
            if self.shuffled:
                order = torch.randperm(mask_XX.numel(), generator=ctx.generator(f"shuffle/{fqn}/{name}"))
                mask_XX = mask_XX.flatten()[order.to(mask_XX.device)].view_as(mask_XX)
            # A mask of ones changes nothing, to the last bit; a NaN of either comes through.
            results.append(mean_XX * (mask_XX * gain))
            means.append(mean_XX)
            masks.append(mask_XX)
        reference = means if self.uses_reference else (None, None)
        stats = figures(grads, means, results, masks)
        histogram = mask_histogram(grads, masks) if ctx.wants_histogram else None
        return FactorGrads(results[0], results[1], reference[0], reference[1], stats, histogram)
