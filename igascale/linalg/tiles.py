# ruff: noqa: E741 -- O and I are the shape letters of the project
r"""Row tiles of the masked mean gradient, generated from factors within a byte budget.

Shape legend: N adapters of one shape, D domains, I in-features, O out-features, Q = 2R, T rows of a tile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from igascale.linalg.contrasts import Contrasts
from igascale.linalg.histogram import BINS, TileHistogram, of_ones

# Elements of one working buffer: on a CPU the buffers should stay in the cache; a GPU wants long kernels.
_TILE_ELEMENTS_CPU = 1 << 18
_TILE_ELEMENTS_ACCELERATOR = 1 << 24
_ALIGNMENT = 64  # bytes
# Beyond this many adapters at once nothing is left to be gained.
_LARGEST_BATCH = 64


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
        self._used = _aligned(end)
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
        batch: adapters taken together.
        rows: rows of a tile, of each adapter of the batch.
        cached: whether the masked matrix is kept between the passes of the projection.
        bytes: of the workspace, the cached matrix and the tiles' buffers together.
        total_bytes: of the workspace and what else the batch needs at once; never above the budget.
        fused: whether one kernel does it all, without tiles (:mod:`igascale.linalg.fused`).
    """

    batch: int
    rows: int
    cached: bool
    bytes: int
    total_bytes: int
    fused: bool = False


