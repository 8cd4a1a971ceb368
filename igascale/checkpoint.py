"""Checkpoints: small, published atomically, verified before anything is loaded.

``RUN/checkpoints/step-00000100/``

=====================  ==========================================================================================
``adapter/``           a normal PEFT folder; ``PeftModel.from_pretrained`` loads it
``optimizer.safetensors``  float32 masters and both moments, by adapter: independent of engine and number of ranks
``rng.safetensors``    each rank's random states
``hook.safetensors``   tensors of the hook's state, if it has any
``state.json``         step, counters, the rest of the hook's state, the configuration
``manifest.json``      size and SHA-256 of every file above; written last
=====================  ==========================================================================================

Publication: everything is written to a hidden folder, flushed to disk, renamed; then ``latest`` is replaced. A process that
dies at any point leaves the previous checkpoint untouched. No pickle is written or read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from igascale.engine.base import MasterState
from igascale.errors import UserError

LATEST = "latest"
MANIFEST = "manifest.json"


@dataclass
class Checkpoint:
    """Everything that a run needs to continue as if it had not stopped.

    Attributes:
        step: batches consumed, which is the position in the data.
        master: the optimizer's state.
        rng: each rank's random states, ``{"rank0.torch": uint8 tensor, ...}``.
        hook: the hook's ``state_dict()``.
        config: the run's resolved configuration.
        data: SHA-256 of the training file.
        counters: numbers that the trainer carries along.
        world_size: number of ranks that wrote it.
    """

    step: int
    master: MasterState
    rng: dict[str, Tensor]
    hook: dict[str, Any]
    config: dict[str, Any]
    data: str
    counters: dict[str, Any] = field(default_factory=dict)
    world_size: int = 1


def save(root: Path, checkpoint: Checkpoint, save_adapter: Callable[[Path], object], keep: int) -> Path:
    """Write and publish a checkpoint; call it on one rank.

    Args:
        root: the run's ``checkpoints`` folder.
        checkpoint: what to write.
        save_adapter: writes the PEFT folder to the path it is given.
        keep: how many published checkpoints to leave; the oldest ones before this step are removed after publication.
            Checkpoints of later steps (this run was resumed from an older one) stay until the run comes past them.

    Returns:
        The published folder.
    """
    root.mkdir(parents=True, exist_ok=True)
    name = f"step-{checkpoint.step:08d}"
    temporary, final = root / f".{name}.tmp", root / name
    _recover(root)
    temporary.mkdir()
    save_adapter(temporary / "adapter")
    save_file(checkpoint.master.tensors, temporary / "optimizer.safetensors")
    save_file(checkpoint.rng, temporary / "rng.safetensors")
    hook_tensors: dict[str, Tensor] = {}
    hook_rest = _take_tensors(checkpoint.hook, "", hook_tensors)
    if hook_tensors:
        save_file(hook_tensors, temporary / "hook.safetensors")
    state = {
        "step": checkpoint.step,
        "optimizer_steps": checkpoint.master.steps,
        "world_size": checkpoint.world_size,
        "hook": hook_rest,
        "counters": checkpoint.counters,
        "data": checkpoint.data,
        "config": checkpoint.config,
    }
    (temporary / "state.json").write_text(json.dumps(state, indent=1) + "\n")
    files = {str(p.relative_to(temporary)): _digest(p) for p in sorted(temporary.rglob("*")) if p.is_file()}
    (temporary / MANIFEST).write_text(json.dumps({"format": 1, "files": files}, indent=1) + "\n")
    for path in [*temporary.rglob("*"), temporary]:
        _flush(path)
    if final.exists():  # a run resumed from an older checkpoint comes past this step again
        final.rename(root / f".{name}.old.tmp")
    temporary.rename(final)
    _flush(root)
    pointer = root / f".{LATEST}.tmp"
    pointer.write_text(name + "\n")
    _flush(pointer)
    pointer.replace(root / LATEST)
    _flush(root)
    _recover(root)
    for old in [p for p in sorted(root.glob("step-*")) if p.name <= name][:-keep]:
        shutil.rmtree(old)
    return final


def find(run: Path, which: str) -> Path | None:
    """The checkpoint to resume from.

    Args:
        run: the run folder.
        which: ``auto`` for the latest of this run (``None`` if it has none), or the path of a checkpoint or of a run.

    Raises:
        UserError: the path holds no checkpoint, or ``latest`` names one that is not there.
    """
    root = (run if which == "auto" else Path(which)) / "checkpoints"
    _recover(root)
    if which != "auto" and (Path(which) / MANIFEST).is_file():
        return Path(which)
    pointer = root / LATEST
    if not pointer.is_file():
        if which == "auto" and not any(root.glob("step-*")):
            return None
        raise UserError(f"no checkpoint in {which if which != 'auto' else root}: {pointer} is missing")
    folder = root / pointer.read_text().strip()
    if not folder.is_dir() or folder == root:
        raise UserError(f"{pointer} names '{pointer.read_text().strip()}', which is not there; {_others(root)}")
    return folder


def load(folder: Path) -> Checkpoint:
    """Verify every file of a checkpoint against its manifest, then read it.

    Raises:
        UserError: a file is missing, truncated or edited; names it and the other checkpoints there are.
    """
    verify(folder)
    state = json.loads((folder / "state.json").read_text())
    hook: dict[str, Any] = state["hook"]
    if (folder / "hook.safetensors").is_file():
        _put_tensors(hook, load_file(folder / "hook.safetensors"))
    return Checkpoint(
        step=state["step"],
        master=MasterState(state["optimizer_steps"], load_file(folder / "optimizer.safetensors")),
        rng=load_file(folder / "rng.safetensors"),
        hook=hook,
        config=state["config"],
        data=state["data"],
        counters=state["counters"],
        world_size=state["world_size"],
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration that a verified checkpoint was written under."""
    config: dict[str, Any] = json.loads((folder / "state.json").read_text())["config"]
    return config


