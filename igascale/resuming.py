"""Continuing from a checkpoint: whether this run may, and putting everything back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from igascale.assemble import Data
from igascale.checkpoints.content import check_fits, load
from igascale.checkpoints.rng import set_rng_states
from igascale.config import RunConfig
from igascale.engine import Engine
from igascale.engine.base import factor_parameters
from igascale.errors import UserError
from igascale.hooks.base import GradientHook

#: Sections and keys that may differ between a checkpoint and the run that resumes it: they do not touch the mathematics.
_FREE = ("output_dir", "engine", "eval", "checkpoint", "logging", "supervision")


def check_same_mathematics(saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Refuse to resume under a configuration that would compute something else.

    Raises:
        UserError: names every key that differs, with both values.
    """
    before, now = _flatten(saved), _flatten(current)
    changed = [
        f"{key}: {before.get(key)!r} in the checkpoint, {now.get(key)!r} now"
        for key in sorted(before.keys() | now.keys())
        if key.split(".")[0] not in _FREE and before.get(key) != now.get(key)
    ]
    if changed:
        raise UserError("cannot resume with another configuration: " + "; ".join(changed))


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def restore(
    folder: Path, config: RunConfig, data: Data, engine: Engine, hook: GradientHook
) -> tuple[int, dict[str, Any]]:
    """Put a checkpoint's state into optimizer, hook and this rank's random generators.

    Args:
        folder: a checkpoint, from :func:`igascale.runfolder.open_run`.
        config: the run that continues.
        data: its data.
        engine: its engine, on every rank.
        hook: its rule.

    Returns:
        The steps taken, and the trainer's counters.

    Raises:
        UserError: a file is damaged or of another model, the training data is another file, or dropout and another number of ranks would make
            it another run.
    """
    saved = load(folder)
    if saved.data != data.train.sha256:
        raise UserError(
            f"{data.train.source} is not the file that the checkpoint was trained on (its SHA-256 differs); bring "
            "that one back, or start a new run"
        )
    if saved.world_size != engine.comm.world_size and config.lora.dropout > 0:
        raise UserError(
            f"the checkpoint was written by {saved.world_size} ranks, this run has {engine.comm.world_size}: with "
            "lora.dropout > 0 it would not continue the same run; use the same number, or lora.dropout: 0"
        )
    check_fits(folder, saved.master, {name: p.shape for name, p in factor_parameters(engine.adapters).items()})
    engine.set_state(saved.master)
    hook.load_state_dict(saved.hook)
    prefix = f"rank{engine.comm.rank}."
    set_rng_states({k.removeprefix(prefix): v for k, v in saved.rng.items() if k.startswith(prefix)})
    return saved.step, saved.counters
