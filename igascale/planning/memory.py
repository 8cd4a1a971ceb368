"""Bytes on one GPU: what stays, and what two phases of a step add at different times.

Letters: W ranks, P LoRA parameters, D domains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from igascale.hooks.base import GradientHook
from igascale.planning.dry_run import DryRun
from igascale.planning.hook_cost import working_bytes
from igascale.planning.shapes import Shapes

#: CUDA context, library workspaces, NCCL's buffers, the display driver's share. An assumption.
RESERVE_BYTES = 2 * 2**30
#: Share of what comes and goes that the allocator cannot use again. An assumption.
FRAGMENTATION = 0.05

Phase = Literal["resident", "backward", "combine"]


@dataclass(frozen=True)
class Line:
    """One use of memory.

    Attributes:
        phase: ``resident``, or the phase of the step in which it lives.
        name: what it is.
        bytes: how much.
        sharded: how much if the base weights were spread over the ranks, which igascale cannot do yet.
    """

    phase: Phase
    name: str
    bytes: float
    sharded: float


@dataclass(frozen=True)
class Memory:
    """All lines of one GPU."""

    lines: tuple[Line, ...]

    def total(self, sharded: bool = False) -> float:
        """The most there is at one time: what is resident, and the larger of the two phases."""
        of = {phase: self.phase(phase, sharded) for phase in ("resident", "backward", "combine")}
        return of["resident"] + max(of["backward"], of["combine"])

    def phase(self, phase: str, sharded: bool = False) -> float:
        """Bytes of one phase alone."""
        return sum(line.sharded if sharded else line.bytes for line in self.lines if line.phase == phase)


def plan_memory(
    shapes: Shapes,
    hook: GradientHook,
    run: DryRun,
    *,
    domains: int,
    rows: int,
    ranks: int,
    owned_parameters: int,
    engine: str,
    bucket_elements: int,
) -> Memory:
    """Memory of the rank that has most of everything.

    Args:
        shapes: of the model.
        hook: the rule.
        run: one micro-batch.
        domains: D.
        rows: of a micro-batch.
        ranks: W.
        owned_parameters: LoRA parameters of the adapters that this rank combines.
        engine: ``deepspeed`` or ``single``.
        bucket_elements: of DeepSpeed's reduce bucket.
    """
    lines = [
        *_resident(shapes, hook, domains, ranks, engine),
        *_backward(shapes, run, hook, domains, rows, engine),
        *_combine(shapes, hook, domains, ranks, owned_parameters, engine, bucket_elements),
    ]
    phases: tuple[Phase, ...] = ("backward", "combine")
    for phase in phases:
        lost = FRAGMENTATION * sum(line.bytes for line in lines if line.phase == phase)
        lines.append(_line(phase, "fragmentation (assumed)", lost))
    lines.insert(0, _line("resident", "CUDA context, NCCL (assumed)", RESERVE_BYTES))
    gathered = 2 * shapes.largest_block  # one block at work, the next one on its way
    sharded = shapes.base_bytes / ranks + (gathered if ranks > 1 else 0)
    lines.insert(0, Line("resident", "frozen base weights", shapes.base_bytes, sharded))
    return Memory(tuple(lines))


def optimizer_bytes(lora_parameters: int, parameter_bytes: int, uses_reference: bool, ranks: int, engine: str) -> float:
    """Masters, two moments and the reference gradient, float32; ZeRO partitions them over the ranks.

    In one process a float32 factor is its own master.
    """
    states = 2 + (1 if uses_reference else 0)
    masters = 1 if engine == "deepspeed" or parameter_bytes < 4 else 0
    return 4 * lora_parameters * (states + masters) / (ranks if engine == "deepspeed" else 1)


def accumulator_bytes(lora_parameters: int, domains: int, auxiliary: bool) -> int:
    """The per-domain gradient sums, float32, of all adapters on every rank."""
    return 4 * domains * lora_parameters * (2 if auxiliary else 1)


def _resident(shapes: Shapes, hook: GradientHook, domains: int, ranks: int, engine: str) -> list[Line]:
    P, size = shapes.lora_parameters, shapes.parameter_bytes
    partition = f", 1/{ranks} by ZeRO" if engine == "deepspeed" and ranks > 1 else ""
    reference = ", reference" if hook.uses_reference else ""
    sums = accumulator_bytes(P, domains, hook.auxiliary is not None)
    return [
        _line("resident", "LoRA factors", P * size),
        _line(
            "resident",
            f"optimizer: masters, moments{reference}{partition}",
            optimizer_bytes(P, size, hook.uses_reference, ranks, engine),
        ),
        _line("resident", f"per-domain gradient sums ({domains} P)", sums),
    ]


def _backward(shapes: Shapes, run: DryRun, hook: GradientHook, domains: int, rows: int, engine: str) -> Sequence[Line]:
    widest = max(max(shape[:2]) * shape[2] for shape in shapes.adapters.values())
    copies = domains * (2 if hook.uses_noise else 1)
    return [
        _line("backward", "activations kept for the backward pass", run.saved_bytes),
        _line("backward", "logits", run.logits_bytes),
        _line("backward", "loss and backward pass at their peak", run.peak_bytes - run.saved_bytes - run.logits_bytes),
        _line("backward", "gradients on their way", 2 * 4 * copies * widest),
    ]


def _combine(
    shapes: Shapes,
    hook: GradientHook,
    domains: int,
    ranks: int,
    owned_parameters: int,
    engine: str,
    bucket_elements: int,
) -> Sequence[Line]:
    copies = 2 if hook.uses_reference else 1
    lines = [
        _line("combine", "the rule at work", working_bytes(hook, shapes.adapters.values(), domains)),
        _line("combine", f"its results ({copies} P)", 4 * copies * owned_parameters),
    ]
    if ranks > 1:
        lines.append(_line("combine", "gathered results, padded", 4 * copies * owned_parameters * ranks))
    if engine == "deepspeed":
        handed = 2 * 4 * shapes.lora_parameters / ranks + bucket_elements * shapes.parameter_bytes
        lines.append(_line("combine", "DeepSpeed: gradients handed over, bucket", handed))
    return lines


def _line(phase: Phase, name: str, num_bytes: float) -> Line:
    return Line(phase, name, num_bytes, num_bytes)
