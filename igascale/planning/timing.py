"""Seconds of one optimizer step, from counted work and assumed efficiencies.

Shape legend: B rows, T tokens of a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from igascale.planning.cluster import Cluster
from igascale.planning.dry_run import LinearUse
from igascale.planning.hook_cost import HookWork
from igascale.planning.wire import Transfer

#: Model FLOPs utilisation of forward and backward pass, unless --mfu says otherwise.
MFU = 0.4
#: Share of the float32 peak, and of the memory bandwidth, that the rule's operations reach.
HOOK_EFFICIENCY = 0.5
#: Seconds of one QR or SVD of a sketch on a GPU, which is all latency.
DECOMPOSITION = 1e-3
#: Share of a link's bandwidth that a ring reaches.
WIRE_EFFICIENCY = 0.7
#: Seconds that one collective operation costs per doubling of the number of ranks, whatever its size.
LATENCY = 10e-6
#: float32 numbers that AdamW reads and writes per parameter.
_OPTIMIZER_ACCESSES = 12


@dataclass(frozen=True)
class Flops:
    """Of one micro-batch."""

    forward: float
    backward: float
    recompute: float

    @property
    def total(self) -> float:
        """All three."""
        return self.forward + self.backward + self.recompute


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step of one method.

    Attributes:
        name: the method.
        forward: forward passes.
        backward: backward passes.
        recompute: what activation checkpointing runs again.
        wire: communication, as if none of it ran beside anything else.
        combine: the rule, on the rank with most of it.
        optimizer: AdamW.
    """

    name: str
    forward: float
    backward: float
    recompute: float
    wire: float
    combine: float
    optimizer: float

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return self.forward + self.backward + self.recompute + self.wire + self.combine + self.optimizer


def micro_batch_flops(
    linears: Iterable[LinearUse],
    attention_width: int,
    layers: int,
    attention_recomputed: bool,
    rows: float,
    tokens: float,
    backward_passes: int = 1,
) -> Flops:
    r"""FLOPs of matrix products in one forward and backward pass.

    .. math::
        F_\text{forward} = 2 B T \sum_l O_l I_l + 4 L B T^2 H

    with L layers and attention of width H (heads times the size of one): scores and weighted sum, over the whole square, as the
    count of a model's FLOPs has it; a kernel that skips the upper triangle does half. The backward pass costs ``2 B T O I`` for a
    layer's input gradient and as much for its weight gradient (LoRA factors only: the base is frozen), and twice the attention.

    Args:
        linears: every linear layer, with what the backward pass forms of it.
        attention_width: H.
        layers: L.
        attention_recomputed: under activation checkpointing.
        rows: B.
        tokens: T.
        backward_passes: 2 for a hook with an auxiliary statistic.
    """
    uses = list(linears)
    per_weight = 2 * rows * tokens
    attention = 4 * layers * rows * tokens**2 * attention_width
    forward = per_weight * sum(u.out_features * u.in_features for u in uses) + attention
    backward = (
        per_weight * sum(u.out_features * u.in_features * (u.input_grad + u.weight_grad) for u in uses) + 2 * attention
    )
    again = per_weight * sum(u.out_features * u.in_features for u in uses if u.recomputed)
    recompute = again + attention if attention_recomputed else 0.0
    return Flops(forward, backward * backward_passes, recompute * backward_passes)


def wire_seconds(transfers: Sequence[Transfer], cluster: Cluster) -> float:
    """Bytes over the slowest link of the ring, and the latency of each operation."""
    doublings = math.ceil(math.log2(max(cluster.ranks, 2)))
    sent = sum(t.sent for t in transfers)
    return sent / (cluster.ring_gbs * 1e9 * WIRE_EFFICIENCY) + sum(t.calls for t in transfers) * LATENCY * doublings


def combine_seconds(work: HookWork, cluster: Cluster) -> float:
    """Matrix products at the float32 peak, elementwise work at the memory's bandwidth, decompositions: one after the other."""
    gpu = cluster.gpu
    streamed = work.flops / (gpu.fp32_tflops * 1e12) + work.memory_traffic / (gpu.hbm_gbs * 1e9)
    return streamed / HOOK_EFFICIENCY + work.decompositions * DECOMPOSITION


def step_time(
    name: str,
    flops: Flops,
    micro_steps: float,
    transfers: Sequence[Transfer],
    work: HookWork,
    partition: float,
    cluster: Cluster,
    peak_tflops: float,
    mfu: float,
) -> StepTime:
    """Put one method's step together.

    Args:
        name: the method.
        flops: of one micro-batch.
        micro_steps: of one optimizer step.
        transfers: what it sends.
        work: of the rule on the rank with most of it.
        partition: parameters that a rank's optimizer updates.
        cluster: the machines.
        peak_tflops: of the model's dtype.
        mfu: share of it that forward and backward pass reach.
    """
    rate = peak_tflops * 1e12 * mfu / micro_steps
    return StepTime(
        name=name,
        forward=flops.forward / rate,
        backward=flops.backward / rate,
        recompute=flops.recompute / rate,
        wire=wire_seconds(transfers, cluster),
        combine=combine_seconds(work, cluster),
        optimizer=_OPTIMIZER_ACCESSES * 4 * partition / (cluster.gpu.hbm_gbs * 1e9),
    )
