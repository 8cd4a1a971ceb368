"""``RUN/resumes.jsonl``: every time that a run was continued, and under what; and where a fork began."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from igascale.checkpoints import names

RESUMES = "resumes.jsonl"
#: The key of ``environment.json`` with the checkpoint of another run that a fork began from.
ORIGIN = "forked_from"


def append(run: Path, record: dict[str, Any]) -> None:
    """Add a line.

    Raises:
        OSError: the folder cannot be written.
    """
    path = run / RESUMES
    cut_off = path.is_file() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
    with path.open("a") as file:
        file.write(("\n" if cut_off else "") + json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(run: Path) -> list[dict[str, Any]]:
    """The lines so far; one that was cut off by a crash is left out."""
    path, records = run / RESUMES, []
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def granted(run: Path) -> set[str]:
    """The keys that were allowed to change when this run was resumed before."""
    return {str(key) for record in read(run) for key in record.get("allowed", ())}


def origin(run: Path) -> str | None:
    """The checkpoint of another run that this one began from, if it is a fork."""
    try:
        found = json.loads((run / "environment.json").read_text())[ORIGIN]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def restart(run: Path, resume: str | None, since: Sequence[dict[str, Any]]) -> str:
    """What ``--resume`` must say so that a start that was lost is made again.

    Args:
        run: its folder.
        resume: what it said then.
        since: records of :func:`read` that are this start's.

    Returns:
        ``auto``, once the run folder knows from where to go on; until then what was said.
    """
    forked = origin(run) is not None and not names.published(run / "checkpoints")
    return "auto" if resume is None or since or forked else resume
