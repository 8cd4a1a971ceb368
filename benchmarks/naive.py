"""Invariant Gradient Alignment as one would first write it down: the baseline of the benchmarks, used nowhere else.

D backward passes, one per domain; D dense matrices ``b_n A + B a_n`` per adapter; their mean, variance and mask as dense tensors;
``torch.svd_lowrank`` of each adapter in turn; least squares back to the factors. Same choices as the hook's default preset, so
that the result is the same (``tests/benchmarks``), and only the way there differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from igascale.linalg.masks import RELATIVE_EPS


def domain_gradients(losses: Sequence[Callable[[], Tensor]], parameters: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """One forward and one backward pass per domain.

    Args:
        losses: for each domain a function that runs the model on its rows and returns the summed loss.
        parameters: the factors.
    """
    return [torch.autograd.grad(loss(), parameters, allow_unused=True, materialize_grads=True) for loss in losses]


def masked_mean(a_DRI: Tensor, b_DOR: Tensor, A_RI: Tensor, B_OR: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """The masked mean gradient and the mean, dense ``[O, I]``."""
    ghat_DOI = torch.stack([b @ A_RI + B_OR @ a for a, b in zip(a_DRI, b_DOR)])
    mean_OI = ghat_DOI.mean(0)
    variance_OI = ((ghat_DOI - mean_OI) ** 2).mean(0)
    unit_OI = mean_OI**2 + RELATIVE_EPS * variance_OI.mean() + torch.finfo(mean_OI.dtype).tiny
    return mean_OI * torch.exp(-tau * variance_OI / unit_OI), mean_OI


def low_rank(g_OI: Tensor, rank: int, oversampling: int = 10, power_iters: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """``(U, S, Vh)`` by ``torch.svd_lowrank``, whose default is two power iterations."""
    U, S, V = torch.svd_lowrank(g_OI, q=min(rank + oversampling, *g_OI.shape), niter=power_iters)
    return U[:, :rank], S[:rank], V.mT[:rank]


def align(
    a_DRI: Tensor, b_DOR: Tensor, A_RI: Tensor, B_OR: Tensor, tau: float = 0.5, rho: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Gradients of A and B for one adapter, at rank 2R."""
    g_OI, mean_OI = masked_mean(a_DRI, b_DOR, A_RI, B_OR, tau)
    U, S, Vh = low_rank(g_OI, 2 * len(A_RI))
    change_OI = (U * S) @ Vh - mean_OI
    return anchored(change_OI, a_DRI.mean(0), b_DOR.mean(0), A_RI, B_OR, rho)


def anchored(
    E_OI: Tensor, mean_a_RI: Tensor, mean_b_OR: Tensor, A_RI: Tensor, B_OR: Tensor, rho: float
) -> tuple[Tensor, Tensor]:
    """The least-squares inverse (docs/method.md) of a dense change."""
    A, B, E = A_RI.double(), B_OR.double(), E_OI.double()
    (h, U), (k, V) = torch.linalg.eigh(B.T @ B), torch.linalg.eigh(A @ A.T)
    lam = rho * (h.sum() + k.sum()) / len(A)
    gamma = U @ ((U.T @ (B.T @ E @ A.T) @ V) / (h[:, None] + k[None] + lam)) @ V.T
    alpha = U @ ((U.T @ (B.T @ E - gamma @ A)) / (h + lam)[:, None])
    beta = ((E @ A.T - B @ gamma) @ V) / (k + lam) @ V.T
    return mean_a_RI + alpha.to(mean_a_RI.dtype), mean_b_OR + beta.to(mean_b_OR.dtype)
