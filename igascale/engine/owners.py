"""Which rank combines which adapters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping


def assign_owners(costs: Mapping[str, float], world_size: int) -> dict[str, int]:
    """Spread adapters over ranks: the most expensive first, each to the rank with the least work so far.

    Longest processing time first; the heaviest rank has at most 4/3 of the best possible share (R. L. Graham, `Bounds on
    Multiprocessing Timing Anomalies <https://doi.org/10.1137/0117039>`_, 1969). Deterministic, so that every rank agrees
    without talking.

    Args:
        costs: adapter -> relative work of combining it, in the order of the model's modules.
        world_size: number of ranks.

    Returns:
        Adapter -> rank, in the order of ``costs``.
    """
    load = [0.0] * world_size
    takers: dict[float, list[int]] = defaultdict(list)
    for cost in sorted(costs.values(), reverse=True):
        rank = min(range(world_size), key=lambda r: (load[r], r))
        load[rank] += cost
        takers[cost].append(rank)
    # Adapters of one cost are interchangeable. Each rank takes neighbours, the first ranks the last modules: the backward
    # pass then completes one rank's bucket after the other, where dealing out in turn would complete all of them at its end.
    owners: dict[str, int] = {}
    for cost, ranks in takers.items():
        owners |= zip((fqn for fqn in reversed(list(costs)) if costs[fqn] == cost), sorted(ranks))
    return {fqn: owners[fqn] for fqn in costs}


def load_shares(costs: Mapping[str, float], owners: Mapping[str, int], world_size: int) -> list[float]:
    """Each rank's work, relative to the mean over ranks."""
    load = [sum(cost for fqn, cost in costs.items() if owners[fqn] == rank) for rank in range(world_size)]
    mean = sum(load) / world_size
    return [x / mean for x in load]
