"""What is in the files of a checkpoint: from a run's state to files, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from igascale.checkpoints.manifest import STATE, Damaged, read_state, verify
from igascale.engine.adamw import MOMENTS
from igascale.engine.base import MasterState

OPTIMIZER, RNG, HOOK = "optimizer.safetensors", "rng.safetensors", "hook.safetensors"

#: Path -> the tensors of a safetensors file, or the text of another. Nothing in it changes when the run goes on.
Files = dict[str, dict[str, Tensor] | str]


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
        validation_loss: mean over the training domains, nats per token, where they were validated after this very step.
        model: what the base model's folder holds, from :func:`igascale.resuming.sources.fingerprint_model`.
        hook_source: of the hook's file, from :func:`igascale.resuming.sources.fingerprint_hook`.
    """

    step: int
    master: MasterState
    rng: dict[str, Tensor]
    hook: dict[str, Any]
    config: dict[str, Any]
    data: str
    counters: dict[str, Any] = field(default_factory=dict)
    world_size: int = 1
    validation_loss: float | None = None
    model: dict[str, str] | None = None
    hook_source: str | None = None


def snapshot(checkpoint: Checkpoint) -> Files:
    """The files of a checkpoint but for its adapter, as copies in host memory.

    Raises:
        TypeError: the hook's state holds what neither a tensor nor JSON can.
    """
    hook_tensors: dict[str, Tensor] = {}
    state = {
        "step": checkpoint.step,
        "optimizer_steps": checkpoint.master.steps,
        "world_size": checkpoint.world_size,
        "validation_loss": checkpoint.validation_loss,
        "hook": _take_tensors(checkpoint.hook, "", hook_tensors),
        "counters": checkpoint.counters,
        "data": checkpoint.data,
        "model": checkpoint.model,
        "hook_source": checkpoint.hook_source,
        "config": checkpoint.config,
    }
    files: Files = {
        OPTIMIZER: checkpoint.master.tensors,  # copies already
        RNG: {name: to_host(tensor) for name, tensor in checkpoint.rng.items()},
        STATE: json.dumps(state, indent=1) + "\n",
    }
    if hook_tensors:
        files[HOOK] = hook_tensors
    return files


def to_host(tensor: Tensor) -> Tensor:
    """A copy in host memory."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def write_files(folder: Path, files: Files) -> None:
    """Write a snapshot into a folder.

    Raises:
        OSError: there is no room, or no permission.
    """
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if isinstance(content, str):
            path.write_text(content)
            continue
        try:
            save_file(content, path, metadata={"format": "pt"})
        except SafetensorError as error:  # how safetensors reports a full disk
            raise OSError(f"{path.name}: {error}") from error


def load(folder: Path) -> Checkpoint:
    """Verify every file of a checkpoint against its manifest, then read it.

    Raises:
        Damaged: a file is missing, changed, or does not hold what it should.
    """
    manifest = verify(folder)
    state = read_state(folder / STATE, manifest.step)
    hook: dict[str, Any] = state["hook"]
    if HOOK in manifest.files:
        _put_tensors(hook, _read_tensors(folder / HOOK), folder / HOOK)
    rng = _read_tensors(folder / RNG)
    for name in (f"rank{rank}.torch" for rank in range(state["world_size"])):
        if name not in rng:
            raise Damaged(folder / RNG, f"holds no {name}")
    for name, tensor in rng.items():
        if tensor.dtype != torch.uint8 or (name.endswith(".torch") and tensor.shape != torch.get_rng_state().shape):
            raise Damaged(folder / RNG, f"{name} is no random state of this PyTorch")
    return Checkpoint(
        step=state["step"],
        master=MasterState(state["optimizer_steps"], _read_tensors(folder / OPTIMIZER)),
        rng=rng,
        hook=hook,
        config=state["config"],
        data=state["data"],
        counters=state["counters"],
        world_size=state["world_size"],
        validation_loss=state["validation_loss"],
        model=state.get("model"),
        hook_source=state.get("hook_source"),
    )


def check_fits(folder: Path, master: MasterState, shapes: Mapping[str, Iterable[int]]) -> None:
    """Refuse an optimizer state that is not this model's, before any of it is used.

    Args:
        folder: where it was read from.
        master: what was read.
        shapes: ``{adapter}.lora_A`` or ``.lora_B`` -> shape, of every trained parameter.

    Raises:
        Damaged: names a tensor that is missing, has another shape or type, or belongs to no parameter.
    """
    path = folder / OPTIMIZER
    expected = {f"{name}.{kind}": tuple(shape) for name, shape in shapes.items() for kind in ("master", *MOMENTS)}
    for name, shape in expected.items():
        tensor = master.tensors.get(name)
        if tensor is None:
            raise Damaged(path, f"holds no {name}, which this model needs (is model.path the same model?)")
        if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
            found = f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
            raise Damaged(
                path, f"{name} is {found}, this model has {list(shape)} float32 (is model.path the same model?)"
            )
    for name in master.tensors:
        if name not in expected:
            raise Damaged(path, f"holds {name}, which this model does not have (is model.path the same model?)")


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise Damaged(path, f"cannot be read ({error})") from None
    return tensors


_SEPARATOR = "\x1f"  # between the keys of nested dicts; in no adapter's name


def _take_tensors(tree: Mapping[str, Any], prefix: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The tree without its tensors, copies of which are put into ``tensors`` by path."""
    rest: dict[str, Any] = {}
    for key, value in tree.items():
        if not isinstance(key, str):
            raise TypeError(f"the hook's state has the key {key!r}: a file gives back strings only")
        if isinstance(value, Mapping):
            rest[key] = _take_tensors(value, f"{prefix}{key}{_SEPARATOR}", tensors)
        elif isinstance(value, Tensor):
            tensors[f"{prefix}{key}"] = to_host(value)
        else:
            _check_plain(value, key)
            rest[key] = value
    return rest


def _check_plain(value: Any, key: str) -> None:
    """JSON gives it back as it is. It would take a tuple, or a dict's numbers for keys, and give back something else."""
    if isinstance(value, list):
        for each in value:
            _check_plain(each, key)
    elif isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        for each in value.values():
            _check_plain(each, key)
    elif not isinstance(value, str | int | float | None):
        raise TypeError(
            f"the hook's state holds a {type(value).__name__} in {key!r}: a file gives back tensors, numbers, strings, lists and "
            "dicts of them by name"
        )


def _put_tensors(tree: dict[str, Any], tensors: Mapping[str, Tensor], source: Path) -> None:
    for path, tensor in tensors.items():
        *above, last = path.split(_SEPARATOR)
        node: Any = tree
        for key in above:
            node = node.get(key) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            raise Damaged(source, f"holds {'.'.join([*above, last])}, which {STATE} has no place for")
        node[last] = tensor
