"""The run folder: what ran, with what, and what came out.

``config.yaml`` (resolved) and ``environment.json`` are written first; ``status.json`` says how the run is doing;
``metrics.jsonl`` and ``adapter_metrics.jsonl`` grow; each resume adds a line to ``resumes.jsonl``;
``checkpoints/`` is for resuming; ``adapter/`` is the result, a normal PEFT folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from igascale import checkpoint
from igascale.boards import check_boards
from igascale.config import RunConfig
from igascale.engine.collectives import Collectives
from igascale.errors import UserError
from igascale.files import write_atomically
from igascale.record import ENVIRONMENT, environment, rank_facts
from igascale.resuming import check_same_mathematics
from igascale.status import STATUS, RunStatus

RESUMES = "resumes.jsonl"


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

    The alternative, to accept a folder that holds these files, would let a second run start in the folder of one that is
    still loading its model.
    """
    ours = [folder / "config.yaml", folder / ENVIRONMENT, folder / STATUS]
    if folder.is_dir() and sorted(folder.iterdir()) == sorted(ours):
        for path in ours:
            path.unlink()
        folder.rmdir()


def record(folder: Path, config: RunConfig, ranks: list[dict[str, Any]]) -> None:
    """Write the resolved configuration and the environment, before anything runs, and that the run has started.

    What the first start wrote is never overwritten; each later one is a line of ``resumes.jsonl``.

    Args:
        folder: the run folder.
        config: the run.
        ranks: every rank's :func:`igascale.record.rank_facts`.

    Raises:
        UserError: the folder cannot be written.
    """
    facts = environment(config, ranks)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / ENVIRONMENT).is_file():
            with (folder / RESUMES).open("a") as history:
                history.write(json.dumps({**facts, "config": config.model_dump(mode="json")}) + "\n")
        else:
            write_atomically(folder / "config.yaml", config.to_yaml())
            write_atomically(folder / ENVIRONMENT, json.dumps(facts, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"output_dir {folder} cannot be written: {error.strerror}") from None
    RunStatus(folder)


def open_run(config: RunConfig, resume: str | None, comm: Collectives) -> Path | None:
    """Create the run folder and write the configuration, or find the checkpoint to continue from; before anything loads.

    Rank 0 looks and writes, every rank hears the same.

    Args:
        config: the run.
        resume: ``None`` for a new run, ``auto`` or a path; see :func:`igascale.checkpoint.find`.
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
    ranks = comm.gather_objects(rank_facts(comm.rank))
    problem, found = "", None
    if comm.rank == 0:
        try:
            found = _open(config, resume, ranks)
        except UserError as error:
            problem = str(error)
    problem, found = comm.gather_objects((problem, found))[0]
    if problem:
        raise UserError(problem)
    return found


def _open(config: RunConfig, resume: str | None, ranks: list[dict[str, Any]]) -> Path | None:
    found = check_start(config, resume)
    if found is not None:
        checkpoint.verify(found)
        check_same_mathematics(checkpoint.read_config(found), config.model_dump(mode="json"))
    record(Path(config.output_dir).resolve(), config, ranks)
    return found


def check_start(config: RunConfig, resume: str | None) -> Path | None:
    """Whether the run folder may be used, without writing to it.

    Returns:
        The checkpoint to continue from, if any.

    Raises:
        UserError: the folder holds something that this run does not continue, or a board's package is not installed.
    """
    check_boards(config.logging)
    folder = Path(config.output_dir).resolve()
    found = checkpoint.find(folder, resume) if resume else None
    ours = resume == "auto" and all((folder / name).is_file() for name in ("config.yaml", ENVIRONMENT))
    if not ours and (found is None or found.resolve().parent != folder / "checkpoints"):
        check_absent(folder)
    return found
