"""The run folder: what ran, with what, and what came out.

``config.yaml`` (resolved) and ``environment.json`` are written first; ``metrics.jsonl`` and ``adapter_metrics.jsonl`` grow;
``checkpoints/`` is for resuming; ``adapter/`` is the result, a normal PEFT folder.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from igascale.checkpoints.find import Found, find
from igascale.checkpoints.manifest import STATE, read_manifest, read_state
from igascale.checkpoints.publish import settle
from igascale.config import RunConfig
from igascale.engine.collectives import Collectives
from igascale.errors import UserError
from igascale.resuming import check_same_mathematics


def check_absent(folder: Path) -> None:
    """Refuse to write into a folder that already holds a run, or anything else.

    Raises:
        UserError: it exists and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"output_dir {folder} already exists: continue it with --resume auto, or choose another output_dir "
            "(nothing was changed)"
        )


def withdraw(folder: Path) -> None:
    """Undo :func:`record` for a start that was refused before its first step; anything more in the folder is left alone.

    The alternative, to accept a folder that holds these two files, would let a second run start in the folder of one that is
    still loading its model.
    """
    ours = [folder / "config.yaml", folder / "environment.json", *(folder / "logs").glob("rank-*.log")]
    if folder.is_dir() and sorted(p for p in folder.rglob("*") if p != folder / "logs") == sorted(ours):
        for path in ours:
            path.unlink()
        if (folder / "logs").is_dir():
            (folder / "logs").rmdir()
        folder.rmdir()


def record(folder: Path, config: RunConfig, world_size: int) -> None:
    """Write the resolved configuration and the environment, before anything runs.

    Raises:
        UserError: the folder cannot be written.
    """
    facts = json.dumps(environment(world_size), indent=1) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(config.to_yaml())
        (folder / "environment.json").write_text(facts)
    except OSError as error:
        raise UserError(f"output_dir {folder} cannot be written: {error.strerror}") from None


def environment(world_size: int) -> dict[str, Any]:
    """Versions, command and hardware of this process, for the record."""
    import torch

    packages = ("igascale", "torch", "deepspeed", "transformers", "peft", "safetensors", "tokenizers")
    versions: dict[str, str | None] = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "versions": versions,
        "git_commit": _git_commit(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "world_size": world_size,
    }


def _git_commit() -> str | None:
    """The checkout's commit, where igascale runs from one (an installed wheel may lie inside somebody else's)."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    except OSError:  # git is not installed
        return None
    return done.stdout.strip() or None


def open_run(config: RunConfig, resume: str | None, comm: Collectives) -> Path | None:
    """Create the run folder and write the configuration, or find the checkpoint to continue from; before anything loads.

    Rank 0 looks and writes, every rank hears the same.

    Args:
        config: the run.
        resume: ``None`` for a new run, ``auto`` or a path; see :func:`igascale.checkpoints.find.find`.
        comm: the ranks.

    Returns:
        A verified checkpoint, or ``None`` to start from the beginning.

    Raises:
        UserError: the folder holds something else, the checkpoint is not whole or belongs to another configuration, or
            there are more ranks than groups in a step.
    """
    if comm.world_size > config.groups_per_step:
        raise UserError(
            f"{comm.world_size} processes but only {config.groups_per_step} isomer groups per optimizer step; a group is "
            "never split between ranks: start fewer processes or raise train.groups_per_batch"
        )
    problem, found = "", None
    if comm.rank == 0:
        try:
            found = _open(config, resume, comm.world_size)
        except UserError as error:
            problem = str(error)
    problem, found = comm.gather_objects((problem, found))[0]
    if problem:
        raise UserError(problem)
    return found


def _open(config: RunConfig, resume: str | None, world_size: int) -> Path | None:
    found, folder = _look(config, resume, hashes=True), Path(config.output_dir).resolve()
    checkpoint = found.folder
    if checkpoint is not None:
        state = read_state(checkpoint / STATE, read_manifest(checkpoint).step)
        check_same_mathematics(state["config"], config.model_dump(mode="json"))
        if resume == "auto":
            try:
                checkpoint, told = settle(folder / "checkpoints", found)
            except OSError as error:
                raise UserError(f"output_dir {folder} cannot be written: {error.strerror}") from None
            for line in told:
                print(f"warning: {line}", file=sys.stderr, flush=True)
    record(folder, config, world_size)
    return checkpoint


def check_start(config: RunConfig, resume: str | None) -> Path | None:
    """Whether the run folder may be used, without writing to it; the files of a checkpoint are not read in full.

    Returns:
        The checkpoint to continue from, if any.

    Raises:
        UserError: the folder holds something that this run does not continue.
    """
    return _look(config, resume, hashes=False).folder


def _look(config: RunConfig, resume: str | None, hashes: bool) -> Found:
    folder = Path(config.output_dir).resolve()
    found = find(folder, resume, hashes=hashes) if resume else Found(None)
    ours = resume == "auto" and all((folder / name).is_file() for name in ("config.yaml", "environment.json"))
    if not ours and (found.folder is None or found.folder.resolve().parent != folder / "checkpoints"):
        check_absent(folder)
    return found
