"""Several ranks in one process: each runs in a thread, and ``sum_over_shards`` really adds what they hand in.

A rank that asks for a sum which another rank never asks for would wait for ever in a real run. Here it is told.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

Job = Callable[[Callable[[Tensor], Tensor]], Any]


class Unmet(Exception):
    """A rank asked for a sum that the others did not ask for, or not with the same shape and type."""


def run_ranks(jobs: Sequence[Job]) -> list[Any]:
    """Run each rank's job with a ``sum_over_shards`` that it shares with the others.

    Returns:
        What each job returned, or the exception it raised; :class:`Unmet` for a rank that would have waited for ever,
        and for one that skipped a sum which another rank waits for.
    """
    meeting = _Meeting(len(jobs))
    outcomes: list[Any] = [None] * len(jobs)

    def run(rank: int) -> None:
        try:
            outcomes[rank] = jobs[rank](partial(meeting.sum, rank))
        except (Exception, SystemExit) as error:
            outcomes[rank] = error
        finally:
            meeting.leave(rank)

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


class _Meeting:
    def __init__(self, ranks: int):
        self.calls = [0] * ranks
        self.changed = threading.Condition()
        self.offered: dict[int, Tensor] = {}
        self.totals: list[Tensor] = []
        self.gone: set[int] = set()
        self.problem = ""

    def sum(self, rank: int, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"sum_over_shards takes a tensor, not {type(tensor).__name__}")
        with self.changed:
            turn = self.calls[rank]
            self.calls[rank] += 1
            self.offered[rank] = tensor.detach().clone()
            if len(self.offered) == len(self.calls):
                self._add_up()
            self.changed.notify_all()
            self.changed.wait_for(lambda: len(self.totals) > turn or self.problem or self.gone)
            if len(self.totals) > turn:
                return self.totals[turn].clone()
            self.problem = self.problem or self._counts(rank)
            raise Unmet(self.problem)

    def leave(self, rank: int) -> None:
        """This rank has returned: who waits for it now, waits in vain."""
        with self.changed:
            self.gone.add(rank)
            self.changed.notify_all()

    def _add_up(self) -> None:
        kinds = {rank: f"{list(t.shape)} {t.dtype}" for rank, t in sorted(self.offered.items())}
        if len(set(kinds.values())) > 1:
            told = ", ".join(f"rank {rank} {kind}" for rank, kind in kinds.items())
            self.problem = f"the ranks ask for sums of different tensors: {told}"
        else:
            self.totals.append(torch.stack([t for _, t in sorted(self.offered.items())]).sum(0))
            self.offered.clear()

    def _counts(self, rank: int) -> str:
        gone = min(self.gone)
        return f"rank {rank} asks for sum number {self.calls[rank]}, rank {gone} returned after {self.calls[gone]}"
