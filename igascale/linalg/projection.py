# ruff: noqa: E741 -- O and I are the shape letters of the project
r"""Streaming randomized SVD of matrices that come as tiles of rows.

Shape legend: N matrices, O rows, I columns, P = rank + oversampling columns of the sketch, K = the rank kept.

Reference: Halko, Martinsson, Tropp (2011), "Finding structure with randomness", Algorithms 4.4 and 5.1.
(The paper's own citation for the randomized SVD, [21], is a paper on diffusion models.)

How many iterations it takes, for rank 16, 10 more columns in the sketch and shapes from 128x128 to 1376x512: the largest
error over that of the best projection, for masked gradients (``relative``, tau .5 and 5, 2 to 16 domains) and for pure
noise. Columns are those of all products with the matrix.

    =========================================  =======  ========  ================  ======
    basis                                       passes   columns  masked gradients   noise
    =========================================  =======  ========  ================  ======
    power iteration, q = 1                           4       104             1.024   1.027
    power iteration, q = 1, oversampling 48          4       256             1.000   1.007
    power iteration, q = 2                           6       156             1.007   1.010
    block Krylov, q = 0                              2        52             1.239   1.080
    block Krylov, q = 1                              4       104             1.012   1.014
    block Krylov, q = 2                              6       156             1.000   1.003
    =========================================  =======  ========  ================  ======

At rank 2R the masked gradient has a gap: Krylov with q = 1 is at 1.006 there (1.002 at tau .5; 1.019 at R = 64, tau 5, 16
domains). Hence the defaults of the hook: q = 2 for rank R, 1 for 2R.
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


def krylov_blocks(width: int, power_iters: int, shape: tuple[int, int]) -> int:
    """Blocks of the basis, each of the sketch's width; a sketch as wide as the matrix spans it, and nothing is left to do."""
    return 1 if width == min(shape) else 1 + power_iters


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
    r"""Randomized SVD from the block Krylov space of a test matrix :math:`\Omega`.

    .. math:: \mathrm{span}\{g \Omega, (g g^\top) g \Omega, \dots, (g g^\top)^q g \Omega\}

    A power iteration alone keeps the last block only. As each block is made orthogonal to those before it, the products
    with ``g^T`` that the iterations form anyway are those that the truncation needs: the larger space costs no further
    product. Truncation is optimal within the space.

    Reference: Musco, Musco (2015), "Randomized block Krylov methods", Algorithm 2; Halko, Martinsson, Tropp (2011),
    Algorithms 4.4 and 5.1.

    Args:
        products: of the matrices.
        rank: singular triplets to keep; fewer come back when O or I is smaller.
        sketch_IP: the Gaussian test matrix, ``[I, rank + oversampling]`` (see :func:`sketch_width`), common to
            the N matrices; ``[N, I, P]`` if each has its own.
        power_iters: q. Each costs two passes over the matrix, beside the two that there are anyway.
    """
    N, O, I = products.shape
    P = sketch_IP.shape[-1]
    blocks = krylov_blocks(P, power_iters, (O, I))
    basis_NOC = torch.empty(N, O, blocks * P, dtype=products.dtype, device=products.device)
    image_NCI = torch.empty(N, blocks * P, I, dtype=products.dtype, device=products.device)  # basis^T g
    test = sketch_IP.to(products.device, products.dtype)
    for k in range(blocks):
        old, new = slice(0, k * P), slice(k * P, (k + 1) * P)
        basis_NOC[:, :, new] = orthonormal(products.times(test), basis_NOC[:, :, old])
        image_NCI[:, new] = products.transposed_times(basis_NOC[:, :, new]).mT
        if k + 1 < blocks:
            test = orthonormal(image_NCI[:, new].mT)
    del test
    return _truncate(basis_NOC, image_NCI, rank)


