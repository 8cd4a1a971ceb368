"""What a figure is: one description for the page, the PNG and the CSV; and the panels that figures are laid out in."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from igascale.isomers.inspection.side_by_side import visible
from igascale.tables import Table

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "Noto Sans", "DejaVu Sans", sans-serif'
#: CSS pixels: of the page's main column on a desk, and of a PNG.
WIDE = 960
_TOP, _BARE, _BOTTOM, _LEFT, _RIGHT = 34, 12, 46, 62, 24


@dataclass(frozen=True)
class Frames:
    """What a slider moves through.

    Attributes:
        labels: of each frame, shown beside the slider.
        z: ``[frames][traces][rows][columns]``, what is coloured.
        values: the same, what is told under the pointer; ``z`` itself where it is ``None``.
    """

    labels: list[str]
    z: list[list[list[list[float | None]]]]
    values: list[list[list[list[float | None]] | None]] | None = None


@dataclass(frozen=True)
class Figure:
    """A figure and everything that stands beside it.

    Attributes:
        name: of its files: letters, digits and dashes.
        title: above it.
        alt: what it shows, in words with the main numbers, for those who do not see it.
        data: plotly traces, with colours as roles (:mod:`igascale.report.palette`).
        layout: of plotly, for a wide page; ``narrow`` has what is different on a phone.
        table: its data, in full; the CSV.
        summary: what the page shows as a table; ``table`` itself where it is short.
        caption: how to read it, and what was thinned.
        run: the run that it is of, where a selector chooses one of several.
        frames: where there is a slider.
    """

    name: str
    title: str
    alt: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    narrow: dict[str, Any]
    table: Table
    summary: Table | None = None
    caption: str = ""
    run: str | None = None
    frames: Frames | None = None


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: above it, to the left.
        x, y: further properties of its axes.
    """

    title: str
    x: Mapping[str, Any] = field(default_factory=dict)
    y: Mapping[str, Any] = field(default_factory=dict)


def plain(text: str) -> str:
    """Text as plotly shows it without reading markup in it, and without what reverses the reading order."""
    return html.escape(visible(text.replace("\n", " ")), quote=False)


def round_to(value: float | None, digits: int = 6) -> float | None:
    """So many significant digits: what a screen shows, at half the size of a page."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")


def axis(number: int, letter: str = "x") -> str:
    """The name of a panel's axis in a trace: ``x``, ``x2``, ..."""
    return letter if number == 1 else f"{letter}{number}"


def layouts(
    panels: Sequence[Panel],
    columns: int,
    height: int = 250,
    left: int = _LEFT,
    bottom: int = _BOTTOM,
    gap: int = 78,
    zoom: bool = False,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The layout of panels in a grid, and of the same panels one below the other.

    Args:
        panels: in reading order.
        columns: of the wide layout.
        height: of one panel, CSS px.
        left: room for the labels of the y axes, CSS px.
        bottom: room below the last row, CSS px.
        gap: between rows, CSS px.
        zoom: whether one may look closer at a part of the x axes, which then move together.
    """
    wide, narrow = (_layout(panels, min(c, len(panels)), height, left, bottom, gap) for c in (columns, 1))
    if zoom:
        for layout in (wide, narrow):
            layout["dragmode"] = "zoom"
            for i in range(1, len(panels) + 1):
                layout[_key(axis(i))] |= {"fixedrange": False} | ({"matches": "x"} if i > 1 else {})
    return wide, narrow


def _layout(panels: Sequence[Panel], columns: int, height: int, left: int, bottom: int, gap: int) -> dict[str, Any]:
    rows = math.ceil(len(panels) / columns)
    inner, top = rows * height + (rows - 1) * gap, _TOP if any(panel.title for panel in panels) else _BARE
    width = (1 - (columns - 1) * (between := (left + 20) / WIDE if columns > 1 else 0.0)) / columns
    layout: dict[str, Any] = {
        "height": inner + top + bottom,
        "margin": {"l": left, "r": _RIGHT, "t": top, "b": bottom},
        "font": {"family": FONT, "size": 12.5, "color": "@ink"},
        "paper_bgcolor": "@card",
        "plot_bgcolor": "@card",
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": "@card", "bordercolor": "@soft", "font": {"color": "@ink", "family": FONT}},
        "showlegend": False,
        "dragmode": False,
        "annotations": [],
    }
    for i, panel in enumerate(panels):
        row, column = divmod(i, columns)
        x0, y1 = column * (width + between), 1 - row * (height + gap) / inner
        x_name, y_name = axis(i + 1, "x"), axis(i + 1, "y")
        common = {
            "gridcolor": "@grid",
            "linecolor": "@line",
            "tickcolor": "@line",
            "zeroline": False,
            "ticks": "outside",
            "ticklen": 4,
            "tickfont": {"color": "@soft", "size": 11.5},
            "title": {"font": {"color": "@soft", "size": 12}, "standoff": 6},
            "fixedrange": True,
        }
        x_domain, y_domain = [x0, x0 + width], [max(0.0, y1 - height / inner), y1]
        layout[_key(x_name)] = merged(common, {"domain": x_domain, "anchor": y_name, "showgrid": False}, panel.x)
        layout[_key(y_name)] = merged(common, {"domain": y_domain, "anchor": x_name}, panel.y)
        if not panel.title:
            continue
        title = {"text": f"<b>{plain(panel.title)}</b>", "font": {"size": 13, "color": "@ink"}, "showarrow": False}
        where = {"xref": "paper", "yref": "paper", "x": x0, "y": y1, "xanchor": "left", "yanchor": "bottom"}
        layout["annotations"].append(title | where | {"yshift": 7, "xshift": 0, "align": "left"})
    return layout


def colour_bar(
    layout: dict[str, Any],
    number: int,
    scale: str,
    span: tuple[float, float],
    title: str,
    below: int,
    ticks: tuple[list[float], list[str]] | None = None,
) -> None:
    """Add the colour axis of panel ``number``, with its bar below the panel.

    Args:
        layout: wide or narrow; the traces name the axis by :func:`colour_axis`.
        number: of the panel, from 1.
        scale: its role.
        span: the values at its ends.
        title: above the bar.
        below: how far below the panel, CSS px.
        ticks: where they stand, and what they say.
    """
    x, y = (layout[_key(axis(number, letter))]["domain"] for letter in "xy")
    inner = layout["height"] - layout["margin"]["t"] - layout["margin"]["b"]
    bar = {
        "orientation": "h",
        "x": x[0],
        "xanchor": "left",
        "xpad": 0,
        "len": x[1] - x[0],
        "y": y[0] - below / inner,
        "yanchor": "top",
        "ypad": 0,
        "thickness": 9,
        "outlinewidth": 0.5,
        "outlinecolor": "@soft",
        "ticks": "outside",
        "ticklen": 3,
        "tickcolor": "@soft",
        "tickfont": {"color": "@soft", "size": 11},
        "title": {"text": title, "side": "top", "font": {"color": "@soft", "size": 11.5}},
    }
    if ticks:
        bar |= {"tickmode": "array", "tickvals": ticks[0], "ticktext": ticks[1]}
    layout[colour_axis(number)] = {"colorscale": scale, "cmin": span[0], "cmax": span[1], "colorbar": bar}


def colour_axis(number: int) -> str:
    """The name of a panel's colour axis."""
    return "coloraxis" + (str(number) if number > 1 else "")


def merged(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings, the later over the earlier."""
    result: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
            result[key] = merged(result[key], value) if both else value
    return result


def _key(name: str) -> str:
    return name[0] + "axis" + name[1:]
