"""When rank 0 writes checkpoints and the result, and what all ranks do when it cannot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from igascale import checkpoint as checkpoints
from igascale.assemble import Data, Student, find_run_folder
from igascale.checkpoint import Checkpoint
from igascale.config import RunConfig
from igascale.engine import Engine
from igascale.errors import UserError
from igascale.hooks.base import GradientHook


class Saver:
    """Writes what a run leaves in its folder. Every method is collective: call it on all ranks.

    Args:
        config: the run's configuration.
        data: its data; a checkpoint carries the SHA-256 of the training file.
        student: the model whose adapter is written.
        hook: its state goes along.
        engine: has the optimizer's state.
        say: tells the user what was written, on rank 0.
    """

    def __init__(
        self,
        config: RunConfig,
        data: Data,
        student: Student,
        hook: GradientHook,
        engine: Engine,
        say: Callable[[str], None],
    ):
        self.config, self.data, self.student = config, data, student
        self.hook, self.engine, self.say = hook, engine, say
        self.folder = find_run_folder(config)

    def save(self, step: int, counters: Mapping[str, Any]) -> None:
        """Write a checkpoint of the state after ``step`` steps."""
        state = self._collect(step, counters)
        root, keep = self.folder / "checkpoints", self.config.checkpoint.keep
        self._write(step, lambda: checkpoints.save(root, state, self._save_adapter, keep))

    def finish(self, step: int) -> None:
        """Write the result of the run, ``adapter/``."""
        self._write(step, lambda: self._save_adapter(self.folder / "adapter"))

    def _collect(self, step: int, counters: Mapping[str, Any]) -> Checkpoint:
        comm, rng, hook_states = self.engine.comm, dict[str, Tensor](), []
        master = self.engine.get_state()
        for rank, (states, hook_state) in enumerate(
            comm.gather_objects((checkpoints.rng_states(), self.hook.state_dict()))
        ):
            rng |= {f"rank{rank}.{name}": state for name, state in states.items()}
            hook_states.append(hook_state)
        hook = dict(hook_states[0])
        if "adapters" in hook:
            owners = self.engine.owners
            hook["adapters"] = {
                k: hook_states[r]["adapters"][k] for k, r in owners.items() if k in hook_states[r].get("adapters", {})
            }
        return Checkpoint(
            step,
            master,
            rng,
            hook,
            self.config.model_dump(mode="json"),
            self.data.train.sha256,
            dict(counters),
            comm.world_size,
        )

    def _write(self, step: int, write: Callable[[], Path]) -> None:
        """Write on rank 0; if that fails, every rank stops with the same message."""
        problem = ""
        if self.engine.comm.rank == 0:
            try:
                self.say(f"written: {write()}")
            except (OSError, SafetensorError) as error:
                problem = str(error)
        if problem := self.engine.comm.gather_objects(problem)[0]:
            raise UserError(
                f"{self.folder} cannot be written at step {step}: {problem}. Earlier checkpoints are intact: make room, "
                "then --resume auto"
            )

    def _save_adapter(self, folder: Path) -> Path:
        self.student.model.save_pretrained(str(folder), save_embedding_layers=False)  # type: ignore[operator]
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's model card template, with every field open
        return folder
