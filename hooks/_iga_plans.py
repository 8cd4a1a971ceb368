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
from igascale.linalg.fused import FusedMaskedMean, Kernel, fused_available
from igascale.linalg.tiles import TilePlan, plan_fused, plan_tiles


class PlannedHook(GradientHook):
    """A hook that aligns adapters in batches.

    Attributes:
        memory_mb: the budget, MiB.
        in_weight_space: whether anything is reconstructed at all.
        shuffled: whether the mask is put in random places.
        kernel: what forms the products.
    """

    memory_mb: float
    in_weight_space: bool
    shuffled: bool
    kernel: Kernel

    @property
    @abstractmethod
    def choices(self) -> Choices:
        """What each stage does."""

    def plan(
        self,
        adapters: int,
        shape: tuple[int, int, int],
        num_domains: int,
        dtype: torch.dtype,
        device: torch.device,
        kernel: Kernel | None = None,
    ) -> TilePlan:
        """How so many adapters of shape ``(O, I, R)`` are worked through; ``kernel`` is the hook's own by default.

        Raises:
            ValueError: the budget is too small, or the kernel that was asked for cannot be used.
        """
        O, I, R = shape
        choices, memory_bytes = self.choices, self.memory_mb * 2**20
        held = partial(working_bytes, O, I, R, num_domains, choices, shuffled=self.shuffled, itemsize=dtype.itemsize)
        matrix = not choices.needs_no_matrix(R)
        if matrix and not self._why_tiles(kernel or self.kernel, dtype, device):
            return plan_fused(adapters, memory_bytes, held)
        keep = matrix and choices.projection == "svd"
        return plan_tiles(adapters, (O, I), dtype, device, memory_bytes, keep, choices.scratch, held)

    def _why_tiles(self, kernel: Kernel, dtype: torch.dtype, device: torch.device) -> str:
        """Why the fused kernel is not used; empty where it is.

        Raises:
            ValueError: it was asked for and cannot be used.
        """
        if kernel == "torch":
            return "kernel='torch'"
        if kernel == "auto" and device.type != "cuda":
            return "it is for CUDA"
        reason = fused_available(device, dtype, "shuffled" if self.shuffled else self.choices.mask)
        if reason and kernel == "triton":
            raise ValueError(f"kernel='triton': {reason}; use kernel='auto' or 'torch'")
        return reason

    def describe(self, shapes: Mapping[str, tuple[int, int, int]], num_domains: int, device: torch.device) -> list[str]:
        """One line for each shape: how many adapters at a time, whether the masked matrix is kept, the memory."""
        told = []
        for shape, count in Counter(shapes.values()).items() if self.in_weight_space else ():
            O, I, R = shape
            plan = self.plan(count, shape, num_domains, torch.float32, device)
            if self.choices.needs_no_matrix(R):
                matrix = "nothing masked, no matrix formed"
            elif plan.fused:
                matrix = f"by the fused Triton kernel ({FusedMaskedMean.PRECISION}), no matrix formed"
            elif self.choices.projection == "none":
                matrix = f"one pass in tiles of {plan.rows} rows"
            elif plan.cached:
                matrix = f"masked matrix kept ({plan.batch * O * I * 4 / 2**20:.3g} MiB)"
            else:
                matrix = f"masked matrix generated again in each pass, in tiles of {plan.rows} rows"
            memory = f"{plan.total_bytes / 2**20:.3g} MiB of memory_mb={self.memory_mb:g}"
            told.append(f"projection: {O}x{I} x{count}, {plan.batch} at a time, {matrix}, {memory}")
        if (
            told
            and device.type == "cuda"
            and self.kernel == "auto"
            and (reason := self._why_tiles(self.kernel, torch.float32, device))
        ):
            told.append(f"projection: torch tiles, not the fused kernel: {reason}")
        return told

    def cost(self, O: int, I: int, R: int, D: int) -> float:
        """Counted work of the alignment (:mod:`igascale.linalg.cost`)."""
        return alignment_cost(O, I, R, D, self.choices).work if self.in_weight_space else super().cost(O, I, R, D)
