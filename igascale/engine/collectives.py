"""The few collective operations that a step needs; in one process each is the identity."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Collectives:
    """Communication between the data-parallel ranks.

    Args:
        device: where tensors that are communicated must lie.

    Attributes:
        rank: this process's rank.
        world_size: how many ranks train together.
    """

    def __init__(self, device: torch.device):
        self.device = device
        active = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if active else 0
        self.world_size = dist.get_world_size() if active else 1

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, as a new tensor on the caller's device, the same on every rank."""
        if self.world_size == 1:
            return tensor.clone()
        total = tensor.to(self.device, copy=True)
        dist.all_reduce(total)
        return total.to(tensor.device)

    def sum_to(self, tensor: Tensor, owner: int) -> Tensor:
        """Sum over ranks in place; only ``owner`` may read the result."""
        if self.world_size > 1:
            dist.reduce(tensor, dst=owner)
        return tensor

    def broadcast(self, tensor: Tensor, owner: int) -> Tensor:
        """``owner``'s values on every rank, in place."""
        if self.world_size > 1:
            dist.broadcast(tensor, src=owner)
        return tensor

    def gather_objects(self, value: Any) -> list[Any]:
        """Every rank's picklable ``value``, on every rank. For rare and small things only."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.world_size > 1:
            dist.barrier()
