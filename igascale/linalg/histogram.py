# ruff: noqa: E741 -- O and I are the shape letters of the project
r"""How many entries of a mask have which value: counted on the way, without the mask ever being held whole.

A histogram is a float64 tensor of :data:`WIDTH` numbers: the entries in each of :data:`BINS` equal bins on [0, 1], the last with
its upper edge, then how many entries were looked at. Where that is a sample the bins are scaled up to all entries, so that
histograms add up to those of all adapters, each weighted by its size.

Shape legend: N adapters of one shape, D domains, O out-features, I in-features, T rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from igascale.linalg.contrasts import Contrasts
    from igascale.linalg.tiles import TileMask

BINS = 20
WIDTH = BINS + 1
#: Rows of each adapter that :func:`sample` looks at, in blocks at even distances.
SAMPLE_ROWS = 64
_BLOCK = 4
# Entries binned at once, in two bytes each: small beside any tile.
_CHUNK = 1 << 20


class TileHistogram:
    """Adds up the tiles of N masks, ``[O, I]`` each.

    Args:
        shape: ``(N, O, I)``.
        device: of the tiles.
    """

    def __init__(self, shape: tuple[int, int, int], device: torch.device) -> None:
        N, self._rows, self._columns = shape
        self._counts_NK = torch.zeros(N, BINS, dtype=torch.int64, device=device)
        self._first_N11 = torch.arange(0, N * BINS, BINS, device=device)[:, None, None]

    def add(self, scaled_NTI: Tensor) -> None:
        """A tile of the masks, times :data:`BINS`; destroyed. A NaN counts as 0."""
        N, T, I = scaled_NTI.shape
        kind = torch.int16 if N * BINS < 1 << 15 else torch.int64
        scaled_NTI.nan_to_num_(0.0).clamp_(0, BINS - 1)
        step = max(1, _CHUNK // (N * I))
        for start in range(0, T, step):
            places = scaled_NTI[:, start : start + step].to(kind).add_(self._first_N11.to(kind))
            self._counts_NK += torch.bincount(places.flatten(), minlength=N * BINS).view(N, BINS)

    def result(self) -> Tensor:
        """``[N, WIDTH]``, float64, of all entries."""
        counts_NK = self._counts_NK.double()
        counted_N1 = counts_NK.sum(1, keepdim=True)
        scale_N1 = self._rows * self._columns / counted_N1.clamp_min(1)
        return torch.cat([counts_NK * scale_N1, counted_N1], 1)


def sample(contrasts: Contrasts, mask: TileMask) -> Tensor:
    """``[N, WIDTH]``: the histogram of :data:`SAMPLE_ROWS` rows of each adapter, the same at every step; of all if there are no more.

    For where no tiles come by: a fused kernel keeps them on the chip.
    """
    N, _, O, _ = contrasts.left_NDOQ.shape
    I = contrasts.right_NDQI.shape[3]
    histogram = TileHistogram((N, O, I), contrasts.left_NDOQ.device)
    buffers = [contrasts.left_NDOQ.new_empty(N, _BLOCK, I) for _ in range(2 + mask.scratch)]
    for i in sample_starts(O):
        j = min(i + _BLOCK, O)
        # Contiguous, as tiles are.
        gbar, out, *scratch = (b.flatten()[: N * (j - i) * I].view(N, j - i, I) for b in buffers)
        contrasts.tile(0, i, j, gbar)
        histogram.add(mask.values(i, j, gbar, out, scratch).mul_(BINS))
    return histogram.result()


def sample_starts(O: int) -> list[int]:
    """Where the blocks of rows that :func:`sample` looks at begin."""
    if O <= SAMPLE_ROWS:
        return list(range(0, O, _BLOCK))
    blocks = SAMPLE_ROWS // _BLOCK
    return [k * (O - _BLOCK) // (blocks - 1) for k in range(blocks)]


def of_ones(shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """``[N, WIDTH]``: the histogram of masks that take nothing away."""
    N, O, I = shape
    return of_constant(torch.ones(N, dtype=torch.float64, device=device), O * I)


def of_constant(value_N: Tensor, entries: int) -> Tensor:
    """``[N, WIDTH]``: the histogram of masks of so many entries with one value each; a NaN counts as 0."""
    place_N1 = value_N.double().nan_to_num(0.0).mul(BINS).floor().clamp(0, BINS - 1)[:, None]
    hit_NK = place_N1 == torch.arange(BINS, device=value_N.device)
    return torch.cat([hit_NK.double() * entries, torch.full_like(place_N1, float(entries))], 1)


def of_entries(mask_X: Tensor, live_X: Tensor) -> Tensor:
    """``[WIDTH]``: the histogram of the entries of a mask that are live, or of all if none is; a NaN counts as 0."""
    place_X = mask_X.double().nan_to_num(0.0).mul(BINS).floor().clamp(0, BINS - 1).long()
    wanted_X = (live_X | ~live_X.any()).double()
    counts_K = torch.zeros(BINS, dtype=torch.float64, device=mask_X.device)
    # Whole numbers: their sum does not depend on the order, so neither device nor thread shows.
    counts_K.index_add_(0, place_X, wanted_X)
    return torch.cat([counts_K, counts_K.sum()[None]])
