"""Groups as one HTML file: no network, no other file, readable by phone, on paper and without JavaScript."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

from igascale.errors import UserError
from igascale.isomers.inspection import manifest_html
from igascale.isomers.inspection.dag_svg import draw, drawn_node, edge_text
from igascale.isomers.inspection.rejections import Rejections, as_text, rest_of
from igascale.isomers.inspection.side_by_side import Piece, Side, SideBySide, lay_out, visible
from igascale.isomers.schema import NODE_TYPES, Dag, IsomerGroup

_HERE = Path(__file__).parent
_GENERATOR = '<meta name="generator" content="igascale data inspect">'
_COLOURS = 6  # of domains; with more, they come round again
_MOST_NODES, _MOST_EDGES = 80, 200  # of a graph that is drawn


def write_page(
    path: Path,
    groups: Iterable[IsomerGroup],
    *,
    title: str,
    shown: Callable[[], str],
    domains: Collection[str] = (),
    manifest: Mapping[str, Any] | None = None,
    rejections: Rejections | None = None,
    warnings: Sequence[str] = (),
) -> int:
    """Write the page; groups are rendered as they come, so that memory holds one at a time.

    Args:
        path: the file. One that this function wrote is replaced, any other is refused.
        groups: what to show.
        title: the page's heading.
        shown: asked once the groups have come: how many of how many they are, in words.
        domains: show only these; all when empty.
        manifest: of the build, any keys.
        rejections: what the build turned down.
        warnings: what a reader must know before trusting the page.

    Returns:
        How many groups are on the page.

    Raises:
        UserError: the file is not ours, or cannot be written. `groups` may raise its own; then nothing is written.
    """
    _check_target(path)
    entries: list[str] = []
    with tempfile.TemporaryFile("w+", encoding="utf-8") as body:
        for number, group in enumerate(groups, start=1):
            body.write(_group(group, lay_out(group, domains), f"g{number}"))
            entries.append(_entry(group, f"g{number}"))
        rejected = _rejected(rejections) if rejections is not None else ""
        before, after = _fill(
            title=_text(title),
            shown=_text(shown()),
            list="\n".join(entries),
            warnings="".join(f'<p class="note differs"><b>Warning:</b> {_text(warning)}</p>' for warning in warnings),
            manifest=manifest_html.render(manifest) if manifest is not None else "",
            legend="".join(f"<li>{drawn_node(kind)}{_text(kind)}</li>" for kind in NODE_TYPES),
            rejected=rejected,
            rejected_link='<p><a href="#rejected">What was rejected, and why</a></p>' if rejected else "",
        )
        body.seek(0)
        _write(path, before, body, after)
    return len(entries)


def _check_target(path: Path) -> None:
    try:
        with path.open("rb") as file:
            ours = _GENERATOR.encode() in file.read(1000)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{path}: cannot write the page here ({error.strerror})") from None
    if not ours:
        raise UserError(f"{path}: exists and is no page of `igascale data inspect`; choose another name or delete it")


def _write(path: Path, before: str, body: Any, after: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(before)
            shutil.copyfileobj(body, file)
            file.write(after)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot write the page here ({error.strerror})") from None


def _fill(**values: str) -> tuple[str, str]:
    """The template before and after the groups. Values are put in once: what looks like a placeholder in them stays."""
    template, style, script = (
        _HERE.joinpath(f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    values |= {"style": style, "script": script, "script_hash": f"sha256-{digest}"}
    before, after = (
        re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], part) for part in template.split("{{groups}}")
    )
    return before, after


def _entry(group: IsomerGroup, anchor: str) -> str:
    return f'<li><a href="#{anchor}"><span>{_text(group.id)}</span><span>{_text(group.kind or "")}</span></a></li>'


def _group(group: IsomerGroup, sides: SideBySide, anchor: str) -> str:
    kind = f' data-kind="{_text(group.kind)}"' if group.kind is not None else ""
    about = [f'<span class="chip">{_text(group.kind)}</span>'] if group.kind is not None else []
    about.append(f"seed <b>{_text(group.seed_id)}</b>")
    about += [sides.alignment] if sides.alignment else []
    notes = [
        _note("The same", "; ".join(sides.shared)),
        _note("Not the same", "; ".join(sides.differs), " differs"),
        _note("Words in every domain", " ".join(sides.common_words)),
        _note("Not shown", ", ".join(sides.hidden)),
    ]
    rows = max(1, *(len(side.steps) for side in sides.sides))
    columns = "".join(
        _side(side, next(n for n, instance in enumerate(group.instances) if instance.domain == side.domain))
        for side in sides.sides
    )
    return (
        f'<article id="{anchor}"{kind}>\n<header><h2><a href="#{anchor}">{_text(group.id)}</a></h2>'
        f'<p class="about">{" · ".join(about)}</p>{"".join(notes)}</header>\n'
        f'<div class="sides" style="--rows:{rows + 3}">{columns}</div>\n'
        f"{_graph(group.dag, group.id) if group.dag is not None else ''}{_meta(sides.meta)}</article>\n"
    )


def _note(name: str, text: str, style: str = "") -> str:
    return f'<p class="note{style}"><b>{name}:</b> {_text(text)}</p>' if text else ""


def _side(side: Side, place: int) -> str:
    """A column: its rows stand beside the same rows of the others, so that step 2 can be read across."""
    score = (
        f'<span title="alignment with the graph, 0 to 1">aligned {side.score:.2f}</span>'
        if side.score is not None
        else ""
    )
    steps = "".join(f'<li dir="auto">{_pieces(step)}</li>' for step in side.steps)
    solution = (
        f'<ol class="steps">{steps}</ol>' if steps else '<div class="steps"><p class="none">no solution</p></div>'
    )
    return (
        f'<section class="side d{place % _COLOURS + 1}" data-domain="{_text(side.domain)}">'
        f"<h3>{_text(side.domain)}{score}</h3>"
        f'<div class="problem" dir="auto">{_pieces(side.problem)}</div>{solution}'
        f'<p class="answer"><span>Answer:</span> <b><bdi>{_text(side.answer)}</bdi></b></p></section>\n'
    )


def _pieces(pieces: Iterable[Piece]) -> str:
    return "".join(f"<i>{escape(text)}</i>" if own else escape(text) for text, own in pieces)


def _graph(dag: Dag, name: str) -> str:
    """The drawing, and the same in words for those who do not see it, search it or copy from it."""
    if len(dag.nodes) <= _MOST_NODES and len(dag.edges) <= _MOST_EDGES:
        drawing = f'<figure class="dag" tabindex="0" role="group" aria-label="graph">{draw(dag, name)}</figure>'
    else:
        limits = (
            f"a graph of more than {_MOST_NODES} nodes or {_MOST_EDGES} edges ({len(dag.nodes)} and {len(dag.edges)})"
        )
        drawing = f'<p class="note"><b>Not drawn:</b> {limits}; it is in the table.</p>'
    form = f'<p class="form" dir="ltr">{_text(dag.logical_form)}</p>' if dag.logical_form is not None else ""
    rows = "".join(
        f'<tr><td>{_text(node.id)}</td><td>{node.type}</td><td dir="auto">{_text(node.text)}</td>'
        f"<td>{_text(edge_text(node.id, dag))}</td></tr>"
        for node in dag.nodes
    )
    head = "<tr><th>node</th><th>type</th><th>text</th><th>rests on</th></tr>"
    return f"{drawing}{form}<details><summary>The graph as a table</summary><table>{head}{rows}</table></details>\n"


def _meta(meta: Mapping[str, Any], name: str = "More about this group") -> str:
    if not meta:
        return ""
    text = _text(json.dumps(meta, ensure_ascii=False, indent=2))
    return f"<details><summary>{name}</summary><pre>{text}</pre></details>\n"


def _rejected(rejections: Rejections) -> str:
    entries = "".join(_rejection(entry) for entry in rejections)  # first: reading them is what counts them
    if not rejections.total:
        return ""
    rows = "".join(
        f'<tr><td>{_text(stage)}</td><td>{_text(reason)}</td><td class="number">{count:,}</td></tr>'
        for stage, reason, count in rejections.rows()
    )
    head = '<tr><th>stage</th><th>reason</th><th class="number">rejected</th></tr>'
    return (
        f'<section id="rejected"><h2>What was rejected, and why</h2><div class="wide"><table>{head}{rows}</table></div>'
        f"<details><summary>{_text(rejections.summary())}</summary>{entries}</details></section>"
    )


def _rejection(entry: dict[str, Any]) -> str:
    parts = [f"<p><b>{_text(entry['seed_id'])}</b> · {_text(entry['stage'])} · {_text(entry['reason'])}</p>"]
    for key, style in (("detail", "note"), ("problem", "problem")):
        if entry.get(key):
            parts.append(f'<p class="{style}" dir="auto">{_text(as_text(entry[key]))}</p>')
    return f'<div class="entry">{"".join(parts)}{_meta(rest_of(entry), "More about this rejection")}</div>'


def _text(text: str) -> str:
    """Any text as HTML that shows it and does nothing; safe in attributes too."""
    return escape(visible(text))
