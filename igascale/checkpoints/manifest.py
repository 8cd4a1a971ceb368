"""What makes a checkpoint valid: a sealed list of its files, and nothing but those files in its folder."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igascale.checkpoints.names import DATA_SET, name_of, step_of
from igascale.errors import UserError

MANIFEST = "manifest.json"
STATE = "state.json"
FORMAT = 2
REQUIRED = (
    STATE,
    "optimizer.safetensors",
    "rng.safetensors",
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
)


class Damaged(UserError):
    """A checkpoint is not what was written. ``file`` is the one to blame, ``reason`` says what is wrong with it."""

    def __init__(self, file: Path, reason: str):
        super().__init__(f"{file}: {reason}")
        self.file, self.reason = file, reason


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself.

    Attributes:
        step: optimizer steps taken.
        files: relative path -> (bytes, SHA-256).
    """

    step: int
    files: Mapping[str, tuple[int, str]]

    @property
    def bytes(self) -> int:
        """Of all files together, the manifest not counted."""
        return sum(size for size, _ in self.files.values())


def is_meant(path: Path) -> bool:
    """Whether a path is that of a checkpoint, valid or not, by its name or its files; a data set has a manifest too."""
    if step_of(path) is not None or (path / STATE).is_file():
        return True
    return (path / MANIFEST).is_file() and not (path / DATA_SET).is_file()


def render(manifest: Manifest) -> str:
    """The manifest's file: its text is a function of its content, so that any changed byte shows."""
    files = {name: {"bytes": size, "sha256": digest} for name, (size, digest) in sorted(manifest.files.items())}
    body = {"format": FORMAT, "step": manifest.step, "files": files}
    seal = hashlib.sha256(json.dumps(body, indent=1).encode()).hexdigest()
    return json.dumps(body | {"sha256": seal}, indent=1) + "\n"


def describe(folder: Path, step: int) -> Manifest:
    """The manifest of what lies in ``folder`` now."""
    return Manifest(step, {name: digest(folder / name) for name in sorted(_walk(folder))})


def verify(folder: Path, *, hashes: bool = True) -> Manifest:
    """Compare a checkpoint with its manifest; every file is read once.

    Args:
        folder: the checkpoint. Where its name is ``step-N`` (or hidden, ``.step-N...``), N must be its step.
        hashes: read the files; otherwise only their names and sizes are compared.

    Raises:
        Damaged: names the first file that is missing, unreadable, changed, or not the checkpoint's.
    """
    manifest = read_manifest(folder)
    for damage in find_damage(folder, manifest, hashes=hashes):
        raise damage
    return manifest


def find_damage(folder: Path, manifest: Manifest, *, hashes: bool = True) -> Iterator[Damaged]:
    """Everything in which a checkpoint is not what its manifest says; see :func:`verify`."""
    if folder.is_symlink():
        yield Damaged(folder, "is a symbolic link, not a checkpoint")
        return
    named = step_of(folder)
    if named not in (None, manifest.step):
        yield Damaged(folder / MANIFEST, f"is that of step {manifest.step}, in a folder named for step {named}")
    try:
        present = {name: (folder / name).stat().st_size for name in _walk(folder)}
    except Damaged as damage:
        yield damage
        return
    except OSError as error:
        yield Damaged(folder, f"cannot be read ({error.strerror})")
        return
    for name, expected in manifest.files.items():
        if name not in present:
            yield Damaged(folder / name, "missing from the checkpoint")
        elif present[name] != expected[0]:
            yield Damaged(folder / name, f"{present[name]} bytes instead of {expected[0]}")
    for name in present:
        if name not in manifest.files and name != MANIFEST:
            yield Damaged(folder / name, f"is not of this checkpoint: {MANIFEST} does not list it")
    for name, expected in manifest.files.items() if hashes else ():
        if present.get(name) == expected[0]:
            try:
                _compare(folder / name, expected, manifest.step)
            except Damaged as damage:
                yield damage


