# ruff: noqa: E741, N802, N815 -- O and I are shape letters; the capitals at the end of a name are its shape
r"""Low-rank contrasts of the reconstructed per-domain gradients: mean and variance without D dense matrices.

Shape legend: N adapters of one shape, D domains, R LoRA rank, I in-features, O out-features, Q = 2R.

The reconstruction of domain n is ``ghat_n = b_n A + B a_n`` (arXiv 2606.05025, Eq. 4 in PEFT's notation), a matrix of
rank 2R at most. So is each of its Helmert contrasts, and the sum of their squares is the variance over domains.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from igascale.linalg.masks import domain_mean


@dataclass(frozen=True)
class Contrasts:
    r"""The D contrasts ``c_m = left_m right_m`` of N adapters, in units in which their size is about one.

    .. math:: \sigma c_0 = \bar g = \frac1D \sum_n \hat g_n, \qquad \sigma^2 \sum_{m \ge 1} c_m^2 = V

    with V the elementwise population variance (1/D) over domains.

    Attributes:
        left_NDOQ: ``[b_m | B]``, ``[N, D, O, 2R]``.
        right_NDQI: ``[A ; a_m]``, ``[N, D, 2R, I]``.
        mean_a_NRI: the plain mean of the gradients of A, in the caller's units.
        mean_b_NOR: the same for B.
        scale_N: sigma, a power of two (so that dividing by it is exact). Without it the squares of the gradients
            of a large model leave the range of float32.
        mean_sq_N: ``||c_0||_F^2`` in closed form, float64.
        variance_sum_N: ``sum_m ||c_m||_F^2`` over m >= 1, float64: the numerator of the gradient invariance
            residual (Eq. 14) divided by ``sigma^2``.
        finite_N: whether an adapter's gradients and factors, and the squares of their norms, are finite. Where
            not, its contrasts are zero, so that no decomposition downstream meets a NaN.
    """

    left_NDOQ: Tensor
    right_NDQI: Tensor
    mean_a_NRI: Tensor
    mean_b_NOR: Tensor
    scale_N: Tensor
    mean_sq_N: Tensor
    variance_sum_N: Tensor
    finite_N: Tensor

    @property
    def A_NRI(self) -> Tensor:
        """The current A of each adapter (a view)."""
        return self.right_NDQI[:, 0, : self.mean_a_NRI.shape[1]]

    @property
    def B_NOR(self) -> Tensor:
        """The current B of each adapter (a view)."""
        return self.left_NDOQ[:, 0, :, self.mean_b_NOR.shape[2] :]

    def tile(self, m: int, i: int, j: int, out_NTI: Tensor) -> Tensor:
        """Rows i to j of ``c_m``, ``[N, j - i, I]``, written to ``out_NTI``."""
        return torch.bmm(self.left_NDOQ[:, m, i:j], self.right_NDQI[:, m], out=out_NTI)

    @property
    def variance_mean_N(self) -> Tensor:
        """The mean of V over the elements of each adapter, divided by ``sigma^2``, float64."""
        return self.variance_sum_N / (self.left_NDOQ.shape[2] * self.right_NDQI.shape[3])

    @property
    def largest_sq_N(self) -> Tensor:
        r"""An upper bound of :math:`G^2 = \max_{n,i,j} \hat g_{n,ij}^2` in units of ``sigma^2``, float64.

        By Cauchy-Schwarz from the rows of the left and the columns of the right factors: no dense matrix is needed.
        """
        rows_ND = torch.linalg.vector_norm(self.left_NDOQ, dim=3).amax(2).double().square()
        columns_ND = torch.linalg.vector_norm(self.right_NDQI, dim=2).amax(2).double().square()
        # ghat_n is a combination of the contrasts with coefficients whose squares sum to at most D.
        return self.left_NDOQ.shape[1] * (rows_ND * columns_ND).sum(1)

    @property
    def residual_N(self) -> Tensor:
        r"""Relative gradient invariance residual :math:`\sum V / \sum \bar g^2`, at most 1e6; 0 if V is 0."""
        zero = self.variance_sum_N == 0
        return torch.where(zero, 0.0, self.variance_sum_N / torch.where(zero, 1.0, self.mean_sq_N)).clamp_max(1e6)


def build_contrasts(a_NDRI: Tensor, b_NDOR: Tensor, A_NRI: Tensor, B_NOR: Tensor) -> Contrasts:
    """Form the contrasts from per-domain factor gradients. The inputs are not modified.

    Args:
        a_NDRI: gradients with respect to A, ``[N, D, R, I]``. Their precision, float32 at least, is that of the contrasts
            and of all that follows from them (:func:`working_dtype`).
        b_NDOR: gradients with respect to B, ``[N, D, O, R]``.
        A_NRI: ``lora_A.weight`` of each adapter, of any floating-point type.
        B_NOR: ``lora_B.weight`` of each adapter.

    Raises:
        TypeError: for a tensor that is not of a real floating-point type.
    """
    dtype = working_dtype(a_NDRI, b_NDOR)
    working_dtype(A_NRI, B_NOR)
    a_NDRI, b_NDOR = a_NDRI.to(dtype), b_NDOR.to(dtype)
    N, D, R, I = a_NDRI.shape
    O = b_NDOR.shape[2]
    left = b_NDOR.new_empty(N, D, O, 2 * R)
    right = a_NDRI.new_empty(N, D, 2 * R, I)
    left[..., R:] = B_NOR[:, None]
    right[:, :, :R] = A_NRI[:, None]
    mean_a, mean_b = _domain_means(a_NDRI), _domain_means(b_NDOR)
    _write_contrasts(a_NDRI, mean_a, right[:, :, R:])
    _write_contrasts(b_NDOR, mean_b, left[..., :R])

    sum_sq_ND = _frobenius_sq(left, right)
    finite_N = sum_sq_ND.sum(1).isfinite()
    broken = ~finite_N[:, None, None, None]
    left.masked_fill_(broken, 0)
    right.masked_fill_(broken, 0)
    sum_sq_ND = torch.where(finite_N[:, None], sum_sq_ND, 0.0)

    scale_N = _power_of_two(sum_sq_ND.sum(1) / (O * I)).to(left.dtype)
    # Only the gradient halves: A and B stay as they are, and every contrast is divided by the scale.
    left[..., :R].div_(scale_N[:, None, None, None])
    right[:, :, R:].div_(scale_N[:, None, None, None])
    sum_sq_ND = sum_sq_ND / scale_N.double()[:, None] ** 2
    return Contrasts(left, right, mean_a, mean_b, scale_N, sum_sq_ND[:, 0], sum_sq_ND[:, 1:].sum(1), finite_N)


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """The precision to compute with: the widest of the tensors', float32 at least (bfloat16 has eight bits).

    Raises:
        TypeError: for a tensor that is not of a real floating-point type.
    """
    dtype = torch.float32
    for tensor in tensors:
        if not tensor.dtype.is_floating_point:
            raise TypeError(f"a gradient or factor is {tensor.dtype}: it must be of a real floating-point type")
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _domain_means(x_NDXX: Tensor) -> Tensor:
    return torch.stack([domain_mean(x_DXX) for x_DXX in x_NDXX])


def _write_contrasts(x_NDXX: Tensor, mean_NXX: Tensor, out_NDXX: Tensor) -> None:
    r"""Write the mean and the D - 1 Helmert contrasts of x.

    .. math:: c_m = \sqrt{\tfrac{m}{(m+1) D}}\,(x_m - \tfrac1m \textstyle\sum_{k<m} x_k)

    With the mean updated as the domains pass (Welford), identical domains give contrasts of exactly zero, which a
    product with the Helmert matrix would not.
    """
    D = x_NDXX.shape[1]
    out_NDXX[:, 0] = mean_NXX
    running_NXX = x_NDXX[:, 0].clone()
    for m in range(1, D):
        difference = torch.sub(x_NDXX[:, m], running_NXX, out=out_NDXX[:, m])
        running_NXX.add_(difference, alpha=1 / (m + 1))
        difference.mul_((m / ((m + 1) * D)) ** 0.5)


def _frobenius_sq(left_NDOQ: Tensor, right_NDQI: Tensor) -> Tensor:
    """``||left_m right_m||_F^2`` as the trace of a product of two QxQ Grams, ``[N, D]``, float64, not negative."""
    left_gram = torch.matmul(left_NDOQ.mT, left_NDOQ).double()
    right_gram = torch.matmul(right_NDQI, right_NDQI.mT).double()
    return (left_gram * right_gram).sum((-1, -2)).clamp_min(0)


def _power_of_two(mean_square_N: Tensor) -> Tensor:
    """The power of two next to the root of the argument; 1 for zero."""
    exponent = torch.where(mean_square_N > 0, mean_square_N, 1.0).log2().div(2).round().clamp(-120, 120)
    return torch.exp2(exponent)
