"""One optimizer step from captured gradients: reduce, combine, gather, clip, hand over, step.

Every rank runs this together. The order is the method's: the hook is nonlinear, so domain means are formed over all ranks
and micro-steps first; one clipping coefficient, from the norm of the combined gradient, scales the gradient and its
reference alike; DeepSpeed gets the result.

Shape legend: N adapters, D domains, K figures of an adapter (also bins of a histogram), S statistics of the hook, H numbers of a
histogram.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from igascale.adapters import LoraAdapter
from igascale.contract.result import find_fault
from igascale.engine import Engine
from igascale.engine.buckets import GradientBuckets
from igascale.engine.collectives import lost_others
from igascale.errors import UserError
from igascale.hooks.base import AdapterFactors, DomainFactorGrads, FactorGrads, GradientHook, HookContext
from igascale.linalg.gram import adapter_grams
from igascale.linalg.histogram import BINS, WIDTH
from igascale.memory import is_out_of_memory
from igascale.noise import MicroBatchGrams, mean_grams, sampling_noise


@dataclass
class StepReport:
    """What one optimizer step did, the same on every rank.

    Attributes:
        losses: mean loss per domain.
        norm_before: norm of the mean over domains of the gradients (what ERM would have stepped with).
        norm_after: norm of what the hook returned, before clipping.
        clip: the clipping coefficient, 1 where nothing was clipped.
        skipped: why no step was taken, or "".
        gir: gradient invariance residual relative to the mean, ``sum V / sum mean^2`` of the factor gradients over all
            adapters (the paper's Eq. 14 is its numerator, of the reconstructions).
        cosines: ``[D, D]``, between the domains' gradients over all adapters.
        adapter_cosines: the same for each adapter.
        adapter_stats: the hook's figures per adapter.
        mask_histograms: where they were asked for and the hook masks: per adapter the share of the mask's entries in each of
            equal bins on [0, 1]; an adapter whose mask is not known is left out.
        mask_histogram: the same over all adapters, each weighted by its entries.
        mask_counted: the share of all entries that was looked at; below 1 the histograms are of a sample.
        counts: the caller's numbers, added over the ranks.
    """

    losses: list[float]
    norm_before: float = math.nan
    norm_after: float = math.nan
    clip: float = 1.0
    skipped: str = ""
    gir: float = math.nan
    cosines: list[list[float]] = field(default_factory=list)
    adapter_cosines: dict[str, list[list[float]]] = field(default_factory=dict)
    adapter_stats: dict[str, dict[str, float]] = field(default_factory=dict)
    mask_histograms: dict[str, list[float]] = field(default_factory=dict)
    mask_histogram: list[float] = field(default_factory=list)
    mask_counted: float = math.nan
    counts: list[float] = field(default_factory=list)

    @property
    def stats(self) -> dict[str, float]:
        """The hook's figures averaged over the adapters where they are known; NaN where they are nowhere."""
        rows = list(self.adapter_stats.values())
        known = {name: [r[name] for r in rows if not math.isnan(r[name])] for name in (rows[0] if rows else ())}
        return {name: sum(values) / len(values) if values else math.nan for name, values in known.items()}


def _unheard(phase: str) -> None:
    """Nobody asked which phase begins."""


def adapter_costs(hook: GradientHook, adapters: Mapping[str, LoraAdapter], num_domains: int) -> dict[str, float]:
    """The hook's own estimate of its work per adapter, for :meth:`igascale.engine.Engine.distribute`."""
    return {fqn: hook.cost(a.out_features, a.in_features, a.rank, num_domains) for fqn, a in adapters.items()}


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
    noise: MicroBatchGrams | None = None,
    counts: Sequence[float] = (),
    wants_histogram: bool = False,
    pulse: Callable[[str], object] = _unheard,
) -> StepReport:
    """Combine what was captured and take the optimizer step.

    Args:
        engine: who reduces and steps.
        hook: the rule.
        sums: per adapter, this rank's sums of per-domain factor gradients, captured into ``engine.new_sums``; consumed.
        loss_sum_D: ``[D]``, this rank's sums of weighted token losses.
        denominator_D: ``[D]``, this rank's share of what sums are divided by (tokens or instances).
        domains: names, in the order of D.
        step: optimizer steps taken before this one.
        seed: the run's seed, for ``ctx.generator``.
        lr: learning rate of this step.
        max_grad_norm: clip the combined gradient to this norm over all adapters, or ``None``.
        aux_sums: the same as ``sums`` for the hook's auxiliary statistic.
        aux_value_D: ``[D]``, this rank's sums of that statistic.
        noise: inner products of this rank's micro-batches, for a hook with ``uses_noise``.
        counts: numbers of the caller's to add over the ranks along the way, into ``report.counts``.
        wants_histogram: ask a hook that masks for its mask's values, into ``report.mask_histograms``.
        pulse: told which phase of the step begins.

    Returns:
        What happened. With a NaN or an infinity anywhere, on any rank, every rank skips the step: parameters and
        moments stay as they are.
    """
    pulse("reducing")
    # Before anything else communicates: the ranks need not have sent the same buckets yet.
    for each in (sums, aux_sums):
        if isinstance(each, GradientBuckets):
            each.send()
    report, total_D, aux_D, noise_sums = _sum_over_ranks(engine, loss_sum_D, denominator_D, aux_value_D, noise, counts)
    owned = engine.reduce(sums, total_D)
    aux = engine.reduce(aux_sums, total_D) if aux_sums is not None else {}
    finite = _finite(owned) and _finite(aux) and all(map(math.isfinite, report.losses))
    if bool(engine.comm.sum(torch.tensor([float(not finite)]))[0] > 0):
        report.skipped = "loss or gradient not finite"
        return report

    if noise_sums is not None:
        owned = _with_noise(engine, owned, *noise_sums, total_D)
    context = HookContext(
        step=step,
        domains=domains,
        losses=torch.tensor(report.losses, dtype=torch.float64),
        sum_over_shards=engine.comm.sum,
        seed=seed,
        shapes={fqn: (a.out_features, a.in_features, a.rank) for fqn, a in engine.adapters.items()},
        aux=aux,
        aux_values=aux_D if aux_sums is not None else None,
        wants_histogram=wants_histogram and hook.draws_mask,
    )
    pulse("combining (the hook)")
    combined = run_hook(hook, owned, engine.factors(engine.owned), context)
    check_result(combined, owned, hook)
    combined = {fqn: combined[fqn] for fqn in owned}
    figures_NK = _figures(owned, combined, hook, context)
    del owned, aux, context  # their memory is free for what is gathered
    pulse("gathering")
    everything, figures_NK = engine.gather(combined, figures_NK, hook.uses_reference)
    del combined
    if not _tell(report, list(engine.adapters), figures_NK, hook):
        report.skipped = "combined gradient not finite"
        return report
    if max_grad_norm is not None and report.norm_after > max_grad_norm:
        report.clip = max_grad_norm / report.norm_after
        everything = {fqn: _scaled(g, report.clip) for fqn, g in everything.items()}
    pulse("stepping")
    engine.apply(everything)
    engine.step(lr)
    return report