def verify(folder: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        UserError: see :func:`load`.
    """
    others = _others(folder.parent, folder)
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        files = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except FileNotFoundError:
        raise UserError(f"{folder}: not a checkpoint, {MANIFEST} is missing; {others}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{folder / MANIFEST}: damaged; {others}") from None
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: missing from the checkpoint; {others}")
        if path.stat().st_size != expected[0]:
            raise UserError(f"{path}: {path.stat().st_size} bytes instead of {expected[0]} (truncated?); {others}")
        if _digest(path)["sha256"] != expected[1]:
            raise UserError(f"{path}: content differs from what was saved (edited or damaged); {others}")
    for name in ("state.json", "optimizer.safetensors", "rng.safetensors"):
        if name not in files:
            raise UserError(f"{folder / MANIFEST}: does not list {name} (edited?); {others}")


def rng_states() -> dict[str, Tensor]:
    """This process's random states, as tensors."""
    states = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_rng_states(states: Mapping[str, Tensor]) -> None:
    """Restore :func:`rng_states`."""
    if "torch" in states:
        torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


_SEPARATOR = "\x1f"  # between the keys of nested dicts; in no adapter's name


def _take_tensors(tree: Mapping[str, Any], prefix: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The tree without its tensors, which are put into ``tensors`` by path."""
    rest: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            rest[key] = _take_tensors(value, f"{prefix}{key}{_SEPARATOR}", tensors)
        elif isinstance(value, Tensor):
            tensors[f"{prefix}{key}"] = value.detach().cpu().contiguous()
        else:
            rest[key] = value
    return rest


def _put_tensors(tree: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    for path, tensor in tensors.items():
        *above, last = path.split(_SEPARATOR)
        node = tree
        for key in above:
            node = node[key]
        node[last] = tensor


def _digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _recover(root: Path) -> None:
    """Clean up after a process that died while saving; a checkpoint that was being replaced comes back."""
    for leftover in root.glob(".step-*.tmp"):
        final = root / leftover.name.removeprefix(".").removesuffix(".tmp").removesuffix(".old")
        if leftover.name.endswith(".old.tmp") and not final.exists():
            leftover.rename(final)
        else:
            shutil.rmtree(leftover)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _others(root: Path, folder: Path | None = None) -> str:
    names = [str(p) for p in sorted(root.glob("step-*"), reverse=True) if p != folder and (p / MANIFEST).is_file()]
    return f"other checkpoints: {', '.join(names)} (--resume PATH)" if names else "there is no other checkpoint"
