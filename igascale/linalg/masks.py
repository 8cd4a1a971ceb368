"""Elementwise masks over domains: what is kept of the mean gradient, from how much domains disagree.

Every mask is worked out in float64, where the square of any float32 is representable: a mask that is free of scale by
its formula is so to the last bit (times powers of two), and one that is not reaches its limit, 0 or 1, and no NaN. A NaN
among the gradients comes out as a NaN of the mask.

Shape legend: D domains; X any further dimensions.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

VarianceNorm = Literal["none", "mean", "relative", "smoothed", "fraction"]
SandNorm = Literal["none", "relative"]

#: Regularises ``u = V / gbar^2`` where the mean gradient vanishes, as a share of the mean of V.
RELATIVE_EPS = 1e-12

#: A threshold this close to a whole number of votes is that number: 0.33333 of three domains is one vote.
_VOTE_SLACK = 1e-4


def domain_mean(x_DX: Tensor) -> Tensor:
    """Mean over domains, by the operation that the ``mean`` hook uses, so that both agree to the last bit."""
    return torch.tensordot(x_DX.new_full((len(x_DX),), 1 / len(x_DX)), x_DX, 1)


def domain_variance(x_DX: Tensor) -> Tensor:
    r"""Population variance (1/D) over domains, float64.

    .. math:: V = \tfrac1D \sum_{m=1}^{D-1} \tfrac{m}{m+1} \left(x_m - \tfrac1m \textstyle\sum_{k<m} x_k\right)^2

    With the mean updated as the domains pass (Welford), domains that are equal have a variance of exactly zero; the
    deviations from a mean of three equal numbers, whose thirds are rounded, would not.
    """
    D = len(x_DX)
    running_X = x_DX[0].to(torch.float64, copy=True)
    V_X = torch.zeros_like(running_X)
    for m in range(1, D):
        difference_X = x_DX[m].double() - running_X
        V_X.addcmul_(difference_X, difference_X, value=m / ((m + 1) * D))
        running_X.add_(difference_X, alpha=1 / (m + 1))
    return V_X


def exp_mask(x_DX: Tensor, tau: float, norm: VarianceNorm, keep: Tensor | float = 1.0) -> Tensor:
    r"""The continuous mask of Invariant Gradient Alignment.

    .. math:: M = e^{-\tau u}

    ``u`` is V (``none``), V / mean V (``mean``), V / (gbar^2 + 1e-12 mean V) (``relative``), V / (gbar^2 + mean V)
    (``smoothed``) or V / (gbar^2 + V) (``fraction``), V the population variance (1/D) over domains; 0 where V is 0.

    Reference: `Invariant Gradient Alignment <https://arxiv.org/abs/2606.05025>`_, Eq. 5-6.

    Args:
        x_DX: per-domain gradients.
        tau: strength, >= 0. In units of ``1 / gradient^2`` with ``none``, else dimensionless.
        norm: what V is divided by; mean V is taken over the elements of ``x``.
        keep: V is multiplied by this: the share of it that is not sampling noise.

    Returns:
        ``[X]``, the mask, of the type of ``x``.
    """
    V_X = domain_variance(x_DX) * keep
    u_X = V_X
    if norm != "none":
        mean_V = V_X.mean()
        if norm == "mean":
            unit_X = mean_V
        else:
            share_X = {"relative": RELATIVE_EPS * mean_V, "smoothed": mean_V, "fraction": V_X}[norm]
            unit_X = domain_mean(x_DX.double()).square() + share_X
        u_X = torch.where(V_X == 0, 0.0, V_X / unit_X)
    return torch.exp(-tau * u_X).to(x_DX.dtype)


def and_mask(x_DX: Tensor, threshold: float) -> Tensor:
    r"""The AND-mask: 1 where enough domains agree on the sign, else 0.

    .. math:: M = 1\!\left[\,\left|\tfrac1D \textstyle\sum_n \mathrm{sign}(x_n)\right| \ge \tau\right]

    A zero has no sign and counts as half a vote either way. The sum of signs is a whole number and is compared as one.

    Reference: `Learning explanations that are hard to vary <https://arxiv.org/abs/2009.00329>`_.

    Args:
        x_DX: per-domain gradients.
        threshold: the paper's tau, in [0, 1]; 0 keeps everything, 1 what all domains agree on.

    Returns:
        ``[X]``, the mask, of the type of ``x``.
    """
    votes_X = _votes(x_DX)
    mask_X = (votes_X >= math.ceil(threshold * len(x_DX) - _VOTE_SLACK)).double()
    return torch.where(votes_X.isnan(), votes_X, mask_X).to(x_DX.dtype)


def sand_mask(x_DX: Tensor, threshold: float, sharpness: float, norm: SandNorm = "none") -> Tensor:
    r"""The SAND-mask: the AND-mask smoothed by how well the domains agree in size.

    .. math::
        M = \max\!\left(0, \tanh\!\left(\frac{k}{\sigma^2}
            \left(\left|\tfrac1D \textstyle\sum_n \mathrm{sign}(x_n)\right| - \tau\right)\right)\right)

    with the unbiased variance :math:`\sigma^2` (1/(D-1)) over domains, as published. Where it is 0 the mask is the
    limit: 1 where more domains agree than the threshold asks for, else 0.

    Reference: `SAND-mask <https://arxiv.org/abs/2106.02266>`_.

    Differs from the paper: with ``norm="relative"``, :math:`\sigma^2 / \bar x^2` takes the place of :math:`\sigma^2`,
    which has the units of a squared gradient: with gradients much smaller than 1 the mask is a step.

    Args:
        x_DX: per-domain gradients.
        threshold: the paper's tau, in [0, 1]. At 1 the mask is 0 everywhere: nothing can agree by more than all.
        sharpness: the paper's k, > 0. In units of ``gradient^2`` with ``none``, else dimensionless.
        norm: what the variance is divided by: nothing, or the squared mean.

    Returns:
        ``[X]``, the mask, of the type of ``x``.
    """
    D = len(x_DX)
    needed = threshold * D
    if abs(needed - round(needed)) <= _VOTE_SLACK:
        needed = round(needed)
    excess_X = (_votes(x_DX) - needed) / D
    variance_X = domain_variance(x_DX) * (D / max(D - 1, 1))
    equal_X = variance_X == 0
    rate_X = sharpness / torch.where(equal_X, 1.0, variance_X)
    if norm == "relative":
        rate_X = rate_X * domain_mean(x_DX.double()).square()
    mask_X = torch.tanh(rate_X * excess_X).clamp_min(0)
    return torch.where(equal_X, (excess_X > 0).double(), mask_X).to(x_DX.dtype)


def _votes(x_DX: Tensor) -> Tensor:
    """The absolute sum of the signs, float64; NaN where a gradient is (the sign of a NaN is 0 in PyTorch)."""
    return torch.where(x_DX.isnan().any(0), torch.nan, x_DX.sign().sum(0, dtype=torch.float64).abs())
