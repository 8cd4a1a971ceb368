# ruff: noqa: E741 -- O and I are the shape letters of the project
r"""Row tiles of the masked mean gradient, generated from factors within a byte budget.

Shape legend: N adapters of one shape, D domains, I in-features, O out-features, Q = 2R, T rows of a tile.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from igascale.linalg.contrasts import Contrasts

# Elements of one working buffer: on a CPU the buffers should stay in the cache; a GPU wants long kernels.
_TILE_ELEMENTS_CPU = 1 << 18
_TILE_ELEMENTS_ACCELERATOR = 1 << 24
_ALIGNMENT = 64  # bytes


class Workspace:
    """One block of memory from which working buffers are cut, to be used again for every batch of adapters.

    Fresh memory costs a page fault per 4 KiB on first touch, a tenth of the time of a whole projection; and a
    single block cannot outgrow its budget.

    Args:
        plans: what it must be large enough for, one at a time.
        device: where.
    """

    def __init__(self, plans: Iterable[TilePlan], device: torch.device) -> None:
        self._block = torch.empty(max(plan.bytes for plan in plans), dtype=torch.uint8, device=device)
        self._used = 0

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor, valid until :meth:`reset`."""
        end = self._used + math.prod(shape) * dtype.itemsize
        tensor = self._block[self._used : end].view(dtype).view(shape)
        self._used = -(-end // _ALIGNMENT) * _ALIGNMENT
        return tensor

    def reset(self) -> None:
        """Take everything back."""
        self._used = 0


class TileSource(Protocol):
    """A batch of N matrices ``[O, I]`` that can be produced, any number of times, as blocks of rows.

    The projection asks for nothing else, so that a fused kernel or another mask can take the place of
    :class:`MaskedMean`.
    """

    shape: tuple[int, int, int]
    dtype: torch.dtype
    device: torch.device

    def tiles(self, into: Tensor | None = None) -> Iterator[tuple[int, int, Tensor]]:
        """Yield ``(i, j, rows i to j of the matrices)`` in order, ``[N, j - i, I]``.

        Args:
            into: ``[N, O, I]`` to write the rows to. Without it a tile is valid until the next is asked for.
        """
        ...


@dataclass(frozen=True)
class TilePlan:
    """How a group of adapters of one shape is worked through within the budget.

    Attributes:
        batch: adapters taken together. More than one only if whole matrices fit in a tile.
        rows: rows of a tile.
        cached: whether the masked matrix is kept between the passes of the projection.
        bytes: of the cached matrix and the working buffers together; never above the budget.
    """

    batch: int
    rows: int
    cached: bool
    bytes: int


def plan_tiles(
    adapters: int,
    shape: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
    memory_bytes: float,
    keep: bool = True,
    scratch: int = 1,
) -> TilePlan:
    """Choose batch, tile height and caching.

    Args:
        adapters: how many adapters of this shape there are.
        shape: ``(O, I)``.
        dtype: of the factors.
        device: of the factors.
        memory_bytes: upper bound for cached matrix and working buffers, bytes.
        keep: whether there is a use for the cached matrix (a single pass has none).
        scratch: of the mask (:class:`TileMask`); a tile takes two buffers more.

    Raises:
        ValueError: when one row of tiles does not fit.
    """
    O, I = shape
    row_bytes = I * dtype.itemsize
    buffers = 2 + scratch
    smallest = buffers * (row_bytes + _ALIGNMENT)
    if smallest > memory_bytes:
        raise ValueError(
            f"memory_mb={memory_bytes / 2**20:g} is too small: one row of tiles of a {O}x{I} adapter needs "
            f"{smallest / 2**20:.3g} MB; raise memory_mb"
        )
    memory_bytes -= buffers * _ALIGNMENT
    target = _TILE_ELEMENTS_CPU if device.type == "cpu" else _TILE_ELEMENTS_ACCELERATOR
    affordable_rows = int(memory_bytes // (buffers * row_bytes))
    # With the cache, tiles are generated in place and need one buffer less.
    cached_rows = int((memory_bytes - O * row_bytes) // ((buffers - 1) * row_bytes))
    wanted = max(1, target // I)
    if wanted >= O and affordable_rows >= O:  # whole matrices in one tile, several adapters at once
        batch = max(1, min(adapters, target // (O * I), affordable_rows // O))
        return TilePlan(batch, O, keep, batch * buffers * O * row_bytes + buffers * _ALIGNMENT)
    if keep and cached_rows >= min(wanted, O):
        rows = min(wanted, O)
        return TilePlan(1, rows, True, (O + (buffers - 1) * rows) * row_bytes + buffers * _ALIGNMENT)
    rows = min(wanted, affordable_rows, O)
    return TilePlan(1, rows, False, buffers * (rows * row_bytes + _ALIGNMENT))


class TileMask(Protocol):
    """How much of the mean is kept, one block of rows at a time (:mod:`igascale.linalg.tile_masks`).

    Attributes:
        scratch: working buffers of a tile's size that it needs besides the one it writes to.
    """

    scratch: int

    def minus_one(self, i: int, j: int, gbar_NTI: Tensor, out_NTI: Tensor, scratch: list[Tensor]) -> Tensor:
        """``M - 1`` of rows i to j, written to ``out_NTI``; exactly 0 where nothing is taken away."""
        ...


class MaskedMean:
    r"""The masked mean gradient as a :class:`TileSource`, in the scaled units of the contrasts.

    .. math:: g = \bar g \odot M, \qquad g - \bar g = \bar g \odot (M - 1)

    Reference: arXiv 2606.05025, Eq. 5-7.

    The first complete pass, of either kind, gathers the statistics.

    Args:
        contrasts: of the reconstructed gradients.
        mask: M.
        rows: height of a tile.
        workspace: where the working buffers come from; by default each source allocates its own.

    Attributes:
        mask_mean_N: mean of the mask over the elements of each adapter, float64.
        change_sq_N: ``||g - gbar||_F^2``, scaled units, float64.
        masked_sq_N: ``||g||_F^2``, scaled units, float64 (gathered by :meth:`tiles` only).
    """

    def __init__(self, contrasts: Contrasts, mask: TileMask, rows: int, workspace: Workspace | None = None) -> None:
        left, right = contrasts.left_NDOQ, contrasts.right_NDQI
        self.contrasts, self.mask = contrasts, mask
        self.rows = min(rows, left.shape[2])
        self.shape = (left.shape[0], left.shape[2], right.shape[3])
        self.dtype, self.device = left.dtype, left.device
        self.mask_mean_N = self.change_sq_N = self.masked_sq_N = torch.zeros(0)
        self._workspace = workspace
        self._buffers: list[Tensor] = []

    def tiles(self, into: Tensor | None = None) -> Iterator[tuple[int, int, Tensor]]:
        """Rows of ``g``; see :meth:`TileSource.tiles`."""
        return self._pass(into, change_only=False)

    def change_tiles(self) -> Iterator[tuple[int, int, Tensor]]:
        """Rows of the change ``g - gbar``: exactly zero where the mask is one."""
        return self._pass(None, change_only=True)

    def _pass(self, into: Tensor | None, change_only: bool) -> Iterator[tuple[int, int, Tensor]]:
        N, O, I = self.shape
        gather = self.mask_mean_N.numel() == 0
        sums_3N = torch.zeros(3, N, dtype=torch.float64, device=self.device)
        for i in range(0, O, self.rows):
            j = min(i + self.rows, O)
            change, *scratch = (self._buffer(k, j - i) for k in range(1 + self.mask.scratch))
            gbar = self._buffer(1 + self.mask.scratch, j - i) if into is None else into[:, i:j]
            self.contrasts.tile(0, i, j, gbar)
            self.mask.minus_one(i, j, gbar, change, scratch)
            if gather:
                sums_3N[0] += change.sum((1, 2))
            change.mul_(gbar)
            if gather:
                sums_3N[1] += _sum_sq(change)
            if change_only:
                yield i, j, change
                continue
            masked = gbar.add_(change)
            if gather:
                sums_3N[2] += _sum_sq(masked)
            yield i, j, masked
        if gather:
            self.mask_mean_N = 1 + sums_3N[0] / (O * I)
            self.change_sq_N, self.masked_sq_N = sums_3N[1], sums_3N[2]

    def _buffer(self, index: int, rows: int) -> Tensor:
        N, _, I = self.shape
        while len(self._buffers) <= index:
            shape = (N * self.rows * I,)
            take = self._workspace.take if self._workspace else self._allocate
            self._buffers.append(take(shape, self.dtype))
        return self._buffers[index][: N * rows * I].view(N, rows, I)

    def _allocate(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)


def _sum_sq(x_NTI: Tensor) -> Tensor:
    """Sum of squares of each matrix, float64; a dot product, which is faster, where there is one matrix."""
    if len(x_NTI) == 1:
        flat = x_NTI.reshape(-1)
        return torch.dot(flat, flat).double()[None]
    return torch.linalg.vector_norm(x_NTI, dim=(1, 2)).double() ** 2
