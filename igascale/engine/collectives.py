"""The few collective operations that a step needs; in one process each is the identity."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Pending(Protocol):
    """A collective operation under way."""

    def wait(self) -> object:
        """Return when its result may be used (on a GPU: by what is enqueued from now on)."""


class _Done:
    """What one process waits for."""

    def wait(self) -> None:
        return


class Waiting:
    """A context around everything that waits for other ranks; it tells who is behind and who is merely waiting.

    Attributes:
        begun: operations begun so far; every rank begins the same ones in the same order.
        inside: whether this rank waits in one now.
        seconds: spent there so far.
    """

    def __init__(self) -> None:
        self.begun, self.inside, self.seconds = 0, False, 0.0
        self._since = 0.0

    def __enter__(self) -> None:
        self.begun += 1
        self.inside, self._since = True, time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.inside = False
        self.seconds += time.perf_counter() - self._since


class _Timed:
    """An operation under way whose wait is measured."""

    def __init__(self, work: Pending, waiting: Waiting):
        self._work, self._waiting = work, waiting

    def wait(self) -> None:
        """See :class:`Pending`."""
        with self._waiting:
            self._work.wait()


@dataclass
class Traffic:
    """What was communicated by one kind of operation.

    Attributes:
        calls: how often.
        elements: numbers in the tensors that were summed, or that a gather ended with on each rank.
        bytes: the same in bytes.
    """

    calls: int = 0
    elements: int = 0
    bytes: int = 0

    def count(self, tensor: Tensor) -> None:
        """Add one operation on ``tensor``."""
        self.calls += 1
        self.elements += tensor.numel()
        self.bytes += tensor.numel() * tensor.element_size()


class Collectives:
    """Communication between the data-parallel ranks.

    Args:
        device: where tensors that are communicated must lie.

    Attributes:
        rank: this process's rank.
        world_size: how many ranks train together.
        traffic: what was communicated so far, by ``all_reduce``, ``reduce`` and ``all_gather``.
        waiting: how often and how long this rank waited for others.
    """

    def __init__(self, device: torch.device):
        self.device = device
        active = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if active else 0
        self.world_size = dist.get_world_size() if active else 1
        self.waiting = Waiting()
        self.traffic = {kind: Traffic() for kind in ("all_reduce", "reduce", "all_gather")}

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, as a new tensor on the caller's device, the same on every rank."""
        if self.world_size == 1:
            return tensor.clone()
        total = tensor.to(self.device, copy=True)
        self.traffic["all_reduce"].count(total)
        with self.waiting:
            dist.all_reduce(total)
            return total.to(tensor.device)

    def sum_together(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sums over ranks of several tensors in one operation, float64 on the CPU."""
        parts = [t.detach().double().cpu() for t in tensors]
        total = self.sum(torch.cat([t.flatten() for t in parts]))
        return [piece.view_as(t) for piece, t in zip(total.split([t.numel() for t in parts]), parts)]

    def start_sum_to(self, tensor: Tensor, owner: int) -> Pending:
        """Begin to sum over ranks in place; after the wait only ``owner`` may read the result."""
        if self.world_size == 1:
            return _Done()
        self.traffic["reduce"].count(tensor)
        work: Pending = dist.reduce(tensor, dst=owner, async_op=True)
        return _Timed(work, self.waiting)

    def gather(self, tensor: Tensor) -> Tensor:
        """Every rank's ``tensor [n]``, of the same length on all of them, as ``[W, n]``."""
        if self.world_size == 1:
            return tensor[None]
        everything = tensor.new_empty(self.world_size * len(tensor))
        self.traffic["all_gather"].count(everything)
        # PyTorch 2.13 gave all_gather_into_tensor a new name and warns of the old one.
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        with self.waiting:
            gather(everything, tensor)
        return everything.view(self.world_size, -1)

    def gather_objects(self, value: Any) -> list[Any]:
        """Every rank's picklable ``value``, on every rank. For rare and small things only; not counted."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        with self.waiting:
            dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.world_size > 1:
            with self.waiting:
                dist.barrier()

    def close(self) -> None:
        """Leave the process group."""
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()


def lost_others(error: BaseException) -> bool:
    """Whether an exception says that communication with other ranks failed: gloo's are plain ``RuntimeError``."""
    if isinstance(error, (dist.DistError, ConnectionError)):
        return True
    words = (
        "gloo",
        "nccl",
        "connection closed by peer",
        "connection reset by peer",
        "timed out waiting",
        "socket timeout",
    )
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
