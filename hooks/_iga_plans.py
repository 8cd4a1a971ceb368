# ruff: noqa: E741 -- O and I are the shape letters of the project
"""How Invariant Gradient Alignment goes about adapters of one shape within ``memory_mb``, and how that is told.

Shape legend: D domains, R LoRA rank, I in-features, O out-features.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping
from functools import partial

import torch

from igascale.hooks.base import GradientHook
from igascale.linalg.alignment import Choices
from igascale.linalg.cost import alignment_cost, working_bytes
from igascale.linalg.tiles import TilePlan, plan_tiles


class PlannedHook(GradientHook):
    """A hook that aligns adapters in batches.

    Attributes:
        memory_mb: the budget, MiB.
        in_weight_space: whether anything is reconstructed at all.
        shuffled: whether the mask is put in random places.
    """

    memory_mb: float
    in_weight_space: bool
    shuffled: bool

    @property
    @abstractmethod
    def choices(self) -> Choices:
        """What each stage does."""

    def plan(
        self, adapters: int, shape: tuple[int, int, int], num_domains: int, dtype: torch.dtype, device: torch.device
    ) -> TilePlan:
        """How so many adapters of shape ``(O, I, R)`` are worked through.

        Raises:
            ValueError: the budget is too small.
        """
        O, I, R = shape
        choices = self.choices
        keep = choices.projection == "svd" and not choices.needs_no_matrix(R)
        held = partial(working_bytes, O, I, R, num_domains, choices, shuffled=self.shuffled, itemsize=dtype.itemsize)
        return plan_tiles(adapters, (O, I), dtype, device, self.memory_mb * 2**20, keep, choices.scratch, held)

    def describe(self, shapes: Mapping[str, tuple[int, int, int]], num_domains: int, device: torch.device) -> list[str]:
        """One line for each shape: how many adapters at a time, whether the masked matrix is kept, the memory."""
        told = []
        for shape, count in Counter(shapes.values()).items() if self.in_weight_space else ():
            O, I, R = shape
            plan = self.plan(count, shape, num_domains, torch.float32, device)
            if self.choices.needs_no_matrix(R):
                matrix = "nothing masked, no matrix formed"
            elif self.choices.projection == "none":
                matrix = f"one pass in tiles of {plan.rows} rows"
            elif plan.cached:
                matrix = f"masked matrix kept ({plan.batch * O * I * 4 / 2**20:.3g} MiB)"
            else:
                matrix = f"masked matrix generated again in each pass, in tiles of {plan.rows} rows"
            memory = f"{plan.total_bytes / 2**20:.3g} of memory_mb={self.memory_mb:g}"
            told.append(f"projection: {O}x{I} x{count}, {plan.batch} at a time, {matrix}, {memory}")
        return told

    def cost(self, O: int, I: int, R: int, D: int) -> float:
        """Counted work of the alignment (:mod:`igascale.linalg.cost`)."""
        return alignment_cost(O, I, R, D, self.choices).work if self.in_weight_space else super().cost(O, I, R, D)
