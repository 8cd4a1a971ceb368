"""What `igascale checkpoint` tells: of each checkpoint its state and validity, without torch."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from igascale.checkpoints import names
from igascale.checkpoints.manifest import MANIFEST, STATE, Damaged, find_damage, is_meant, read_manifest, read_state
from igascale.errors import UserError


@dataclass(frozen=True)
class Row:
    """One checkpoint. What cannot be read is ``None``.

    Attributes:
        folder: where it is.
        problems: what is wrong with it.
        step: optimizer steps taken.
        age_seconds: since its manifest was written.
        bytes: of its files.
        files: how many.
        world_size: ranks that wrote it.
        validation_loss: mean in-domain loss, nats per token.
    """

    folder: Path
    problems: tuple[Damaged, ...]
    step: int | None
    age_seconds: float | None = None
    bytes: int | None = None
    files: int | None = None
    world_size: int | None = None
    validation_loss: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        told = {key: value for key, value in vars(self).items() if key not in ("folder", "problems")}
        problems = [{"file": str(p.file), "reason": p.reason} for p in self.problems]
        return {"path": str(self.folder), "valid": not problems, "problems": problems, **told}


def examine(folder: Path) -> Row:
    """Read every file of a checkpoint and say what it is."""
    step = names.step_of(folder)
    try:
        manifest = read_manifest(folder)
        problems = tuple(find_damage(folder, manifest))
        row: dict[str, Any] = {
            "age_seconds": round(time.time() - (folder / MANIFEST).stat().st_mtime, 1),
            "bytes": manifest.bytes,
            "files": len(manifest.files),
        }
        if not any(p.file.name == STATE for p in problems):
            state = read_state(folder / STATE, manifest.step)
            row |= {key: state[key] for key in ("world_size", "validation_loss")}
    except Damaged as damage:
        return Row(folder, (damage,), step)
    except OSError as error:
        return Row(folder, (Damaged(folder, f"cannot be read ({error.strerror})"),), step)
    return Row(folder, problems, manifest.step, **row)


def _examine_all(folders: list[Path]) -> list[Row]:
    """Each as :func:`examine`; one that a run removes meanwhile, having written newer ones, is not damaged but gone."""
    rows = []
    for folder in folders:
        while (before := _identity(folder)) is not None:
            row = examine(folder)
            if not row.problems or _identity(folder) == before:
                rows.append(row)
                break
    return rows


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = folder.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def checkpoints_root(path: Path) -> Path:
    """The ``checkpoints`` folder that a run, or it itself, stands for.

    Raises:
        UserError: there is none.
    """
    for root in (path / "checkpoints", path):
        if root.is_dir() and (root.name == "checkpoints" or names.published(root)):
            return root
    raise UserError(f"{path} is neither a run with checkpoints nor a checkpoint")


def examine_path(path: Path) -> tuple[list[Row], list[Damaged]]:
    """Every checkpoint of a run, or the one given; and what is wrong with the run's pointers.

    Raises:
        UserError: the path is neither.
    """
    if is_meant(path):
        if not path.is_dir():
            raise UserError(f"{path}: there is no such checkpoint")
        return [examine(path)], []
    root = checkpoints_root(path)
    present, problems = names.published(root), []
    for which in (names.LATEST, names.BEST):
        pointer = names.read_pointer(root, which)
        if pointer is None and which == names.LATEST and present:
            problems.append(Damaged(root / which, "is missing"))
        if pointer is not None and not any(pointer == p.name for p in (*present, *names.published(root))):
            problems.append(Damaged(root / which, f"names '{pointer}', which is not there"))
    return _examine_all(present), problems


def facts(folder: Path) -> dict[str, Any]:
    """What a valid checkpoint holds.

    Raises:
        Damaged: its manifest or its state cannot be read, or its optimizer file has no header.
    """
    manifest = read_manifest(folder)
    state = read_state(folder / STATE, manifest.step)
    tensors = _safetensors_header(folder / "optimizer.safetensors")
    masters = {name: math.prod(shape) for name, shape in tensors.items() if name.endswith(".master")}
    parameters = sum(masters.values())
    hook_file = manifest.files.get("hook.safetensors", (0, ""))[0]
    return {
        "step": manifest.step,
        "optimizer_steps": state["optimizer_steps"],
        "world_size": state["world_size"],
        "validation_loss": state["validation_loss"],
        "counters": state["counters"],
        "data_sha256": state["data"],
        "files": {name: size for name, (size, _) in manifest.files.items()},
        "bytes": manifest.bytes,
        "optimizer_tensors": len(tensors),
        "trained_tensors": len(masters),
        "trainable_parameters": parameters,
        "bytes_per_parameter": (manifest.bytes - hook_file) / parameters if parameters else None,
        "hook": state["config"].get("hook"),
        "hook_state": {"keys": sorted(state["hook"]), "tensor_bytes": hook_file},
        "differs_from_run": _differences(folder, state["config"]),
    }


def _differences(folder: Path, saved: Mapping[str, Any]) -> dict[str, list[Any]] | None:
    """Keys whose value in the run's ``config.yaml`` is another one, ``[checkpoint, run]``; ``None`` without a run."""
    try:
        current = yaml.safe_load((folder.resolve().parents[1] / "config.yaml").read_text())
    except (OSError, yaml.YAMLError, IndexError):
        return None
    if not isinstance(current, dict):
        return None
    before, now = _flatten(saved), _flatten(current)
    keys = sorted(before.keys() | now.keys())
    return {key: [before.get(key), now.get(key)] for key in keys if before.get(key) != now.get(key)}


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _safetensors_header(path: Path) -> dict[str, list[int]]:
    """Tensor -> shape, from the file's header alone."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > path.stat().st_size:
                raise ValueError
            header = json.loads(file.read(length))
            return {name: list(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise Damaged(path, "has no readable safetensors header") from None