def _sum_over_ranks(
    engine: Engine,
    loss_sum_D: Tensor,
    denominator_D: Tensor,
    aux_value_D: Tensor | None,
    noise: MicroBatchGrams | None,
    counts: Sequence[float],
) -> tuple[StepReport, Tensor, Tensor | None, tuple[Tensor, Tensor, Tensor] | None]:
    """Everything that ranks add up besides gradients, in one operation.

    Returns:
        The report so far; the denominators; the auxiliary statistic's means; the noise's ``[N, 2, D, D]`` inner products,
        overlap and counts.
    """
    parts = {"loss": loss_sum_D, "total": denominator_D, "counts": torch.tensor(counts, dtype=torch.float64)}
    if aux_value_D is not None:
        parts["aux"] = aux_value_D
    if noise is not None:
        D = len(loss_sum_D)
        unknown_2DD = torch.full((2, D, D), math.nan, dtype=torch.float64, device=engine.device)
        parts["grams"] = torch.stack([noise.grams.get(fqn, unknown_2DD) for fqn in engine.adapters])
        parts["weights"] = torch.stack([noise.overlap, noise.counts])
    total = dict(zip(parts, engine.comm.sum_together(list(parts.values()))))
    total_D = total["total"]
    report = StepReport(losses=(total["loss"] / total_D).tolist(), counts=total["counts"].tolist())
    aux_D = total["aux"] / total_D if aux_value_D is not None else None
    noise_sums = (total["grams"], *total["weights"]) if noise is not None else None
    return report, total_D, aux_D, noise_sums


