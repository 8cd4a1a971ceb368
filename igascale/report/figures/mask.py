"""The mask over time: how much of the gradient it lets through."""

from __future__ import annotations

import math
from typing import Any

from igascale.report.collect import Collected
from igascale.report.figures.atlas import span_label
from igascale.report.figures.frame import Figure, Panel, colour_axis, colour_bar, layouts, round_to
from igascale.tables import Cell, Column, Table

BINS = 20
#: How a hook may name the histogram of its mask's elements.
HISTOGRAM = "mask_histogram"


def mask_over_time(run: Collected, name: str) -> Figure | None:
    """Heat map steps × mask value of one run; ``None`` for a rule without a mask.

    Where the run recorded no histogram of the mask's elements, it is the distribution over adapters of their mean mask.
    """
    found = _histograms(run)
    if found is None:
        return None
    labels, ends, histograms, elements = found
    bins = max(len(h) for h in histograms if h)
    shares: list[list[float | None]] = [_shares(h, bins) for h in histograms]
    what = "share of the mask's elements" if elements else "share of the adapters"
    y = {"title": {"text": "mask" if elements else "mean mask of an adapter"}, "range": [0, 1], "showgrid": False}
    x = {"title": {"text": "step"}, "showgrid": False, "type": "category", "nticks": 8}
    wide, narrow = layouts([Panel(what, x, y)], columns=1, height=280, bottom=112)
    highest = max((s for row in shares for s in row if s is not None), default=1.0)
    for layout in (wide, narrow):
        # By its root, or the one bin where most of the mask lies would leave the others blank.
        ticks = [t for t in (0.0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0) if t <= highest]
        where = [math.sqrt(t) for t in ticks], [f"{t:.0%}" for t in ticks]
        colour_bar(layout, 1, "@seq", (0.0, math.sqrt(highest)), f"{what} (root scale)", below=54, ticks=where)
    trace: dict[str, Any] = {
        "type": "heatmap",
        "x": [str(end) for end in ends],
        "y": [(i + 0.5) / bins for i in range(bins)],
        "z": [
            [None if row[b] is None else round_to(math.sqrt(row[b] or 0.0), 5) for row in shares] for b in range(bins)
        ],
        "customdata": [[round_to(row[b], 5) for row in shares] for b in range(bins)],
        "coloraxis": colour_axis(1),
        "hovertemplate": f"up to step %{{x}}, mask about %{{y:.3f}}<br>{what}: <b>%{{customdata:.2%}}</b><extra></extra>",
    }
    title = f"Mask over time: {run.name}"
    table, summary = _tables(title, labels, ends, shares, bins)
    caption = "1 lets the mean gradient through, 0 holds it back. Each column of the map adds up to 100%."
    if not elements:
        caption += (
            " This run recorded no histogram of its mask's elements: shown is how the adapters' mean masks are distributed, "
            "which is narrower than the mask itself."
        )
    alt = f"Heat map of {what} by mask value over time, {run.name}. {_centre(labels[0], shares[0])}; {_centre(labels[-1], shares[-1])}."
    return Figure(f"mask-{name}", title, alt, [trace], wide, narrow, table, summary, caption, run.name)


def _histograms(run: Collected) -> tuple[list[str], list[int], list[list[float] | None], bool] | None:
    """Labels and last steps of the columns, their histograms, and whether those count elements rather than adapters."""
    metrics, frames = run.metrics, run.adapters
    recorded = next((rows for key, rows in metrics.lists.items() if key[-1] == HISTOGRAM), None)
    if recorded is not None and any(recorded):
        return [f"step {s:,}" for s in metrics.list_steps], metrics.list_steps, recorded, True
    ends = [last for _, last in frames.spans]
    labels = [span_label(span) for span in frames.spans]
    of_adapters = frames.lists.get(HISTOGRAM)
    if of_adapters is not None and any(of_adapters):
        return labels, ends, of_adapters, True
    masks = frames.values.get("mean_mask")
    if not masks or not any(v is not None for row in masks for v in row):
        return None
    return labels, ends, [_count([v for v in row if v is not None]) for row in masks], False


def _count(values: list[float]) -> list[float] | None:
    counts = [0.0] * BINS
    for value in values:
        counts[min(BINS - 1, max(0, math.floor(value * BINS)))] += 1
    return counts if values else None


def _shares(histogram: list[float] | None, bins: int) -> list[float | None]:
    total = sum(histogram or [])
    if not histogram or len(histogram) != bins or total <= 0:
        return [None] * bins
    return [count / total for count in histogram]


def _mean(shares: list[float | None]) -> float | None:
    if None in shares:
        return None
    return sum((i + 0.5) / len(shares) * s for i, s in enumerate(shares) if s is not None)


def _centre(label: str, shares: list[float | None]) -> str:
    mean = _mean(shares)
    return f"{label}: mean {mean:.2f}" if mean is not None else f"{label}: not recorded"


def _tables(
    title: str, labels: list[str], ends: list[int], shares: list[list[float | None]], bins: int
) -> tuple[Table, Table]:
    edges = [(b / bins, (b + 1) / bins) for b in range(bins)]
    rows: list[list[Cell | str | None]] = [
        [
            Cell(str(end), end),
            Cell(f"{low:.2f}", low),
            Cell(f"{high:.2f}", high),
            None if s is None else Cell(f"{s:.4f}", s),
        ]
        for end, row in zip(ends, shares)
        for (low, high), s in zip(edges, row)
    ]
    table = Table(title, [Column(n) for n in ("last step", "mask from", "mask to", "share")], rows)
    every = max(1, math.ceil(len(ends) / 12))
    picked = sorted({*range(0, len(ends), every), len(ends) - 1})
    short: list[list[Cell | str | None]] = [[labels[i], _centre("", shares[i]).removeprefix(": ")] for i in picked]
    for i, row in zip(picked, short):
        row += [_share(shares[i], 0.0, 0.1), _share(shares[i], 0.9, 1.0)]
    heads = [Column("steps", "left"), Column("centre"), Column("below 0.1 %"), Column("above 0.9 %")]
    return table, Table(title, heads, short)


def _share(shares: list[float | None], low: float, high: float) -> Cell | None:
    if None in shares:
        return None
    inside = [
        s
        for i, s in enumerate(shares)
        if s is not None and low - 1e-9 <= i / len(shares) and (i + 1) / len(shares) <= high + 1e-9
    ]
    return Cell(f"{100 * sum(inside):.1f}", 100 * sum(inside))
