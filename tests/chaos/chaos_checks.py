"""What must hold after a resume, looked up in the files themselves: nothing of igascale is imported here."""

from __future__ import annotations

import hashlib
import json
import struct
from collections import Counter
from pathlib import Path
from typing import Any

#: Figures of a step that differ between two runs of the same mathematics.
_OF_THE_MACHINE = {"seconds", "peak_memory_bytes", "peak_memory_by_rank"}
#: What tells of starts: a run that was resumed has more of it.
_OF_STARTS = {"logs", "launches.jsonl", "resumes.jsonl"}


def compare(run: Path, reference: Path, asynchronous: bool = False) -> list[str]:
    """Everything in which a finished run folder differs from that of the undisturbed run.

    Args:
        run: the folder.
        reference: that of the undisturbed run.
        asynchronous: a checkpoint that was due while another was being written came some steps later, so that all but
            the last may be of other steps.
    """
    problems = broken_latest(run)
    if not problems and not (run / "checkpoints" / "latest").is_file():
        problems = [f"{run / 'checkpoints'}: without latest"]
    problems += _same_tensors(run / "adapter", reference / "adapter")
    if not problems:
        problems += _same_tensors(latest(run), latest(reference))
        problems += _same_state(latest(run), latest(reference))
    problems += _same_records(run, reference, "metrics.jsonl")
    problems += _same_records(run, reference, "adapter_metrics.jsonl")
    found, expected = _files(run, asynchronous), _files(reference, asynchronous)
    problems += [f"left over: {name}" for name in sorted(found - expected)]
    problems += [f"missing: {name}" for name in sorted(expected - found)]
    return problems


def latest(run: Path) -> Path:
    """The checkpoint that ``latest`` names."""
    return run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip()


def broken_latest(run: Path) -> list[str]:
    """What is wrong with the checkpoint that ``latest`` names; a run that was killed before it named its first one is in order."""
    root = run / "checkpoints"
    if not (root / "latest").exists():
        return [f"{root}: checkpoints without latest"] if len(list(root.glob("step-*"))) > 1 else []
    folder = latest(run)
    try:
        listed = json.loads((folder / "manifest.json").read_text())["files"]
    except (OSError, ValueError, KeyError) as error:
        return [f"{folder}/manifest.json: {error!r}"]
    there = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} - {"manifest.json"}
    problems = [f"{folder}/{name}: in the folder or in the manifest, not in both" for name in there ^ listed.keys()]
    for name in there & listed.keys():
        content = (folder / name).read_bytes()
        if (len(content), hashlib.sha256(content).hexdigest()) != (listed[name]["bytes"], listed[name]["sha256"]):
            problems.append(f"{folder / name}: not what the manifest says")
    return problems


def tensors(path: Path) -> dict[str, tuple[Any, bytes]]:
    """Type with shape, and bytes, of every tensor of a safetensors file."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    return {
        name: ((entry["dtype"], entry["shape"]), data[slice(*entry["data_offsets"])])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _same_tensors(folder: Path, reference: Path) -> list[str]:
    problems = []
    for expected in sorted(reference.rglob("*.safetensors")):
        path = folder / expected.relative_to(reference)
        if not path.is_file():
            problems.append(f"{path}: missing")
            continue
        ours, theirs = tensors(path), tensors(expected)
        if ours.keys() != theirs.keys():
            problems.append(f"{path}: other tensors than the undisturbed run")
        elif differing := [name for name in ours if ours[name] != theirs[name]]:
            problems.append(f"{path}: {len(differing)} of {len(ours)} tensors differ, the first is {differing[0]}")
    return problems


def _same_state(folder: Path, reference: Path) -> list[str]:
    ours, theirs = (json.loads((f / "state.json").read_text()) for f in (folder, reference))
    for state in (ours, theirs):  # a counter that is null and one that is not there say the same
        state["counters"] = {name: count for name, count in state["counters"].items() if count is not None}
    return [
        f"{folder}/state.json: {key} is {ours.get(key)!r}, undisturbed {theirs.get(key)!r}"
        for key in ("step", "optimizer_steps", "world_size", "hook", "counters", "data")
        if ours.get(key) != theirs.get(key)
    ]


def _same_records(run: Path, reference: Path, name: str) -> list[str]:
    path = run / name
    if not path.is_file():
        return [f"{path}: missing"]
    try:
        ours, theirs = _records(path), _records(reference / name)
    except ValueError as error:
        return [f"{path}: not JSON lines: {error}"]
    counts = Counter((r.get("kind"), r["step"]) for r in ours)
    problems = [f"{path}: {kind} step {step} stands {n} times" for (kind, step), n in counts.items() if n > 1]
    problems += [f"{path}: {len(ours)} records, undisturbed {len(theirs)}"] if len(ours) != len(theirs) else []
    for found, expected in zip(ours, theirs):
        keys = sorted(k for k in found.keys() | expected.keys() if found.get(k) != expected.get(k))
        if keys and not problems:
            problems.append(f"{path}: step {found['step']} differs from step {expected['step']} in {', '.join(keys)}")
    return problems


def _records(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in _OF_THE_MACHINE} for line in lines]


def _files(run: Path, asynchronous: bool) -> set[str]:
    names = {p.relative_to(run) for p in run.rglob("*") if p.relative_to(run).parts[0] not in _OF_STARTS}
    if asynchronous:
        steps = sorted(p.name for p in run.glob("checkpoints/step-*"))
        names = {Path(*(f"step {steps.index(part)}" if part in steps else part for part in p.parts)) for p in names}
    return {str(name) for name in names}
