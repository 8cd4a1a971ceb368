"""How a checkpoint comes to be: written apart, flushed, renamed, pointed to; then old ones go.

A process that dies at any point leaves the previous checkpoint, and a ``latest`` that names a whole one. It needs a file
system on which a rename is atomic.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from igascale.checkpoints import names
from igascale.checkpoints.find import Found
from igascale.checkpoints.manifest import MANIFEST, Damaged, describe, render, verify

Write = Callable[[Path], object]  # puts files into the folder that it is given


@dataclass(frozen=True)
class Published:
    """What a save left.

    Attributes:
        folder: the checkpoint, or the result.
        notes: what did not go as it should, though the checkpoint is whole.
    """

    folder: Path
    notes: tuple[str, ...] = ()


def publish(root: Path, step: int, write: Write, *, keep: int, best: int | None = None) -> Published:
    """Write and publish a checkpoint; call it in one process, from one thread at a time.

    Args:
        root: the run's ``checkpoints`` folder.
        step: optimizer steps taken.
        write: writes the files.
        keep: how many published checkpoints to leave; the oldest ones before this step are removed after publication.
            Checkpoints of later steps (this run was resumed from an older one) stay until the run comes past them.
        best: the step of the checkpoint that stays in any case, and that ``best`` names.

    Raises:
        OSError: it could not be written. What was there before is there now.
    """
    root.mkdir(parents=True, exist_ok=True)
    names.recover(root)
    temporary, final = names.hidden(root, step), root / names.name_of(step)
    notes = []
    try:
        temporary.mkdir()
        write(temporary)
        (temporary / MANIFEST).write_text(render(describe(temporary, step)))
        names.sync_tree(temporary)
        if aside := _make_way(final):
            notes.append(aside)
        temporary.rename(final)
        names.sync(root)
        names.write_pointer(root, names.LATEST, final.name)
    except Exception:
        names.remove_quietly(temporary)
        with contextlib.suppress(OSError):
            names.recover(root)
        raise
    try:
        _retain(root, step, keep, best)
    except OSError as error:
        notes.append(f"an old checkpoint in {root} could not be removed: {error}")
    return Published(final, tuple(notes))


def _make_way(final: Path) -> str:
    """Move a checkpoint of the same step out of the way: a run resumed from an older one comes past it again."""
    if not final.is_symlink() and not final.exists():
        return ""
    step = names.step_of(final)
    assert step is not None
    try:
        verify(final)
    except Damaged as damage:
        return f"{damage}; that checkpoint is kept as {names.set_aside(final)}"
    final.rename(names.hidden(final.parent, step, ".old"))
    return ""


def _retain(root: Path, step: int, keep: int, best: int | None) -> None:
    """Point to the best checkpoint, then remove what neither it nor ``keep`` holds."""
    names.recover(root)  # removes what the new one has replaced
    best_name = names.name_of(best) if best is not None and (root / names.name_of(best)).is_dir() else None
    if best_name is None:
        (root / names.BEST).unlink(missing_ok=True)
    elif names.read_pointer(root, names.BEST) != best_name:
        names.write_pointer(root, names.BEST, best_name)
    so_far = [p for p in names.published(root) if (names.step_of(p) or 0) <= step]
    for old in so_far[:-keep]:
        if old.name != best_name:
            names.delete(old)


def settle(root: Path, found: Found) -> tuple[Path | None, list[str]]:
    """Make a run's folder sound before the run goes on from ``found``: what died is cleaned up, what is damaged set aside.

    Args:
        root: the run's ``checkpoints`` folder.
        found: from :func:`igascale.checkpoints.find.find`, with ``auto``.

    Returns:
        The checkpoint (whose name may have changed), and what to tell the user.

    Raises:
        OSError: the folder cannot be written.
    """
    if found.folder is None:
        return None, []
    step = names.step_of(found.folder)
    assert step is not None
    names.recover(root)
    told = list(found.notices)
    for folder in found.damaged:
        present = folder if folder.exists() else root / names.name_of(names.step_of(folder) or 0)
        told.append(f"the damaged {present.name} is kept as {names.set_aside(present)}; nothing reads or deletes it")
    if found.notices:
        names.write_pointer(root, names.LATEST, names.name_of(step))
    return root / names.name_of(step), told


def publish_result(folder: Path, write: Write) -> Published:
    """Write a folder that is there as a whole or not at all, in place of what is there.

    Raises:
        OSError: it could not be written.
    """
    temporary, old = folder.with_name(f".{folder.name}.tmp"), folder.with_name(f".{folder.name}.old.tmp")
    for leftover in (temporary, old):
        names.remove_quietly(leftover)
    try:
        temporary.mkdir()
        write(temporary)
        names.sync_tree(temporary)
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
        names.sync(folder.parent)
    except Exception:
        names.remove_quietly(temporary)
        if old.exists() and not folder.exists():
            with contextlib.suppress(OSError):
                old.rename(folder)
        raise
    names.remove_quietly(old)
    return Published(folder)
