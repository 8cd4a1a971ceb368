"""The run folder: what ran, with what, and what came out.

``config.yaml`` (resolved) and ``environment.json`` are written first; ``status.json`` says how the run is doing;
``metrics.jsonl`` and ``adapter_metrics.jsonl`` grow; ``resumes.jsonl`` has a line for every time the run went on from a
checkpoint; ``checkpoints/`` is for that; ``adapter/`` is the result, a normal PEFT folder. ``.lock`` keeps a second run out.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from igascale import runlock
from igascale.boards import check_boards
from igascale.checkpoints import names
from igascale.checkpoints.find import Found, find
from igascale.checkpoints.publish import settle
from igascale.config import RunConfig
from igascale.engine.collectives import Collectives
from igascale.errors import UserError
from igascale.files import write_atomically
from igascale.metrics import last_step
from igascale.record import ENVIRONMENT, environment, rank_facts
from igascale.resuming import history
from igascale.resuming.foreign import describe_foreign
from igascale.resuming.start import Resumption, examine, is_of
from igascale.resuming.surroundings import describe_surroundings
from igascale.status import STATUS, RunStatus
from igascale.wandb_sender import IDENTITY

_T = TypeVar("_T")
_withdrawing = threading.Lock()


def check_absent(folder: Path) -> None:
    """Refuse to write into a folder that already holds a run, or anything else.

    Raises:
        UserError: it exists and is not empty; a lock alone is what a start left that died at once.
    """
    if folder.exists() and (not folder.is_dir() or any(p.name != runlock.LOCK for p in folder.iterdir())):
        if folder.is_dir() and (user := runlock.user_of(folder)):
            raise UserError(f"output_dir {folder} is in use: {user}. Choose another output_dir; nothing was changed")
        foreign = describe_foreign(folder)
        begun = any((folder / name).exists() for name in ("config.yaml", "checkpoints"))
        what = ": continue it with --resume auto, or choose" if begun else " and holds no run: choose"
        what = f" ({foreign}): choose" if foreign else what
        raise UserError(f"output_dir {folder} already exists{what} another output_dir (nothing was changed)")


def withdraw(folder: Path) -> None:
    """Undo :func:`record` for a start that was refused before its first step; anything more in the folder is left alone.

    The alternative, to accept a folder that holds these files, would let a second run start in the folder of one that is
    still loading its model.
    """
    names: tuple[str, ...] = ("config.yaml", ENVIRONMENT, STATUS, runlock.LOCK)
    with _withdrawing:  # the lifeline's thread, which sees the other ranks go, may come here together with the main one
        for _ in range(10):
            ours = [
                *(folder / name for name in names if (folder / name).exists()),
                *(folder / "logs").glob("rank-*.log"),
            ]
            ours += (folder / "logs").glob("launcher.log")
            if not folder.is_dir() or sorted(p for p in folder.rglob("*") if p != folder / "logs") != sorted(ours):
                return
            for path in ours:
                path.unlink()
            names = ()  # what has such a name from now on is another start's
            with suppress(OSError):  # the launcher has added a line meanwhile
                if (folder / "logs").is_dir():
                    (folder / "logs").rmdir()
                folder.rmdir()
                return


def record(folder: Path, config: RunConfig, facts: dict[str, Any]) -> None:
    """Write the resolved configuration and the environment, before anything runs, and that the run has started.

    Args:
        folder: the run folder.
        config: the run.
        facts: :func:`igascale.record.environment` of this start.

    Raises:
        UserError: the folder cannot be written, or another run began in it at the same time.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if runlock.hold(folder) and (folder / "config.yaml").exists():
            check_absent(folder)  # a run that began, and ended, while this one waited
        # Where a fork comes from is known before anything else: --resume auto must not take it for a run from step 0.
        write_atomically(folder / ENVIRONMENT, json.dumps(facts, indent=1) + "\n")
        write_atomically(folder / "config.yaml", config.to_yaml())
    except OSError as error:
        raise UserError(f"output_dir {folder} cannot be written: {error.strerror}") from None
    RunStatus(folder)


def open_run(config: RunConfig, resume: str | None, comm: Collectives, allow: Sequence[str] = ()) -> Resumption | None:
    """Create the run folder and write the configuration, or find the checkpoint to continue from; before anything loads.

    Rank 0 looks and writes, every rank hears the same. The folder of a run that goes on is not touched before
    :func:`record_resume`, but for what a crash left in its ``checkpoints``.

    Args:
        config: the run.
        resume: ``None`` for a new run, ``auto`` or a path; see :func:`igascale.checkpoints.find.find`.
        comm: the ranks.
        allow: keys and sections that may differ from the checkpoint's.

    Returns:
        What to continue from, or ``None`` to start from the beginning.

    Raises:
        UserError: the folder holds something else, or another process trains in it, the checkpoint is not whole or belongs to
            another configuration, or there are more ranks than groups in a step.
    """
    if comm.world_size > config.groups_per_step:
        raise UserError(
            f"{comm.world_size} processes but only {config.groups_per_step} isomer groups per optimizer step; a group is "
            "never split between ranks: start fewer processes or raise train.groups_per_batch"
        )
    ranks = comm.gather_objects(rank_facts(comm.rank))
    return _on_first_rank(comm, lambda: _open(config, resume, ranks, allow))


def _on_first_rank(comm: Collectives, act: Callable[[], _T]) -> _T:
    """Rank 0's result, or its :class:`UserError`, on every rank."""
    problem, result = "", None
    if comm.rank == 0:
        try:
            result = act()
        except UserError as error:
            problem = str(error)
    problem, result = comm.gather_objects((problem, result))[0]
    if problem:
        raise UserError(problem)
    return result  # type: ignore[return-value]


