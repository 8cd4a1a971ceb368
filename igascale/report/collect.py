"""A run folder as plain data for the report, whatever is missing from it. No plotly, no torch."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from igascale.errors import UserError, did_you_mean
from igascale.evaluation.results import RESULT_FILE, SAMPLES_FILE, EvaluationResult, read_result
from igascale.report.adapters import AdapterFrames, read_adapters
from igascale.report.curves import Metrics, read_metrics
from igascale.runs.reading import Run, find_runs, read_run

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SECTIONS = ("model", "lora", "data", "hook", "train", "optimizer", "selection")
_MOST_CONFIG = 4 * 2**20  # bytes; no configuration is so large


@dataclass
class Collected:
    """Everything that the report shows of one run, but for its samples.

    Attributes:
        folder: the run.
        name: what tells it from the other runs of the report.
        run: its state at a glance.
        config: the resolved configuration; empty where there is none.
        environment: facts of its first start; empty where there are none.
        metrics: losses, norms and the rest over time.
        adapters: figures of every adapter over time.
        evaluation: of the final adapter.
        by_step: evaluations of checkpoints.
        notes: what could not be read, a line each.
    """

    folder: Path
    name: str
    run: Run
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=Metrics)
    adapters: AdapterFrames = field(default_factory=AdapterFrames)
    evaluation: EvaluationResult | None = None
    by_step: dict[int, EvaluationResult] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def hook(self) -> str:
        """The gradient rule's name."""
        return self.run.hook or "unknown"

    @property
    def samples(self) -> Path:
        """Where its answers are."""
        return self.folder / "evaluation" / SAMPLES_FILE

    @property
    def domains(self) -> list[str]:
        """The training domains, as far as the metrics name them."""
        return list(self.metrics.under("losses"))

    def setting(self, key: str) -> Any:
        """A value of the configuration by its dotted name, ``None`` where it is absent."""
        value: Any = self.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    def data_sha256(self, name: str) -> str | None:
        """Hash of a data file (``train``, ``validation``, ``ood``) as the first start recorded it."""
        data = self.environment.get("data")
        facts = data.get(name) if isinstance(data, Mapping) else None
        value = facts.get("sha256") if isinstance(facts, Mapping) else None
        return value if isinstance(value, str) else None


def collect(folders: Sequence[Path]) -> list[Collected]:
    """Read the runs, in the order given.

    Raises:
        UserError: one is no run folder, is named twice, or has neither metrics nor checkpoints nor an evaluation.
    """
    if not folders:
        raise UserError("name at least one run folder: igascale report RUN [RUN...]")
    for folder in folders:
        _check(folder)
    seen: dict[str, Path] = {}
    for folder in folders:
        real = os.path.realpath(folder)
        if real in seen:
            raise UserError(f"{folder}: the same run as {seen[real]}; name each run once")
        seen[real] = folder
    return [_collect(folder, name) for folder, name in zip(folders, names_of(folders))]


def names_of(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart.

    Example:
        >>> names_of([Path("runs/a/iga"), Path("runs/b/iga")]), names_of([Path("runs/iga"), Path("old/mean")])
        (['a/iga', 'b/iga'], ['iga', 'mean'])
    """
    parts = [Path(os.path.realpath(folder)).parts for folder in folders]
    for length in range(1, max(len(p) for p in parts) + 1):
        names = ["/".join(p[-length:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def _check(folder: Path) -> None:
    if not folder.is_dir():
        known = [str(p) for p in find_runs(folder.parent)] if folder.parent.is_dir() else []
        raise UserError(f"{folder}: no such run folder{did_you_mean(str(folder), known) or '; see `igascale runs ls`'}")
    if list(find_runs(folder, 0)) != [folder]:
        inside = [str(p) for p in find_runs(folder)][:3]
        hint = f"; it holds runs: {' '.join(inside)}" if inside else "; see `igascale runs ls`"
        raise UserError(f"{folder}: not a run folder (it has no config.yaml){hint}")
    there = [folder / "metrics.jsonl", folder / "evaluation" / RESULT_FILE, folder / "adapter"]
    if not any(path.exists() for path in there) and not any(folder.glob("checkpoints/step-*")):
        raise UserError(
            f"{folder}: the run has recorded nothing yet (no metrics.jsonl, no checkpoints, no evaluation); "
            f"`igascale runs tail {folder}` says how it is doing"
        )


def _collect(folder: Path, name: str) -> Collected:
    found = Collected(folder, name, read_run(folder, name))
    found.config = _read_config(folder, found.notes)
    found.environment = _read_json(folder / "environment.json", found.notes)
    found.metrics = read_metrics(folder / "metrics.jsonl")
    found.adapters = read_adapters(folder / "adapter_metrics.jsonl")
    found.evaluation = _read_evaluation(folder / "evaluation", found.notes)
    for path in sorted(folder.glob("evaluation/step-*/" + RESULT_FILE)):
        step = re.fullmatch(r"step-(\d+)", path.parent.name)
        result = _read_evaluation(path.parent, found.notes) if step else None
        if step and result is not None:
            found.by_step[int(step[1])] = result
    for what, damaged in (("metrics.jsonl", found.metrics.damaged), ("adapter_metrics.jsonl", found.adapters.damaged)):
        if damaged:
            found.notes.append(f"{what}: {damaged} line{'s' * (damaged > 1)} cut off or damaged, left out")
    return found


def _read_config(folder: Path, notes: list[str]) -> dict[str, Any]:
    path = folder / "config.yaml"
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            loaded = yaml.load(file.read(_MOST_CONFIG), Loader=_Loader)
    except OSError as error:
        notes.append(f"config.yaml cannot be read: {error.strerror}")
        return {}
    except (yaml.YAMLError, ValueError, RecursionError):
        loaded = None
    if not isinstance(loaded, dict):
        notes.append("config.yaml is damaged")
        return {}
    bad = [name for name in _SECTIONS if not isinstance(loaded.get(name), dict) and loaded.get(name) is not None]
    notes += [f"config.yaml: {name} is no section, and is left out" for name in bad]
    return {key: value for key, value in loaded.items() if key not in bad}


def _read_json(path: Path, notes: list[str]) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        loaded = None
    if not isinstance(loaded, dict):
        notes.append(f"{path.name} is damaged")
        return {}
    return loaded


def _read_evaluation(folder: Path, notes: list[str]) -> EvaluationResult | None:
    path = folder / RESULT_FILE
    if not path.exists():
        return None
    try:
        return read_result(path)
    except UserError as error:
        notes.append(str(error))
        return None
