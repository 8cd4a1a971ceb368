"""What run folders hold, read without torch: records of steps and validations, facts of every start, the configuration."""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from igascale.errors import UserError, did_you_mean
from igascale.resuming import history
from igascale.runs.reading import METRICS, find_runs

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Start:
    """A start of a run: its first, or one that went on from a checkpoint.

    Attributes:
        step: steps that were taken before it.
        facts: as of :func:`igascale.record.environment`.
    """

    step: int
    facts: dict[str, Any]

    @property
    def ranks(self) -> list[dict[str, Any]]:
        """Host and device of each rank; empty where it is not known."""
        ranks = self.facts.get("ranks")
        return [rank for rank in ranks if isinstance(rank, dict)] if isinstance(ranks, list) else []


def check_run(folder: Path) -> Path:
    """The folder, if a run began there.

    Raises:
        UserError: it is none.
    """
    if (folder / "config.yaml").is_file():
        return folder
    if not folder.is_dir():
        known = [str(path) for path in find_runs(folder.parent)] if folder.parent.is_dir() else []
        raise UserError(f"{folder}: no such run folder{did_you_mean(str(folder), known) or '; see `igascale runs ls`'}")
    raise UserError(f"{folder}: not a run folder (it has no config.yaml); see `igascale runs ls {folder}`")


def read_config(folder: Path) -> dict[str, Any]:
    """The run's ``config.yaml`` as it stands, of whatever version.

    Raises:
        UserError: it is missing or damaged.
    """
    check_run(folder)
    try:
        config = yaml.load((folder / "config.yaml").read_text(encoding="utf-8"), _Loader)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise UserError(f"{folder / 'config.yaml'}: cannot be read as a configuration; it is damaged")
    return config


def section(config: dict[str, Any], name: str) -> dict[str, Any]:
    """A section of a configuration; empty where there is none."""
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def starts(folder: Path) -> list[Start]:
    """Every start of a run, in time. A fork's first is the one that took over the other run's checkpoint."""
    facts: dict[str, Any] = {}
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
        facts = found if isinstance(found, dict) else {}
    later = [Start(line["step"], line) for line in history.read(folder) if isinstance(line.get("step"), int)]
    return [Start(0, facts), *later]


def records(folder: Path, kind: str, keys: Collection[str] | None = None) -> tuple[list[dict[str, Any]], int]:
    """The records of ``metrics.jsonl`` of one kind, ``train`` or ``validation``, by step.

    Args:
        folder: the run.
        kind: of record.
        keys: what to keep of each beside its step, all by default: a long run's file does not fit into memory whole.

    Returns:
        The records, and how many lines could not be read: a line that a crash cut off, or damage. Those that do not name the kind
        are passed over where it is ``validation``.
    """
    by_step: dict[int, dict[str, Any]] = {}
    damaged = 0
    with suppress(OSError), (folder / METRICS).open("rb") as file:
        for line in file:
            if not line.strip() or (kind == "validation" and b"validation" not in line):
                continue
            try:
                record = json.loads(line)
                if record["kind"] == kind:
                    kept = record if keys is None else {key: record[key] for key in keys if key in record}
                    by_step[int(record["step"])] = kept | {"step": record["step"]}
            except (ValueError, KeyError, TypeError, RecursionError):
                damaged += 1
    return [by_step[step] for step in sorted(by_step)], damaged


def number(record: dict[str, Any], key: str) -> float | None:
    """A figure of a record; ``None`` where it is missing, null or no number."""
    value = record.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