def _open(
    config: RunConfig, resume: str | None, ranks: list[dict[str, Any]], allow: Sequence[str]
) -> Resumption | None:
    folder = Path(config.output_dir).resolve()
    if resume and _holds_run(folder):
        runlock.hold(folder)
    found, start = _look(config, resume, allow, len(ranks), hashes=True)
    if start is None or start.fork:
        origin = {history.ORIGIN: str(start.folder)} if start else {}
        record(folder, config, origin | environment(config, ranks))
    elif resume == "auto" and not start.finished:
        try:
            checkpoint, told = settle(folder / "checkpoints", found)
        except OSError as error:
            raise UserError(f"output_dir {folder} cannot be written: {error.strerror}") from None
        for line in told:
            print(f"warning: {line}", file=sys.stderr, flush=True)
        if checkpoint is not None:
            start = replace(start, folder=checkpoint)
    return start


def _holds_run(folder: Path) -> bool:
    """A run began there; a lock file is put into no other folder."""
    return (folder / ENVIRONMENT).is_file() or (folder / "checkpoints").is_dir() or _hardly_began(folder)


def _hardly_began(folder: Path) -> bool:
    """A start died before :func:`record` had written all; ``--resume auto``, of a restart say, may begin there."""
    known = {
        runlock.LOCK,
        "config.yaml",
        ".config.yaml.tmp",
        ENVIRONMENT,
        f".{ENVIRONMENT}.tmp",
        "logs",
        "launches.jsonl",
    }
    return (folder / runlock.LOCK).is_file() and {p.name for p in folder.iterdir()} <= known


def check_start(
    config: RunConfig,
    resume: str | None,
    allow: Sequence[str] = (),
    world_size: int | None = None,
    *,
    at_once: bool = True,
) -> Resumption | None:
    """Whether the run may begin or go on, without writing anything; the files of a checkpoint are not read in full.

    Args:
        config: the run.
        resume: as in :func:`open_run`.
        allow: likewise.
        world_size: number of ranks, where it is known.
        at_once: it starts now, not when a queue lets it: then no other process may be training in the folder.

    Returns:
        What to continue from, if anything.

    Raises:
        UserError: the folder holds something that this run does not continue, or a run that goes on, or a board's package is not
            installed.
    """
    if resume and at_once:
        runlock.check_free(Path(config.output_dir))
    return _look(config, resume, allow, world_size, hashes=False)[1]


def _look(
    config: RunConfig, resume: str | None, allow: Sequence[str], world_size: int | None, hashes: bool
) -> tuple[Found, Resumption | None]:
    folder = Path(config.output_dir).resolve()
    check_boards(config.logging)
    if allow and not resume:
        raise UserError(f"--allow-change {allow[0]}: nothing is resumed; leave it out, or add --resume")
    if resume not in (None, "auto") and (foreign := describe_foreign(Path(resume))):
        raise UserError(f"no checkpoint in {resume}: {foreign}")
    found = find(folder, resume, hashes=hashes) if resume else Found(None)
    if found.folder is None and resume == "auto" and (origin := history.origin(folder)):
        found = find(folder, origin, hashes=hashes)  # a fork that was lost before its first checkpoint
    complete = all((folder / name).is_file() for name in ("config.yaml", ENVIRONMENT))
    ours = resume == "auto" and (complete or _hardly_began(folder))
    if not ours and (found.folder is None or not is_of(folder, found.folder)):
        check_absent(folder)
    if found.folder is None:
        return found, None
    return found, examine(found.folder, config, folder, allow, world_size)


def record_resume(config: RunConfig, start: Resumption, comm: Collectives) -> list[str]:
    """Write down that the run goes on: its configuration now, and a line of ``resumes.jsonl`` with its environment.

    What the first start wrote of its environment stays. Call it on every rank, when nothing can refuse the resume any more.

    Returns:
        What should not be missed: that it goes on with other versions or on other devices.

    Raises:
        UserError: the folder cannot be written.
    """
    folder, ranks = Path(config.output_dir).resolve(), comm.gather_objects(rank_facts(comm.rank))

    def write() -> list[str]:
        facts = environment(config, ranks)
        told = describe_surroundings(start.folder.resolve().parents[1], facts)
        line = {
            "time": facts["started"],
            "step": start.step,
            "checkpoint": str(start.folder),
            "fork": start.fork,
            "engine": config.engine.name,
            "changed": {c.key: [c.before, c.now] for c in start.changes},
            "allowed": [c.key for c in start.of_mathematics],
        }
        try:
            if not start.fork:  # a restart before the next checkpoint goes on from this one too, not from a later one
                names.write_pointer(folder / "checkpoints", names.LATEST, names.name_of(start.step))
            if start.of_mathematics and not start.fork and last_step(folder) > start.step:
                (folder / IDENTITY).unlink(
                    missing_ok=True
                )  # W&B would keep the old values of the steps that come again
            write_atomically(folder / "config.yaml", config.to_yaml())
            history.append(folder, line | facts)
        except OSError as error:
            raise UserError(f"output_dir {folder} cannot be written: {error.strerror}") from None
        RunStatus(folder)
        return told

    return _on_first_rank(comm, write)


def abandon(config: RunConfig, start: Resumption | None, comm: Collectives) -> None:
    """Undo what :func:`open_run` wrote, for a start that was refused before its first step."""
    if comm.rank == 0 and (start is None or start.fork):
        withdraw(Path(config.output_dir).resolve())