def _compare(path: Path, expected: tuple[int, str], step: int) -> None:
    try:
        if path.name != STATE:
            same = digest(path) == expected
        else:
            content = path.read_bytes()
            same = (len(content), hashlib.sha256(content).hexdigest()) == expected
    except OSError as error:
        raise Damaged(path, f"cannot be read ({error.strerror})") from None
    if not same:
        raise Damaged(path, "content differs from what was saved")
    if path.name == STATE:
        read_state(path, step, content)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint, checked against its own seal; the files are not looked at.

    Raises:
        Damaged: it is missing, changed, of another version, or lists what cannot be a checkpoint.
    """
    path = folder / MANIFEST
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise Damaged(path, "is not a regular file")
        text = path.read_bytes().decode()
        data = json.loads(text)
    except FileNotFoundError:
        raise Damaged(path, "missing from the checkpoint") from None
    except OSError as error:
        raise Damaged(path, f"cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise Damaged(path, "damaged: it is not JSON") from None
    version = data.get("format") if isinstance(data, dict) else None
    if isinstance(version, int) and version != FORMAT:
        raise Damaged(path, f"of format {version}, which another version of igascale writes (this one: {FORMAT})")
    try:
        files = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in data["files"].items()}
        manifest = Manifest(int(data["step"]), files)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Damaged(path, "damaged: it lists no files with sizes and hashes") from None
    if render(manifest) != text:
        raise Damaged(path, "content differs from what was saved")
    for name in files:
        parts = name.split("/")
        if name == MANIFEST or any(part.startswith(".") or not part for part in parts):
            raise Damaged(path, f"lists {name!r}, which is no file of a checkpoint")
    for name in REQUIRED:
        if name not in files:
            raise Damaged(path, f"does not list {name}")
    return manifest


#: The keys of ``state.json`` and their types.
STATE_KEYS: dict[str, type | tuple[type, ...]] = {
    "step": int,
    "optimizer_steps": int,
    "world_size": int,
    "validation_loss": (int, float, type(None)),
    "hook": dict,
    "counters": dict,
    "data": str,
    "config": dict,
}


def read_state(path: Path, step: int, content: bytes | None = None) -> dict[str, Any]:
    """A checkpoint's ``state.json``, its keys and types checked.

    Args:
        path: the file.
        step: what the manifest says.
        content: the file's content, where it was read already.

    Raises:
        Damaged: names the key.
    """
    try:
        state = json.loads(path.read_bytes() if content is None else content)
    except (OSError, ValueError, RecursionError):
        raise Damaged(path, "damaged: it is not JSON") from None
    if not isinstance(state, dict):
        raise Damaged(path, "should hold a JSON object")
    for key, kind in STATE_KEYS.items():
        value = state.get(key)
        if key not in state or not isinstance(value, kind) or isinstance(value, bool):
            raise Damaged(path, f"{key!r} is {'missing' if key not in state else repr(value)}")
    if state["step"] != step:
        raise Damaged(path, f"is that of step {state['step']}; {MANIFEST} says {step} ({name_of(step)})")
    for key, least in (("step", 0), ("optimizer_steps", 0), ("world_size", 1)):
        if state[key] < least:
            raise Damaged(path, f"{key!r} is {state[key]}")
    return state


def digest(path: Path) -> tuple[int, str]:
    """Size and SHA-256 of a file, from one pass over it."""
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()


def _walk(folder: Path, prefix: str = "") -> Iterator[str]:
    """The regular files below ``folder``; what begins with a dot (an editor's, a file system's) is none of ours.

    Raises:
        Damaged: something else than files and folders is there: a link would lead out of the checkpoint.
    """
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(folder / entry.name, f"{prefix}{entry.name}/")
            elif entry.is_file(follow_symlinks=False):
                yield prefix + entry.name
            else:
                kind = "a symbolic link" if entry.is_symlink() else "not a regular file"
                raise Damaged(folder / entry.name, f"is {kind}")
