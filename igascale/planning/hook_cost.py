# ruff: noqa: E741 -- O and I are the shape letters of the project
"""What the gradient rule computes on one adapter, and the memory it works in.

Shape legend: D domains, R LoRA rank, I in-features, O out-features, P = rank + oversampling columns of the sketch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from igascale.errors import UserError
from igascale.hooks.base import GradientHook
from igascale.linalg.projection import sketch_width
from igascale.linalg.tiles import plan_tiles

Shape = tuple[int, int, int]  # O, I, R


@dataclass(frozen=True)
class HookWork:
    """Of one adapter, or of several together.

    Attributes:
        flops: of matrix products.
        memory_traffic: bytes read and written by elementwise operations.
        decompositions: QR and SVD of sketches, whose time is their latency and not their FLOPs.
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
    with them. For ``iga`` in weight space see :func:`alignment_flops`.
    """
    O, I, R = shape
    if not in_weight_space(hook):
        return HookWork(0.0, 4 * 2 * domains * R * (O + I))
    chosen = hook.chosen  # type: ignore[attr-defined]
    flops, elements = alignment_flops(shape, domains, chosen, _is_cached(hook, shape))
    decompositions = 3 + 2 * chosen["power_iters"] if chosen["projection"] == "svd" else 0
    return HookWork(flops, 4 * 2 * elements, decompositions)


def alignment_flops(shape: Shape, domains: int, chosen: dict[str, Any], cached: bool) -> tuple[float, float]:
    r"""Multiplications and additions in matrix products, and elementwise operations, of ``igascale.linalg.alignment``.

    .. math:: F = G \cdot 2 \cdot 2R \cdot D\, O I + (2 + 2q) \cdot 2 P\, O I

    with q power iterations, ``2 + 2q`` passes over the matrix, and G = 1 generation of it where it is kept between passes,
    else one for each pass. Without a projection there is one pass of two products with R columns. Lower orders (R x R Grams,
    decompositions of O x P and I x P matrices) are left out.

    Args:
        shape: O, I, R.
        domains: D.
        chosen: the options in force of the hook ``iga``.
        cached: whether the masked matrix is kept between passes.

    Returns:
        FLOPs of the matrix products; elements read or written elementwise, ``2 D + 10`` per entry and generation.
    """
    O, I, R = shape
    if chosen["projection"] == "none":
        passes, columns = 1, 2 * R
    else:
        kept = chosen["rank"] if isinstance(chosen["rank"], int) else {"R": R, "2R": 2 * R}[chosen["rank"]]
        passes, columns = 2 + 2 * chosen["power_iters"], sketch_width(kept, chosen["oversampling"], (O, I))
    generations = 1 if cached else passes
    tiles = {"exp": domains, "and": domains + 1, "sand": 2 * domains}[chosen["mask"]]
    flops = generations * tiles * 2 * O * I * 2 * R + passes * 2 * O * I * columns
    return flops, generations * O * I * (2 * domains + 10)


def working_bytes(hook: GradientHook, shapes: Iterable[Shape], domains: int) -> int:
    """Beyond the gradients given and returned, at one time.

    For ``iga`` in weight space: the budget ``memory_mb``, or less where the largest adapter needs less, and what its
    documentation names beside it.
    """
    O, I, R = max(shapes, key=lambda shape: shape[0] * shape[1])
    if not in_weight_space(hook):
        return 2 * 4 * domains * R * (O + I)
    chosen = hook.chosen  # type: ignore[attr-defined]
    contrasts = domains * 2 * R * (O + I)
    sketches = 6 * (2 * R + chosen["oversampling"]) * (O + I) if chosen["projection"] == "svd" else 0
    return _tiles(hook, (O, I, R)).bytes + 4 * (contrasts + sketches)


def in_weight_space(hook: GradientHook) -> bool:
    """Whether the rule works on the reconstructed ``[O, I]`` gradients: ``iga``, unless told otherwise."""
    return bool(getattr(hook, "chosen", {}).get("space") == "weight")


def _is_cached(hook: GradientHook, shape: Shape) -> bool:
    return _tiles(hook, shape).cached


def _tiles(hook: Any, shape: Shape) -> Any:
    scratch = 2 if hook.chosen["mask"] == "sand" else 1
    keep = hook.chosen["projection"] == "svd"
    device = torch.device("cuda")  # a name only: nothing is allocated
    try:
        return plan_tiles(1, shape[:2], torch.float32, device, hook.memory_mb * 2**20, keep, scratch)
    except ValueError as error:
        raise UserError(f"hook.{error}") from None
