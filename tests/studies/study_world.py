"""A study that is small but real, and the same without its processes: evaluations that a test makes up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import yaml

from igascale import status
from igascale.evaluation.accuracy import Sample, breakdown
from igascale.evaluation.results import ISOMERS, Consistency, EvaluationResult, SplitResult, SuiteResult, write_result
from igascale.studies import records
from igascale.studies.jobs import FINISHED, Job

from runs import prepare

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "tests")}


def world(folder: Path) -> Path:
    """Model, data and ``run.yaml``: six steps, a checkpoint after every second."""
    folder.mkdir(parents=True, exist_ok=True)
    return prepare(
        folder,
        train={"max_steps": 6, "groups_per_batch": 2, "gradient_accumulation_steps": 1},
        checkpoint={"every": 2},
        eval={"every": None, "max_groups": 2},
    )


def write_study(folder: Path, **keys: Any) -> Path:
    """``study.yaml`` beside ``run.yaml``."""
    path = folder / "study.yaml"
    short = {"max_new_tokens": 4, "limit_groups": 2}
    path.write_text(yaml.safe_dump({"base": str(folder / "run.yaml"), "eval": short, "tables": [1, 2, 3]} | keys))
    return path


def start(*arguments: str, log: Path, hold: Path | None = None) -> subprocess.Popen[bytes]:
    """``igascale ARGUMENTS`` as a user starts it; ``hold``: see ``held_hooks.py``."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "igascale", *arguments],
            cwd=ROOT,
            env={**os.environ, **ENVIRONMENT, "COLUMNS": "200", **({"HOLD": str(hold)} if hold else {})},
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def until(holds: Callable[[], bool], seconds: float = 240.0) -> None:
    """Wait for something to be so."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


def kill_with_children_left(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """SIGKILL to the study alone, as a user or the system does; returns what it had started."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return children


def plain(evaluation: Path) -> Any:
    """An ``evaluation.json`` without what cannot be the same twice."""
    record = json.loads(evaluation.read_text())
    for suite in record["suites"].values():
        for side in ("id", "ood"):
            if suite[side]:
                suite[side].pop("seconds")
    for key in ("model", "request"):
        record["settings"].pop(key, None)
    return record


def made_up(
    right: Sequence[Sequence[bool]], ood: Sequence[Sequence[bool]], lcs: float = 0.05, suite: str = ISOMERS
) -> EvaluationResult:
    """An evaluation with these answers: per group of problems, whether each is right."""
    samples = [
        Sample(side, f"{side}{k}", f"{side}{k}/{i}", f"d{i}", None, "?", "", "a", f"{k % 7}", answer, 1, True, suite)
        for side, groups in (("id", right), ("ood", ood))
        for k, group in enumerate(groups)
        for i, answer in enumerate(group)
    ]
    layers = [Consistency(lcs * layer, 0.1, 1.0, 1.0, False, layer, 5) for layer in (1, 2)] if suite == ISOMERS else []

    def split(side: str) -> SplitResult:
        parts = breakdown([sample for sample in samples if sample.split == side])
        shown = Consistency(lcs, 0.1, 1.0, 1.0, False, 1, 5) if suite == ISOMERS else None
        return SplitResult(parts.overall, parts.per_domain, {}, shown, 0.0, 1.0, layers if side == "id" else [])

    return EvaluationResult({suite: SuiteResult.of(split("id"), split("ood"))}, {"lcs_layer": 1}, samples)


def finish(job: Job, result: EvaluationResult) -> None:
    """Write what a job leaves that was trained and evaluated, without doing either."""
    config = job.resolve()
    adapter = job.folder / "adapter" / "adapter_model.safetensors"
    if job.trains:
        adapter.parent.mkdir(parents=True)
        adapter.write_bytes((8).to_bytes(8, "little") + b"{}      ")
        (job.folder / "config.yaml").write_text(config.to_yaml())
    write_result(result, job.result.parent)
    record = records.Record(
        records.Wanted.of(config, job.evaluation),
        FINISHED,
        adapter=records.digest_or_none(adapter),
        evaluation=records.sha256(job.result),
        process=status.this_process(),
    )
    job.records.mkdir(parents=True)
    (job.records / records.RECORD).write_text(json.dumps(asdict(record)))