def run_hook(
    hook: GradientHook,
    grads: Mapping[str, DomainFactorGrads],
    adapters: Mapping[str, AdapterFactors],
    ctx: HookContext,
) -> dict[str, FactorGrads]:
    """``hook.combine``, whose exceptions become one line with the place in the hook's file.

    Raises:
        UserError: the hook raised.
    """
    try:
        return hook.combine(grads, adapters, ctx)
    except UserError:
        raise
    except Exception as error:  # whatever a user's rule does
        if is_out_of_memory(error) or lost_others(error):  # in ctx.sum_over_shards: not the rule's fault
            raise
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "site-packages" not in f.filename]
        place = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}"
        message = " ".join(str(error).split())
        raise UserError(
            f"hook '{type(hook).__name__}' failed in step {ctx.step + 1}: {type(error).__name__}: {message} ({place}); "
            "`igascale hooks check` tries a rule on small gradients"
        ) from error


def _with_noise(
    engine: Engine,
    owned: Mapping[str, DomainFactorGrads],
    grams_N2DD: Tensor,
    overlap_DD: Tensor,
    counts_DD: Tensor,
    total_D: Tensor,
) -> dict[str, DomainFactorGrads]:
    """The gradients with the estimated sampling error of each, from the micro-batches of all ranks."""
    if not owned:
        return {}
    by_fqn = dict(zip(engine.adapters, grams_N2DD))
    means_N2DD = torch.stack([mean_grams(g.a, g.b, engine.adapters[fqn]) for fqn, g in owned.items()]).cpu()
    owned_grams = torch.stack([by_fqn[fqn] for fqn in owned])
    noise_N2DD = sampling_noise(owned_grams, overlap_DD, counts_DD, total_D, means_N2DD)
    return {fqn: replace(g, noise=noise_2DD) for (fqn, g), noise_2DD in zip(owned.items(), noise_N2DD)}


def _figures(
    owned: Mapping[str, DomainFactorGrads],
    combined: Mapping[str, FactorGrads],
    hook: GradientHook,
    context: HookContext,
) -> Tensor:
    """What the report needs of each adapter, ``[N, D^2 + 3 + S (+ H)]``, float64 on the CPU; :func:`_tell` reads it.

    Inner products of the domains' gradients; squared norms of their mean, the result and the reference; the hook's statistics;
    where it is wanted, the histogram of its mask.
    """
    num_domains = len(context.domains)
    width = num_domains**2 + 3 + len(hook.statistics) + WIDTH * context.wants_histogram
    if not owned:
        return torch.zeros(0, width, dtype=torch.float64)
    grams_NDD = adapter_grams(((g.a, g.b) for g in owned.values()), num_domains)
    told = []
    for fqn, grad in combined.items():
        pairs = [(owned[fqn].a.mean(0), owned[fqn].b.mean(0)), (grad.a, grad.b), (grad.reference_a, grad.reference_b)]
        told += [_square(*pair) for pair in (pairs if hook.uses_reference else pairs[:2])]
        told += [] if hook.uses_reference else [torch.zeros((), dtype=torch.float64, device=grad.a.device)]
        told += [grad.stats[name].to(grad.a.device).double() for name in hook.statistics]
    parts = [grams_NDD.flatten(1), torch.stack(told).view(len(owned), -1).cpu()]
    if context.wants_histogram:
        parts.append(torch.stack([_histogram(grad) for grad in combined.values()]).cpu())
    return torch.cat(parts, 1)


def _histogram(grad: FactorGrads) -> Tensor:
    """``[H]``, float64; NaN where the hook has none."""
    if grad.mask_histogram is None:
        return torch.full((WIDTH,), math.nan, dtype=torch.float64)
    return grad.mask_histogram.double().cpu()


