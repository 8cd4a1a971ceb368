"""Inner products between the domains' gradients.

Shape legend: N adapters, D domains, P elements of one factor.
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
    grams = [torch.stack([part for x_DX in factors for part in _parts(x_DX.flatten(1))]).sum(0) for factors in grads]
    return torch.stack(grams).cpu() if grams else torch.zeros(0, num_domains, num_domains, dtype=torch.float64)


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
