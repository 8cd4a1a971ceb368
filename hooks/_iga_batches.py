# ruff: noqa: E741 -- O and I are the shape letters of the project
"""Invariant Gradient Alignment in weight space: adapters of one shape worked through together, within a byte budget.

Shape legend: N adapters of one shape, D domains, R LoRA rank, K rank kept, I in-features, O out-features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from igascale.hooks.base import AdapterFactors, DomainFactorGrads, FactorGrads, HookContext
from igascale.linalg.alignment import FactorBatch, align, draw_sketch
from igascale.linalg.contrasts import working_dtype
from igascale.linalg.fused import KernelFailure, give_up
from igascale.linalg.projection import sketch_width
from igascale.linalg.tiles import Workspace

if TYPE_CHECKING:
    from igascale.hooks.iga import InvariantGradientAlignment


def align_all(
    hook: InvariantGradientAlignment,
    grads: Mapping[str, DomainFactorGrads],
    adapters: Mapping[str, AdapterFactors],
    ctx: HookContext,
) -> dict[str, FactorGrads]:
    """The aligned gradients of every adapter given.

    Args:
        hook: supplies the choices, the budget, tau and the subspaces of the last step.
        grads: see :meth:`igascale.hooks.base.GradientHook.combine`.
        adapters: the same.
        ctx: the same.

    Raises:
        ValueError: when the budget is too small, or the kernel that was asked for cannot be used or failed.
    """
    try:
        combined = _align_groups(hook, grads, adapters, ctx)
    except KernelFailure as failure:
        if hook.kernel == "triton":
            raise ValueError(f"kernel='triton': {failure}; use kernel='auto' or 'torch'") from failure
        give_up(failure)
        combined = _align_groups(hook, grads, adapters, ctx)  # all of it again: one step, one way
    hook.subspaces.commit(grads)
    return {fqn: combined[fqn] for fqn in grads}


def _align_groups(
    hook: InvariantGradientAlignment,
    grads: Mapping[str, DomainFactorGrads],
    adapters: Mapping[str, AdapterFactors],
    ctx: HookContext,
) -> dict[str, FactorGrads]:
    groups: dict[tuple[object, ...], list[str]] = {}
    for fqn, g in grads.items():
        f = adapters[fqn]
        key = (g.a.shape, g.b.shape, g.a.device, *(x.dtype for x in (g.a, g.b, f.A, f.B)))
        groups.setdefault(key, []).append(fqn)
    combined: dict[str, FactorGrads] = {}
    for fqns in groups.values():
        combined |= _align_group(fqns, grads, adapters, ctx, hook)
    return combined


def _align_group(
    fqns: list[str],
    grads: Mapping[str, DomainFactorGrads],
    adapters: Mapping[str, AdapterFactors],
    ctx: HookContext,
    hook: InvariantGradientAlignment,
) -> dict[str, FactorGrads]:
    """Adapters of one shape, type and device."""
    choices, first = hook.choices, grads[fqns[0]]
    (D, R, I), O = first.a.shape, first.b.shape[1]
    plan = hook.plan(len(fqns), (O, I, R), D, working_dtype(first.a, first.b), first.a.device)
    workspace = Workspace([plan], first.a.device)
    sketch_IP = None
    if choices.projection == "svd":
        # The key holds shapes only: an adapter's result does not depend on which rank owns it, nor on its batch.
        width = sketch_width(choices.kept(R), choices.oversampling, (O, I))
        sketch_IP = draw_sketch(ctx.generator(f"sketch/{I}x{width}"), width, first.a, first.b)
    combined: dict[str, FactorGrads] = {}
    for start in range(0, len(fqns), plan.batch):
        workspace.reset()
        names = fqns[start : start + plan.batch]
        shuffles = [ctx.generator(f"shuffle/{fqn}") for fqn in names] if hook.shuffled else None
        batch = _stack_batch(names, grads, adapters, hook.subspaces.of(names) if hook.warm_start else None)
        aligned = align(batch, choices, sketch_IP, shuffles, plan, workspace, ctx.wants_histogram)
        if hook.warm_start:
            aligned.stats_N["subspace_overlap"] = hook.subspaces.update(names, aligned)
        stats_N = {k: aligned.stats_N[k].float() for k in hook.statistics if k in aligned.stats_N}
        reference = (aligned.mean_a_NRI, aligned.mean_b_NOR) if hook.uses_reference else None
        for n, fqn in enumerate(names):
            combined[fqn] = FactorGrads(
                aligned.a_NRI[n],
                aligned.b_NOR[n],
                reference[0][n] if reference else None,
                reference[1][n] if reference else None,
                {k: values_N[n] for k, values_N in stats_N.items()},
                aligned.histogram_NK[n] if aligned.histogram_NK is not None else None,
            )
    return combined


def _stack_batch(
    fqns: list[str],
    grads: Mapping[str, DomainFactorGrads],
    adapters: Mapping[str, AdapterFactors],
    previous: list[Tensor | None] | None,
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
        previous,
    )


def _stack(tensors: list[Tensor]) -> Tensor:
    """A batch; of one without a copy."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(tensors)
