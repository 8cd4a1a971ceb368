# ruff: noqa: E741 -- O and I are the shape letters of the project
r"""Streaming randomized SVD of matrices that come as tiles of rows.

Shape legend: N matrices, O rows, I columns, P = rank + oversampling columns of the sketch, K = the rank kept.

Reference: Halko, Martinsson, Tropp (2011), "Finding structure with randomness", Algorithms 4.4 and 5.1.
(The paper's own citation for the randomized SVD, [21], is a paper on diffusion models.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from igascale.linalg.tiles import TileSource


@dataclass(frozen=True)
class LowRank:
    """``U diag(S) Vh``, the singular values in descending order.

    Attributes:
        U_NOK: left singular vectors.
        S_NK: singular values.
        Vh_NKI: right singular vectors.
    """

    U_NOK: Tensor
    S_NK: Tensor
    Vh_NKI: Tensor

    def tail_energy(self, total_sq_N: Tensor) -> Tensor:
        """Share of ``total_sq_N = ||g||_F^2`` that the projection drops, ``[N]``; 0 for a zero matrix."""
        kept = self.S_NK.double().square().sum(1)
        return torch.where(total_sq_N > 0, 1 - kept / torch.where(total_sq_N > 0, total_sq_N, 1.0), 0.0).clamp(0, 1)


def sketch_width(rank: int, oversampling: int, shape: tuple[int, int]) -> int:
    """Columns of the test matrix: ``rank + oversampling``, or all there are, when the sketch is exact."""
    return min(rank + oversampling, *shape)


class MatrixProducts(Protocol):
    """N matrices g ``[O, I]`` known only through products with tall thin matrices; the projection asks for nothing else.

    A product may be formed from tiles (:class:`TilePasses`) or by a kernel that never writes a tile to memory.
    """

    shape: tuple[int, int, int]
    dtype: torch.dtype
    device: torch.device

    def times(self, X_NIP: Tensor) -> Tensor:
        """``g X``, ``[N, O, P]``; ``X`` is ``[N, I, P]``, or ``[I, P]`` where it is common to the N matrices."""
        ...

    def transposed_times(self, Q_NOP: Tensor) -> Tensor:
        """``g^T Q``, ``[N, I, P]``."""
        ...


def streaming_svd(products: MatrixProducts, rank: int, sketch_IP: Tensor, power_iters: int) -> LowRank:
    """Randomized SVD with re-orthonormalised power iterations.

    Args:
        products: of the matrices.
        rank: singular triplets to keep; fewer come back when O or I is smaller.
        sketch_IP: the Gaussian test matrix, ``[I, rank + oversampling]`` (see :func:`sketch_width`), common to
            the N matrices; ``[N, I, P]`` if each has its own.
        power_iters: iterations with ``g g^T``; each costs two passes over the matrix, beside the two that there are anyway.
    """
    Y_NOP = products.times(sketch_IP.to(products.device, products.dtype))
    for _ in range(power_iters):
        Z_NIP = products.transposed_times(torch.linalg.qr(Y_NOP).Q)
        Y_NOP = products.times(torch.linalg.qr(Z_NIP).Q)
    Q_NOP = torch.linalg.qr(Y_NOP).Q
    del Y_NOP
    # A QR of the tall Q^T g leaves a PxP matrix for the SVD: g ~ Q (W R)^T = (Q R^T) W^T.
    W_NIP, R_NPP = torch.linalg.qr(products.transposed_times(Q_NOP))
    u_NPP, S_NP, vh_NPP = torch.linalg.svd(R_NPP.mT)
    return LowRank(
        U_NOK=Q_NOP @ u_NPP[:, :, :rank],
        S_NK=S_NP[:, :rank],
        Vh_NKI=vh_NPP[:, :rank] @ W_NIP.mT,
    )


class TilePasses:
    """:class:`MatrixProducts` from the tiles of a source, or from the copy that the first product keeps.

    Args:
        source: the matrices.
        cache_NOI: memory to keep the matrices of the first pass in, for the others. Without it each pass generates the tiles
            again.
    """

    def __init__(self, source: TileSource, cache_NOI: Tensor | None = None) -> None:
        self.source, self.cache_NOI = source, cache_NOI
        self.shape, self.dtype, self.device = source.shape, source.dtype, source.device
        self.cached_rows: list[tuple[int, int]] = []

    def times(self, X_NIP: Tensor) -> Tensor:
        """``g X``, ``[N, O, P]``."""
        if self.cache_NOI is not None and self.cached_rows:
            return self.cache_NOI @ X_NIP
        N, O, _ = self.source.shape
        Y_NOP = X_NIP.new_empty(N, O, X_NIP.shape[-1])
        for i, j, tile_NTI in self.source.tiles(into=self.cache_NOI):
            Y_NOP[:, i:j] = tile_NTI @ X_NIP
            if self.cache_NOI is not None:
                self.cached_rows.append((i, j))
        return Y_NOP

    def transposed_times(self, Q_NOP: Tensor) -> Tensor:
        """``g^T Q``, ``[N, I, P]`` (laid out as its transpose).

        Summed over tiles with the cache too: on a CPU one product with a tall transposed matrix takes twice as
        long.
        """
        N, _, I = self.source.shape
        Z_NPI = Q_NOP.new_zeros(N, Q_NOP.shape[-1], I)
        for i, j, tile_NTI in self._tiles():
            Z_NPI.baddbmm_(Q_NOP[:, i:j].mT, tile_NTI)
        return Z_NPI.mT

    def _tiles(self) -> Iterator[tuple[int, int, Tensor]]:
        if self.cache_NOI is None:
            return self.source.tiles()
        cache_NOI = self.cache_NOI
        return ((i, j, cache_NOI[:, i:j]) for i, j in self.cached_rows)
