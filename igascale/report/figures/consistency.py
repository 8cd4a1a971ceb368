"""LCS by layer and by pair of domains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from igascale.evaluation.results import Consistency, SplitResult
from igascale.report.collect import Collected
from igascale.report.figures.accuracy import side
from igascale.report.figures.frame import Figure, Panel, axis, layouts, plain, round_to
from igascale.report.palette import series, symbol
from igascale.tables import Cell, Column, Table


def splits(runs: Sequence[Collected]) -> Iterator[tuple[int, Collected, str, SplitResult]]:
    """Every side of every suite that has a consistency: index of the run, run, side, result."""
    for index, run in enumerate(runs):
        for suite, of in (run.evaluation.suites if run.evaluation else {}).items():
            for split, result in of.splits.items():
                if result.consistency is not None:
                    yield index, run, side(suite, split), result


def by_layer(runs: Sequence[Collected]) -> Figure | None:
    """Raw and relative LCS at every layer that was measured, in and out of distribution."""
    data, rows = [], []
    alt = []
    present = sorted({index for index, *_ in splits(runs)})
    apart = min(0.06, 0.2 / max(1, len(present) - 1))
    aside = {index: apart * (place - (len(present) - 1) / 2) for place, index in enumerate(present)}
    for index, run, name, result in splits(runs):
        known = [c for c in _layers(result) if c.lcs is not None and c.relative is not None]
        rows += [_row(run.name, name, c) for c in _layers(result)]
        if not known:
            continue
        alt.append(f"{run.name}, {name}: {_best(known)}")
        data.append(
            _line(run.name, name, index, aside[index], 1, known, [(100 * (c.lcs or 0.0), 100.0) for c in known])
        )
        data.append(_line(run.name, name, index, aside[index], 2, known, [(c.relative, _scale(c)) for c in known]))
    if not rows:
        return None
    deepest = max(c.layer for *_, result in splits(runs) for c in _layers(result))
    layer = {"title": {"text": "layer"}, "dtick": max(1, round(deepest / 8)), "range": [-0.4, deepest + 0.4]}
    raw = Panel("LCS × 10²", layer, {"rangemode": "tozero"})
    relative = Panel("relative LCS", layer, {"rangemode": "tozero"})
    wide, narrow = layouts([raw, relative], columns=2)
    heads = [Column(n, "left") for n in ("run", "set")]
    numbers = ("layer", "LCS × 10²", "standard error × 10²", "relative LCS", "between groups", "groups")
    table = Table("LCS by layer", heads + [Column(n) for n in numbers], rows, _notes(runs))
    title = "Logical Consistency Score by layer"
    caption = (
        "Relative: over the mean squared norm of the states. Lower is more consistent, but only beside an accuracy above chance: collapsed states are consistent too. Solid: training "
        "domains (ID); dashed: unseen domains (OOD). Bars: 95%, 1.96 standard errors over groups each way, runs a little aside of each other; they are measured on the "
        "same groups, so that bars which overlap do not make them alike. A cross marks a collapsed layer, where LCS means nothing."
    )
    return Figure(
        "lcs-by-layer", title, f"Line chart. {title}. {'; '.join(alt)}.", data, wide, narrow, table, None, caption
    )


def by_pair(runs: Sequence[Collected]) -> Figure | None:
    """LCS of each pair of domains at the layer that the tables show."""
    found = [(i, run, name, result.consistency) for i, run, name, result in splits(runs)]
    points = [
        (i, run.name, name, pair, 100 * value)
        for i, run, name, consistency in found
        for pair, value in (consistency.pairs if consistency else {}).items()
    ]
    if not points:
        return None
    panels = list(dict.fromkeys(p[2] for p in points))
    pairs = {panel: list(dict.fromkeys(p[3] for p in points if p[2] == panel)) for panel in panels}
    present = sorted({p[0] for p in points})
    most = max(map(len, pairs.values()))
    longest = max(min(18, len(domain)) for of in pairs.values() for pair in of for domain in pair.split("/"))
    axes = []
    for panel in panels:
        y = {
            "tickvals": list(range(len(pairs[panel]))),
            "ticktext": ["<br>".join(plain(d[:18]) for d in p.split("/")) for p in pairs[panel]],
            "range": [most - 0.5, -0.5],
            "showgrid": False,
            "ticks": "",
            "tickfont": {"color": "@ink", "size": 12},
        }
        axes.append(Panel(panel, {"rangemode": "tozero", "title": {"text": "LCS × 10² of the pair"}}, y))
    height = max(70, most * max(38, 14 + 12 * len(present)))
    wide, narrow = layouts(axes, columns=2, height=height, left=24 + 7 * longest, gap=86)
    data: list[dict[str, Any]] = []
    for number, panel in enumerate(panels, 1):
        for place, run in enumerate(present):
            mine = [p for p in points if p[0] == run and p[2] == panel]
            offset = (place - (len(present) - 1) / 2) * 0.7 / max(len(present), 2)
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "x": [round_to(p[4]) for p in mine],
                    "y": [pairs[panel].index(p[3]) + offset for p in mine],
                    "xaxis": axis(number, "x"),
                    "yaxis": axis(number, "y"),
                    "name": plain(runs[run].name),
                    "legendgroup": runs[run].name,
                    "marker": {"color": series(run), "size": 8, "symbol": symbol(run)},
                    "customdata": [plain(p[3]) for p in mine],
                    "hovertemplate": "%{fullData.name}<br>%{customdata}: %{x:.4~g}<extra></extra>",
                }
            )
    rows: list[list[Cell | str | None]] = [
        [name, panel, pair, Cell(f"{v:.4g}", v)] for _, name, panel, pair, v in points
    ]
    title = "LCS by pair of domains"
    table = Table(title, [*(Column(n, "left") for n in ("run", "set", "pair")), Column("LCS × 10²")], rows)
    told = [f"{name}, {panel}, {pair}: {value:.4g}" for _, name, panel, pair, value in points]
    alt = f"Dot plot. {title}: {'; '.join(told[:12])}{'; ...' if len(told) > 12 else ''}."
    caption = "Half the squared distance between the states of one problem in two domains, mean over groups: which tellings lie apart."
    return Figure("lcs-by-pair", title, alt, data, wide, narrow, table, None, caption)


def _layers(result: SplitResult) -> list[Consistency]:
    return result.layers or ([result.consistency] if result.consistency else [])


def _scale(c: Consistency) -> float | None:
    """What turns a standard error of the raw score into one of the relative, whose norm is taken as known."""
    return None if not c.mean_squared_norm else 1 / c.mean_squared_norm


def _line(
    run: str,
    name: str,
    index: int,
    aside: float,
    panel: int,
    known: list[Consistency],
    values: Sequence[tuple[float | None, float | None]],
) -> dict[str, Any]:
    """A curve over the layers; of each the value, and what turns its raw standard error into one of the value; a little aside, so that bars of runs can be told apart."""
    colour = series(index)
    errors = [
        None if not s or c.standard_error is None else 1.96 * s * c.standard_error for c, (_, s) in zip(known, values)
    ]
    dash = "dash" if name.endswith("OOD") else "solid"
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": [c.layer + aside for c in known],
        "customdata": [c.layer for c in known],
        "y": [round_to(v) for v, _ in values],
        "error_y": {
            "type": "data",
            "array": [round_to(e) for e in errors],
            "color": colour,
            "thickness": 1,
            "width": 2.5,
        },
        "xaxis": axis(panel, "x"),
        "yaxis": axis(panel, "y"),
        "name": plain(f"{run}, {name}"),
        "legendgroup": f"{run}, {name}",
        "line": {"color": colour, "width": 1.8, "dash": dash},
        "marker": {"color": colour, "size": 6, "symbol": ["x" if c.collapsed else symbol(index) for c in known]},
        "hovertemplate": "%{fullData.name}<br>layer %{customdata}: %{y:.4~g}<extra></extra>",
    }


def _row(run: str, name: str, c: Consistency) -> list[Cell | str | None]:
    emphasis = "bad" if c.collapsed else "none"
    raw, error = (None if v is None else 100 * v for v in (c.lcs, c.standard_error))
    values = (raw, error, c.relative, c.between_groups)
    cells = [None if v is None else Cell(f"{v:.4g}", v, emphasis=emphasis) for v in values]  # type: ignore[arg-type]
    return [run, name, Cell(str(c.layer), c.layer), *cells, Cell(str(c.groups), c.groups)]


def _best(known: list[Consistency]) -> str:
    first, last = known[0], known[-1]
    ends = f"relative LCS {first.relative:.3g} at layer {first.layer}"
    return ends if first is last else f"{ends}, {last.relative:.3g} at layer {last.layer}"


def _notes(runs: Sequence[Collected]) -> list[str]:
    texts = {str(run.evaluation.settings.get("lcs_text", "prompt")) for run in runs if run.evaluation}
    return [f"states averaged over the tokens of: {', '.join(sorted(texts))}"]
