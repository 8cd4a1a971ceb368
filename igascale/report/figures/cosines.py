"""Cosines between the domains' gradients: pairs over time, and the matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from igascale.report.collect import Collected
from igascale.report.curves import Curve
from igascale.report.figures.frame import (
    Figure,
    Frames,
    Panel,
    axis,
    colour_axis,
    colour_bar,
    layouts,
    plain,
    round_to,
)
from igascale.report.figures.lines import (
    SMOOTHED_FROM,
    Line,
    data_table,
    running_mean,
    smoothed,
    summary_table,
    traces,
    window,
)
from igascale.report.figures.training import thinned
from igascale.report.palette import dash, series
from igascale.tables import Cell, Column, Table

_MOST_FRAMES = 60


def pairs_over_time(runs: Sequence[Collected]) -> Figure | None:
    """Mean cosine over pairs of domains, with the range from the least to the most alike pair."""
    lines, bands = [], []
    for index, run in enumerate(runs):
        pairs = list(run.metrics.under("cosines").values())
        if not pairs:
            continue
        steps = pairs[0].steps
        known = [[v for c in pairs if (v := c.values[i]) is not None] for i in range(len(steps))]
        mean = Curve(steps, [sum(k) / len(k) if k else None for k in known])
        lines.append(Line(run.name, series(index), mean, "mean over pairs", run.name, dash(index)))
        for what, pick in (("least alike pair", min), ("most alike pair", max)):
            curve = Curve(steps, [pick(k) if k else None for k in known])
            bands.append(Line(run.name, series(index), curve, what, run.name))
    if not lines:
        return None
    step = {"title": {"text": "step"}, "rangemode": "tozero"}
    wide, narrow = layouts([Panel("", step, {"title": {"text": "cosine"}})], columns=1, zoom=True)
    data = [trace for pair in zip(bands[::2], bands[1::2]) for trace in _band(*pair)] + traces(lines)
    title = "Cosine between the domains' gradients"
    caption = f"Line: mean over the pairs of domains. Band: from the least to the most alike pair. {smoothed(lines)} {thinned(runs)}".strip()
    ends = [f"{line.label} from {line.curve.known[0]:.3g} to {line.curve.known[-1]:.3g}" for line in lines]
    alt = f"Line chart. Mean cosine between the gradients of two domains, first to last step: {'; '.join(ends)}."
    everything = lines + bands
    return Figure(
        "cosines",
        title,
        alt,
        data,
        wide,
        narrow,
        data_table(title, everything),
        summary_table(title, everything),
        caption,
    )


def _band(low: Line, high: Line) -> list[dict[str, Any]]:
    points = len(low.curve.known)
    width = window(points) if points >= SMOOTHED_FROM else 1  # as its line
    common = {
        "type": "scatter",
        "mode": "lines",
        "legendgroup": low.label,
        "line": {"color": f"{low.colour}/0", "width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
        "name": plain(low.label),
        "x": low.curve.steps,
    }
    fill = {"fill": "tonexty", "fillcolor": f"{low.colour}/0.12"}
    return [
        common | {"y": [round_to(v) for v in running_mean(low.curve.values, width)]},
        common | {"y": [round_to(v) for v in running_mean(high.curve.values, width)]} | fill,
    ]


def matrix(run: Collected, name: str) -> Figure | None:
    """Domains × domains of one run, a frame per span of steps."""
    pairs = run.metrics.under("cosines")
    if not pairs:
        return None
    domains = _domains(run)
    index = {f"{first}/{second}": (m, n) for m, first in enumerate(domains) for n, second in enumerate(domains)}
    steps = next(iter(pairs.values())).steps
    count = min(_MOST_FRAMES, len(steps))
    spans = [(f * len(steps) // count, (f + 1) * len(steps) // count) for f in range(count)]
    frames = []
    for first, end in spans:
        grid: list[list[float | None]] = [
            [1.0 if m == n else None for n in range(len(domains))] for m in range(len(domains))
        ]
        for pair, curve in pairs.items():
            if pair in index and (known := [v for v in curve.values[first:end] if v is not None]):
                m, n = index[pair]
                grid[m][n] = grid[n][m] = round_to(sum(known) / len(known), 5)
        frames.append(grid)
    if run.metrics.per_point == 1:
        starts = [steps[first] for first, _ in spans]
    else:  # a point is named by its last step
        starts = [1 if first == 0 else steps[first - 1] + 1 for first, _ in spans]
    labels = [_label(start, steps[end - 1]) for start, (_, end) in zip(starts, spans)]
    return _matrix_figure(run, name, domains, frames, labels)


def _domains(run: Collected) -> list[str]:
    return run.domains or list(dict.fromkeys(d for pair in run.metrics.under("cosines") for d in pair.split("/")))


def _label(first: int, last: int) -> str:
    return f"step {last:,}" if first >= last else f"steps {first:,}–{last:,}"


def _matrix_figure(
    run: Collected, name: str, domains: list[str], frames: list[list[list[float | None]]], labels: list[str]
) -> Figure:
    longest = max(map(len, domains))
    names = [plain(d) for d in domains]
    left = min(170, 26 + 7 * longest)
    x = {"type": "category", "tickangle": -35, "showgrid": False}
    y = {"type": "category", "autorange": "reversed", "showgrid": False}
    wide, narrow = layouts(
        [Panel("", x, y)],
        columns=1,
        height=max(190, min(46, 900 // len(domains)) * len(domains)),
        left=left,
        bottom=150,
    )
    for layout in (wide, narrow):
        share = min(1.0, 0.14 * len(domains)) if layout is wide else 1.0
        layout["xaxis"]["domain"] = [0.0, share]
        colour_bar(layout, 1, "@div", (-1.0, 1.0), "cosine between two domains' gradients", below=96)
    last = frames[-1]
    trace: dict[str, Any] = {
        "type": "heatmap",
        "x": names,
        "y": names,
        "z": last,
        "xaxis": axis(1, "x"),
        "yaxis": axis(1, "y"),
        "coloraxis": colour_axis(1),
        "xgap": 2,
        "ygap": 2,
        "hoverongaps": False,
        "texttemplate": "%{z:.2f}" if len(domains) <= 10 else "",
        "hovertemplate": "%{y} and %{x}: <b>%{z:.4f}</b><extra></extra>",
    }
    title = f"Cosine matrix: {run.name}"
    rows: list[list[Cell | str | None]] = [
        [label, domains[m], domains[n], None if (v := grid[m][n]) is None else Cell(f"{v:.4f}", v)]
        for label, grid in zip(labels, frames)
        for m in range(len(domains))
        for n in range(m + 1, len(domains))
    ]
    heads = [*(Column(h, "left") for h in ("steps", "domain", "other domain")), Column("cosine")]
    in_frame = len(rows) // len(frames)
    known = [
        (v, f"{domains[m]} and {domains[n]}")
        for m in range(len(domains))
        for n in range(m)
        if (v := last[m][n]) is not None
    ]
    told = (
        f"least alike: {min(known)[1]}, {min(known)[0]:.3f}; most alike: {max(known)[1]}, {max(known)[0]:.3f}"
        if known
        else "none known"
    )
    alt = f"Heat map of the cosine between the gradients of {len(domains)} domains, {run.name}, {labels[-1]}; {told}."
    summary = Table(f"{title}, {labels[-1]}", heads[1:], [row[1:] for row in rows[-in_frame:]] if in_frame else [])
    caption = "Over all adapters. 1: the domains ask for the same step; 0: unrelated; below 0: against each other."
    return Figure(
        f"cosine-matrix-{name}",
        title,
        alt,
        [trace],
        wide,
        narrow,
        Table(title, heads, rows),
        summary,
        caption,
        run.name,
        Frames(labels, [[grid] for grid in frames]),
    )