def plan_tiles(
    adapters: int,
    shape: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
    memory_bytes: float,
    keep: bool = True,
    scratch: int = 1,
    working_bytes: Callable[[int], int] = lambda batch: 0,
) -> TilePlan:
    """Choose batch, tile height and caching.

    Several adapters at once save launches and small decompositions their latency, which decides on an accelerator. On a
    CPU a tile must stay in the processor's cache, so there only whole matrices that fit in one tile share a batch.

    Args:
        adapters: how many adapters of this shape there are.
        shape: ``(O, I)``.
        dtype: of the factors.
        device: of the factors.
        memory_bytes: upper bound for all that a batch needs at once.
        keep: whether there is a use for the cached matrix (a single pass has none).
        scratch: of the mask (:class:`TileMask`); a tile takes two buffers more.
        working_bytes: what a batch of so many adapters needs beside the workspace (:func:`igascale.linalg.cost.working_bytes`).

    Raises:
        ValueError: when one row of a tile does not fit.
    """
    O, I = shape
    buffers = 2 + scratch

    def plan(batch: int, rows: int, cached: bool) -> TilePlan:
        sizes = [batch * rows * I] * buffers + [batch * O * I] * cached
        workspace = sum(_aligned(size * dtype.itemsize) for size in sizes)
        return TilePlan(batch, rows, cached, workspace, workspace + working_bytes(batch))

    on_cpu = device.type == "cpu"
    elements = _TILE_ELEMENTS_CPU if on_cpu else _accelerator_tile(memory_bytes, dtype)
    most = min(adapters, max(1, elements // (O * I)) if on_cpu else _LARGEST_BATCH)
    for cached in (True, False) if keep else (False,):
        for batch in range(most, 0, -1):
            chosen = plan(batch, min(O, max(1, elements // (batch * I))), cached)
            if chosen.total_bytes <= memory_bytes:
                return chosen
    rows = min(O, max(1, elements // I))
    while rows > 1 and plan(1, rows, False).total_bytes > memory_bytes:
        rows -= 1
    smallest = plan(1, rows, False)
    if smallest.total_bytes > memory_bytes:
        needed = math.ceil(smallest.total_bytes / 2**20 * 1000) / 1000
        raise ValueError(
            f"memory_mb={memory_bytes / 2**20:g} is too small: one {O}x{I} adapter needs {needed:g} MiB at least, "
            f"{working_bytes(1) / 2**20:.3g} of them for contrasts and sketches and the rest for one row of tiles; set "
            f"memory_mb={needed:g} or more"
        )
    return smallest


def plan_fused(adapters: int, memory_bytes: float, working_bytes: Callable[[int], int]) -> TilePlan:
    """The plan for the kernel that needs no tiles; the arguments are those of :func:`plan_tiles`.

    Raises:
        ValueError: when one adapter does not fit.
    """
    for batch in range(min(adapters, _LARGEST_BATCH), 0, -1):
        if working_bytes(batch) <= memory_bytes:
            return TilePlan(batch, 0, False, 0, working_bytes(batch), fused=True)
    needed = math.ceil(working_bytes(1) / 2**20 * 1000) / 1000
    raise ValueError(
        f"memory_mb={memory_bytes / 2**20:g} is too small: the contrasts and sketches of one adapter need {needed:g} MiB; set "
        f"memory_mb={needed:g} or more"
    )


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _accelerator_tile(memory_bytes: float, dtype: torch.dtype) -> int:
    """Elements of one buffer: long kernels, but a small part of the budget, so that matrices can be kept."""
    return min(_TILE_ELEMENTS_ACCELERATOR, int(memory_bytes / (16 * dtype.itemsize)))


class TileMask(Protocol):
    """How much of the mean is kept, one block of rows at a time (:mod:`igascale.linalg.tile_masks`).

    Attributes:
        scratch: working buffers of a tile's size that it needs besides the one it writes to; at least one.
    """

    scratch: int

    def values(self, i: int, j: int, gbar_NTI: Tensor, out_NTI: Tensor, scratch: list[Tensor]) -> Tensor:
        """``M`` of rows i to j, written to ``out_NTI``; exactly 1 where nothing is taken away."""
        ...

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
        wants_histogram: set before the first pass to have the mask's values counted too.
        histogram_NK: those counts (:mod:`igascale.linalg.histogram`), or ``None``.
    """

    def __init__(self, contrasts: Contrasts, mask: TileMask, rows: int, workspace: Workspace | None = None) -> None:
        left, right = contrasts.left_NDOQ, contrasts.right_NDQI
        self.contrasts, self.mask = contrasts, mask
        self.rows = min(rows, left.shape[2])
        self.shape = (left.shape[0], left.shape[2], right.shape[3])
        self.dtype, self.device = left.dtype, left.device
        self.mask_mean_N = self.change_sq_N = self.masked_sq_N = torch.zeros(0)
        self.wants_histogram = False
        self.histogram_NK: Tensor | None = None
        self._workspace = workspace
        self._buffers: list[Tensor] = []

    def tiles(self, into: Tensor | None = None) -> Iterator[tuple[int, int, Tensor]]:
        """Rows of ``g``; see :meth:`TileSource.tiles`."""
        return self._pass(into, change_only=False)

    def change_tiles(self) -> Iterator[tuple[int, int, Tensor]]:
        """Rows of the change ``g - gbar``: exactly zero where the mask is one."""
        return self._pass(None, change_only=True)

    def leave_untouched(self) -> None:
        """Fill in the statistics of a mask that is one everywhere, without a pass."""
        self.mask_mean_N = torch.ones_like(self.contrasts.mean_sq_N)
        self.change_sq_N = torch.zeros_like(self.contrasts.mean_sq_N)
        self.masked_sq_N = self.contrasts.mean_sq_N
        if self.wants_histogram:
            self.histogram_NK = of_ones(self.shape, self.device)

    def _pass(self, into: Tensor | None, change_only: bool) -> Iterator[tuple[int, int, Tensor]]:
        N, O, I = self.shape
        gather = self.mask_mean_N.numel() == 0
        sums_3N = torch.zeros(3, N, dtype=torch.float64, device=self.device)
        histogram = TileHistogram(self.shape, self.device) if gather and self.wants_histogram else None
        for i in range(0, O, self.rows):
            j = min(i + self.rows, O)
            gbar, mask, *scratch = (self._buffer(k, j - i) for k in range(2 + self.mask.scratch))
            self.contrasts.tile(0, i, j, gbar)
            if change_only:
                change = self.mask.minus_one(i, j, gbar, mask, scratch)
                if gather:
                    sums_3N[0] += change.sum((1, 2))
                if histogram:
                    histogram.add(torch.add(change, 1, out=scratch[0]).mul_(BINS))
                change.mul_(gbar)
                if gather:
                    sums_3N[1] += _sum_sq(change)
                yield i, j, change
                continue
            self.mask.values(i, j, gbar, mask, scratch)
            if histogram:
                histogram.add(torch.mul(mask, BINS, out=scratch[0]))
            masked = torch.mul(gbar, mask, out=scratch[0] if into is None else into[:, i:j])
            if gather:
                sums_3N[0] += mask.sum((1, 2)) - (j - i) * I
                sums_3N[1] += _sum_sq(gbar.sub_(masked))
                sums_3N[2] += _sum_sq(masked)
            yield i, j, masked
        if gather:
            self.mask_mean_N = 1 + sums_3N[0] / (O * I)
            self.change_sq_N, self.masked_sq_N = sums_3N[1], sums_3N[2]
        if histogram:
            self.histogram_NK = histogram.result()

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
