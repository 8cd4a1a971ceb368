"""Which checkpoint a run continues from. Nothing is written here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from igascale.checkpoints import names
from igascale.checkpoints.manifest import Damaged, is_meant, verify
from igascale.errors import UserError


@dataclass(frozen=True)
class Found:
    """A checkpoint to continue from.

    Attributes:
        folder: verified; ``None`` to start from the beginning.
        notices: what the user must hear: which files are damaged, what is used in their place.
        damaged: checkpoints of this run that are not what was written; to be set aside before the run writes.
    """

    folder: Path | None
    notices: tuple[str, ...] = ()
    damaged: tuple[Path, ...] = ()


def find(run: Path, which: str, *, hashes: bool = True) -> Found:
    """The checkpoint to resume from.

    Args:
        run: the run folder.
        which: ``auto`` for the newest valid one of this run, or the path of a checkpoint, of a run, or of its ``latest`` or
            ``best``, which must be valid.
        hashes: see :func:`igascale.checkpoints.manifest.verify`.

    Raises:
        UserError: there is none that is valid, though there were some, or not the one that was asked for.
    """
    return _newest_valid(run / "checkpoints", hashes) if which == "auto" else Found(_given(Path(which), hashes))


def _newest_valid(root: Path, hashes: bool) -> Found:
    candidates = names.published(root)
    pointer = names.read_pointer(root, names.LATEST)
    if not candidates:
        if pointer is None:
            return Found(None)
        raise UserError(
            f"{root / names.LATEST} names '{pointer}', which is not there, and there is no other checkpoint; bring it back, or "
            f"remove {root / names.LATEST} to start at step 0"
        )
    ordered, damage = _in_order(candidates, pointer), list[Damaged]()
    for folder in ordered:
        try:
            verify(folder, hashes=hashes)
        except Damaged as error:
            damage.append(error)
            continue
        notices = [*_about_pointer(root, pointer, candidates, folder), *map(str, damage)]
        if notices:
            notices[-1] += f"; continuing from {root / names.name_of(_step(folder))}"
        return Found(folder, tuple(notices), tuple(ordered[: len(damage)]))
    raise UserError(
        f"no valid checkpoint in {root}: {'; '.join(map(str, damage))}. Bring one back, or move {root} away to start at step 0"
    )


def _in_order(candidates: list[Path], pointer: str | None) -> list[Path]:
    """As they are tried: what ``latest`` names and those before it, then those after it; each newest first."""
    named = [_step(p) for p in candidates if names.name_of(_step(p)) == pointer]
    newest_first = candidates[::-1]
    if not named:
        return newest_first
    after = [p for p in newest_first if _step(p) > named[0]]
    return [p for p in newest_first if p not in after] + after


def _about_pointer(root: Path, pointer: str | None, candidates: list[Path], used: Path) -> list[str]:
    """What is wrong with ``latest``, or odd."""
    path = root / names.LATEST
    if pointer is None:
        return [f"{path} is missing"]
    if not pointer:
        return [f"{path} is empty"]
    if pointer not in {names.name_of(_step(p)) for p in candidates}:
        return [f"{path} names '{pointer}', which is not there"]
    newer = [names.name_of(_step(p)) for p in candidates if _step(p) > _step(used)]
    if newer and pointer == names.name_of(_step(used)):
        return [f"{path} names {pointer}, though there is {', '.join(newer)} (--resume PATH takes it)"]
    return []


def _given(path: Path, hashes: bool) -> Path:
    folder = resolve(path)
    try:
        verify(folder, hashes=hashes)
    except Damaged as damage:
        raise UserError(f"{damage}; {_others(folder)}") from None
    return folder


def resolve(path: Path) -> Path:
    """The checkpoint that a path on the command line stands for; whether it is valid is another question.

    Raises:
        UserError: there is none.
    """
    root = path / "checkpoints"
    if path.is_file() and path.name in (names.LATEST, names.BEST):
        root, which = path.parent, path.name
    elif is_meant(path):
        if not path.is_dir():
            raise UserError(f"no checkpoint in {path}: there is no such folder; {_others(path)}")
        return path.resolve()
    else:
        which = names.LATEST
    pointer = names.read_pointer(root, which)
    if pointer is None:
        raise UserError(f"no checkpoint in {path}: {root / which} is missing; {_others(root / which)}")
    for folder in names.published(root):
        if names.name_of(_step(folder)) == pointer:
            return folder.resolve()
    raise UserError(f"{root / which} names '{pointer}', which is not there; {_others(root / which)}")


def _others(folder: Path) -> str:
    """The checkpoints beside ``folder``, as an offer."""
    others = [str(p) for p in reversed(names.published(folder.parent)) if p.name != folder.name]
    return f"other checkpoints: {', '.join(others)} (--resume PATH)" if others else "there is no other checkpoint"


def _step(folder: Path) -> int:
    step = names.step_of(folder)
    assert step is not None
    return step
