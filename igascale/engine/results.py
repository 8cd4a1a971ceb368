"""The hook's results on the wire: every rank's share in one flat float32 tensor, all of them in one all-gather.

A rank's share is, for the adapters it owns in the order of the model's modules: their figures, then each adapter's gradients
(and references). Figures are float64, whose bytes travel as pairs of float32: squares of gradients of 1e-12 or 1e12 do not
fit into float32. The shares are padded to the longest.

Shape legend: W ranks, L length of a share, N adapters, K figures of an adapter.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from igascale.engine.buckets import FactorShapes
from igascale.hooks.base import FactorGrads


def share_lengths(
    shapes: Mapping[str, FactorShapes], owners: Mapping[str, int], world_size: int, num_figures: int, copies: int
) -> list[int]:
    """float32 numbers that each rank has to tell, before padding; ``copies`` is 2 with references, else 1."""
    lengths = [0] * world_size
    for fqn, rank in owners.items():
        lengths[rank] += 2 * num_figures + copies * sum(shape.numel() for shape in shapes[fqn])
    return lengths


def pack(
    owned: Mapping[str, FactorGrads], figures_NK: Tensor, length: int, copies: int, device: torch.device
) -> Tensor:
    """``[L]``: a rank's share, padded to ``length``.

    Args:
        owned: the results for the adapters that this rank owns.
        figures_NK: float64, the figures of those adapters.
        length: L.
        copies: 2 where references go along, else 1.
        device: where to put it.
    """
    parts = [figures_NK.double().to(device).view(torch.float32).flatten()]
    for grad in owned.values():
        tensors = (grad.a, grad.b, grad.reference_a, grad.reference_b)[: 2 * copies]
        parts += [t.flatten() for t in tensors if t is not None]
    parts.append(torch.zeros(length - sum(map(len, parts)), device=device))
    return torch.cat(parts)


def unpack(
    shares_WL: Tensor, shapes: Mapping[str, FactorShapes], owners: Mapping[str, int], num_figures: int, copies: int
) -> tuple[dict[str, FactorGrads], Tensor]:
    """All ranks' results, as views of ``shares_WL``, and their figures ``[N, K]`` on the CPU, in the order of the modules."""
    results: dict[str, FactorGrads] = {}
    figures, told = [], []
    for rank, share_L in enumerate(shares_WL):
        fqns = [fqn for fqn, owner in owners.items() if owner == rank]
        end = 2 * num_figures * len(fqns)
        # A copy, since a view as float64 must begin at a multiple of 8 bytes.
        figures.append(share_L[:end].clone().view(torch.float64).view(len(fqns), num_figures))
        told += fqns
        wanted = [shape for fqn in fqns for shape in shapes[fqn] * copies]
        pieces = share_L[end:].split(
            [*(s.numel() for s in wanted), len(share_L) - end - sum(s.numel() for s in wanted)]
        )
        tensors = [piece.view(shape) for piece, shape in zip(pieces, wanted)]
        each = 2 * copies
        results |= {fqn: FactorGrads(*tensors[i * each : (i + 1) * each]) for i, fqn in enumerate(fqns)}
    place = {fqn: row for row, fqn in enumerate(told)}
    rows = [place[fqn] for fqn in owners]
    return {fqn: results[fqn] for fqn in owners}, torch.cat(figures).cpu()[rows]
