"""A small real run for the training tests: model folder, data files and a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from igascale import assemble, runfolder, saving
from igascale.config import RunConfig, load_config
from igascale.engine import Engine, MasterState
from igascale.hooks.base import GradientHook
from igascale.supervision.lifeline import Lifeline
from igascale.trainer import Trainer

from tiny import save_tiny_model_folder


def prepare(folder: Path, **changes: Any) -> Path:
    """Write model, data (64 groups of 4 domains) and ``run.yaml`` into ``folder``; ``changes`` are further keys."""
    from igascale.isomers.dataset import generate_dataset

    save_tiny_model_folder(folder / "model")
    generate_dataset(folder / "data", groups=64, validation_groups=16, ood_groups=8, seed=0)
    config = {
        "output_dir": str(folder / "run"),
        "model": {"path": str(folder / "model"), "dtype": "float32"},
        "lora": {"r": 4, "alpha": 8.0},
        "data": {
            "train": str(folder / "data" / "train.jsonl"),
            "validation": str(folder / "data" / "validation.jsonl"),
            "ood": str(folder / "data" / "ood.jsonl"),
            "max_length": 512,
        },
        "hook": {"name": "mean"},
        "train": {"max_steps": 4, "groups_per_batch": 4, "gradient_accumulation_steps": 2},
        "engine": {"name": "single"},
        "eval": {"max_groups": 4},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config | changes))
    return path


class Recorded:
    """What one run did: the losses of each step, the combined gradient of the first, the masters at the end."""

    def __init__(self) -> None:
        self.losses: list[list[float]] = []
        self.first: dict[str, Tensor] = {}
        self.masters: dict[str, Tensor] = {}

    def to_dict(self) -> dict[str, Any]:
        """Plain tensors, for ``torch.save``."""
        return vars(self)


def run(config: RunConfig, device: torch.device | None = None, wrap: Any = None, start_b: float = 0.02) -> Recorded:
    """Train by the same code as ``igascale train``, watching the engine.

    Args:
        config: the run.
        device: this rank's; ``None`` starts the engine's process group.
        wrap: ``(engine, hook) -> hook``, for tests that spoil something.
        start_b: scale of random B factors to start from (B = 0 makes the first gradient of A vanish).
    """
    device = device or assemble.start(config)
    hook: GradientHook = assemble.build_hook(config)
    student = assemble.build_student(config, device)
    generator = torch.Generator().manual_seed(99)
    for adapter in student.adapters.values():
        adapter.B.data.copy_(start_b * torch.randn(adapter.B.shape, generator=generator))
    data = assemble.load_data(config, student.tokenizer)
    engine = assemble.build_engine(config, student, hook, device)
    runfolder.open_run(config, None, engine.comm)
    if wrap is not None:
        hook = wrap(engine, hook)
    trainer = Trainer(config, data, student, hook, engine)
    recorded = Recorded()
    _watch(engine, trainer, recorded)
    trainer.train()
    recorded.masters = {k: v for k, v in engine.get_state().tensors.items() if k.endswith(".master")}
    return recorded


def train(
    config: RunConfig,
    device: torch.device,
    resume: str | None = None,
    stop_after: int | None = None,
    allow: Sequence[str] = (),
    lifeline: Lifeline | None = None,
) -> MasterState:
    """What ``igascale train`` does; returns the optimizer's state at the end."""
    hook = assemble.build_hook(config)
    student = assemble.build_student(config, device)
    data = assemble.load_data(config, student.tokenizer)
    engine = assemble.build_engine(config, student, hook, device)
    start = runfolder.open_run(config, resume, engine.comm, allow)
    Trainer(config, data, student, hook, engine, lifeline).train(start, stop_after)
    return engine.get_state()


def write_quickly(replace: Any = setattr) -> None:
    """Background writes of checkpoints end before the next step begins, so that none is put off."""
    flags = saving.Saver.flags

    def joined(self: saving.Saver) -> tuple[float, float]:
        if self._writer._thread is not None:
            self._writer._thread.join()
        return flags(self)

    replace(saving.Saver, "flags", joined)


def _watch(engine: Engine, trainer: Trainer, recorded: Recorded) -> None:
    apply, one_step = engine.apply, trainer._one_step

    def watched_apply(grads: Any) -> None:
        if not recorded.first:
            recorded.first = {f"{k}.{n}": getattr(g, n).clone() for k, g in grads.items() for n in ("a", "b")}
        apply(grads)

    def watched_step(*arguments: Any) -> Any:
        report, tokens = one_step(*arguments)
        recorded.losses.append(report.losses)
        return report, tokens

    engine.apply = watched_apply  # type: ignore[method-assign]
    trainer._one_step = watched_step  # type: ignore[method-assign]


def relative(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Norm of the difference over the norm of what is expected, all tensors together."""
    assert found.keys() == expected.keys()
    difference = sum((found[k].double() - expected[k].double()).square().sum() for k in expected)
    return float((difference / sum(t.double().square().sum() for t in expected.values())).sqrt())


def load(path: Path, *overrides: str) -> RunConfig:
    """The configuration of :func:`prepare` with overrides."""
    return load_config(path, overrides)
