r"""From the projected change of ``B A`` back to gradients for the factors A and B.

Shape legend: N adapters, R LoRA rank, K rank of the projection, I in-features, O out-features.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from igascale.linalg.contrasts import Contrasts
from igascale.linalg.projection import LowRank
from igascale.linalg.tiles import MaskedMean


class Factors(NamedTuple):
    """A gradient for each factor: ``a`` for A, ``[N, R, I]``, ``b`` for B, ``[N, O, R]``."""

    a: Tensor
    b: Tensor


class TangentProducts(NamedTuple):
    """All that an extraction needs of a matrix ``X [O, I]``: ``XAt_NOR = X A^T`` and ``BtX_NRI = B^T X``."""

    XAt_NOR: Tensor
    BtX_NRI: Tensor


def change_products(source: MaskedMean) -> TangentProducts:
    """Products of the change ``E = g - gbar``, unprojected, from one pass of tiles; in the caller's units."""
    c = source.contrasts
    EAt_NOR = c.mean_b_NOR.new_empty(c.mean_b_NOR.shape)
    BtE_NRI = c.mean_a_NRI.new_zeros(c.mean_a_NRI.shape)
    for i, j, change_NTI in source.change_tiles():
        torch.bmm(change_NTI, c.A_NRI.mT, out=EAt_NOR[:, i:j])
        BtE_NRI.baddbmm_(c.B_NOR[:, i:j].mT, change_NTI)
    scale_N11 = c.scale_N[:, None, None]
    return TangentProducts(EAt_NOR.mul_(scale_N11), BtE_NRI.mul_(scale_N11))


def mean_products(c: Contrasts) -> TangentProducts:
    """Products of the mean reconstruction gbar, from its factors; in the caller's units."""
    left_NOQ, right_NQI = c.left_NDOQ[:, 0], c.right_NDQI[:, 0]
    scale_N11 = c.scale_N[:, None, None]
    XAt_NOR = left_NOQ @ (right_NQI @ c.A_NRI.mT)
    BtX_NRI = (c.B_NOR.mT @ left_NOQ) @ right_NQI
    return TangentProducts(XAt_NOR * scale_N11, BtX_NRI * scale_N11)


def low_rank_products(c: Contrasts, projected: LowRank) -> TangentProducts:
    """Products of ``E = U S Vh - gbar`` through the factors of both; in the caller's units."""
    US_NOK = projected.U_NOK * projected.S_NK[:, None]
    mean = mean_products(c)
    scale_N11 = c.scale_N[:, None, None]
    EAt_NOR = (US_NOK @ (projected.Vh_NKI @ c.A_NRI.mT)).mul_(scale_N11).sub_(mean.XAt_NOR)
    BtE_NRI = ((c.B_NOR.mT @ US_NOK) @ projected.Vh_NKI).mul_(scale_N11).sub_(mean.BtX_NRI)
    return TangentProducts(EAt_NOR, BtE_NRI)


def anchored(c: Contrasts, change: TangentProducts, rho: float) -> Factors:
    r"""Least squares on the tangent space of ``B A``, anchored at the domain means.

    .. math::
        \min_{\nabla A, \nabla B} \|\nabla B A + B \nabla A - \tilde g\|_F^2
        + \lambda (\|\nabla A - \bar a\|_F^2 + \|\nabla B - \bar b\|_F^2),
        \quad \lambda = \rho\, (\operatorname{tr} B^\top B + \operatorname{tr} A A^\top) / R

    With no mask and no truncation the residual ``E = g - gbar`` is zero and the result is the domain mean,
    exactly and for every lambda.

    Differs from the paper: this replaces Eq. 10, which picks an arbitrary one of all factorisations with the
    same product and so does not define a gradient.

    Args:
        c: supplies A, B and the domain means.
        change: products of E.
        rho: strength of the anchor, > 0, dimensionless.
    """
    A, B = c.A_NRI.double(), c.B_NOR.double()
    EAt, BtE = change.XAt_NOR.double(), change.BtX_NRI.double()
    h_NR, Uh = torch.linalg.eigh(B.mT @ B)
    k_NR, Uk = torch.linalg.eigh(A @ A.mT)
    h_NR, k_NR = h_NR.clamp_min(0), k_NR.clamp_min(0)
    lam_N = rho * (h_NR.sum(1) + k_NR.sum(1)) / A.shape[1]
    lam_N1 = torch.where(lam_N > 0, lam_N, 1.0)[:, None]  # A = B = 0: E vanishes, and so does the result

    # G = B^T beta = alpha A^T solves (H + lam) G + G K = B^T E A^T, diagonal in both eigenbases.
    G = Uh @ (Uh.mT @ (B.mT @ EAt) @ Uk / (h_NR[:, :, None] + k_NR[:, None] + lam_N1[:, :, None])) @ Uk.mT
    alpha = Uh @ ((Uh.mT @ (BtE - G @ A)) / (h_NR + lam_N1)[:, :, None])
    beta = ((EAt - B @ G) @ Uk) / (k_NR + lam_N1)[:, None] @ Uk.mT
    return Factors(c.mean_a_NRI + alpha.to(c.mean_a_NRI.dtype), c.mean_b_NOR + beta.to(c.mean_b_NOR.dtype))


