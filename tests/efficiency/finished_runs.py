"""Run folders by hand, as training and evaluation leave them."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from igascale.evaluation.accuracy import Sample, breakdown
from igascale.evaluation.results import EvaluationResult, SplitResult, SuiteResult, write_result

MODEL = {"config.json": "c" * 64, "tokenizer.json": "t" * 64, "model.safetensors": "100:" + "w" * 64}


def rank(number: int = 0, host: str = "one", gpu: str | None = None, cpus: int = 8) -> dict[str, Any]:
    """A rank's facts."""
    device = {"name": gpu, "memory_bytes": 80 * 2**30} if gpu else None
    return {"rank": number, "host": host, "cpus": cpus, "gpu": device, "driver": None}


def facts(ranks: Sequence[dict[str, Any]] = (), files: Mapping[str, str] | None = None, **more: Any) -> dict[str, Any]:
    """What a start writes down; ``files`` are the data's hashes."""
    hashes = {"train": "a" * 64, "validation": "b" * 64, "ood": "d" * 64, **(files or {})}
    data = {name: {"path": f"{name}.jsonl", "sha256": sha, "groups": 100} for name, sha in hashes.items()}
    ranks = list(ranks) or [rank()]
    return {"world_size": len(ranks), "ranks": ranks, "data": data, "model": {"path": "m", "files": MODEL}, **more}


def step(number: int, seconds: float = 1.0, **more: Any) -> dict[str, Any]:
    """A training record."""
    record = {"kind": "train", "step": number, "loss": 1.0, "tokens": 100, "seconds": seconds, "skipped": ""}
    return record | {"peak_memory_bytes": 2**30} | more


def validation(number: int, id_: float | None, ood: float | None = None) -> dict[str, Any]:
    """A validation record whose means are these."""
    sides = {"id": {"law": id_, "maths": id_}} | ({} if ood is None else {"ood": {"finance": ood}})
    return {"kind": "validation", "step": number, **sides}


def write_run(
    folder: Path,
    records: Sequence[dict[str, Any]] = (),
    *,
    environment: dict[str, Any] | None = None,
    resumes: Sequence[dict[str, Any]] = (),
    ran_seconds: float = 3600.0,
    state: str = "finished",
    config: Mapping[str, Any] | None = None,
    adapter: Mapping[str, Sequence[int]] | None = None,
) -> Path:
    """A run folder; ``adapter`` are the shapes in its file."""
    folder.mkdir(parents=True)
    sections: dict[str, Any] = {
        "data": {"train": "train.jsonl", "validation": "validation.jsonl", "ood": "ood.jsonl"},
        "train": {"groups_per_batch": 4, "gradient_accumulation_steps": 2},
        "lora": {"r": 4},
        "hook": {"name": "mean"},
        **(config or {}),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(sections))
    (folder / "environment.json").write_text(json.dumps(environment or facts()))
    taken = max((r["step"] for r in records), default=0)
    told = {"state": state, "step": taken, "total": taken, "message": "", "ran_seconds": ran_seconds}
    (folder / "status.json").write_text(json.dumps(told | {"process": None, "updated": "2026-01-01T00:00:00+00:00"}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    if resumes:
        (folder / "resumes.jsonl").write_text("".join(json.dumps(r) + "\n" for r in resumes))
    shapes = adapter or {"base.q.lora_A.weight": (4, 16), "base.q.lora_B.weight": (16, 4)}
    write_adapter(folder / "adapter", shapes)
    return folder


def write_adapter(folder: Path, shapes: Mapping[str, Sequence[int]]) -> None:
    """A safetensors file by its own specification: length, header, zeros."""
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 4
        for extent in shape:
            size *= extent
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(at))


def sample(side: str, number: int, correct: bool, suite: str = "isomers", **more: Any) -> Sample:
    """An answer; every second one is expected to be ``yes``."""
    expected = "yes" if number % 2 else "no"
    values = {
        "instance_id": f"{side}-{number}",
        "problem": f"problem {number}?",
        "expected": expected,
        "predicted": expected if correct else "never",
    }
    return Sample(
        split=side,
        group_id=f"g{number}",
        domain="law",
        kind=None,
        generated="text",
        correct=correct,
        new_tokens=3,
        finished=True,
        suite=suite,
        **(values | more),
    )


def evaluate(
    folder: Path,
    right: Mapping[str, int],
    of: int = 20,
    suite: str = "isomers",
    changed: Mapping[str, Any] | None = None,
    **settings: Any,
) -> EvaluationResult:
    """Write an evaluation with so many right answers of each side; ``changed`` alters the first sample."""
    sides, samples = {}, []
    for side, count in right.items():
        told = [sample(side, n, n < count, suite, **((changed or {}) if n == 0 else {})) for n in range(of)]
        parts = breakdown(told)
        sides[side] = SplitResult(parts.overall, parts.per_domain, {}, None, 0.0, 1.0)
        samples += told
    result = EvaluationResult(
        {suite: SuiteResult.of(sides.get("id"), sides.get("ood"))},
        {"max_new_tokens": 96, "decoding": "greedy", **settings},
        samples,
    )
    write_result(result, folder)
    return result
