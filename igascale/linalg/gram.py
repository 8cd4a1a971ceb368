"""Inner products between the domains' gradients.

Shape legend: N adapters, D domains, P elements of one factor (of the reconstructions: (D + 1) R), R LoRA rank, I in-features,
O out-features.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

#: Terms of an inner product that are added up in the tensors' own precision before float64 takes over.
_CHUNK = 4096


def adapter_grams(grads: Iterable[tuple[Tensor, ...]], num_domains: int) -> Tensor:
    r"""The Gramian :math:`K_{mn} = \langle g_m, g_n \rangle` of each adapter.

    Args:
        grads: of each adapter the gradients of its factors, each ``[D, ...]``.
        num_domains: D, for when there is no adapter.

    Returns:
        ``[N, D, D]``, float64 on the CPU.
    """
    parts, adapter = [], []
    for n, factors in enumerate(grads):
        for x_DX in factors:
            found = _parts(x_DX.flatten(1))
            parts += found
            adapter += [n] * len(found)
    if not parts:
        return torch.zeros(0, num_domains, num_domains, dtype=torch.float64)
    # Stacked once: a few small operations per adapter would cost as much as the products.
    stacked = torch.stack(parts).cpu()
    total = torch.zeros(adapter[-1] + 1, *stacked.shape[1:], dtype=torch.float64)
    return total.index_add_(0, torch.tensor(adapter), stacked)


def _parts(x_DP: Tensor) -> list[Tensor]:
    """Terms ``[D, D]`` of ``x x^T``, float64."""
    P = x_DP.shape[1]
    whole, parts = P - P % _CHUNK, []
    if whole:
        chunks = x_DP[:, :whole].unflatten(1, (-1, _CHUNK)).transpose(0, 1)
        parts.append(torch.bmm(chunks, chunks.mT).sum(0, dtype=torch.float64))
    if whole < P:
        parts.append((x_DP[:, whole:] @ x_DP[:, whole:].T).double())
    return parts


def reconstruction_grams(a_DRI: Tensor, b_DOR: Tensor, A_RI: Tensor, B_OR: Tensor) -> Tensor:
    r"""The Gramians of the reconstructions ``b_n A + B a_n`` and of ``(a_n, b_n)``, from R x R products.

    .. math::
        \langle b_m A + B a_m,\, b_n A + B a_n \rangle = \langle b_m^\top b_n, A A^\top \rangle
        + \langle a_m a_n^\top, B^\top B \rangle + \langle B^\top b_m, a_n A^\top \rangle + \langle a_m A^\top, B^\top b_n \rangle

    Args:
        a_DRI: gradients with respect to A.
        b_DOR: gradients with respect to B.
        A_RI: the factor.
        B_OR: the factor.

    Returns:
        ``[2, D, D]``, float64: of the reconstructions, of the factors.
    """
    D, R, _ = a_DRI.shape
    # All products of rank R there are, in two multiplications. As noise asks for them of every adapter and micro-batch, a
    # kernel more or less counts.
    u_PI, v_OP = torch.cat([*a_DRI, A_RI]), torch.cat([*b_DOR, B_OR], 1)
    u = (u_PI @ u_PI.T).view(D + 1, R, D + 1, R)
    v = (v_OP.T @ v_OP).view(D + 1, R, D + 1, R)
    a, A, b, B = slice(D), slice(D, None), slice(D), slice(D, None)  # where each lies in u and in v
    products = v[b, :, b] * u[A, :, A]
    products.addcmul_(u[a, :, a], v[B, :, B]).addcmul_(v[b, :, B], u[A, :, a]).addcmul_(v[B, :, b], u[a, :, A])
    plain_DD = (u[a, :, a] + v[b, :, b]).diagonal(dim1=1, dim2=3).sum(-1)
    return torch.stack([products.sum((1, 3)), plain_DD]).double()


def variance_over_domains(gram_DD: Tensor) -> Tensor:
    r"""The population variance of D vectors, summed over their elements, :math:`\frac1D \sum_n \|x_n - \bar x\|^2`.

    Args:
        gram_DD: ``[..., D, D]``, their inner products.

    Returns:
        ``[...]``. With the covariances of errors for inner products: the expectation of the errors' variance.
    """
    D = gram_DD.shape[-1]
    return gram_DD.diagonal(dim1=-2, dim2=-1).sum(-1) / D - gram_DD.sum((-2, -1)) / D**2
