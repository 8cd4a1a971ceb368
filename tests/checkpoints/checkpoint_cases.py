"""Small checkpoints without a training run, and a list of ways to damage one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from igascale.checkpoints.content import Checkpoint, Files, snapshot, write_files
from igascale.checkpoints.publish import Published, publish
from igascale.engine import MasterState
from igascale.runlock import LOCK

FILES = (
    "manifest.json",
    "state.json",
    "optimizer.safetensors",
    "rng.safetensors",
    "hook.safetensors",
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
)
NAMES = ("q_proj", "v_proj")


def files_of(step: int, world_size: int = 1) -> Files:
    """What a checkpoint of two adapters would hold; the content depends on the step."""
    draw = torch.Generator().manual_seed(step)

    def tensors(*kinds: str) -> dict[str, torch.Tensor]:
        return {f"{n}.lora_{f}{k}": torch.randn(4, 8, generator=draw) for n in NAMES for f in "AB" for k in kinds}

    checkpoint = Checkpoint(
        step=step,
        master=MasterState(step, tensors(".master", ".exp_avg", ".exp_avg_sq")),
        rng={f"rank{r}.torch": torch.Generator().manual_seed(step + r).get_state() for r in range(world_size)},
        hook={"calls": step, "adapters": {name: {"a": torch.full((4,), float(step))} for name in NAMES}},
        config={"hook": {"name": "mean"}, "seed": 0},
        data="0" * 64,
        counters={"tokens": step, "best_step": None},
        world_size=world_size,
    )
    adapter: Files = {
        "adapter/adapter_config.json": json.dumps({"r": 4, "step": step}),
        "adapter/adapter_model.safetensors": tensors(".weight"),
    }
    return snapshot(checkpoint) | adapter


def save(root: Path, step: int, keep: int = 9, best: int | None = None) -> Published:
    """Publish the checkpoint of :func:`files_of`."""
    files = files_of(step)
    return publish(root, step, lambda folder: write_files(folder, files), keep=keep, best=best)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative path."""
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and p.name != LOCK
    }


def reseal(folder: Path, **changes: object) -> None:
    """Let the manifest agree with the files as they are now, as one would who edits a checkpoint on purpose."""
    data = json.loads((folder / "manifest.json").read_text())
    listed = changes.pop("files", None) or [n for n in data["files"] if (folder / n).is_file()]
    data["files"] = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name in sorted(listed)
        for content in [(folder / name).read_bytes()]
    }
    data |= changes
    data.pop("sha256", None)
    seal = hashlib.sha256(json.dumps(data, indent=1).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(data | {"sha256": seal}, indent=1) + "\n")


Damage = Callable[[Path, Path], None]  # (the newest checkpoint's folder, the file in it)


def file_damage() -> Iterator[tuple[str, Damage]]:
    """Ways to damage any one file of the newest checkpoint."""

    def edit(change: Callable[[bytearray], object]) -> Damage:
        def act(folder: Path, path: Path) -> None:
            content = bytearray(path.read_bytes())
            result = change(content)
            path.write_bytes(result if isinstance(result, (bytes, bytearray)) else content)

        return act

    def flip(share: float, bit: int) -> Damage:
        def change(content: bytearray) -> None:
            content[round(share * (len(content) - 1))] ^= 1 << bit

        return edit(change)

    for share in (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0):
        for bit in (0, 5):
            yield f"flip-{share}-{bit}", flip(share, bit)
    yield "truncate-to-0", edit(lambda c: b"")
    yield "truncate-to-1", edit(lambda c: c[:1])
    yield "truncate-to-half", edit(lambda c: c[: len(c) // 2])
    yield "truncate-by-1", edit(lambda c: c[:-1])
    yield "longer-by-1", edit(lambda c: c + b"\0")
    yield "longer-by-a-page", edit(lambda c: c + bytes(4096))
    yield "zeros", edit(lambda c: bytes(len(c)))
    yield "second-half-zeros", edit(lambda c: c[: len(c) // 2] + bytes(len(c) - len(c) // 2))
    yield "deleted", lambda folder, path: path.unlink()
    yield "a-folder-in-its-place", lambda folder, path: (path.unlink(), path.mkdir())[0]

    def link(folder: Path, path: Path) -> None:
        elsewhere = folder.parent.parent / "elsewhere"
        shutil.move(path, elsewhere)
        path.symlink_to(elsewhere)

    def fifo(folder: Path, path: Path) -> None:
        path.unlink()
        os.mkfifo(path)

    def from_previous(folder: Path, path: Path) -> None:
        shutil.copy(folder.with_name("step-00000002") / path.relative_to(folder), path)

    def other_file(folder: Path, path: Path) -> None:
        names = [n for n in FILES if folder / n != path]
        shutil.copy(folder / names[len(path.name) % len(names)], path)

    yield "a-link-in-its-place", link
    yield "a-pipe-in-its-place", fifo
    yield "that-of-the-previous-checkpoint", from_previous
    yield "another-file-of-the-checkpoint", other_file
