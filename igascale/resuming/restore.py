"""Putting a checkpoint's state back, when model and data are there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from igascale.assemble import Data
from igascale.checkpoints.content import Checkpoint, check_fits, load
from igascale.checkpoints.rng import set_rng_states
from igascale.config import RunConfig, TrainConfig
from igascale.engine import Engine
from igascale.engine.base import factor_parameters
from igascale.errors import UserError
from igascale.hooks.base import GradientHook
from igascale.resuming.layout import Layout, describe_change, keep_rows
from igascale.resuming.mathematics import RANKS
from igascale.resuming.sources import describe_difference, fingerprint_model
from igascale.resuming.start import IMPORTED, ROWS, Resumption


@dataclass(frozen=True)
class Restored:
    """What the trainer goes on with.

    Attributes:
        step: steps taken.
        counters: the trainer's.
        rows: instances per forward pass, kept from another number of ranks; ``None``: as the configuration says.
        notices: lines for the user.
    """

    step: int
    counters: dict[str, Any]
    rows: int | None
    notices: tuple[str, ...]


def rng_seed(seed: int, rank: int) -> int:
    """Of PyTorch's own generators, which only dropout draws from. Python's and NumPy's decide nothing while training."""
    return seed * 1009 + rank


def restore(start: Resumption, config: RunConfig, data: Data, engine: Engine, hook: GradientHook) -> Restored:
    """Put a checkpoint's state into optimizer, hook and this rank's random generators. Collective.

    Args:
        start: from :func:`igascale.runfolder.open_run`.
        config: the run that continues.
        data: its data.
        engine: its engine, on every rank.
        hook: its rule.

    Raises:
        UserError: a file is damaged or of another model, a rank has other data or another model than the checkpoint was
            trained on, the run would be over already, or what is random or estimated in it depends on how its forward
            passes are cut, and they would be cut in another way.
    """
    saved = load(start.folder)
    _check_sources(saved, start, config, data, engine)
    if saved.step > data.total_steps:
        raise UserError(
            f"{start.folder} is of step {saved.step}, but this run ends at step {data.total_steps}: raise train.max_steps or "
            "train.epochs"
        )
    check_fits(start.folder, saved.master, {k: p.shape for k, p in factor_parameters(engine.adapters).items()})
    counters = dict(saved.counters)
    rows, notices = _relayout(saved, start, config, data.train.width, engine.comm.world_size, hook)
    if IMPORTED in counters:
        notices.append(f"imported from {counters.pop(IMPORTED)}")
    engine.set_state(saved.master)
    notices += _restore_hook(saved, start, config, hook)
    prefix = f"rank{engine.comm.rank}."
    set_rng_states({k.removeprefix(prefix): v for k, v in saved.rng.items() if k.startswith(prefix)})
    return Restored(saved.step, counters, rows, tuple(notices))


def _check_sources(saved: Checkpoint, start: Resumption, config: RunConfig, data: Data, engine: Engine) -> None:
    """Every rank must have the checkpoint's data and model, or, where another was allowed, the same as the first rank."""
    mine = {"data.train": data.train.sha256, "model.path": fingerprint_model(config.model.path)}
    wanted: dict[str, Any] = {"data.train": saved.data, "model.path": saved.model}
    paths = {"data.train": data.train.source, "model.path": config.model.path}
    everyone = engine.comm.gather_objects(mine)
    for rank, found in enumerate(everyone):
        for key, want in wanted.items():
            expected = everyone[0][key] if start.allowed(key) else want
            if None not in (expected, found[key]) and found[key] != expected:
                old = str(_nested(saved.config, key))
                raise UserError(
                    f"{key} on rank {rank}: {describe_difference(key, old, paths[key], expected, found[key])}"
                )


def _nested(tree: Mapping[str, Any], key: str) -> Any:
    section, _, name = key.partition(".")
    return tree[section][name]


def _relayout(
    saved: Checkpoint, start: Resumption, config: RunConfig, width: int, world_size: int, hook: GradientHook
) -> tuple[int | None, list[str]]:
    """The rows per forward pass from here on, and a line where the passes are others than before."""
    if IMPORTED in saved.counters:
        return None, []
    train = {k: v for k, v in saved.config["train"].items() if k in TrainConfig.model_fields}
    old = config.model_copy(update={"train": TrainConfig(**train)})
    before = Layout(old.groups_per_step, width, saved.world_size, saved.counters.get(ROWS), old)
    after = keep_rows(before, config, world_size)
    keys = start.changed(
        "train.micro_batch_size", "train.packing", "train.groups_per_batch", "train.gradient_accumulation_steps"
    )
    keys += [RANKS] if world_size != saved.world_size else []
    if not all(start.allowed(key) for key in keys):
        _check_independent(saved, before, after, hook, keys)
    line = describe_change(before, after)
    return after.rows, [line] if line else []


def _check_independent(saved: Checkpoint, before: Layout, after: Layout, hook: GradientHook, keys: list[str]) -> None:
    """Refuse to cut the forward passes elsewhere where that decides more than rounding."""
    reason = ""
    if hook.uses_noise and hook.noise_decides and before.whole_groups_end() != after.whole_groups_end():
        reason = (
            "the hook estimates its gradients' noise from the forward passes of a step, which would be cut elsewhere: an equally "
            "good estimate, but other numbers"
        )
    elif _drew(saved.rng, saved.config["seed"]):
        reason = "the model draws random numbers of its own while training (see the dropouts in its config.json)"
    if reason:
        options = " ".join(f"--allow-change {key}" for key in keys)
        raise UserError(
            f"cannot resume with other {' and '.join(keys)} ({saved.world_size} ranks wrote the checkpoint, this run has "
            f"{after.world_size}): {reason}. Use what the checkpoint's run had, or go on as another run: {options}"
        )


def _drew(rng: Mapping[str, Tensor], seed: int) -> bool:
    """Whether any rank's generators moved since the beginning of the run."""
    for name, state in rng.items():
        rank, _, kind = name.removeprefix("rank").partition(".")
        if kind == "torch" and not state.equal(torch.Generator().manual_seed(rng_seed(seed, int(rank))).get_state()):
            return True
        if kind == "cuda" and bool(state[8:].any()):  # a seed of 8 bytes, then how many numbers were drawn
            return True
    return False


def _restore_hook(saved: Checkpoint, start: Resumption, config: RunConfig, hook: GradientHook) -> list[str]:
    try:
        hook.load_state_dict(saved.hook)
    except (ValueError, KeyError, TypeError) as error:
        changed = any(change.key.startswith("hook.") for change in start.of_mathematics)
        if not changed:
            raise UserError(
                f"{start.folder}: hook '{config.hook.name}' does not take the state that the checkpoint holds: {error}"
            ) from None
        return ["the changed hook begins without the state that the checkpoint holds for the old one"]
    return []
