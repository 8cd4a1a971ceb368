"""From rows to a file of isomer groups: read, checked, grouped, and written in one go or not at all."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

from igascale.data_import.columns import Columns, choose_columns
from igascale.data_import.grouping import Grouping, Incomplete
from igascale.data_import.records import Row
from igascale.data_import.texts import BadRow, TextReader, kind_of
from igascale.errors import UserError, did_you_mean
from igascale.files import check_plain
from igascale.isomers.schema import IsomerGroup, parse_group, to_record

#: Shown of each kind of problem; all are counted.
SHOWN = 20
_PROGRESS = 1000  # rows
_LOOK = 200  # rows whose columns decide what is what


@dataclass(frozen=True)
class Options:
    """How rows are read.

    Attributes:
        fields: field -> column, where the user names it (:data:`igascale.data_import.columns.COMMON`).
        answer_pattern: see :class:`igascale.data_import.texts.TextReader`, as the next two.
        system: what becomes of a system message.
        turns: of a conversation of several turns.
        domains: those to take, and their order; ``None``: all, as first seen.
        drop_incomplete: leave out groups that are not one instance of each domain, in place of refusing.
    """

    fields: Mapping[str, str | None] = field(default_factory=dict)
    answer_pattern: re.Pattern[str] | None = None
    system: str = "prepend"
    turns: str = "refuse"
    domains: tuple[str, ...] | None = None
    drop_incomplete: bool = False


def import_groups(
    rows: Iterable[Row],
    out: str | Path,
    options: Options,
    say: Callable[[str], object],
    *,
    force: bool = False,
    progress: Callable[[int], object] = lambda count: None,
) -> int:
    """Write the groups of isomers that rows hold.

    Args:
        rows: from :func:`igascale.data_import.records.iter_rows`; of one group they need not stand together.
        out: the JSONL file; written beside its place and moved there when it is complete.
        options: how to read them.
        say: takes each decision and each count.
        force: replace a file that is there.
        progress: called with the number of rows read so far.

    Returns:
        How many groups were written.

    Raises:
        UserError: a row, a group or the options are not fit; what was wrong was said before. Nothing is written then.
    """
    path = Path(out)
    try:
        there = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        there = None
    except (OSError, ValueError) as error:  # too long a name, no permission, a NUL in it
        raise UserError(f"--out {out!s:.200}: cannot be written: {getattr(error, 'strerror', None) or error}") from None
    if there and not force:
        raise UserError(f"{path}: already exists; choose another --out, or --force to replace it")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}; make it first")
    with Grouping() as grouping:
        _read(rows, grouping, options, say, progress)
        domains = _domains(grouping, options, say)
        return _write(path, _complete(grouping, domains, options, say))


def _read(
    rows: Iterable[Row],
    grouping: Grouping,
    options: Options,
    say: Callable[[str], object],
    progress: Callable[[int], object],
) -> None:
    bad = count = left = 0
    late: dict[str, str] = {}  # columns that the first rows lack -> where they first are
    rows = iter(rows)
    first = list(islice(rows, _LOOK))
    if not first:
        raise UserError("the source has no rows, so there is nothing to import")
    together = {name: value for _, row in reversed(first) for name, value in row.items()}
    known = list(dict.fromkeys(name for _, row in first for name in row))
    columns, notes = choose_columns(options.fields, {name: together[name] for name in known}, first[0][0])
    reader = TextReader(columns, options.answer_pattern, options.system, options.turns)
    notes += [f"not used: {', '.join(unused)}" for unused in [columns.unused(known)] if unused]
    for note in notes:
        say(note)
    for count, (where, row) in enumerate(chain(first, rows), start=1):
        late |= {name: where for name in row if name not in known and name not in late}
        try:
            problem, taken = _take(where, row, reader, grouping, options)
            left += not taken
        except BadRow as error:
            problem = str(error)
        except UnicodeEncodeError:  # from the database
            problem = "holds half of a surrogate pair (\\ud800 to \\udfff alone), which is not text; mend the export"
        if problem:
            bad += 1
            if bad <= SHOWN:
                say(f"{where}: {problem}")
        if count % _PROGRESS == 0:
            progress(count)
    if bad:
        raise UserError(f"{bad:,} of {count:,} rows cannot be imported{_shown(bad)}; nothing was written")
    for note in reader.notes():
        say(note)
    for name, where in late.items():
        say(f"not used: {name}, which none of the first {_LOOK} rows has ({where}); the columns are chosen from those")
    if left:
        say(f"{left:,} of {count:,} rows are of other domains than --domains, and are left out")


def _take(
    where: str, row: dict[str, object], reader: TextReader, grouping: Grouping, options: Options
) -> tuple[str | None, bool]:
    """Pass a row on; what is wrong with it, and whether it was wanted."""
    columns: Columns = reader.columns
    domain, group = (_name(row, column) for column in (columns.domain, columns.group))
    if options.domains is not None and domain not in options.domains:
        grouping.note_domain(domain)
        return None, False
    seed, kind = (None if column is None else _name(row, column) for column in (columns.seed, columns.kind))
    texts = reader.read(row)
    return grouping.add(where, group, domain, texts, seed, kind), True


def _name(row: Mapping[str, object], column: str) -> str:
    value = row.get(column)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise BadRow(f"column '{column}': expected a name or a number, not {kind_of(value)}")
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 1.0 is what a table makes of 1 where some row has none
    if not str(value).strip():
        raise BadRow(f"column '{column}': is empty")
    return str(value).strip()


def _domains(grouping: Grouping, options: Options, say: Callable[[str], object]) -> Sequence[str]:
    found = grouping.domains()
    for domain in options.domains or ():
        if not found.get(domain):
            raise UserError(
                f"--domains: no row of domain '{domain}'{did_you_mean(domain, found)}; there are {', '.join(found)}"
            )
    domains = options.domains or tuple(found)
    say(f"domains: {', '.join(f'{domain} ({found[domain]:,} rows)' for domain in domains)}")
    return domains


def _complete(
    grouping: Grouping, domains: Sequence[str], options: Options, say: Callable[[str], object]
) -> Iterator[IsomerGroup]:
    """The groups that are whole; the others are named, and refused at the end or left out."""
    incomplete = whole = 0
    for group in grouping.groups(domains):
        if isinstance(group, Incomplete):
            incomplete += 1
            if incomplete <= SHOWN:
                say(f"{group.place}: group '{group.group}' {group.why}")
            continue
        whole += 1
        yield group
    of = f"{incomplete:,} of {incomplete + whole:,} groups are not one instance of each domain{_shown(incomplete)}"
    if incomplete and not options.drop_incomplete:
        raise UserError(
            f"{of}; mend them, leave them out with --drop-incomplete, or take fewer domains with --domains; nothing was written"
        )
    if incomplete:
        say(f"{of}; they are left out (--drop-incomplete)")
    if not whole:
        raise UserError("no group is left; nothing was written")


def _write(path: Path, groups: Iterable[IsomerGroup]) -> int:
    count = 0
    check_plain(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            for group in groups:
                record = to_record(group)
                _, problems = parse_group(record, f"group '{group.id}'")
                if problems:
                    raise UserError(f"{problems[0]}; nothing was written")
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); nothing was written") from None
    finally:
        with suppress(OSError):
            temporary.unlink()
    return count


def _shown(count: int) -> str:
    return f" (the first {SHOWN} are shown)" if count > SHOWN else ""
