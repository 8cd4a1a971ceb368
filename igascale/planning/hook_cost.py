# ruff: noqa: E741 -- O and I are the shape letters of the project
"""What the gradient rule computes on one adapter, and the memory it works in.

Shape legend: D domains, R LoRA rank, I in-features, O out-features.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from igascale.errors import UserError
from igascale.hooks._iga_plans import PlannedHook
from igascale.hooks.base import GradientHook
from igascale.linalg.cost import alignment_cost
from igascale.linalg.tiles import TilePlan

Shape = tuple[int, int, int]  # O, I, R

# A name only, nothing is allocated. The fused kernel is not modelled.
_GPU = torch.device("cuda")


@dataclass(frozen=True)
class HookWork:
    """Of one adapter, or of several together.

    Attributes:
        flops: of matrix products.
        memory_traffic: bytes read and written by elementwise operations.
        decompositions: of sketches, whose time is their latency and not their FLOPs.
    """

    flops: float
    memory_traffic: float
    decompositions: int = 0

    def __add__(self, other: HookWork) -> HookWork:
        return HookWork(
            self.flops + other.flops,
            self.memory_traffic + other.memory_traffic,
            self.decompositions + other.decompositions,
        )


NO_WORK = HookWork(0.0, 0.0)


def hook_work(hook: GradientHook, shape: Shape, domains: int) -> HookWork:
    """The work of combining one adapter.

    A rule in factor space, the mean included, reads the D gradients once and is charged as much again for what it does
    with them. For ``iga`` in weight space see :func:`igascale.linalg.cost.alignment_cost`.
    """
    O, I, R = shape
    planned = in_weight_space(hook)
    if planned is None:
        return HookWork(0.0, 4 * 2 * domains * R * (O + I))
    choices = planned.choices
    cost = alignment_cost(O, I, R, domains, choices, cached=_plan(planned, 1, shape, domains).cached)
    decompositions = 3 + 2 * choices.power_iters if choices.projection == "svd" else 0
    return HookWork(cost.total_flops, 4 * 2 * cost.elementwise, decompositions)


def working_bytes(hook: GradientHook, shapes: Iterable[Shape], domains: int) -> int:
    """Beyond the gradients given and returned, at one time; for ``iga`` in weight space at most its ``memory_mb``."""
    counts = Counter(shapes)
    planned = in_weight_space(hook)
    if planned is None:
        return max(2 * 4 * domains * R * (O + I) for O, I, R in counts)
    return max(_plan(planned, count, shape, domains).total_bytes for shape, count in counts.items())


def in_weight_space(hook: GradientHook) -> PlannedHook | None:
    """The rule, if it works on the reconstructed ``[O, I]`` gradients: ``iga``, unless told otherwise."""
    return hook if isinstance(hook, PlannedHook) and hook.in_weight_space else None


def _plan(hook: PlannedHook, count: int, shape: Shape, domains: int) -> TilePlan:
    try:
        return hook.plan(count, shape, domains, torch.float32, _GPU, kernel="torch")
    except ValueError as error:
        raise UserError(f"hook.{error}") from None
