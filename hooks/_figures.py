"""Figures of one adapter that masking hooks tell of, and the ratios they are made of.

Shape legend: D domains, X the two dimensions of a factor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from igascale.hooks.base import DomainFactorGrads
from igascale.linalg.gram import variance_over_domains
from igascale.linalg.histogram import of_entries
from igascale.linalg.masks import domain_variance

#: Caps ratios whose denominator may vanish.
LARGEST_RATIO = 1e6


def figures(
    grads: DomainFactorGrads, means: list[Tensor], results: list[Tensor], masks: list[Tensor]
) -> dict[str, Tensor]:
    """The statistics of :class:`~igascale.hooks._masking.FactorMaskHook`, 0-d float64."""
    mean, result = (torch.cat([t.flatten() for t in pair]).double() for pair in (means, results))
    mean_sq, norms = mean.square().sum(), mean.norm() * result.norm()
    variance = variance_sum(grads)
    live = _live(grads)
    mask = torch.cat([m.flatten() for m in masks]).double()
    return {
        "mean_mask": torch.where(live.any(), (mask * live).sum() / live.sum().clamp_min(1), mask.mean()),
        "relative_change": ratio((result - mean).norm(), mean.norm()),
        "gir": ratio(variance, mean_sq),
        "noise_share": noise_share(grads, variance, row=1),
        "grad_cosine": torch.where(norms == 0, 0.0, (mean @ result) / norms),
    }


def mask_histogram(grads: DomainFactorGrads, masks: list[Tensor]) -> Tensor:
    """Values of the masks of A and B where there is something to mask (:mod:`igascale.linalg.histogram`)."""
    return of_entries(torch.cat([m.flatten() for m in masks]), _live(grads))


def _live(grads: DomainFactorGrads) -> Tensor:
    """Where every domain's gradient is zero (all of A's at B = 0) there is nothing to mask and nothing to count."""
    return torch.cat([(x != 0).any(0).flatten() for x in (grads.a, grads.b)])


def variance_sum(grads: DomainFactorGrads) -> Tensor:
    """The population variance over domains, summed over the elements of both factors, 0-d float64."""
    return domain_variance(grads.a).sum() + domain_variance(grads.b).sum()


def noise_share(grads: DomainFactorGrads, variance: Tensor, row: int) -> Tensor:
    r"""The estimated share of a sum of variances that is sampling noise; NaN if unknown. An estimate may exceed 1.

    .. math:: \frac1D \sum_n E\|\epsilon_n - \bar\epsilon\|^2

    Args:
        grads: an adapter's gradients; :attr:`DomainFactorGrads.noise` holds :math:`E\langle \epsilon_m, \epsilon_n\rangle`.
        variance: the sum, of what ``row`` of the noise speaks of.
        row: 0 for the reconstruction, 1 for the factors.
    """
    if grads.noise is None:
        return torch.full_like(variance, torch.nan)
    noise = variance_over_domains(grads.noise[row]).clamp_min(0).to(variance)
    return torch.where(variance > 0, noise / variance, torch.nan)


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Their quotient, at most :data:`LARGEST_RATIO`; 0 where the numerator is 0, NaN where either is NaN."""
    quotient = (numerator / denominator).clamp_max(LARGEST_RATIO)
    return torch.where((numerator == 0) & ~denominator.isnan(), 0.0, quotient)


def inverse_sparsity(mask_XX: Tensor) -> Tensor:
    """What AND-mask and SAND-mask's published code multiplies the masked gradient of one tensor by."""
    return 1 / (1e-10 + mask_XX.mean(dtype=torch.float64))
