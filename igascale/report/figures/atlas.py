"""The conflict atlas: where in the network the domains disagree, and what the mask does there; and the mask over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from igascale.report.adapters import MEAN_COSINE, AdapterFrames, Places, place
from igascale.report.collect import Collected
from igascale.report.figures.frame import Figure, Frames, Panel, axis, colour_axis, colour_bar, layouts, plain, round_to
from igascale.tables import Cell, Column, Table

_ROW, _LEAST = 15, 190  # CSS px: of a layer, of a panel

Grid = list[list[float | None]]


@dataclass(frozen=True)
class Measure:
    """One kind of heat map."""

    key: str
    title: str
    scale: str
    bar: str
    logarithmic: bool = False
    span: tuple[float, float] | None = None


GIR = Measure("gir", "Conflict (GIR)", "@seq", "GIR = ΣV / Σḡ², log scale", logarithmic=True)
_MEASURES = (
    GIR,
    Measure("mean_mask", "Mask level", "@mask", "mean mask: 1 lets all through", span=(0.0, 1.0)),
    Measure(MEAN_COSINE, "Agreement (mean cosine)", "@div", "mean cosine between two domains", span=(-1.0, 1.0)),
)


def atlas(run: Collected, name: str) -> Figure | None:
    """Heat maps layer × projection of one run: GIR, mean mask and mean cosine, as far as the hook has them, a frame per span of steps."""
    frames = run.adapters
    measures = [m for m in _MEASURES if any(v is not None for row in frames.values.get(m.key, []) for v in row)]
    if not measures:
        return None
    places = place(frames.adapters)
    grids = {m.key: [places.grid(frames.adapters, row) for row in frames.values[m.key]] for m in measures}
    panels, height, left = frame_of([m.title for m in measures], places)
    wide, narrow = layouts(panels, columns=3, height=height, left=left, bottom=122, gap=160)
    data = [heat_map(m, i, places, grids[m.key][-1]) for i, m in enumerate(measures, 1)]
    if len(measures) == 1:
        wide["xaxis"]["domain"] = [0.0, 0.45]
    for i, m in enumerate(measures, 1):
        span, ticks = scale_of(m, [v for grid in grids[m.key] for row in grid for v in row if v is not None])
        for layout in (wide, narrow):
            colour_bar(layout, i, m.scale, span, m.bar, below=68, ticks=ticks)
    labels = [span_label(span) for span in frames.spans]
    shown = [[_coloured(m, grids[m.key][f]) for m in measures] for f in range(len(labels))]
    told = [[_rounded(grids[m.key][f]) if m.logarithmic else None for m in measures] for f in range(len(labels))]
    return Figure(
        f"atlas-{name}",
        f"Conflict atlas: {run.name}",
        _alt(run, measures, places, grids, labels),
        data,
        wide,
        narrow,
        _table(f"Conflict atlas: {run.name}", frames, measures, places),
        _summary(f"Conflict atlas: {run.name}, {labels[-1]}", measures, places, grids),
        _caption(frames, measures),
        run.name,
        Frames(labels, shown, told),
    )


def span_label(span: tuple[int, int]) -> str:
    """``step 20``, ``steps 21–40``."""
    return f"step {span[0]:,}" if span[0] == span[1] else f"steps {span[0]:,}–{span[1]:,}"


def frame_of(titles: Sequence[str], places: Places) -> tuple[list[Panel], int, int]:
    """Panels for heat maps of adapters, their height, and the room at the left."""
    longest = max(len(row) for row in places.rows)
    y = {"autorange": "reversed", "type": "category", "showgrid": False, "title": {"text": "layer"}}
    panels = [Panel(title, {"tickangle": -40, "type": "category"}, y) for title in titles]
    return panels, max(_LEAST, _ROW * len(places.rows)), min(180, 40 + 7 * longest) if longest > 4 else 56


def heat_map(measure: Measure, number: int, places: Places, grid: Grid) -> dict[str, Any]:
    """The trace of panel ``number``."""
    return {
        "type": "heatmap",
        "x": [plain(c) for c in places.columns],
        "y": [plain(r) for r in places.rows],
        "z": _coloured(measure, grid),
        "customdata": _rounded(grid),
        "xaxis": axis(number, "x"),
        "yaxis": axis(number, "y"),
        "coloraxis": colour_axis(number),
        "name": measure.title,
        "xgap": 1.5,
        "ygap": 1.5,
        "hoverongaps": False,
        "hovertemplate": f"layer %{{y}}, %{{x}}<br>{measure.title}: <b>%{{customdata:.4~g}}</b><extra></extra>",
    }


def scale_of(measure: Measure, known: list[float]) -> tuple[tuple[float, float], tuple[list[float], list[str]] | None]:
    """The ends of the colour scale, the same in every frame, and the ticks of its bar."""
    if not measure.logarithmic:
        return measure.span or (min(known), max(known)), None
    positive = [v for v in known if v > 0]
    if not positive:
        return (0.0, 1.0), None
    low, high = math.log10(min(positive)), math.log10(max(positive))
    if high - low < 0.2:  # half a decade at least: or a thousandth would look like a world
        low, high = (low + high) / 2 - 0.25, (low + high) / 2 + 0.25
    steps = (1,) if high - low > 2.5 else (1, 2, 5)
    ticks = [s * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for s in steps]
    ticks = [t for t in ticks if low - 1e-9 <= math.log10(t) <= high + 1e-9]
    ticks = ticks[:: math.ceil(len(ticks) / 5)] if len(ticks) > 5 else ticks
    return (low, high), ([math.log10(t) for t in ticks], [f"{t:.3g}" for t in ticks])


def _coloured(measure: Measure, grid: Grid) -> Grid:
    """What the colour stands for; a GIR of zero has no logarithm and is left blank."""
    if not measure.logarithmic:
        return _rounded(grid)
    return [[round_to(math.log10(v), 5) if v is not None and v > 0 else None for v in row] for row in grid]


def _rounded(grid: Grid) -> Grid:
    return [[round_to(v, 5) for v in row] for row in grid]


def _caption(frames: AdapterFrames, measures: Sequence[Measure]) -> str:
    told = [
        "GIR: how much the domains' gradients differ, relative to their mean; the stronger the colour, the more conflict. "
        "The mask holds back what they disagree on; the stronger the colour, the less comes through. Cosine: blue where domains agree, brown where domains pull in opposite directions."
    ]
    if {m.key for m in measures} == {MEAN_COSINE}:
        told = [
            "This rule records neither GIR nor a mask per adapter; the cosine between the domains' gradients is shown instead."
        ]
    if frames.records > len(frames.spans):
        told.append(
            f"{frames.records:,} recorded steps in {len(frames.spans)} frames, each the mean of "
            f"{'all' if frames.parsed == frames.records else 'up to 20'} of its steps"
            f"{'' if frames.parsed == frames.records else f' ({frames.parsed:,} were read)'}."
        )
    return " ".join(told)


def _alt(
    run: Collected, measures: Sequence[Measure], places: Places, grids: dict[str, list[Grid]], labels: Sequence[str]
) -> str:
    told = []
    for measure in measures:
        cells = _cells(places, grids[measure.key][-1])
        if cells:
            (low, low_at), (high, high_at) = min(cells), max(cells)
            told.append(f"{measure.title} from {low:.4g} ({low_at}) to {high:.4g} ({high_at})")
    where = f"{len(places.rows)} layers by {len(places.columns)} projections"
    return f"Heat maps of {run.name}, {where}, at {labels[-1]}: {'; '.join(told)}."


def _cells(places: Places, grid: Grid) -> list[tuple[float, str]]:
    return [
        (value, f"layer {places.rows[r]}, {places.columns[c]}")
        for r, row in enumerate(grid)
        for c, value in enumerate(row)
        if value is not None
    ]


def _table(title: str, frames: AdapterFrames, measures: Sequence[Measure], places: Places) -> Table:
    """Every adapter in every frame."""
    rows: list[list[Cell | str | None]] = []
    for f, (first, last) in enumerate(frames.spans):
        for a, adapter in enumerate(frames.adapters):
            row, column = places.at[adapter]
            values = [frames.values[m.key][f][a] for m in measures]
            cells = [None if v is None else Cell(f"{v:.4g}", v) for v in values]
            spans = [Cell(str(first), first), Cell(str(last), last)]
            rows.append([*spans, adapter, places.rows[row], places.columns[column], *cells])
    heads = [
        Column("first step"),
        Column("last step"),
        *(Column(n, "left") for n in ("adapter", "layer", "projection")),
    ]
    return Table(title, heads + [Column(m.key) for m in measures], rows)


def _summary(title: str, measures: Sequence[Measure], places: Places, grids: dict[str, list[Grid]]) -> Table:
    """The last frame, with its adapters of most conflict first."""
    at = {(r, c): name for name, (r, c) in places.at.items()}
    last = {m.key: grids[m.key][-1] for m in measures}
    by = measures[0]
    order = sorted(at, key=lambda rc: _order(last[by.key][rc[0]][rc[1]], by.key == "gir"))
    rows: list[list[Cell | str | None]] = []
    for r, c in order[:20]:
        values = [last[m.key][r][c] for m in measures]
        cells = [None if v is None else Cell(f"{v:.4g}", v) for v in values]
        rows.append([places.rows[r], places.columns[c], *cells])
    notes = [f"the {len(rows)} of {len(at)} adapters with most conflict"] if len(at) > len(rows) else []
    return Table(
        title,
        [Column("layer", "left"), Column("projection", "left"), *(Column(m.title) for m in measures)],
        rows,
        notes,
    )


def _order(value: float | None, largest: bool) -> float:
    return math.inf if value is None else -value if largest else value
