"""Accuracy with its intervals, against chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from igascale.evaluation.accuracy import Accuracy
from igascale.evaluation.results import ISOMERS, SuiteResult
from igascale.report.collect import Collected
from igascale.report.curves import Curve
from igascale.report.figures.frame import Figure, Panel, axis, layouts, plain, round_to
from igascale.report.figures.lines import Line, data_table, summary_table, traces
from igascale.report.palette import dash, series, symbol
from igascale.tables import Cell, Column, Table, number

_X = {
    "range": [-2, 102],
    "tickvals": [0, 20, 40, 60, 80, 100],
    "ticktext": ["0", "20", "40", "60", "80", "100%"],
    "showgrid": True,
}
CAPTION = (
    "Dots with 95% intervals; the upright stroke is chance (always the most frequent answer). "
    "An interval that reaches the stroke is not told from chance."
)


@dataclass(frozen=True)
class _Point:
    run: int
    panel: str
    row: str
    accuracy: Accuracy


def side(suite: str, split: str) -> str:
    """``ID``, ``logiqa2 OOD``: the isomer groups go without a name."""
    return split.upper() if suite == ISOMERS else f"{suite} {split.upper()}"


def overview(runs: Sequence[Collected]) -> Figure | None:
    """Overall accuracy of every suite, in and out of distribution."""
    points = [
        _Point(i, "accuracy", side(suite, split), result.accuracy)
        for i, run in enumerate(runs)
        if run.evaluation
        for suite, of in run.evaluation.suites.items()
        for split, result in of.splits.items()
    ]
    return _dots("accuracy", "Accuracy in and out of distribution", runs, points, columns=1)


def parts(runs: Sequence[Collected], by: str) -> Figure | None:
    """Accuracy per domain (or subject), or per kind, a panel for each side of each suite.

    Args:
        runs: to compare.
        by: ``domain`` or ``kind``.
    """
    points = []
    for i, run in enumerate(runs):
        for suite, of in (run.evaluation.suites if run.evaluation else {}).items():
            for split, result in of.splits.items():
                found = result.per_domain if by == "domain" else result.per_kind
                points += [_Point(i, side(suite, split), name, accuracy) for name, accuracy in found.items()]
    return _dots(f"accuracy-by-{by}", f"Accuracy by {by}", runs, points, columns=2)


def over_steps(runs: Sequence[Collected]) -> Figure | None:
    """Accuracy of the checkpoints that were evaluated."""
    lines = []
    for i, run in enumerate(runs):
        evaluated = dict(sorted(run.by_step.items()))
        sides = dict.fromkeys((s, p) for r in evaluated.values() for s, of in r.suites.items() for p in of.splits)
        for suite, split in sides:
            values = [_percent(r.suites.get(suite), split) for r in evaluated.values()]
            if len([v for v in values if v is not None]) > 0:
                curve = Curve(list(evaluated), values)
                lines.append(Line(run.name, series(i), curve, side(suite, split), run.name, dash(i), markers=True))
    if not lines:
        return None
    panels = list(dict.fromkeys(line.what for line in lines))
    lines = [line.in_panel(1 + panels.index(line.what)) for line in lines]
    axes = {"title": {"text": "step"}, "rangemode": "tozero"}, {"title": {"text": "accuracy %"}, "range": [-2, 102]}
    wide, narrow = layouts([Panel(title, *axes) for title in panels], columns=3)
    title = "Accuracy of checkpoints"
    told = [f"{line.label}, {line.what}: {line.curve.known[0]:.1f} to {line.curve.known[-1]:.1f} %" for line in lines]
    alt = f"Line chart. Accuracy by step: {'; '.join(told)}."
    tables = data_table(title, lines), summary_table(title, lines)
    return Figure("accuracy-by-step", title, alt, traces(lines), wide, narrow, *tables)


def _percent(suite: SuiteResult | None, split: str) -> float | None:
    result = suite.splits.get(split) if suite else None
    return None if result is None else 100 * result.accuracy.value


def _dots(name: str, title: str, runs: Sequence[Collected], points: list[_Point], columns: int) -> Figure | None:
    if not points:
        return None
    panels = list(dict.fromkeys(p.panel for p in points))
    rows = {panel: list(dict.fromkeys(p.row for p in points if p.panel == panel)) for panel in panels}
    present = sorted({p.run for p in points})
    longest = max(len(row) for of in rows.values() for row in of)
    most = max(len(of) for of in rows.values())
    axes = []
    for panel in panels:
        y = {
            "tickvals": list(range(len(rows[panel]))),
            "ticktext": [plain(r if len(r) <= 24 else r[:23] + "…") for r in rows[panel]],
            "range": [most - 0.5, -0.5],
            "showgrid": False,
            "ticks": "",
            "tickfont": {"color": "@ink", "size": 12.5},
        }
        axes.append(Panel(panel if len(panels) > 1 else "", _X, y))
    height = max(64, most * (18 + 15 * len(present)))
    wide, narrow = layouts(axes, columns, height, left=min(190, 22 + 7 * min(longest, 24)), bottom=32, gap=68)
    data = []
    for at, panel in enumerate(panels, 1):
        for place, run in enumerate(present):
            mine = [p for p in points if p.run == run and p.panel == panel]
            offset = (place - (len(present) - 1) / 2) * 0.8 / max(len(present), 2)
            ys = [rows[panel].index(p.row) + offset for p in mine]
            if mine:
                data += _marks(runs[run].name, run, mine, ys, at)
    told = [
        f"{runs[p.run].name}, {p.row}: {100 * p.accuracy.value:.1f} % ({100 * p.accuracy.low:.1f} to {100 * p.accuracy.high:.1f}), "
        f"chance {100 * p.accuracy.chance:.1f} %"
        for p in points
    ]
    alt = f"Dot plot. {title}: {'; '.join(told[:16])}{'; ...' if len(told) > 16 else ''}."
    table = _table(title, runs, points)
    return Figure(name, title, alt, data, wide, narrow, table, None, CAPTION)


def _marks(name: str, index: int, points: list[_Point], ys: list[float], panel: int) -> list[dict[str, Any]]:
    of, colour = [p.accuracy for p in points], series(index)
    told = [
        f"{plain(p.row)}: {100 * p.accuracy.value:.1f}% [{100 * p.accuracy.low:.1f}, {100 * p.accuracy.high:.1f}]"
        for p in points
    ]
    common = {"type": "scatter", "mode": "markers", "xaxis": axis(panel, "x"), "yaxis": axis(panel, "y"), "y": ys}
    chance = {
        "x": [round_to(100 * a.chance) for a in of],
        "marker": {"symbol": "line-ns", "size": 13, "line": {"color": "@soft", "width": 1.6}, "color": "@soft"},
        "name": plain(name),
        "legendgroup": name,
        "showlegend": False,
        "hovertemplate": "chance %{x:.1f}%<extra></extra>",
    }
    dots = {
        "x": [round_to(100 * a.value) for a in of],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [round_to(100 * (a.high - a.value)) for a in of],
            "arrayminus": [round_to(100 * (a.value - a.low)) for a in of],
            "color": colour,
            "thickness": 1.6,
            "width": 0,
        },
        "marker": {"color": colour, "size": 8, "symbol": symbol(index)},
        "name": plain(name),
        "legendgroup": name,
        "customdata": told,
        "hovertemplate": "%{fullData.name}<br>%{customdata}<extra></extra>",
    }
    return [common | chance, common | dots]


def _table(title: str, runs: Sequence[Collected], points: list[_Point]) -> Table:
    rows: list[list[Cell | str | None]] = []
    for p in points:
        a = p.accuracy
        value = number(100 * a.value, low=100 * a.low, high=100 * a.high, bound_digits=1)
        others = [number(100 * a.chance), number(100 * a.parse_failures)]
        counts: list[Cell | str | None] = [Cell(f"{a.samples:,}", a.samples), Cell(f"{a.groups:,}", a.groups)]
        rows.append([runs[p.run].name, p.panel if p.panel != "accuracy" else "all", p.row, value, *others, *counts])
    heads = [Column(n, "left") for n in ("run", "set", "part")]
    return Table(
        title, heads + [Column(n) for n in ("accuracy %", "chance %", "no answer %", "samples", "groups")], rows
    )
