"""A build's manifest as the head of a page: a funnel of its stages, the figures one asks for first, and all the rest.

The manifest is read without knowing its keys: what is not recognised is shown in a table, nothing is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from igascale.isomers.inspection.side_by_side import visible

#: Keys whose value may be the funnel: stage -> count.
_FUNNELS = ("stages", "counts", "funnel")
#: Keys shown as figures, where their value is one, and how.
_SHARES = ("yield", "yield_rate")
_FIGURES = (*_SHARES, "mean_alignment", "alignment", "teacher", "model", "cost", "cost_usd", "groups", "pairs", "seeds")


def render(manifest: Mapping[str, Any]) -> str:
    """The head of the page, as HTML."""
    rest = dict(manifest)
    key, stages = next(((key, rows) for key in _FUNNELS if (rows := _stages(rest.get(key)))), ("", []))
    rest.pop(key, None)
    bars = _funnel(stages) if stages else ""
    known = {key: rest.pop(key) for key in _FIGURES if _is_figure(rest.get(key))}
    teacher = rest.get("teacher")
    if isinstance(teacher, Mapping) and all(value is None or _is_figure(value) for value in teacher.values()):
        known = {
            "teacher": teacher.get("model"),
            **known,
            **{k: v for k, v in rest.pop("teacher").items() if k != "model"},
        }
    figures = "".join(f"<div><dt>{_name(key)}</dt><dd>{_figure(key, value)}</dd></div>" for key, value in known.items())
    table = f'<details class="rest"><summary>The rest of the manifest</summary>{_value(rest)}</details>' if rest else ""
    facts = f'<dl class="facts">{figures}</dl>' if figures else ""
    return f'<div class="build">{bars}{facts}{table}</div>'


@dataclass(frozen=True)
class _Stage:
    """A stage of the funnel: what was left after it, what that means, and what it turned down."""

    name: str
    left: int
    meaning: str
    rejected: Any


def _stages(value: Any) -> list[_Stage]:
    """The funnel from ``{stage: count}`` or ``[{"stage", "left", "meaning", "rejected"}]``; empty if it is neither."""
    if isinstance(value, Mapping):
        value = [{"stage": stage, "left": left} for stage, left in value.items()]
    if not isinstance(value, list):
        return []
    rows = [row for row in value if isinstance(row, Mapping) and type(row.get("left")) is int and row["left"] >= 0]
    if len(rows) < len(value):
        return []
    return [
        _Stage(str(row.get("stage", "")), row["left"], str(row.get("meaning", "")), row.get("rejected")) for row in rows
    ]


def _funnel(stages: list[_Stage]) -> str:
    """A bar a stage, as long as its share of the largest; under it what the stage turned down."""
    most, before, rows = max(stage.left for stage in stages) or 1, None, []
    for stage in stages:
        part = f"{stage.left / before:.1%} kept" if before else ""
        lost = f'<span class="lost">rejected: {_counts(stage.rejected)}</span>' if stage.rejected else ""
        rows.append(
            f'<li><span title="{_name(stage.name)}">{_name(stage.meaning or stage.name)}</span>'
            f'<span class="bar"><i style="--part:{stage.left / most:.2%}"></i></span>'
            f'<span class="count">{stage.left:,}</span><span class="part">{part}</span>{lost}</li>'
        )
        before = stage.left
    return f'<ol class="funnel" aria-label="What each stage let through">{"".join(rows)}</ol>'


def _counts(rejected: Any) -> str:
    if not isinstance(rejected, Mapping):
        return _scalar(rejected)
    return ", ".join(f"{_name(str(reason))} {_scalar(count)}" for reason, count in rejected.items())


def _is_figure(value: Any) -> bool:
    return isinstance(value, str | int | float) and value != ""


def _figure(key: str, value: str | int | float | None) -> str:
    if value is None:
        return "unknown"
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
