"""What lies in a run's ``checkpoints`` folder, by name, and the two pointers, ``latest`` and ``best``."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

LATEST, BEST = "latest", "best"
DATA_SET = "train.jsonl"  #: is in the folder of a data set, which has a manifest.json of its own

# Published: step-N. Hidden, of a save that is under way or died: .step-N.tmp is being written, .step-N.old.tmp makes way for
# a new one of its name, .step-N.gone.tmp is being deleted.
_NAME = re.compile(r"step-(\d{8,})")
_HIDDEN = re.compile(r"\.(step-\d{8,})(\.old|\.gone)?\.tmp")


def name_of(step: int) -> str:
    """``step-00000100``."""
    return f"step-{step:08d}"


def step_of(folder: Path) -> int | None:
    """The step in a checkpoint's name, hidden or published; ``None`` where it is called something else."""
    hidden = _HIDDEN.fullmatch(folder.name)
    match = _NAME.fullmatch(hidden[1] if hidden else folder.name)
    return int(match[1]) if match else None


def hidden(root: Path, step: int, kind: str = "") -> Path:
    """The name under which the checkpoint of ``step`` is written, or (``.old``, ``.gone``) makes way."""
    return root / f".{name_of(step)}{kind}.tmp"


def published(root: Path) -> list[Path]:
    """The checkpoints of a run, oldest first.

    One that was moved out of the way for a new one of its name, by a process that died there, is among them.
    """
    found = {step_of(p): p for p in root.glob(".step-*.old.tmp")} | {step_of(p): p for p in root.glob("step-*")}
    return [found[step] for step in sorted(s for s in found if s is not None)]


def read_pointer(root: Path, which: str) -> str | None:
    """What ``latest`` or ``best`` says, or ``None`` where it is missing. It need not be the name of anything."""
    try:
        return (root / which).read_bytes().decode(errors="replace").removesuffix("\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"unreadable: {error.strerror}"


def write_pointer(root: Path, which: str, name: str) -> None:
    """Let a pointer name another checkpoint, in one step."""
    new = root / f".{which}.tmp"
    new.write_text(name + "\n")
    sync(new)
    new.replace(root / which)
    sync(root)


def recover(root: Path) -> None:
    """Clean up after a process that died while saving; a checkpoint that was being replaced comes back.

    Only the process that writes this run's checkpoints may call it.
    """
    for leftover in root.glob(".step-*.tmp"):
        step = step_of(leftover)
        if step is None:
            continue
        final = root / name_of(step)
        if leftover.name.endswith(".old.tmp") and not final.exists():
            leftover.rename(final)
        else:
            shutil.rmtree(leftover)
    for which in (LATEST, BEST):
        (root / f".{which}.tmp").unlink(missing_ok=True)


def set_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint, so that no later one replaces it; returns its new path, ``step-N.damaged``."""
    step = step_of(folder)
    assert step is not None
    number, target = 1, folder.with_name(f"{name_of(step)}.damaged")
    while target.is_symlink() or target.exists():
        number += 1
        target = folder.with_name(f"{name_of(step)}.damaged-{number}")
    folder.rename(target)
    sync(folder.parent)
    return target


def delete(folder: Path) -> None:
    """Remove a published checkpoint, in one step as far as anyone can see."""
    step = step_of(folder)
    assert step is not None
    gone = hidden(folder.parent, step, ".gone")
    folder.rename(gone)
    shutil.rmtree(gone)


def sync(path: Path) -> None:
    """Have a file or folder on disk before anything after it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """:func:`sync` for everything below a folder, and for itself."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def remove_quietly(path: Path) -> None:
    """Delete a folder as far as the file system lets us."""
    with contextlib.suppress(OSError):
        shutil.rmtree(path)
