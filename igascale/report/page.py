"""The report as one HTML file: no network, no other file; readable without JavaScript, on a phone and on paper."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from igascale.isomers.inspection.side_by_side import visible
from igascale.report import palette
from igascale.report.figures.frame import Figure
from igascale.report.reservations import Reservation
from igascale.report.samples import Answer, SampleChoice, SampleGroup
from igascale.report.sections import Missing, Section, Sheet
from igascale.tables import Table, to_html

_HERE = Path(__file__).parent
#: By which a page of ours is known.
GENERATOR = '<meta name="generator" content="igascale report">'
_ROWS = 200  # of a table on the page
_DIFFERS = {"domains": "differs between domains", "runs": "differs between runs"}


def render(
    title: str,
    sections: Sequence[Section],
    choice: SampleChoice,
    reservations: Sequence[Reservation],
    verdicts: Sequence[str],
    footer: Sequence[str],
    plotly: str,
) -> str:
    """The page.

    Args:
        title: its heading.
        sections: in order.
        choice: the samples, for the section with the anchor ``samples``.
        reservations: what to say before anything else.
        verdicts: the result in a sentence or two; ``**`` around numbers.
        footer: paragraphs at the end.
        plotly: the library, as JavaScript.
    """
    template, style, script = (_HERE.joinpath(f"page.{k}").read_text(encoding="utf-8") for k in ("html", "css", "js"))
    # A script element ends at the first "</script", whatever the language thinks of it.
    plotly = plotly.replace("</script", "<\\/script")
    colours = f":root {{ color-scheme: light dark; {palette.variables(palette.LIGHT)} }}\n"
    colours += f"@media (prefers-color-scheme: dark) {{ :root {{ {palette.variables(palette.DARK)} }} }}\n"
    values = {
        "title": _text(title),
        "made": datetime.now().astimezone().strftime("%d %B %Y, %H:%M").lstrip("0"),
        "verdicts": "".join(f'<p class="verdict">{_bold(_text(v))}</p>' for v in verdicts),
        "reservations": _reservations(reservations),
        "contents": "".join(f'<li><a href="#{s.anchor}">{_text(s.title)}</a></li>' for s in sections),
        "sections": "\n".join(_section(s, choice) for s in sections),
        "footer": "".join(f"<p>{_text(line)}</p>" for line in footer),
        "themes": _json({"light": palette.LIGHT, "dark": palette.DARK}),
        "style": colours + style,
        "plotly": plotly,
        "script": script,
        "hashes": f"{_hash(plotly)} {_hash(script)}",
    }
    # Put in once: what looks like a placeholder in a value stays.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _text(text: str) -> str:
    return escape(visible(text))


def _bold(escaped: str) -> str:
    """Numbers of a verdict; the runs' names in it may hold asterisks of their own."""
    return re.sub(r"\*\*([+-]?[\d.]+%?)\*\*", r"<b>\1</b>", escaped)


