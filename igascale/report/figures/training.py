"""Losses, gradient norms and clipping."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from igascale.report.collect import Collected
from igascale.report.curves import Curve
from igascale.report.figures.frame import Figure, Panel, layouts
from igascale.report.figures.lines import Line, data_table, smoothed, summary_table, traces
from igascale.report.palette import dash, series

_STEP = {"title": {"text": "step"}, "rangemode": "tozero", "nticks": 6}
_BEFORE, _AFTER = "before the hook", "after the hook"
_ORDER = (_BEFORE, _AFTER, "after ÷ before", "clipping coefficient")
_SPLITS = (("id", "validation (ID)"), ("ood", "validation, unseen (OOD)"))


def mean_losses(runs: Sequence[Collected]) -> Figure | None:
    """Losses of all runs, averaged over domains: training, validation in and out of distribution."""
    lines = []
    for index, run in enumerate(runs):
        colour = series(index)
        if ("loss",) in run.metrics.train:
            lines.append(Line(run.name, colour, run.metrics.train["loss",], "train", run.name, dash(index)))
        for split, title in _SPLITS:
            curve = mean_curve([c for key, c in run.metrics.validation.items() if key[0] == split])
            if curve is not None:
                lines.append(Line(run.name, colour, curve, title, run.name, dash(index), markers=True))
    return _figure("losses", "Loss of all runs, mean over domains", lines, thinned(runs))


def losses_by_domain(run: Collected, name: str) -> Figure | None:
    """Losses of one run, a line per domain."""
    lines = []
    domains: dict[str, int] = {}
    numbers = count()
    for domain, curve in run.metrics.under("losses").items():
        domains[domain] = next(numbers)
        lines.append(Line(domain, series(domains[domain]), curve, "train", run.name, dash(domains[domain])))
    for split, title in _SPLITS:
        for (kind, domain), curve in run.metrics.validation.items():
            if kind == split:
                index = domains.setdefault(domain, len(domains))
                lines.append(Line(domain, series(index), curve, title, run.name, dash(index), markers=True))
    return _figure(f"losses-{name}", f"Loss per domain: {run.name}", lines, thinned([run]), run.name)


def gradients(runs: Sequence[Collected]) -> Figure | None:
    """Norm of the gradient before and after the hook, their ratio, and what was clipped."""
    lines = []
    for index, run in enumerate(runs):
        colour, train = series(index), run.metrics.train
        before, after = train.get(("grad_norm_before",)), train.get(("grad_norm_after",))
        if before:
            lines.append(Line(run.name, colour, before, _BEFORE, run.name, dash(index)))
        if after:
            lines.append(Line(run.name, colour, after, _AFTER, run.name, dash(index)))
        if before and after:
            ratio = [a / b if a is not None and b else None for a, b in zip(after.values, before.values)]
            lines.append(Line(run.name, colour, Curve(before.steps, ratio), "after ÷ before", run.name, dash(index)))
        if clip := train.get(("clip",)):
            lines.append(Line(run.name, colour, clip, "clipping coefficient", run.name, dash(index)))
    lines.sort(key=lambda line: _ORDER.index(line.what))
    caption = (
        "Before: the mean over domains of the gradients, what plain training would step with. After: what the hook returned. "
        "A clipping coefficient of 1 means that nothing was clipped. " + thinned(runs)
    )
    norms = [v for line in lines if line.what in (_BEFORE, _AFTER) for v in line.curve.known]
    norm = {"title": {"text": "norm"}, **log_axis(norms)}
    y: dict[str, Mapping[str, Any]] = {
        _BEFORE: norm,
        _AFTER: norm,
        _ORDER[2]: {"rangemode": "tozero"},
        _ORDER[3]: {"range": [0, 1.05]},
    }
    return _figure("gradients", "Norm of the gradient", lines, caption.strip(), y_axes=y, columns=2)


def log_axis(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis with ticks at 1, 2, 5, 10, ..., or at powers of ten where there are many; a plain one for a small range."""
    positive = [v for v in values if v > 0]
    if not positive or max(positive) < 5 * min(positive):
        return {}
    low, high = math.log10(min(positive)) - 0.05, math.log10(max(positive)) + 0.05
    steps = (1, 2, 5) if high - low < 3 else (1,)
    ticks = [s * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for s in steps]
    ticks = [t for t in ticks if low <= math.log10(t) <= high]
    return {"type": "log", "range": [low, high], "tickvals": ticks, "ticktext": [f"{t:g}" for t in ticks]}


def mean_curve(curves: Sequence[Curve]) -> Curve | None:
    """Mean over curves with the same steps, of what is known at each."""
    if not curves:
        return None
    known = [[c.values[i] for c in curves if c.values[i] is not None] for i in range(len(curves[0].steps))]
    return Curve(curves[0].steps, [sum(v for v in row if v is not None) / len(row) if row else None for row in known])


def thinned(runs: Sequence[Collected]) -> str:
    """What to say of curves whose points are means of several steps."""
    means = [f"{r.metrics.per_point} of the {r.metrics.records:,} of {r.name}" for r in runs if r.metrics.per_point > 1]
    return f"A point is the mean of several recorded steps: {'; '.join(means)}." if means else ""


def _figure(
    name: str,
    title: str,
    lines: list[Line],
    caption: str,
    run: str | None = None,
    y_axes: Mapping[str, Mapping[str, Any]] | None = None,
    columns: int = 3,
) -> Figure | None:
    """A panel for each quantity that there is."""
    lines = [line for line in lines if line.curve.known]
    if not lines:
        return None
    quantities = list(dict.fromkeys(line.what for line in lines))
    lines = [line.in_panel(1 + quantities.index(line.what)) for line in lines]
    y_axes = {what: {"title": {"text": "loss"}} for what in quantities} if y_axes is None else y_axes
    wide, narrow = layouts([Panel(what, _STEP, y_axes.get(what, {})) for what in quantities], columns, zoom=True)
    summary = summary_table(title, lines)
    caption = f"{caption} {smoothed(lines)}".strip()
    return Figure(
        name, title, _alt(title, lines), traces(lines), wide, narrow, data_table(title, lines), summary, caption, run
    )


def _alt(title: str, lines: Sequence[Line]) -> str:
    ends = [f"{line.label}, {line.what}: {line.curve.known[0]:.4g} to {line.curve.known[-1]:.4g}" for line in lines]
    return f"Line chart. {title}. From first to last step: {'; '.join(ends[:12])}{'; ...' if len(ends) > 12 else ''}."
