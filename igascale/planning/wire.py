"""Bytes that one optimizer step puts on the wire, igascale's and plain DeepSpeed's.

A ring over W ranks: to reduce S bytes to their owners, or to gather S bytes, each rank sends ``S (W - 1) / W``; an all-reduce
is both. Docs: `NCCL tests, performance <https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md>`_.

Letters: W ranks, N adapters, P LoRA parameters, D domains, S statistics of the hook.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from igascale.hooks.base import GradientHook

#: Bytes of one bucket of reduced gradients (``engine.reduce_bucket_mb``).
BUCKET_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Transfer:
    """One kind of communication in an optimizer step.

    Attributes:
        name: what is sent.
        calls: collective operations.
        payload: bytes that one rank hands to them, or gets from an all-gather.
        sent: bytes that one rank puts on its link.
    """

    name: str
    calls: int
    payload: float
    sent: float


def igascale_transfers(
    hook: GradientHook,
    domains: int,
    owned: Mapping[int, tuple[int, int]],
    parameter_bytes: int,
    distributed: bool,
) -> list[Transfer]:
    """What igascale sends in one step, and DeepSpeed with it.

    Args:
        hook: the rule.
        domains: D.
        owned: rank -> adapters and LoRA parameters that it owns, of every rank.
        parameter_bytes: of one LoRA parameter in the model.
        distributed: whether DeepSpeed takes part (``engine.name``).
    """
    W = len(owned)
    if W == 1 or not distributed:
        return []
    N, P = (sum(counts) for counts in zip(*owned.values()))
    reduced = domains * P * 4 * (2 if hook.auxiliary else 1)
    buckets = sum(math.ceil(domains * p * 4 / BUCKET_BYTES) for _, p in owned.values()) * (2 if hook.auxiliary else 1)
    copies, figures = 2 if hook.uses_reference else 1, domains**2 + 3 + len(hook.statistics)
    # Every share is padded to the longest. Figures are float64.
    gathered = W * max(4 * copies * p + 8 * figures * n for n, p in owned.values())
    scalars = 8 * (3 * domains + 2 + (2 * domains**2 * (N + 1) if hook.uses_noise else 0)) + 4
    return [
        Transfer(f"per-domain gradients to owners ({domains} P)", buckets, reduced, _ring(reduced, W)),
        Transfer(f"results to all ranks ({copies} P, figures)", 1, gathered, _ring(gathered, W)),
        Transfer("losses, counts, noise: all-reduced", 2, scalars, 2 * _ring(scalars, W)),
        _gather_parameters(P, parameter_bytes, W),
    ]


def plain_transfers(
    ranks: int, lora_parameters: int, parameter_bytes: int, zero_stage: int, micro_steps: int
) -> list[Transfer]:
    """What PEFT on plain DeepSpeed would send for the same batch.

    ZeRO-2 reduces after every micro-step, ZeRO-1 at the last one. Both all-reduce their buckets, in the model's dtype
    (``use_multi_rank_bucket_allreduce``, DeepSpeed's default), though each rank needs its partition only.

    Args:
        ranks: W.
        lora_parameters: P.
        parameter_bytes: of one of them.
        zero_stage: 1 or 2.
        micro_steps: of one optimizer step.
    """
    if ranks == 1:
        return []
    times = micro_steps if zero_stage == 2 else 1
    reduced = lora_parameters * parameter_bytes * times
    return [
        Transfer(f"gradients, all-reduced {times} times (P each)", times, reduced, 2 * _ring(reduced, ranks)),
        _gather_parameters(lora_parameters, parameter_bytes, ranks),
    ]


def _gather_parameters(lora_parameters: int, parameter_bytes: int, ranks: int) -> Transfer:
    gathered = lora_parameters * parameter_bytes
    return Transfer("updated parameters, by DeepSpeed (P)", 1, gathered, _ring(gathered, ranks))


def _ring(num_bytes: float, ranks: int) -> float:
    return num_bytes * (ranks - 1) / ranks
