"""Curves over the steps, and the tables behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from igascale.report.curves import Curve
from igascale.report.figures.frame import axis, plain, round_to
from igascale.tables import Cell, Column, Table

#: Known points from which a line is also shown as a running mean.
SMOOTHED_FROM = 90
_FAINT = {"showlegend": False, "hoverinfo": "skip", "hovertemplate": None}


@dataclass(frozen=True)
class Line:
    """One curve in a panel.

    Attributes:
        label: in the legend, where lines of one label are one entry.
        colour: a role.
        what: the quantity: panel's title, and a column of the tables.
        run: for the tables.
        dash: plotly's name of a dash.
        markers: also where there are many points.
        panel: its number, from 1.
    """

    label: str
    colour: str
    curve: Curve
    what: str
    run: str
    dash: str = "solid"
    markers: bool = False
    panel: int = 1

    def in_panel(self, number: int) -> Line:
        """The same line elsewhere."""
        return replace(self, panel=number)


def traces(lines: Sequence[Line], digits: str = ".4~g") -> list[dict[str, Any]]:
    """The plotly traces of lines: a long one faintly as it is, with its running mean over it."""
    found = []
    for line in lines:
        known = len(line.curve.known)
        if known >= SMOOTHED_FROM:
            smooth = Curve(line.curve.steps, running_mean(line.curve.values, window(known)))
            found.append(
                _trace(line, line.curve, digits) | {"line": {"color": f"{line.colour}/0.28", "width": 1}} | _FAINT
            )
            found.append(_trace(line, smooth, digits))
        else:
            found.append(_trace(line, line.curve, digits))
    return found


def smoothed(lines: Sequence[Line]) -> str:
    """What a caption says of it, or nothing."""
    windows = sorted({window(n) for line in lines if (n := len(line.curve.known)) >= SMOOTHED_FROM})
    told = str(windows[0]) if len(windows) == 1 else f"{windows[0]} to {windows[-1]}" if windows else ""
    return f"Bold: running mean over {told} points; faint: the points themselves." if windows else ""


def window(points: int) -> int:
    """Points in a running mean: a thirtieth of the curve."""
    return max(3, points // 30)


def running_mean(values: Sequence[float | None], width: int) -> list[float | None]:
    """Mean over the ``width`` values around each, fewer at the ends, of those that are known; unknown where the value is.

    Example:
        >>> running_mean([1.0, 2.0, None, 6.0], 3)
        [1.5, 1.5, None, 6.0]
    """
    sums, counts = [0.0], [0]
    for value in values:
        sums.append(sums[-1] + (value or 0.0))
        counts.append(counts[-1] + (value is not None))
    ends = [(max(0, i - width // 2), min(len(values), i + (width + 1) // 2)) for i in range(len(values))]
    return [None if v is None else (sums[b] - sums[a]) / (counts[b] - counts[a]) for v, (a, b) in zip(values, ends)]


def _trace(line: Line, curve: Curve, digits: str) -> dict[str, Any]:
    few = len(curve.known) <= 25 or line.markers
    return {
        "type": "scatter",
        "mode": "lines+markers" if few else "lines",
        "x": curve.steps,
        "y": [round_to(value) for value in curve.values],
        "name": plain(line.label),
        "legendgroup": line.label,
        "xaxis": axis(line.panel, "x"),
        "yaxis": axis(line.panel, "y"),
        "line": {"color": line.colour, "width": 1.9, "dash": line.dash},
        "marker": {"color": line.colour, "size": 5},
        "connectgaps": False,
        "hovertemplate": f"%{{fullData.name}}<br>step %{{x}}: %{{y:{digits}}}<extra></extra>",
    }


def data_table(title: str, lines: Sequence[Line]) -> Table:
    """Every point of every line."""
    rows: list[list[Cell | str | None]] = [
        [line.run, line.what, line.label, Cell(str(step), step), _cell(value)]
        for line in lines
        for step, value in zip(line.curve.steps, line.curve.values)
    ]
    names = ("run", "quantity", "series")
    return Table(title, [*(Column(n, "left") for n in names), Column("step"), Column("value")], rows)


def summary_table(title: str, lines: Sequence[Line]) -> Table:
    """First, last, lowest and highest value of every line."""
    rows: list[list[Cell | str | None]] = []
    for line in lines:
        known = line.curve.known
        if known:
            ends = (known[0], known[-1], min(known), max(known))
            rows.append([line.what, line.label, *(_cell(v) for v in ends), Cell(str(line.curve.steps[-1]))])
    heads = [Column("quantity", "left"), Column("series", "left")]
    return Table(title, heads + [Column(n) for n in ("first", "last", "lowest", "highest", "last step")], rows)


def _cell(value: float | None) -> Cell | None:
    return None if value is None else Cell(f"{value:.4g}", value)