def orthonormal(Y_NOP: Tensor, basis_NOC: Tensor | None = None) -> Tensor:
    r"""An orthonormal basis of the columns of Y, orthogonal to an orthonormal basis that there is; by Cholesky QR.

    .. math:: X = [\mathrm{basis} \mid Y], \quad X^\top X + s = L L^\top, \quad Q = X L^{-\top}

    in float64, so that for float32 columns the Gram loses nothing that they had; batched matrix products, where a
    Householder QR would work through the batch one by one on an accelerator. The shift s makes it work for columns that
    depend on each other: a direction shorter than some ``1e-6`` of the whole comes out shorter than one (a zero as zero), so that
    ``Q Q^T`` never exceeds a projector.

    Reference: Fukaya, Kannan, Nakatsukasa, Yamamoto, Yanagisawa (2020), "Shifted Cholesky QR for computing the QR
    factorization of ill-conditioned matrices".
    """
    N, O, P = Y_NOP.shape
    C = 0 if basis_NOC is None else basis_NOC.shape[2]
    X = torch.empty(N, O, C + P, dtype=torch.float64, device=Y_NOP.device)
    if basis_NOC is not None:
        X[:, :, :C] = basis_NOC
    Y = X[:, :, C:]
    Y.copy_(Y_NOP)
    norm_N1P = torch.linalg.vector_norm(Y, dim=1, keepdim=True)
    Y.div_(torch.where(norm_N1P > 0, norm_N1P, 1.0))
    eye = torch.eye(C + P, dtype=torch.float64, device=Y.device)
    for _ in range(1 if Y_NOP.dtype == torch.float32 else 2):  # a second round makes up for what float64 cannot hold
        gram = torch.matmul(X.mT, X)
        L, info_N = torch.linalg.cholesky_ex(gram.add_(eye, alpha=_shift(O) * (C + P)))
        rows_NPC = torch.linalg.solve_triangular(L, eye, upper=False)[:, C:]
        Y.copy_(torch.matmul(X, rows_NPC.mT))
    return Y.masked_fill_((info_N > 0)[:, None, None], torch.nan).to(Y_NOP.dtype)


def _shift(rows: int) -> float:
    """Shift of the Gram of columns of length one, for each column: above the rounding of its sums, or it may not be positive.

    Rows that are equal up to their sign make every addition round the same way: ``rows / 14`` rounding errors were measured
    where the rows are added one after the other, as an accelerator may do it, and 26 at most in a CPU's blocks.
    """
    return max(10, rows / 8) * torch.finfo(torch.float64).eps


def _truncate(basis_NOC: Tensor, image_NCI: Tensor, rank: int) -> LowRank:
    """The best approximation of g of the rank asked for whose columns lie in the span of the basis; image = basis^T g."""
    rank = min(rank, image_NCI.shape[1], image_NCI.shape[2])
    image = image_NCI.double()
    gram = image @ image.mT
    del image
    looping = gram.device.type == "cuda" and gram.shape[1] > _BATCHED_EIGH
    u_NCK = (iterate_to_leading if looping else _leading)(gram, rank).to(image_NCI.dtype)
    SVh_NKI = u_NCK.mT @ image_NCI
    S_NK = torch.linalg.vector_norm(SVh_NKI, dim=2)
    Vh_NKI = SVh_NKI.div_(torch.where(S_NK > 0, S_NK, 1.0)[:, :, None])
    return LowRank(basis_NOC @ u_NCK, S_NK, Vh_NKI)


def _leading(gram_NCC: Tensor, rank: int) -> Tensor:
    """Leading eigenvectors, the first first, ``[N, C, rank]``."""
    return torch.linalg.eigh(gram_NCC).eigenvectors[:, :, -rank:].flip(2)


#: CUDA takes the eigenproblems of a batch together up to this size and one by one beyond it (pytorch issue 175585).
_BATCHED_EIGH = 32
_ITERATIONS = 24


def iterate_to_leading(gram_NCC: Tensor, rank: int) -> Tensor:
    """:func:`_leading` by subspace iteration, batched products only until an eigenproblem of the size of ``rank`` is left.

    Directions that :data:`_ITERATIONS` do not tell apart have eigenvalues within a few percent of each other, and keep
    nearly the same energy: the error of the truncation rises by less than 0.2% (measured on noise, the hardest case).
    """
    N, C, _ = gram_NCC.shape
    start_CK = torch.randn(C, rank, generator=torch.Generator().manual_seed(0), dtype=gram_NCC.dtype)
    X_NCK = start_CK.to(gram_NCC.device).expand(N, -1, -1)
    for _ in range(_ITERATIONS):
        X_NCK = orthonormal(gram_NCC @ X_NCK)
    return X_NCK @ _leading(X_NCK.mT @ gram_NCC @ X_NCK, rank)


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