def pullback(c: Contrasts, change: TangentProducts) -> Factors:
    r"""Chain rule :math:`(B^\top \tilde g, \tilde g A^\top)`, for comparison.

    The reconstruction is already a change of ``B A``, so this applies the kernel of LoRA twice and is not the
    mean at ``tau = 0``.
    """
    mean = mean_products(c)
    a_NRI, b_NOR = mean.BtX_NRI + change.BtX_NRI, mean.XAt_NOR + change.XAt_NOR
    return Factors(a_NRI.to(c.mean_a_NRI.dtype), b_NOR.to(c.mean_b_NOR.dtype))


def paper(c: Contrasts, projected: LowRank) -> Factors:
    r"""Split of the singular values between the factors.

    .. math:: \nabla B = U \Sigma^{1/2}, \qquad \nabla A = \Sigma^{1/2} V^\top

    Reference: arXiv 2606.05025, Eq. 10, whose A is PEFT's B. The signs of the singular vectors, undefined there,
    are those that make the entry of largest magnitude of each column of U positive.

    Raises:
        ValueError: when the projection has more than R columns.
    """
    R, K = c.mean_a_NRI.shape[1], projected.S_NK.shape[1]
    if K > R:
        raise ValueError(f"Eq. 10 fills factors of rank {R}, but the projection kept rank {K}")
    top_N1K = projected.U_NOK.abs().argmax(1, keepdim=True)
    sign_NK = torch.where(projected.U_NOK.gather(1, top_N1K) < 0, -1.0, 1.0).squeeze(1).to(projected.S_NK.dtype)
    root_NK = (projected.S_NK * c.scale_N[:, None]).sqrt() * sign_NK
    a_NRI, b_NOR = torch.zeros_like(c.mean_a_NRI), torch.zeros_like(c.mean_b_NOR)
    torch.mul(projected.Vh_NKI, root_NK[:, :, None], out=a_NRI[:, :K])
    torch.mul(projected.U_NOK, root_NK[:, None], out=b_NOR[:, :, :K])
    return Factors(a_NRI, b_NOR)


def aligned(c: Contrasts, projected: LowRank) -> Factors:
    r"""Eq. 10 with the rotation that it leaves free chosen closest to the domain means (orthogonal Procrustes).

    .. math::
        \nabla B = U \Sigma^{1/2} Q, \quad \nabla A = Q^\top \Sigma^{1/2} V^\top, \quad
        Q = \arg\max_{Q^\top Q = 1} \langle \nabla B, \bar b \rangle + \langle \nabla A, \bar a \rangle

    Unlike Eq. 10 alone it does not depend on the signs of the singular vectors, and it is a descent direction for most
    gradients; it is still not the mean at ``tau = 0``.

    Raises:
        ValueError: when the projection has more than R columns.
    """
    split = paper(c, projected)
    U, _, Vh = torch.linalg.svd((split.b.mT @ c.mean_b_NOR + split.a @ c.mean_a_NRI.mT).double())
    Q_NRR = (U @ Vh).to(split.b.dtype)
    return Factors(Q_NRR.mT @ split.a, split.b @ Q_NRR)


class Departure(NamedTuple):
    """How far the extracted gradients are from the domain means; each ``[N]``, float64.

    Attributes:
        alpha_ratio: ``||grad_A - abar|| / ||abar||``, at most :data:`LARGEST_RATIO`; 0 if both are zero.
        beta_ratio: the same for B.
        cosine: between both factors' gradients and both means, taken as one vector; 0 if either is zero.
    """

    alpha_ratio: Tensor
    beta_ratio: Tensor
    cosine: Tensor


#: Caps the ratios: the mean gradient of A is zero at the usual start, B = 0.
LARGEST_RATIO = 1e6


def departure(c: Contrasts, grads: Factors) -> Departure:
    """Compare gradients with the domain means."""
    ratios, terms = [], []
    for grad, mean in ((grads.a, c.mean_a_NRI), (grads.b, c.mean_b_NOR)):
        grad, mean = grad.flatten(1).double(), mean.flatten(1).double()
        change_N, norm_N = (grad - mean).norm(dim=1), mean.norm(dim=1)
        ratio_N = torch.where(norm_N > 0, change_N / norm_N, torch.where(change_N > 0, LARGEST_RATIO, 0.0))
        ratios.append(ratio_N.clamp_max(LARGEST_RATIO))
        terms.append(torch.stack([(grad * mean).sum(1), grad.square().sum(1), mean.square().sum(1)]))
    dot_N, grad_sq_N, mean_sq_N = terms[0] + terms[1]
    product_N = (grad_sq_N * mean_sq_N).sqrt()
    cosine_N = torch.where(product_N > 0, dot_N / torch.where(product_N > 0, product_N, 1.0), 0.0)
    return Departure(ratios[0], ratios[1], cosine_N)