def _json(value: Any) -> str:
    """JSON that may stand in a script element: nothing in it can end one, or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _reservations(found: Sequence[Reservation]) -> str:
    if not found:
        return ""
    grave, notes = ([r for r in found if (r.grave == "grave") == wanted] for wanted in (True, False))
    items = "".join(f'<li class="grave">{_text(r.text)}</li>' for r in grave)
    more = "".join(f"<li>{_text(r.text)}</li>" for r in notes)
    parts = [f"<ul>{items}</ul>"] * bool(items)
    if more:
        heading = f"{len(notes)} thing{'s' * (len(notes) > 1)} to know about these figures"
        parts.append(f"<details{'' if grave else ' open'}><summary>{heading}</summary><ul>{more}</ul></details>")
    return f'<div class="reservations" role="note" aria-label="Warnings">{"".join(parts)}</div>'


def _section(section: Section, choice: SampleChoice) -> str:
    parts = [f'<section id="{section.anchor}" aria-labelledby="{section.anchor}-title">']
    parts.append(
        f'<div><h2 id="{section.anchor}-title">{_text(section.title)}</h2><p class="lead">{_text(section.lead)}</p></div>'
    )
    for content in section.content:
        if isinstance(content, Sheet):
            of = content.table
            bare = replace(of, title="") if of.title == section.title else of
            parts.append(f'<div class="card">{table(bare)}</div>')
        elif isinstance(content, Figure):
            parts.append(figure(content))
        else:
            parts.append(_choice(section.anchor, content))
    if section.anchor == "samples" and choice.groups:
        parts.append(_samples(choice))
    parts += [_missing(m) for m in section.missing]
    return "\n".join([*parts, "</section>"])


def _missing(missing: Missing) -> str:
    command = f" <code>{_text(missing.command)}</code>" if missing.command else ""
    return f'<p class="missing">{_text(missing.what)}{command}</p>'


def _choice(anchor: str, figures: Sequence[Figure]) -> str:
    """Figures of several runs, of which one is seen at a time."""
    if len(figures) == 1:
        return figure(figures[0])
    options = "".join(f'<option value="{_text(f.run or "")}">{_text(f.run or "")}</option>' for f in figures)
    label = f'<p class="of-run"><label>Run shown: <select class="run" aria-label="Run shown in {anchor}">{options}</select></label></p>'
    shown = "".join(figure(f, hidden=i > 0) for i, f in enumerate(figures))
    return f'<div class="choice">{label}{shown}</div>'


def figure(of: Figure, hidden: bool = False) -> str:
    """A figure with its legend, slider, caption and data; the script draws it."""
    spec = {"data": of.data, "layout": of.layout, "narrow": of.narrow}
    if of.frames:
        spec["frames"] = {"labels": of.frames.labels, "z": of.frames.z, "values": of.frames.values}
    sizes = f"--wide: {of.layout['height']}px; --narrow: {of.narrow['height']}px"
    slider = (
        '<div class="slider" hidden><button type="button">▶ Play</button>'
        f'<input type="range" min="0" step="1" aria-label="Steps shown in {_text(of.title)}"><output aria-live="polite"></output></div>'
    )
    run = f' data-run="{_text(of.run)}"' if of.run is not None else ""
    return "\n".join(
        [
            f'<figure class="figure" id="figure-{of.name}"{run}{" hidden" if hidden else ""}>',
            f"<h3>{_text(of.title)}</h3>",
            '<div class="legend" role="group" aria-label="Series; press to hide or show" hidden></div>',
            slider if of.frames else "",
            f'<div class="plot" role="img" aria-label="{_text(of.alt)}" style="{sizes}"></div>',
            f"<figcaption>{_text(of.caption)}</figcaption>" if of.caption else "",
            f"<details><summary>Data</summary>{table(of.summary or of.table)}",
            f'<p class="full">In full: <code>data/{of.name}.csv</code></p></details>',
            f'<script type="application/json">{_json(spec)}</script>',
            "</figure>",
        ]
    )


def table(of: Table) -> str:
    """A table that scrolls by itself where it is wide, cut where it is long."""
    more = len(of.rows) - _ROWS
    if more > 0:
        of = Table(of.title, of.columns, of.rows[:_ROWS], [*of.notes, f"{more:,} more rows are in the file"])
    # The title stands above, where it can wrap; a caption is as wide as its table.
    title = f"<h3>{_text(of.title)}</h3>" if of.title else ""
    written = to_html(replace(of, title=""))
    frame = f'<div class="wide" role="region" aria-label="{_text(of.title or "Table")}" tabindex="0">'
    return title + written.replace("<table>", f"{frame}<table>").replace("</table>", "</table></div>")


def _samples(choice: SampleChoice) -> str:
    counts = choice.in_all
    in_all = sum(counts.values())
    told = (
        f"{len(choice.groups)} of {in_all:,} groups are on this page. In all, answers differ between domains in {counts['domains']:,}, "
        f"between runs only in {counts['runs']:,}, and nowhere in {counts['alike']:,}."
    )
    if choice.conflicting:
        told += f" {choice.conflicting} more were left out: the runs were given different problems under one name."
    if choice.damaged:
        told += f" {choice.damaged} damaged lines of samples.jsonl were left out."
    selects = "".join(
        f'<label>{label} <select name="{name}"><option value="">all</option></select></label>'
        for name, label in (("differs", "Answers"), ("set", "Set"), ("kind", "Kind"))
    )
    search = (
        '<label class="words">Search <input type="search" id="words" autocomplete="off" spellcheck="false"></label>'
    )
    form = f'<form class="filter" role="search" hidden>{search}{selects}<p id="found" role="status"></p></form>'
    groups = "\n".join(_group(group) for group in choice.groups)
    return f'<div><p class="lead">{_text(told)}</p></div>{form}<div class="groups">{groups}</div>'


def _group(group: SampleGroup) -> str:
    set_ = group.split.upper() if group.suite == "isomers" else f"{group.suite} {group.split.upper()}"
    differs = [_DIFFERS[d] for d in group.differs] or [_alike(group)]
    data = {"differs": "\n".join(differs), "set": set_, "kind": group.kind or ""}
    attributes = "".join(f' data-{name}="{_text(value)}"' for name, value in data.items())
    # An end of line in an attribute is kept by HTML, and spelled out by nothing.
    chips = "".join(f'<span class="chip">{_text(c)}</span>' for c in (set_, group.kind, *differs) if c)
    tellings = "".join(
        f'<div class="telling"><h4 dir="auto">{_text(told.domain)}</h4>'
        f'<details><summary>Problem</summary><div class="text" dir="auto">{_text(told.problem)}</div></details>'
        f'<p dir="auto"><span>expected</span> <b>{_text(told.expected)}</b></p>'
        f'<ul class="answers">{"".join(_answer(run, a) for run, a in told.answers.items())}</ul></div>'
        for told in group.told.values()
    )
    return f'<article class="card group"{attributes}><h3><span dir="auto">{_text(group.group_id)}</span>{chips}</h3><div class="tellings">{tellings}</div></article>'


def _alike(group: SampleGroup) -> str:
    right = all(answer.correct for told in group.told.values() for answer in told.answers.values())
    return "right everywhere" if right else "wrong everywhere"


def _answer(run: str, answer: Answer) -> str:
    kind, word = ("right-answer", "right") if answer.correct else ("wrong-answer", "wrong")
    predicted = "no answer found" if answer.predicted is None else answer.predicted
    cut = "" if answer.finished else ' <span class="chip">ran into the token limit</span>'
    return (
        f'<li class="{kind}" dir="auto"><span class="of">{_text(run)}, {word}:</span> <b>{_text(predicted)}</b>{cut}'
        f'<details><summary>What it wrote</summary><div class="text">{_text(answer.text)}</div></details></li>'
    )