def _tell(report: StepReport, fqns: list[str], figures_NK: Tensor, hook: GradientHook) -> bool:
    """Fill in the report from all adapters' :func:`_figures`; false where a result or a reference is not finite."""
    D = len(report.losses)
    grams_NDD = figures_NK[:, : D * D].view(-1, D, D)
    total_DD = grams_NDD.sum(0)
    mean_sq = float(total_DD.sum()) / D**2
    report.gir = (float(total_DD.trace()) / D - mean_sq) / mean_sq if mean_sq > 0 else math.nan
    report.cosines = _cosines(total_DD).tolist()
    report.adapter_cosines = dict(zip(fqns, _cosines(grams_NDD).tolist()))
    norms = figures_NK[:, D * D : D * D + 3].sum(0).sqrt().tolist()
    report.norm_before, report.norm_after, reference_norm = norms
    if not (math.isfinite(report.norm_after) and math.isfinite(reference_norm)):
        return False
    if hook.statistics:
        stats_NS = figures_NK[:, D * D + 3 :].tolist()
        report.adapter_stats = {fqn: dict(zip(hook.statistics, row)) for fqn, row in zip(fqns, stats_NS)}
    _tell_masks(report, fqns, figures_NK[:, D * D + 3 + len(hook.statistics) :])
    return True


def _tell_masks(report: StepReport, fqns: list[str], histograms_NH: Tensor) -> None:
    """Fill in the report's histograms; nothing where there are no columns, or no adapter whose mask is known."""
    known = [n for n in range(len(fqns)) if histograms_NH.shape[1] and bool(histograms_NH[n].isfinite().all())]
    if not known:
        return
    counts_NK, counted_N = histograms_NH[known, :BINS], histograms_NH[known, BINS]
    entries_N = counts_NK.sum(1)
    shares_NK = counts_NK / entries_N[:, None]
    report.mask_histograms = {fqns[n]: row for n, row in zip(known, shares_NK.tolist())}
    report.mask_histogram = (counts_NK.sum(0) / entries_N.sum()).tolist()
    report.mask_counted = float(counted_N.sum() / entries_N.sum())


def _cosines(gram: Tensor) -> Tensor:
    """``K_mn / sqrt(K_mm K_nn)``; 0 where a gradient is zero."""
    norm = gram.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    product = norm[..., :, None] * norm[..., None, :]
    return torch.where(product > 0, gram / torch.where(product > 0, product, 1.0), 0.0)


def check_result(
    combined: Mapping[str, FactorGrads], given: Mapping[str, DomainFactorGrads], hook: GradientHook
) -> None:
    """Refuse a hook's result that would be wrong in silence: missing adapters, wrong shapes, types, devices or figures.

    Raises:
        UserError: names hook, adapter and what was found.
    """
    if fault := find_fault(combined, given, hook):
        cls = type(hook)
        raise UserError(
            f"hook {cls.__name__}: {fault} (`igascale hooks check {cls.__module__}:{cls.__qualname__}` tries the whole contract)"
        )


def _finite(grads: Mapping[str, DomainFactorGrads]) -> bool:
    # One number per tensor, one synchronisation in all: the sum of absolute values is finite iff every entry is
    # (an overflow of the sum itself means gradients of 1e38, which are no use either).
    total = [t.abs().sum() for g in grads.values() for t in (g.a, g.b)]
    return not total or bool(torch.isfinite(torch.stack(total)).all())


def _square(*parts: Tensor | None) -> Tensor:
    """Sum of the squares of every entry, 0-d, float64."""
    norms = [torch.linalg.vector_norm(t, dtype=torch.float64).square() for t in parts if t is not None]
    return torch.stack(norms).sum()


def _scaled(grad: FactorGrads, factor: float) -> FactorGrads:
    return replace(
        grad,
        a=grad.a * factor,
        b=grad.b * factor,
        reference_a=None if grad.reference_a is None else grad.reference_a * factor,
        reference_b=None if grad.reference_b is None else grad.reference_b * factor,
    )
