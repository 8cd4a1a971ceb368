# ruff: noqa: E741 -- O and I are the shape letters of the project
r"""The masks of :mod:`igascale.linalg.masks` on the reconstructed gradient, a block of rows at a time.

Shape legend: N adapters of one shape, D domains, I in-features, O out-features, Q = 2R, T rows of a tile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from igascale.linalg.contrasts import Contrasts
from igascale.linalg.masks import RELATIVE_EPS, VarianceNorm
from igascale.linalg.tiles import TileMask


class ExpMask:
    r"""The continuous mask.

    .. math:: M = e^{-\tau u}, \qquad M - 1 = \mathrm{expm1}(-\tau u)

    Reference: arXiv 2606.05025, Eq. 6.

    Differs from the paper: ``u = V`` there (``none``). V has the square of the gradient's scale, so ``relative`` divides
    it by ``gbar^2 + 1e-12 mean(V)``, ``smoothed`` by ``gbar^2 + mean(V)``, ``fraction`` by ``gbar^2 + V`` and ``mean``
    by ``mean(V)``. ``expm1`` makes the change exactly zero at ``tau = 0``.

    Args:
        contrasts: of the reconstructed gradients.
        tau: strength of the mask, >= 0. In units of ``1 / gradient^2`` with ``none``, else dimensionless.
        norm: what V is divided by.
        keep_N: share of V that is not sampling noise, ``[N]``; all of it by default. No effect on ``mean``, where it
            cancels.

    Attributes:
        factor_N11: what u is multiplied by in the exponent, ``-tau`` and the units.
        eps_N11: added to ``gbar^2`` in the denominator of ``relative``, ``smoothed`` and ``fraction``.
        keep_N11: what V is multiplied by in the denominator of ``fraction``.
    """

    scratch = 1

    def __init__(self, contrasts: Contrasts, tau: float, norm: VarianceNorm, keep_N: Tensor | None = None) -> None:
        self.contrasts, self.norm = contrasts, norm
        dtype = contrasts.left_NDOQ.dtype
        mean_v_N = contrasts.variance_mean_N
        keep_N = torch.ones_like(mean_v_N) if keep_N is None else keep_N.to(mean_v_N)
        if norm == "none":
            factor_N = keep_N * contrasts.scale_N.double() ** 2
        elif norm == "mean":
            factor_N = torch.where(mean_v_N > 0, 1 / torch.where(mean_v_N > 0, mean_v_N, 1.0), 0.0)
        else:
            factor_N = keep_N
        self.factor_N11 = (-tau * factor_N).to(dtype)[:, None, None]
        # Where V is all noise, u is 0 by its factor alone: the denominator must not vanish, or 0 times infinity is a NaN.
        keep_N = torch.where(keep_N > 0, keep_N, 1.0)
        share_N = {"relative": RELATIVE_EPS * mean_v_N, "smoothed": keep_N * mean_v_N}.get(
            norm, torch.zeros_like(mean_v_N)
        )
        # `tiny` makes 0 / 0 a zero where nothing varies and the mean vanishes too.
        self.eps_N11 = (share_N.to(dtype) + torch.finfo(dtype).tiny)[:, None, None]
        self.keep_N11 = keep_N.to(dtype)[:, None, None]

    def values(self, i: int, j: int, gbar_NTI: Tensor, out_NTI: Tensor, scratch: list[Tensor]) -> Tensor:
        """See :class:`igascale.linalg.tiles.TileMask`."""
        exponent_NTI = self._exponent(i, j, gbar_NTI, out_NTI, scratch)
        # What is smaller yet is nothing beside gbar's rounding, but numbers below the normal range make a CPU crawl.
        return exponent_NTI.clamp_min_(2 * math.log(torch.finfo(exponent_NTI.dtype).eps)).exp_()

    def minus_one(self, i: int, j: int, gbar_NTI: Tensor, out_NTI: Tensor, scratch: list[Tensor]) -> Tensor:
        """See :class:`igascale.linalg.tiles.TileMask`."""
        return self._exponent(i, j, gbar_NTI, out_NTI, scratch).expm1_()

    def _exponent(self, i: int, j: int, gbar_NTI: Tensor, out_NTI: Tensor, scratch: list[Tensor]) -> Tensor:
        """``-tau u``."""
        if not _variance(self.contrasts, i, j, out_NTI, scratch[0]):
            return out_NTI.zero_()
        if self.norm in ("relative", "smoothed", "fraction"):
            denominator = torch.addcmul(self.eps_N11, gbar_NTI, gbar_NTI, out=scratch[0])
            if self.norm == "fraction":
                denominator.addcmul_(out_NTI, self.keep_N11)
            out_NTI.div_(denominator)
        return out_NTI.mul_(self.factor_N11)


class SignMask:
    r"""The AND and SAND masks on the reconstructed gradient, for the ablation "w/o continuous mask".

    .. math::
        M = 1[s \ge t], \qquad M = \max(0, \tanh(k\, (s - t) / u)), \qquad s = |\tfrac1D \sum_n \mathrm{sign}\, \hat g_n|

    with u the unbiased variance (1/(D-1)) over domains, divided like that of :class:`ExpMask`.

    Args:
        contrasts: of the reconstructed gradients.
        left_NDOQ: ``[b_n | B]`` of each domain; its products with ``right_NDQI`` are the reconstructions.
        right_NDQI: ``[A ; a_n]``.
        kind: ``and`` or ``sand``.
        threshold: t, in [0, 1].
        sharpness: k, for ``sand``.
        norm: of ``sand``'s variance: ``none`` or ``relative``.
    """

    def __init__(
        self,
        contrasts: Contrasts,
        left_NDOQ: Tensor,
        right_NDQI: Tensor,
        kind: str,
        threshold: float,
        sharpness: float,
        norm: VarianceNorm,
    ) -> None:
        self.contrasts, self._kind, self._norm = contrasts, kind, norm
        broken = ~contrasts.finite_N[:, None, None, None]
        self._left_NDOQ = left_NDOQ.masked_fill(broken, 0)
        self._right_NDQI = right_NDQI.masked_fill(broken, 0)
        self._threshold, self._sharpness = threshold, sharpness
        self.scratch = 1 if kind == "and" else 2

    def minus_one(self, i: int, j: int, gbar_NTI: Tensor, out_NTI: Tensor, scratch: list[Tensor]) -> Tensor:
        """See :class:`igascale.linalg.tiles.TileMask`."""
        return self.values(i, j, gbar_NTI, out_NTI, scratch).sub_(1)

    def values(self, i: int, j: int, gbar_NTI: Tensor, out_NTI: Tensor, scratch: list[Tensor]) -> Tensor:
        """See :class:`igascale.linalg.tiles.TileMask`."""
        D = self._left_NDOQ.shape[1]
        out_NTI.zero_()
        for n in range(D):
            torch.bmm(self._left_NDOQ[:, n, i:j], self._right_NDQI[:, n], out=scratch[0])
            out_NTI.add_(scratch[0].sign_())
        # Sums of signs are whole numbers, so half a step of slack decides ties as in exact arithmetic.
        excess_NTI = out_NTI.abs_().sub_(self._threshold * D)
        if self._kind == "and":
            return torch.ge(excess_NTI, -1e-4, out=excess_NTI)
        return self._sand(i, j, gbar_NTI, excess_NTI.div_(D), scratch)

    def _sand(self, i: int, j: int, gbar_NTI: Tensor, excess_NTI: Tensor, scratch: list[Tensor]) -> Tensor:
        c, D = self.contrasts, self._left_NDOQ.shape[1]
        excess_NTI.mul_(torch.abs(excess_NTI, out=scratch[0]).ge_(1e-5))
        variance = scratch[0]
        if not _variance(c, i, j, variance, scratch[1]):
            variance.zero_()
        variance.mul_(D / max(D - 1, 1))
        tiny = torch.finfo(variance.dtype).tiny
        if self._norm == "relative":
            variance.div_(torch.mul(gbar_NTI, gbar_NTI, out=scratch[1]).add_(tiny))
        else:
            variance.mul_(c.scale_N[:, None, None] ** 2)
        # excess / 0 is infinite and its tanh one; 0 / 0 is 0, as excess 0 keeps nothing.
        lam = excess_NTI.mul_(self._sharpness).div_(variance.clamp_min_(tiny))
        return lam.tanh_().clamp_min_(0)


class ShuffledMask:
    """Another mask's values in random places of the same adapter: a control.

    Holds the whole mask of every adapter of the batch, ``[N, O, I]``, and one permutation at a time.

    Args:
        contrasts: of the reconstructed gradients.
        inner: the mask.
        generators: one for each adapter.
        rows: height of the tiles in which the inner mask is computed.
    """

    scratch = 1

    def __init__(self, contrasts: Contrasts, inner: TileMask, generators: Sequence[torch.Generator], rows: int) -> None:
        N, _, O, _ = contrasts.left_NDOQ.shape
        I = contrasts.right_NDQI.shape[3]
        self._minus_one_NOI = contrasts.left_NDOQ.new_empty(N, O, I)
        gbar, *scratch = (contrasts.left_NDOQ.new_empty(N, rows, I) for _ in range(1 + inner.scratch))
        for i in range(0, O, rows):
            j = min(i + rows, O)
            parts = [t.flatten()[: N * (j - i) * I].view(N, j - i, I) for t in (gbar, *scratch)]
            out = torch.empty_like(parts[0])
            inner.minus_one(i, j, contrasts.tile(0, i, j, parts[0]), out, parts[1:])
            self._minus_one_NOI[:, i:j] = out
        for mask_OI, generator in zip(self._minus_one_NOI, generators):
            order = torch.randperm(O * I, generator=generator).to(mask_OI.device)
            mask_OI.copy_(mask_OI.flatten()[order].view_as(mask_OI))

    def minus_one(self, i: int, j: int, gbar_NTI: Tensor, out_NTI: Tensor, scratch: list[Tensor]) -> Tensor:
        """See :class:`igascale.linalg.tiles.TileMask`."""
        return out_NTI.copy_(self._minus_one_NOI[:, i:j])

    def values(self, i: int, j: int, gbar_NTI: Tensor, out_NTI: Tensor, scratch: list[Tensor]) -> Tensor:
        """See :class:`igascale.linalg.tiles.TileMask`."""
        return self.minus_one(i, j, gbar_NTI, out_NTI, scratch).add_(1)


def _variance(contrasts: Contrasts, i: int, j: int, out_NTI: Tensor, scratch_NTI: Tensor) -> bool:
    """Rows of V in the contrasts' units, in ``out_NTI``; false where there is one domain and so no variance."""
    D = contrasts.left_NDOQ.shape[1]
    if D == 1:
        return False
    contrasts.tile(1, i, j, out_NTI)
    torch.mul(out_NTI, out_NTI, out=out_NTI)
    for m in range(2, D):
        out_NTI.addcmul_(contrasts.tile(m, i, j, scratch_NTI), scratch_NTI)
    return True
