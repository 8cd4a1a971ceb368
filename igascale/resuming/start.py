"""What is decided of a resume before anything is loaded, from the checkpoint's ``state.json`` alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igascale.checkpoints.manifest import STATE, digest, read_manifest, read_state
from igascale.config import RunConfig
from igascale.resuming import history
from igascale.resuming.mathematics import RANKS, Change, check_allowed, compare, differing
from igascale.resuming.sources import Sources, find_sources

#: The trainer's counters that a resume needs: optimizer steps of the whole run, instances per forward pass where they were kept
#: from another number of ranks, and where a checkpoint comes from that another program wrote.
TOTAL_STEPS, ROWS, IMPORTED = "total_steps", "rows_per_pass", "imported_from"


@dataclass(frozen=True)
class Resumption:
    """A checkpoint that this run may continue from.

    Attributes:
        folder: the checkpoint, verified.
        step: of it.
        changes: every key that differs.
        allow: the keys and sections that ``--allow-change`` named.
        fork: the run goes on in another run folder than the checkpoint's.
        finished: nothing is left to do.
    """

    folder: Path
    step: int
    changes: tuple[Change, ...]
    allow: tuple[str, ...]
    fork: bool
    finished: bool

    def allowed(self, key: str) -> bool:
        """Whether the user allowed a key to change."""
        return key in self.allow or key.partition(".")[0] in self.allow

    def changed(self, *keys: str) -> list[str]:
        """Those of ``keys`` that are not what they were."""
        return [change.key for change in self.changes if change.key in keys]

    @property
    def of_mathematics(self) -> list[Change]:
        """What makes it another run from here on."""
        return [change for change in self.changes if change.kind == "mathematics"]

    def notices(self) -> list[str]:
        """What is worth a line."""
        moved = [str(c) for c in self.changes if c.kind == "none" and c.key in ("data.train", "model.path")]
        return ([f"a new run that is forked from {self.folder}, which stays as it is"] if self.fork else []) + moved

    def warnings(self) -> list[str]:
        """What should not be missed."""
        rounding = [str(change) for change in self.changes if change.kind == "rounding"]
        lines = []
        if self.of_mathematics:
            told = "; ".join(map(str, self.of_mathematics))
            lines.append(f"another run from step {self.step} on, as --allow-change says: {told}")
        elif rounding:
            lines.append(f"continues the same run to rounding, not to the bit: {'; '.join(rounding)}")
        return lines


def examine(folder: Path, config: RunConfig, run: Path, allow: Sequence[str], world_size: int | None) -> Resumption:
    """Decide whether ``config`` may go on from a checkpoint.

    Args:
        folder: a valid checkpoint.
        config: the run.
        run: its folder.
        allow: of ``--allow-change``.
        world_size: number of ranks; ``None`` where it is not known yet.

    Raises:
        UserError: it would be another run, in a way that was not allowed.
    """
    state = read_state(folder / STATE, read_manifest(folder).step)
    before = Sources(state["data"], state.get("model"), state.get("hook_source"))
    changes = compare(state["config"], config, before, find_sources(config))
    if world_size is not None and IMPORTED not in state["counters"]:
        changes += _ranks(state, config, world_size)
    fork = not is_of(run, folder)
    check_allowed(changes, allow, set() if fork else history.granted(run), state["step"])
    unchanged = not any(change.kind == "mathematics" for change in changes)
    at_end = state["step"] == state["counters"].get(TOTAL_STEPS) and _has_result(run, folder)
    return Resumption(folder, state["step"], tuple(changes), tuple(allow), fork, not fork and unchanged and at_end)


def is_of(run: Path, folder: Path) -> bool:
    """Whether a checkpoint is one of the run's own; its ``checkpoints`` may be a link to another disk."""
    return folder.resolve().parent == (run / "checkpoints").resolve()


def _has_result(run: Path, folder: Path) -> bool:
    """``adapter/`` is this checkpoint's, not that of an earlier end of the run (which was made longer, or gone back in)."""
    name = "adapter/adapter_model.safetensors"
    try:
        return digest(run / name) == read_manifest(folder).files[name]
    except OSError:
        return False


def _ranks(state: dict[str, Any], config: RunConfig, world_size: int) -> list[Change]:
    before = state["world_size"]
    if before == world_size:
        return []
    if not config.lora.dropout:
        return [differing(RANKS, before, world_size, "rounding")]
    text = (
        f"{RANKS}: {before} wrote the checkpoint, this run has {world_size}: with lora.dropout > 0 each rank draws masks of its "
        "own, so that another number of them would not continue the same run"
    )
    return [Change(RANKS, before, world_size, "mathematics", text)]
