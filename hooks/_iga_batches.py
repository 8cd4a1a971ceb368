"""Invariant Gradient Alignment in weight space: adapters of one shape worked through together, within a byte budget.

Shape legend: N adapters of one shape, D domains.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from igascale.hooks.base import AdapterFactors, DomainFactorGrads, FactorGrads, HookContext
from igascale.linalg.alignment import Choices, FactorBatch, align
from igascale.linalg.fused import KernelFailure, fused_available, fused_batch, give_up
from igascale.linalg.projection import sketch_width
from igascale.linalg.tiles import TilePlan, Workspace, plan_tiles

if TYPE_CHECKING:
    from igascale.hooks.iga import InvariantGradientAlignment


def align_all(
    grads: Mapping[str, DomainFactorGrads],
    adapters: Mapping[str, AdapterFactors],
    ctx: HookContext,
    hook: InvariantGradientAlignment,
) -> dict[str, FactorGrads]:
    """The aligned gradients of every adapter given.

    Args:
        grads: see :meth:`igascale.hooks.base.GradientHook.combine`.
        adapters: the same.
        ctx: the same.
        hook: supplies the choices, the budget and tau.

    Raises:
        ValueError: when the budget is too small, or the kernel asked for cannot be used.
    """
    choices = Choices(**{k: hook.chosen[k] for k in Choices.__dataclass_fields__ if k != "tau"}, tau=hook.tau)
    groups: dict[tuple[Any, ...], list[str]] = {}
    for fqn, g in grads.items():
        groups.setdefault((g.a.shape, g.b.shape, g.a.dtype, g.a.device), []).append(fqn)
    if not groups:  # a rank may own no adapter
        return {}
    budget, keep = hook.memory_mb * 2**20, choices.projection == "svd"
    fused = {key: _fused(hook, key[3], key[2]) for key in groups}
    combined: dict[str, FactorGrads] = {}
    for key in [key for key in groups if fused[key]]:
        batch = _fused_batch(key, len(groups[key]), choices, budget)
        try:
            combined |= _align_group(groups[key], batch, grads, adapters, ctx, hook, choices)
        except KernelFailure as failure:
            if hook.kernel == "triton":
                raise ValueError(f"kernel='triton': {failure}; use kernel='auto' or 'torch'") from failure
            give_up(failure)
            fused = dict.fromkeys(groups, False)  # those that are done too: one step, one way
            break
    tiled = {key: fqns for key, fqns in groups.items() if not fused[key]}
    plans = {
        key: plan_tiles(len(fqns), (key[1][1], key[0][2]), key[2], key[3], budget, keep, choices.scratch)
        for key, fqns in tiled.items()
    }
    workspace = Workspace(plans.values(), next(iter(tiled))[3]) if tiled else None
    for key, fqns in tiled.items():
        plan = plans[key]
        combined |= _align_group(fqns, plan.batch, grads, adapters, ctx, hook, choices, plan, workspace)
    return {fqn: combined[fqn] for fqn in grads}


def _fused(hook: InvariantGradientAlignment, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the fused kernel is to be used.

    Raises:
        ValueError: if it was asked for and cannot.
    """
    if hook.kernel == "torch" or (hook.kernel == "auto" and device.type != "cuda"):
        return False
    reason = fused_available(device, dtype, "shuffled" if hook.shuffled else hook.chosen["mask"])
    if reason and hook.kernel == "triton":
        raise ValueError(f"kernel='triton': {reason}; use kernel='auto' or 'torch'")
    return not reason


def _fused_batch(key: tuple[Any, ...], adapters: int, choices: Choices, budget: float) -> int:
    (D, R, in_features), out_features = key[0], key[1][1]
    shape = (out_features, in_features)
    width = sketch_width(choices.kept(R), choices.oversampling, shape)
    return fused_batch(adapters, shape, D, R, width, budget)


def _align_group(
    fqns: list[str],
    size: int,
    grads: Mapping[str, DomainFactorGrads],
    adapters: Mapping[str, AdapterFactors],
    ctx: HookContext,
    hook: InvariantGradientAlignment,
    choices: Choices,
    plan: TilePlan | None = None,
    workspace: Workspace | None = None,
) -> dict[str, FactorGrads]:
    """Adapters of one shape, ``size`` at a time; by the fused kernel without a plan of tiles."""
    combined = {}
    for start in range(0, len(fqns), size):
        if workspace is not None:
            workspace.reset()
        names = fqns[start : start + size]
        batch = _stack_batch(names, grads, adapters)
        shuffles = [ctx.generator(f"shuffle/{fqn}") for fqn in names] if hook.shuffled else None
        aligned = align(batch, choices, _sketch_generator(batch, choices, ctx), shuffles, plan, workspace)
        reference = (aligned.mean_a_NRI, aligned.mean_b_NOR) if hook.uses_reference else None
        for n, fqn in enumerate(names):
            combined[fqn] = FactorGrads(
                aligned.a_NRI[n],
                aligned.b_NOR[n],
                reference[0][n] if reference else None,
                reference[1][n] if reference else None,
                {k: aligned.stats_N[k][n].float() for k in hook.statistics if k in aligned.stats_N},
            )
    return combined


def _sketch_generator(batch: FactorBatch, choices: Choices, ctx: HookContext) -> torch.Generator:
    """Its key holds shapes only: an adapter's result does not depend on which rank owns it."""
    (R, in_features), out_features = batch.A_NRI.shape[1:], batch.B_NOR.shape[1]
    width = sketch_width(choices.kept(R), choices.oversampling, (out_features, in_features))
    return ctx.generator(f"sketch/{in_features}x{width}")


def _stack_batch(
    fqns: list[str], grads: Mapping[str, DomainFactorGrads], adapters: Mapping[str, AdapterFactors]
) -> FactorBatch:
    D = len(grads[fqns[0]].a)
    unknown_DD = torch.full((D, D), torch.nan, dtype=torch.float64)
    noises = [grads[f].noise for f in fqns]
    return FactorBatch(
        _stack([grads[f].a for f in fqns]),
        _stack([grads[f].b for f in fqns]),
        _stack([adapters[f].A for f in fqns]),
        _stack([adapters[f].B for f in fqns]),
        torch.stack([unknown_DD if noise is None else noise[0] for noise in noises]),
    )


def _stack(tensors: list[Tensor]) -> Tensor:
    """A batch; of one without a copy."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(tensors)
