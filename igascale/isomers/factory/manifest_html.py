"""A build's manifest as the head of a page: a funnel of its stages, the figures one asks for first, and all the rest.

The manifest is read without knowing its keys: what is not recognised is shown in a table, nothing is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from igascale.isomers.factory.side_by_side import visible

#: Keys whose value may be the funnel: stage -> count.
_FUNNELS = ("stages", "counts", "funnel")
#: Keys shown as figures, where their value is one, and how.
_SHARES = ("yield", "yield_rate")
_FIGURES = (*_SHARES, "mean_alignment", "alignment", "teacher", "model", "cost", "cost_usd", "groups", "pairs", "seeds")


def render(manifest: Mapping[str, Any]) -> str:
    """The head of the page, as HTML."""
    rest = dict(manifest)
    funnel = next((key for key in _FUNNELS if _is_funnel(rest.get(key))), None)
    bars = _funnel(rest.pop(funnel)) if funnel is not None else ""
    figures = "".join(
        f"<div><dt>{_name(key)}</dt><dd>{_figure(key, rest.pop(key))}</dd></div>"
        for key in _FIGURES
        if isinstance(rest.get(key), str | int | float) and rest[key] != ""
    )
    table = f'<details class="rest"><summary>The whole manifest</summary>{_value(rest)}</details>' if rest else ""
    facts = f'<dl class="facts">{figures}</dl>' if figures else ""
    return f'<div class="build">{bars}{facts}{table}</div>'


def _is_funnel(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(type(count) is int and count >= 0 for count in value.values())
    )


def _funnel(counts: Mapping[str, int]) -> str:
    """A bar a stage, in the manifest's order, as long as its share of the largest."""
    most, before, rows = max(counts.values()) or 1, None, []
    for stage, count in counts.items():
        part = f"{count / before:.1%} of those" if before else ""
        rows.append(
            f'<li><span>{_name(stage)}</span><span class="bar"><i style="--part:{count / most:.2%}"></i></span>'
            f'<span class="count">{count:,}</span><span class="part">{part}</span></li>'
        )
        before = count
    return f'<ol class="funnel" aria-label="What each stage let through">{"".join(rows)}</ol>'


def _figure(key: str, value: str | int | float) -> str:
    if isinstance(value, float) and key in _SHARES and 0 <= value <= 1:
        return f"{value:.1%}"
    if isinstance(value, float) and key == "cost_usd":
        return f"${value:,.2f}"
    return _scalar(value)


def _value(value: Any) -> str:
    """Any JSON value: objects and lists of objects as tables."""
    if isinstance(value, Mapping):
        rows = "".join(f"<tr><th>{_name(str(key))}</th><td>{_value(item)}</td></tr>" for key, item in value.items())
        return f"<table>{rows}</table>" if rows else "none"
    if isinstance(value, list):
        if any(isinstance(item, Mapping | list) for item in value):
            return "".join(_value(item) for item in value)
        return ", ".join(_scalar(item) for item in value) or "none"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.6g}"
    return escape(visible(str(value)))


def _name(key: str) -> str:
    return escape(visible(key.replace("_", " ")))
