"""Run folders by hand, in every state that one can be found in."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from igascale import status


def record(step: int, loss: float | None = 1.0, **more: Any) -> dict[str, Any]:
    """A training record."""
    return {
        "kind": "train",
        "step": step,
        "loss": loss,
        "grad_norm_before": 0.5,
        "grad_norm_after": 0.25,
        "clip": 1.0,
        "lr": 1e-4,
        "tokens": 1000,
        "seconds": 2.0,
        "losses": {"law": loss, "medicine": loss},
        "hook": {"mean_mask": 0.75},
        "skipped": "",
        **more,
    }


def validation(step: int, loss: float) -> dict[str, Any]:
    """A validation record whose means are ``loss`` and ``2 * loss``."""
    return {
        "kind": "validation",
        "step": step,
        "id": {"law": loss - 0.5, "medicine": loss + 0.5},
        "ood": {"finance": 2 * loss},
    }


def write(folder: Path, records: list[dict[str, Any]], age: timedelta = timedelta(), **told: Any) -> Path:
    """A whole run folder; ``told`` are keys of its status."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("# method: pcgrad\nhook:\n  name: pcgrad\n")
    started = "2026-03-01T12:00:00+00:00"
    (folder / "environment.json").write_text(json.dumps({"world_size": 4, "started": started}))
    updated = (datetime.now(UTC) - age).isoformat()
    record = {"state": "running", "step": 0, "total": 100, "updated": updated, "ran_seconds": 60.0, "started": started}
    record |= {"process": status.this_process(), "message": "", **told}
    (folder / "status.json").write_text(json.dumps(record))
    write_metrics(folder, records)
    import os

    then = (datetime.now(UTC) - age).timestamp()
    os.utime(folder / "metrics.jsonl", (then, then))
    return folder


def write_metrics(folder: Path, records: list[dict[str, Any]]) -> None:
    """As a resumed run does: a new file in the place of the old."""
    temporary = folder / "metrics.tmp"
    temporary.write_text("".join(json.dumps(r) + "\n" for r in records))
    temporary.replace(folder / "metrics.jsonl")


def append(folder: Path, *records: dict[str, Any]) -> None:
    """As a run does at each step."""
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(r) + "\n" for r in records)
