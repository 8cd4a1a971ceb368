"""Making a report: what is read, drawn and written where."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from igascale.errors import UserError
from igascale.files import write_atomically
from igascale.report import images, verdict
from igascale.report.collect import Collected, collect
from igascale.report.figures.frame import Figure
from igascale.report.page import GENERATOR, render
from igascale.report.pairs import pairs_of
from igascale.report.reservations import comparable, reservations, what_differs
from igascale.report.samples import choose
from igascale.report.sections import Section, Sheet, sections
from igascale.tables import to_csv, to_latex, to_markdown

FORMATS = ("html", "png", "csv", "md", "tex")
PAGE = "report.html"
#: Names of the files of the report in a folder; what is named here may be replaced.
CONTENTS = "report.json"


@dataclass
class Written:
    """What was made.

    Attributes:
        folder: where.
        files: in it, by their paths from there.
        notes: what the user should be told.
        missing: sections' lines on what is not there.
    """

    folder: Path
    files: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def write_report(
    runs: Sequence[Path], out: Path, formats: Collection[str] = FORMATS, overwrite: bool = False
) -> Written:
    """Read the runs and write the report.

    Args:
        runs: run folders.
        out: the folder; made where it is missing.
        formats: of :data:`FORMATS`.
        overwrite: replace an earlier report there. Files that are not of a report are left alone in any case.

    Raises:
        UserError: a run cannot be shown, ``out`` is taken, plotly is missing, or a file cannot be written.
    """
    plotly = _plotly() if "html" in formats else ""
    earlier = _check_target(out, overwrite)
    collected = collect(runs)
    choice = choose({run.name: run.samples for run in collected if run.samples.is_file()})
    different = what_differs(collected)
    alike = comparable(different)
    pairs = pairs_of(collected) if alike else None
    parts = sections(collected, choice, alike, pairs)
    written = Written(out, missing=[f"{m.what} {m.command}".strip() for part in parts for m in part.missing])
    written.missing = list(dict.fromkeys(written.missing))
    files: list[tuple[str, str | bytes]] = []
    drawn, problem = images.draw(list(figures(parts))) if "png" in formats else ({}, "")
    files += [(f"figures/{name}.png", png) for name, png in drawn.items()]
    written.notes += [problem] * bool(problem)
    files += _tables(parts, formats)
    if "html" in formats:
        title = ", ".join(run.name for run in collected) if len(collected) <= 4 else f"{len(collected)} runs"
        told, results = reservations(collected, different), verdict.verdicts(collected, alike, pairs)
        files.append((PAGE, render(title, parts, choice, told, results, _footer(collected), plotly)))
    _write(out, files, earlier)
    written.files = [name for name, _ in files]
    return written


def figures(parts: Sequence[Section]) -> Iterator[Figure]:
    """Every figure of the report, in order."""
    for part in parts:
        for content in part.content:
            if isinstance(content, Figure):
                yield content
            elif isinstance(content, list):
                yield from content


def _tables(parts: Sequence[Section], formats: Collection[str]) -> list[tuple[str, str]]:
    """The data of every figure as CSV; the report's own tables in every format."""
    files = [(f"data/{figure.name}.csv", to_csv(figure.table)) for figure in figures(parts)] if "csv" in formats else []
    writers = {"csv": to_csv, "md": to_markdown, "tex": to_latex}
    sheets = [content for part in parts for content in part.content if isinstance(content, Sheet)]
    for sheet in sheets:
        files += [
            (f"tables/{sheet.name}.{kind}", write(sheet.table)) for kind, write in writers.items() if kind in formats
        ]
    return files


def _footer(runs: Sequence[Collected]) -> list[str]:
    from igascale.version import __version__

    lines = [f"Made by igascale {__version__} from {', '.join(str(run.folder) for run in runs)}."]
    thinned = [run for run in runs if run.metrics.per_point > 1 or run.adapters.parsed < run.adapters.records]
    for run in thinned:
        told = []
        if run.metrics.per_point > 1:
            told.append(
                f"a point of a curve is the mean of {run.metrics.per_point} of {run.metrics.records:,} recorded steps"
            )
        if run.adapters.parsed < run.adapters.records:
            told.append(
                f"a frame of the atlas the mean of at most 20 of its steps ({run.adapters.parsed:,} of {run.adapters.records:,} read)"
            )
        lines.append(f"Thinned, {run.name}: {'; '.join(told)}.")
    lines.append("Nothing on this page is loaded from anywhere: it can be kept, sent and opened without a network.")
    return lines


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise UserError("the page needs plotly, which is missing; pip install 'igascale[report]'") from None
    return str(get_plotlyjs())


def _check_target(out: Path, overwrite: bool) -> list[str]:
    """Refuse a folder that is taken; the files of the report that may be replaced.

    Raises:
        UserError: it is no folder, holds a report and may not be overwritten, or holds something else.
    """
    try:
        entries = list(out.iterdir()) if out.exists() else []
    except NotADirectoryError:
        raise UserError(f"{out}: is a file; name a folder with --out") from None
    except OSError as error:
        raise UserError(f"{out}: cannot be looked at ({error.strerror}); choose another --out") from None
    if not entries:
        return []
    try:
        listed = json.loads((out / CONTENTS).read_text(encoding="utf-8"))["files"]
        files = [str(name) for name in listed]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{out}: holds something that is no report; choose another --out") from None
    if not overwrite:
        raise UserError(f"{out}: holds a report already; choose another --out, or pass --overwrite")
    page = out / PAGE
    if page.exists() and GENERATOR not in page.read_text(encoding="utf-8", errors="replace")[:4000]:
        raise UserError(f"{page}: is no page of igascale report; move it away or choose another --out")
    return [name for name in files if _inside(name)]


def _inside(name: str) -> bool:
    """Whether a listed name is one that a report may have: what is deleted must be our own."""
    path = Path(name)
    return name == PAGE or (len(path.parts) == 2 and path.parts[0] in ("data", "figures", "tables"))


def _write(out: Path, files: Sequence[tuple[str, str | bytes]], earlier: Sequence[str]) -> None:
    """The list of files first, so that what a crash leaves can be replaced; the page last, so that where it is new all is."""
    names = [name for name, _ in files]
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / CONTENTS, json.dumps({"files": sorted({*names, *earlier})}, indent=1) + "\n")
        for name in set(earlier) - set(names):
            (out / name).unlink(missing_ok=True)
        for name, content in files:
            path = out / name
            path.parent.mkdir(exist_ok=True)
            if isinstance(content, str):
                write_atomically(path, content, durable=False)
            else:
                temporary = path.with_name(f".{path.name}.tmp")
                temporary.write_bytes(content)
                temporary.replace(path)
        write_atomically(out / CONTENTS, json.dumps({"files": names}, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{out}: the report cannot be written ({error.strerror}); choose another --out") from None
