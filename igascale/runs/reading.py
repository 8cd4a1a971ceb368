"""What a run folder says, whatever became of the run that wrote it."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from igascale import status

METRICS = "metrics.jsonl"
STALLED, DIED, UNKNOWN, BROKEN = "stalled?", "died", "unknown", "broken"
ENDED = (status.FINISHED, status.INTERRUPTED, status.FAILED, DIED)
#: A folder with one of these is, or began to be, a run folder.
_MARKS = ("config.yaml", "environment.json", status.STATUS, METRICS)
_DEPTH = 3  # how far below the folder that is listed a run may lie
_BLOCK = 1 << 16
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where PyYAML was built with it


@dataclass
class Run:
    """A run folder at a glance.

    Attributes:
        path: the folder.
        name: the folder, as seen from the one that is listed.
        state: ``running``, ``finished``, ``interrupted``, ``failed``; ``died`` (killed without a word), ``stalled?`` (no sign for
            long), ``unknown`` (written before ``status.json`` was), ``broken``.
        message: why it failed, or what is wrong with the folder.
        hook: gradient rule.
        method: method, if it was started by one.
        step: steps taken.
        total: of the whole run.
        loss: of the last recorded step.
        validation: mean loss of the last validation, ``id`` and ``ood``.
        checkpoints: their steps.
        world_size: ranks at the first start.
        started: the first start.
        ran_seconds: time spent training, over all attempts.
        silent_seconds: since the last sign of life.
    """

    path: str
    name: str
    state: str = UNKNOWN
    message: str = ""
    hook: str | None = None
    method: str | None = None
    step: int | None = None
    total: int | None = None
    loss: float | None = None
    validation: dict[str, float] = field(default_factory=dict)
    checkpoints: list[int] = field(default_factory=list)
    world_size: int | None = None
    started: str | None = None
    ran_seconds: float | None = None
    silent_seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Every field."""
        return asdict(self)


def find_runs(folder: Path, depth: int = _DEPTH, seen: set[Path] | None = None) -> Iterator[Path]:
    """The run folders in a folder, or the folder itself, each once; a run folder is not searched for others."""
    seen = set() if seen is None else seen
    here = Path(os.path.realpath(folder))
    if here in seen:  # by a link; folders come before links
        return
    seen.add(here)
    if any((folder / name).exists() for name in _MARKS):
        yield folder
        return
    if depth == 0:
        return
    try:
        entries = sorted((e for e in os.scandir(folder) if e.is_dir() and not e.name.startswith(".")), key=_links_last)
    except OSError:  # not ours to read
        return
    for entry in entries:
        yield from find_runs(Path(entry.path), depth - 1, seen)


def read_run(folder: Path, name: str | None = None) -> Run:
    """Everything that the folder still tells; never fails."""
    run = Run(str(folder), name or folder.name)
    problems: list[str] = []
    config, run.method = _read_config(folder, problems)
    hook = config.get("hook")
    run.hook = hook.get("name", "iga") if isinstance(hook, dict) else "iga" if config else None
    facts = _read_json(folder / "environment.json", problems)
    run.world_size, run.started = _typed(facts, "world_size", int), _typed(facts, "started", str)
    train, validation = last_records(folder / METRICS)
    told = status.read(folder)
    if (folder / status.STATUS).exists() and not told:
        problems.append(f"{status.STATUS} is damaged")
    steps = [s for s in (_typed(told, "step", int), _typed(train, "step", int)) if s is not None]
    run.step = max(steps, default=None)
    run.total, run.ran_seconds = _typed(told, "total", int), _typed(told, "ran_seconds", float)
    run.loss = _typed(train, "loss", float)
    for split in ("id", "ood"):
        losses = [v for v in (validation.get(split) or {}).values() if isinstance(v, int | float)]
        if losses:
            run.validation[split] = sum(losses) / len(losses)
    run.checkpoints = checkpoint_steps(folder)
    run.silent_seconds = _silence(folder, told)
    run.state, run.message = state_of(folder, told, train, run.silent_seconds)
    if problems:
        run.state = BROKEN if run.state == UNKNOWN else run.state
        run.message = "; ".join([*problems, *([run.message] if run.message else [])])
    return run


