"""One optimizer step from captured gradients: reduce, combine, clip, hand over, step.

Every rank runs this together. The order is the method's: the hook is nonlinear, so domain means are formed over all ranks
and micro-steps first; one clipping coefficient, from the norm of the combined gradient, scales the gradient and its
reference alike; DeepSpeed gets the result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from igascale.engine import Engine
from igascale.hooks.base import DomainFactorGrads, FactorGrads, GradientHook, HookContext


@dataclass
class StepReport:
    """What one optimizer step did, the same on every rank.

    Attributes:
        losses: mean loss per domain.
        norm_before: norm of the mean over domains of the gradients (what ERM would have stepped with).
        norm_after: norm of what the hook returned, before clipping.
        clip: the clipping coefficient, 1 where nothing was clipped.
        skipped: why no step was taken, or "".
        adapter_stats: the hook's figures per adapter.
    """

    losses: list[float]
    norm_before: float = math.nan
    norm_after: float = math.nan
    clip: float = 1.0
    skipped: str = ""
    adapter_stats: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def stats(self) -> dict[str, float]:
        """The hook's figures averaged over adapters."""
        rows = list(self.adapter_stats.values())
        return {name: sum(r[name] for r in rows) / len(rows) for name in (rows[0] if rows else ())}


def take_step(
    engine: Engine,
    hook: GradientHook,
    sums: Mapping[str, DomainFactorGrads],
    loss_sum_D: Tensor,
    denominator_D: Tensor,
    *,
    domains: tuple[str, ...],
    step: int,
    seed: int,
    lr: float,
    max_grad_norm: float | None,
    aux_sums: Mapping[str, DomainFactorGrads] | None = None,
    aux_value_D: Tensor | None = None,
) -> StepReport:
    """Combine what was captured and take the optimizer step.

    Args:
        engine: who reduces and steps.
        hook: the rule.
        sums: per adapter, this rank's sums of per-domain factor gradients.
        loss_sum_D: ``[D]``, this rank's sums of weighted token losses.
        denominator_D: ``[D]``, this rank's share of what sums are divided by (tokens or instances).
        domains: names, in the order of D.
        step: optimizer steps taken before this one.
        seed: the run's seed, for ``ctx.generator``.
        lr: learning rate of this step.
        max_grad_norm: clip the combined gradient to this norm over all adapters, or ``None``.
        aux_sums: the same as ``sums`` for the hook's auxiliary statistic.
        aux_value_D: ``[D]``, this rank's sums of that statistic.

    Returns:
        What happened. With a NaN or an infinity anywhere, on any rank, every rank skips the step: parameters and
        moments stay as they are.
    """
    shared = [
        loss_sum_D,
        denominator_D,
        aux_value_D if aux_value_D is not None else torch.zeros_like(loss_sum_D),
    ]
    loss_D, total_D, aux_D = engine.comm.sum(torch.stack([t.detach().double().cpu() for t in shared]))
    loss_D, aux_D = loss_D / total_D, aux_D / total_D
    report = StepReport(losses=loss_D.tolist())

    owned = engine.reduce(sums, total_D)
    aux = engine.reduce(aux_sums, total_D) if aux_sums is not None else {}
    if _any_rank(engine, not (_finite(owned) and _finite(aux) and bool(torch.isfinite(loss_D).all()))):
        report.skipped = "loss or gradient not finite"
        return report

    context = HookContext(
        step=step,
        domains=domains,
        losses=loss_D,
        sum_over_shards=engine.comm.sum,
        seed=seed,
        aux=aux,
        aux_values=aux_D if aux_sums is not None else None,
    )
    combined = hook.combine(owned, engine.factors(engine.owned), context)
    check_result(combined, owned, hook)
    means = [(g.a.mean(0), g.b.mean(0)) for g in owned.values()]
    results = [(g.a, g.b) for g in combined.values()]
    references = [(g.reference_a, g.reference_b) for g in combined.values() if hook.uses_reference]
    squares_3 = torch.stack([_square(pairs) for pairs in (means, results, references)])
    report.norm_before, report.norm_after, reference_norm = engine.comm.sum(squares_3).sqrt().tolist()
    if not (math.isfinite(report.norm_after) and math.isfinite(reference_norm)):
        report.skipped = "combined gradient not finite"
        return report
    if max_grad_norm is not None and report.norm_after > max_grad_norm:
        report.clip = max_grad_norm / report.norm_after
        combined = {fqn: _scaled(g, report.clip) for fqn, g in combined.items()}

    everything = engine.gather(combined, hook.uses_reference, hook.statistics)
    report.adapter_stats = _stat_values(everything, hook.statistics)
    engine.apply(everything)
    engine.step(lr)
    return report


def check_result(
    combined: Mapping[str, FactorGrads], given: Mapping[str, DomainFactorGrads], hook: GradientHook
) -> None:
    """Refuse a hook's result that would be wrong in silence: missing adapters, wrong shapes, types or figures."""
    name = type(hook).__name__
    if combined.keys() != given.keys():
        raise ValueError(f"{name}.combine must return exactly the adapters it was given")
    for fqn, grad in combined.items():
        tensors: dict[str, tuple[Tensor | None, Tensor]] = {"a": (grad.a, given[fqn].a), "b": (grad.b, given[fqn].b)}
        if hook.uses_reference:
            tensors |= {
                "reference_a": (grad.reference_a, given[fqn].a),
                "reference_b": (grad.reference_b, given[fqn].b),
            }
        for part, (tensor, template) in tensors.items():
            if tensor is None or tensor.shape != template.shape[1:] or tensor.dtype != torch.float32:
                found = "None" if tensor is None else f"{list(tensor.shape)} {tensor.dtype}"
                raise ValueError(
                    f"{name}.combine: {fqn}.{part} must be {list(template.shape[1:])} torch.float32, not {found}"
                )
        if set(grad.stats) != set(hook.statistics):
            raise ValueError(f"{name}.combine: {fqn}.stats must hold exactly {hook.statistics}")


def _finite(grads: Mapping[str, DomainFactorGrads]) -> bool:
    # One number per tensor, one synchronisation in all: the sum of absolute values is finite iff every entry is
    # (an overflow of the sum itself means gradients of 1e38, which are no use either).
    total = [t.abs().sum() for g in grads.values() for t in (g.a, g.b)]
    return not total or bool(torch.isfinite(torch.stack(total)).all())


def _any_rank(engine: Engine, flag: bool) -> bool:
    return bool(engine.comm.sum(torch.tensor([float(flag)]))[0] > 0)


def _square(pairs: Iterable[tuple[Tensor | None, ...]]) -> Tensor:
    """Sum of the squares of every entry, float64 on the CPU."""
    norms = [torch.linalg.vector_norm(t, dtype=torch.float64).square() for pair in pairs for t in pair if t is not None]
    return torch.stack(norms).sum().cpu() if norms else torch.zeros((), dtype=torch.float64)


def _scaled(grad: FactorGrads, factor: float) -> FactorGrads:
    return replace(
        grad,
        a=grad.a * factor,
        b=grad.b * factor,
        reference_a=None if grad.reference_a is None else grad.reference_a * factor,
        reference_b=None if grad.reference_b is None else grad.reference_b * factor,
    )


def _stat_values(grads: Mapping[str, FactorGrads], names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    if not names:
        return {}
    matrix = torch.stack([torch.stack([torch.as_tensor(g.stats[n]).float() for n in names]) for g in grads.values()])
    return {fqn: dict(zip(names, row)) for fqn, row in zip(grads, matrix.tolist())}
