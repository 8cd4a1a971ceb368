"""The colours of the report, light and dark, and how a figure names them.

A figure's colours are roles (``@ink``, ``@c1``, ``@seq``; ``@c1/0.2`` for a transparent one), so that one description serves the light
page, the dark page and the files for a paper. The series are told apart by people with any of the common colour deficiencies,
and none has less contrast than 4.5 to its background; the scales are monotone in lightness.
"""

from __future__ import annotations

import re
from typing import Any

SERIES = 8

LIGHT: dict[str, Any] = {
    "paper": "#fbfaf8",
    "card": "#ffffff",
    "ink": "#1c1d20",
    "soft": "#5c6068",
    "line": "#dedcd6",
    "grid": "#eceae5",
    "tint": "#f1efea",
    "link": "#0a5c9c",
    "good": "#00664a",
    "warn": "#8a3b00",
    "warntint": "#fdf0e2",
    "bad": "#b3261e",
    "badtint": "#fdeceb",
    "c1": "#0a5c9c",
    "c2": "#b04a00",
    "c3": "#00705a",
    "c4": "#8c2f74",
    "c5": "#75600a",
    "c6": "#3f47a8",
    "c7": "#a3243b",
    "c8": "#50565f",
    # From nothing (paper) to much (ink), through one hue: what is strong is dark on white, and light on black.
    "seq": ["#f3f6fa", "#d3e2f0", "#a6c8e4", "#6ea6d2", "#3b82b8", "#17609a", "#0a3f6e", "#062744"],
    # The mask: 1 lets everything through and is paper; what it holds back is the colour.
    "mask": ["#4a1d00", "#7a3300", "#a8510f", "#cc7a35", "#e3a469", "#f0caa2", "#f7e6d2", "#fbf5ee"],
    "div": ["#7a3300", "#b8622a", "#dfa377", "#f3ddcb", "#f6f5f2", "#cfdfee", "#86b3d8", "#3b82b8", "#0a3f6e"],
}

DARK: dict[str, Any] = {
    "paper": "#131417",
    "card": "#1b1d21",
    "ink": "#e8e8e6",
    "soft": "#a3a8b1",
    "line": "#3a3d45",
    "grid": "#2a2d33",
    "tint": "#24272c",
    "link": "#7cbcf5",
    "good": "#5fd0a8",
    "warn": "#ffb77a",
    "warntint": "#35261a",
    "bad": "#ff8a80",
    "badtint": "#3a1f1d",
    "c1": "#7cbcf5",
    "c2": "#ffa46b",
    "c3": "#5fd0a8",
    "c4": "#eb9bd6",
    "c5": "#dcc063",
    "c6": "#b0b5ff",
    "c7": "#ff8f9f",
    "c8": "#b4bac4",
    "seq": ["#1f242b", "#1c3348", "#1b4a70", "#22659a", "#3b85be", "#69a9da", "#a4cdf0", "#e2f0fc"],
    "mask": ["#ffe3c8", "#ffc48f", "#f29d57", "#cc7630", "#98531b", "#653714", "#3f2818", "#25211e"],
    "div": ["#ffc48f", "#e08a48", "#9c5620", "#533320", "#26282c", "#1d3a55", "#22659a", "#5a9fd4", "#b4d8f6"],
}

_ROLE = re.compile(r"^@([a-z]+\d?)(?:/([\d.]+))?$")


def series(index: int) -> str:
    """The role of the n-th series; with more than eight, they come round again with another :func:`dash` and :func:`symbol`."""
    return f"@c{index % SERIES + 1}"


def dash(index: int) -> str:
    """Of the n-th series' line."""
    return ("solid", "dot", "dashdot")[index // SERIES % 3]


def symbol(index: int) -> str:
    """Of the n-th series' points."""
    return ("circle", "diamond", "square")[index // SERIES % 3]


def resolve(value: Any, theme: dict[str, Any], key: str = "") -> Any:
    """A figure's description with colours in the place of roles; only keys such as ``fillcolor`` hold any.

    Example:
        >>> resolve({"color": "@ink", "text": "@ink", "fillcolor": "@c1/0.5"}, LIGHT)
        {'color': '#1c1d20', 'text': '@ink', 'fillcolor': 'rgba(10,92,156,0.5)'}
    """
    if isinstance(value, dict):
        return {name: resolve(item, theme, name) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [resolve(item, theme, key) for item in value]
    match = _ROLE.match(value) if isinstance(value, str) and key.endswith(("color", "colorscale")) else None
    if match is None:
        return value
    colour = theme[match[1]]
    if isinstance(colour, list):
        return [[i / (len(colour) - 1), step] for i, step in enumerate(colour)]
    if match[2]:
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        return f"rgba({red},{green},{blue},{match[2]})"
    return colour


def variables(theme: dict[str, Any]) -> str:
    """The colours as CSS variables."""
    return " ".join(f"--{name}: {value};" for name, value in theme.items() if isinstance(value, str))
