"""``RUN/resumes.jsonl``: every time that a run was continued, and under what."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

RESUMES = "resumes.jsonl"


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
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def granted(run: Path) -> set[str]:
    """The keys that were allowed to change when this run was resumed before."""
    return {str(key) for record in read(run) for key in record.get("allowed", ())}
