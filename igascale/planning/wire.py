"""Bytes that one optimizer step puts on the wire, igascale's and plain DeepSpeed's.

A ring over W ranks: to reduce S bytes to their owners, or to gather S bytes, each rank sends ``S (W - 1) / W``; an all-reduce
is both. Docs: `NCCL tests, performance <https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md>`_.

Letters: W ranks, N adapters, P LoRA parameters, D domains, S statistics of the hook (and its mask's histogram).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from igascale.adapters import LoraAdapter
from igascale.engine.buckets import plan_buckets
from igascale.engine.owners import assign_owners
from igascale.engine.results import share_lengths
from igascale.hooks.base import GradientHook
from igascale.linalg.histogram import WIDTH
from igascale.step import adapter_costs


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


def plan_owners(
    hook: GradientHook, adapters: Mapping[str, LoraAdapter], domains: int, ranks: int
) -> dict[int, list[str]]:
    """The adapters that each rank combines."""
    owners = assign_owners(adapter_costs(hook, adapters, domains), ranks)
    return {rank: [fqn for fqn, owner in owners.items() if owner == rank] for rank in range(ranks)}


def igascale_transfers(
    hook: GradientHook,
    adapters: Mapping[str, LoraAdapter],
    domains: int,
    ranks: int,
    bucket_mb: float,
) -> list[Transfer]:
    """What igascale sends in one step under DeepSpeed, and DeepSpeed with it; docstring of :mod:`igascale.engine.base`.

    What a rule asks for through ``sum_over_shards`` is not in it: ``D^2`` numbers at most for those that come with igascale.

    Args:
        hook: the rule.
        adapters: of the model.
        domains: D.
        ranks: W.
        bucket_mb: ``engine.reduce_bucket_mb``.
    """
    if ranks == 1:
        return []
    shapes = {fqn: (a.A.shape, a.B.shape) for fqn, a in adapters.items()}
    owners = {fqn: rank for rank, fqns in plan_owners(hook, adapters, domains, ranks).items() for fqn in fqns}
    owners = {fqn: owners[fqn] for fqn in shapes}
    sets, copies = 2 if hook.auxiliary else 1, 2 if hook.uses_reference else 1
    buckets = plan_buckets(shapes, owners, domains, bucket_mb)
    reduced = sets * sum(4 * bucket.numel for bucket in buckets)
    figures = domains**2 + 3 + len(hook.statistics) + WIDTH * hook.draws_mask  # of a step whose figures are recorded
    gathered = 4 * ranks * max(share_lengths(shapes, owners, ranks, figures, copies))
    noise = 2 * domains**2 * (len(shapes) + 1) if hook.uses_noise else 0
    # Losses and denominators, the auxiliary statistic, the trainer's four counts and each rank's memory; and whether all is finite, float32.
    scalars = 8 * ((1 + sets) * domains + 4 + ranks + noise) + 4
    return [
        Transfer(f"per-domain gradients to owners ({domains} P)", sets * len(buckets), reduced, _ring(reduced, ranks)),
        Transfer(f"results to all ranks ({copies} P, figures)", 1, gathered, _ring(gathered, ranks)),
        Transfer("losses, counts, noise: all-reduced", 2, scalars, 2 * _ring(scalars, ranks)),
        _gather_parameters(adapters, ranks),
    ]


def plain_transfers(
    adapters: Mapping[str, LoraAdapter], ranks: int, zero_stage: int, micro_steps: int
) -> list[Transfer]:
    """What PEFT on plain DeepSpeed would send for the same batch.

    ZeRO-2 reduces after every micro-step, ZeRO-1 at the last one. Both all-reduce their buckets, in the model's dtype
    (``use_multi_rank_bucket_allreduce``, DeepSpeed's default), though each rank needs its partition only.

    Args:
        adapters: of the model.
        ranks: W.
        zero_stage: 1 or 2.
        micro_steps: of one optimizer step.
    """
    if ranks == 1:
        return []
    times = micro_steps if zero_stage == 2 else 1
    reduced = times * _parameter_bytes(adapters)
    return [
        Transfer(f"gradients, all-reduced {times} times (P each)", times, reduced, 2 * _ring(reduced, ranks)),
        _gather_parameters(adapters, ranks),
    ]


def _gather_parameters(adapters: Mapping[str, LoraAdapter], ranks: int) -> Transfer:
    gathered = _parameter_bytes(adapters)
    return Transfer("updated parameters, by DeepSpeed (P)", 1, gathered, _ring(gathered, ranks))


def _parameter_bytes(adapters: Mapping[str, LoraAdapter]) -> int:
    return sum(p.numel() * p.element_size() for a in adapters.values() for p in (a.A, a.B))


def _ring(num_bytes: float, ranks: int) -> float:
    return num_bytes * (ranks - 1) / ranks