def state_of(
    folder: Path, told: dict[str, Any], train: dict[str, Any], silent_seconds: float | None
) -> tuple[str, str]:
    """The state to show, and what there is to say about it."""
    if not told:
        return (status.FINISHED if (folder / "adapter" / "adapter_config.json").is_file() else UNKNOWN), ""
    if told["state"] != status.RUNNING:
        return told["state"], str(told.get("message") or "")
    if status.is_gone(told.get("process")):
        return DIED, "its first process is gone and left no word; --resume auto continues from the last checkpoint"
    patience = max(600.0, 20 * (_typed(train, "seconds", float) or 0.0))
    if silent_seconds is not None and silent_seconds > patience:
        return STALLED, f"no sign for {silent_seconds / 60:.0f} minutes"
    return status.RUNNING, ""


def last_records(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The last training record and the last validation of a metrics file, read from its end; empty where there is none."""
    found: dict[str, dict[str, Any]] = {}
    for record in _records_backwards(path):
        found.setdefault(str(record.get("kind")), record)
        if {"train", "validation"} <= found.keys():
            break
    return found.get("train", {}), found.get("validation", {})


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps of the published checkpoints, ascending."""
    try:
        names = [entry.name for entry in os.scandir(folder / "checkpoints")]
    except OSError:
        return []
    return sorted(int(found[1]) for name in names if (found := re.fullmatch(r"step-(\d+)", name)))


def _records_backwards(path: Path) -> Iterator[dict[str, Any]]:
    """Records from the last to the first; what is cut off or damaged is left out."""
    try:
        with path.open("rb") as file:
            position, rest = file.seek(0, os.SEEK_END), b""
            while position > 0:
                size = min(_BLOCK, position)
                position -= size
                file.seek(position)
                lines = (file.read(size) + rest).split(b"\n")
                rest = lines.pop(0)  # its beginning lies in the block before
                for line in reversed(lines):
                    yield from _parsed(line)
            yield from _parsed(rest)
    except OSError:
        return


def _parsed(line: bytes) -> Iterator[dict[str, Any]]:
    if line.strip():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # also brackets without end
            return
        if isinstance(record, dict):
            yield record


def _read_config(folder: Path, problems: list[str]) -> tuple[dict[str, Any], str | None]:
    """The configuration, unchecked, and the method that its first line names."""
    try:
        text = (folder / "config.yaml").read_text()
        config = yaml.load(text, _Loader)
        if not isinstance(config, dict):
            raise ValueError
    except FileNotFoundError:
        problems.append("config.yaml is missing")
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        problems.append("config.yaml is damaged")
    else:
        method = re.match(r"# method: (\S+)", text)
        return config, method[1] if method else None
    return {}, None


def _read_json(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
        if isinstance(found, dict):
            return found
        problems.append(f"{path.name} is damaged")
    except FileNotFoundError:
        problems.append(f"{path.name} is missing: the start was cut off")
    except (OSError, ValueError, RecursionError):
        problems.append(f"{path.name} is damaged")
    return {}


def _silence(folder: Path, told: dict[str, Any]) -> float | None:
    signs = []
    with suppress(KeyError, TypeError, ValueError):
        signs.append(time.time() - datetime.fromisoformat(told["updated"]).timestamp())
    with suppress(OSError):
        signs.append(time.time() - (folder / METRICS).stat().st_mtime)
    return max(0.0, min(signs)) if signs else None


def _typed(record: dict[str, Any], key: str, kind: type) -> Any:
    """A value if it is of the type that it should be."""
    value = record.get(key)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value if isinstance(value, kind) and not isinstance(value, bool) else None


def _links_last(entry: os.DirEntry[str]) -> tuple[bool, str]:
    return entry.is_symlink(), entry.name
