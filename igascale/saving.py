"""When checkpoints and the result are written, by whom, and what all ranks do when they cannot be."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from igascale.assemble import Data, Student, find_run_folder
from igascale.checkpoints import names
from igascale.checkpoints.adapter import adapter_files
from igascale.checkpoints.content import Checkpoint, Files, snapshot, write_files
from igascale.checkpoints.publish import Published, publish, publish_result
from igascale.checkpoints.rng import rng_states
from igascale.checkpoints.writer import BackgroundWriter, Outcome, attempt
from igascale.config import RunConfig
from igascale.engine import Engine
from igascale.errors import UserError
from igascale.hooks.base import GradientHook
from igascale.resuming.sources import fingerprint_hook, fingerprint_model


class Teller(Protocol):
    """Who tells the user, on rank 0."""

    def say(self, message: str) -> None:
        """A line."""

    def warn(self, message: str) -> None:
        """A line that should not be missed."""


_DUE, _BUSY = 1.0, 2.0


def asked(flag: float) -> tuple[bool, bool]:
    """Whether rank 0's clock asks for a checkpoint, and whether it still writes the one before; from the sum of the first flag."""
    return flag in (_DUE, _DUE + _BUSY), flag >= _BUSY


class Saver:
    """Writes what a run leaves in its folder.

    ``flags`` and ``close`` are each rank's own affair; every other method that takes part in saving is collective: call it on
    all ranks. Writing is rank 0's work; what it cannot do, all ranks hear of, so that none waits for one that has left.

    Args:
        config: the run's configuration.
        data: its data; a checkpoint carries the SHA-256 of the training file.
        student: the model whose adapter is written.
        hook: its state goes along.
        engine: has the optimizer's state.
        teller: tells the user what was written, on rank 0.
        counters: the trainer's, which go along; ``best_step``, ``best_loss`` and ``best_on`` in them are this class's.
    """

    def __init__(
        self,
        config: RunConfig,
        data: Data,
        student: Student,
        hook: GradientHook,
        engine: Engine,
        teller: Teller,
        counters: dict[str, Any],
    ):
        self.config, self.data, self.student, self.hook, self.engine = config, data, student, hook, engine
        self.teller, self.counters, self.section = teller, counters, config.checkpoint
        self.main, self.folder = engine.comm.rank == 0, find_run_folder(config)
        self.root = self.folder / "checkpoints"
        self._model = fingerprint_model(config.model.path) if self.main else None
        self._hook_source = fingerprint_hook(config.hook.name) if self.main else None
        self._writer, self._since = BackgroundWriter(), time.monotonic()
        self._fatal = self._unsaved = ""  # on rank 0: why to stop at once; why the newest checkpoint is missing
        self._validated: tuple[int, float] | None = None
        self._recall_best()
        self._best_on_disk = self._best()

    def _recall_best(self) -> None:
        """The best so far, unless it is not there any more, or was found by other instances than those of this run."""
        held_out, best = self.data.validation, self.counters.setdefault("best_step", None)
        self.counters.setdefault("best_loss", None)
        measure = held_out and f"{held_out.sha256[:12]}, {self.config.eval.max_groups} groups"
        before = self.counters.get("best_on")
        self.counters["best_on"] = measure
        problem = ""
        if best is None:
            return
        if before not in (None, measure):  # an earlier version does not say
            problem = "was chosen by another data.validation or eval.max_groups"
        elif not (self.root / names.name_of(best)).is_dir():
            problem = f"is not in {self.root}"
        if self.engine.comm.gather_objects(problem)[0]:
            self.counters |= {"best_step": None, "best_loss": None}
            if self.section.keep_best:
                self.teller.warn(f"the best checkpoint, {names.name_of(best)}, {problem}; the best is looked for anew")

    def flags(self) -> tuple[float, float]:
        """What rank 0 asks for, and whether a background write failed for good; all zero on the other ranks.

        Summed over the ranks with the step's other numbers, they are every rank's decision: :func:`asked` reads the first.
        """
        self._hear(self._writer.take())
        minutes = self.section.minutes
        due = self.main and minutes is not None and time.monotonic() - self._since >= 60 * minutes
        return due * _DUE + self._writer.busy * _BUSY, float(bool(self._fatal))

    def validated(self, step: int, losses: Mapping[str, float]) -> bool:
        """Hear of the in-domain losses after ``step``; whether they ask for a checkpoint (``checkpoint.keep_best``)."""
        mean = sum(losses.values()) / len(losses)
        self._validated = step, mean
        best = self.counters["best_loss"]
        better = self.section.keep_best and math.isfinite(mean) and (best is None or mean < best)
        better = self.engine.comm.gather_objects(better)[0]  # a write that failed is known on rank 0 only
        if better:
            self.counters |= {"best_step": step, "best_loss": mean}
        return better

    def _best(self) -> dict[str, Any]:
        return {key: self.counters[key] for key in ("best_step", "best_loss")}

    def save(self, step: int, *, last: bool = False) -> None:
        """Write a checkpoint of the state after ``step`` steps, or begin to.

        Args:
            step: optimizer steps taken.
            last: nothing follows but :meth:`conclude`, which then says what went wrong.

        Raises:
            UserError: it could not be written (or the one before), and ``checkpoint.on_error`` is to stop.
        """
        self._wait(f"before that of step {step}")
        self._since = time.monotonic()
        checkpoint = self._collect(step)
        if self.main and not self._fatal:
            best = self.counters["best_step"] if self.section.keep_best else None
            keep, root = self.section.keep, self.root
            try:
                files = snapshot(checkpoint) | adapter_files(self.student.model, "adapter/")
            except Exception as error:
                self._hear(Outcome(step, error=error))
            else:

                def work() -> Published:
                    return publish(root, step, lambda folder: write_files(folder, files), keep=keep, best=best)

                if self.section.asynchronous:
                    self._writer.start(step, work)
                else:
                    self._hear(attempt(step, work))
        if not last:
            self.stop_if_failed()

    def stop_if_failed(self) -> None:
        """Raise on every rank what rank 0 cannot go on from."""
        if problem := self.engine.comm.gather_objects(self._fatal)[0]:
            raise UserError(problem)

    def conclude(self, step: int, *, result: bool) -> None:
        """Wait for what is being written; write the result of the run, ``adapter/``, if this is its end.

        Raises:
            UserError: the last checkpoint or the result is not there, whatever ``checkpoint.on_error``.
        """
        self._wait("before the end")
        if result and self.main:
            files: Files = {}

            def work() -> Published:
                files.update(adapter_files(self.student.model))
                return publish_result(self.folder / "adapter", lambda folder: write_files(folder, files))

            outcome = attempt(step, work)
            if outcome.error is not None:
                self._fatal = self._describe(outcome, "the result, adapter/,")
            else:
                self.teller.say(f"written: {self.folder / 'adapter'}")
                if self._unsaved:
                    self._unsaved += ". The result, adapter/, is written"
        self._fatal = self._fatal or self._unsaved
        self.stop_if_failed()

    def close(self) -> None:
        """Wait for what is being written and say how it went; for the way out of an error."""
        self._wait("before the end")

    def _wait(self, until: str) -> None:
        if self._writer.busy:
            started = time.monotonic()
            outcome = self._writer.take(wait=True)
            seconds = time.monotonic() - started
            if seconds >= 0.1:
                self.teller.say(f"waited {seconds:.1f} s {until} for the previous checkpoint to be on disk")
            self._hear(outcome)
        else:
            self._hear(self._writer.take())

    def _hear(self, outcome: Outcome | None) -> None:
        """Take note of how a write ended, on rank 0."""
        if outcome is None:
            return
        best = self.counters["best_step"] == outcome.step
        if outcome.published is not None:
            self._unsaved = ""
            if best:
                self._best_on_disk = self._best()
            self.teller.say(f"written: {outcome.published.folder}")
            for note in outcome.published.notes:
                self.teller.warn(note)
            return
        if best:
            self.counters |= self._best_on_disk
        self._unsaved = self._describe(outcome, "the checkpoint")
        if self.section.on_error == "stop" or not isinstance(outcome.error, OSError):
            self._fatal = self._unsaved
        else:
            self.teller.warn(f"{self._unsaved}. Training goes on (checkpoint.on_error: continue)")

    def _describe(self, outcome: Outcome, what: str) -> str:
        error = outcome.error
        if not isinstance(error, OSError):
            return f"{what} of step {outcome.step} cannot be made: {type(error).__name__}: {error}"
        reason = f"{error.strerror} ({error.filename})" if error.strerror else str(error)
        return (
            f"{self.folder}: {what} of step {outcome.step} cannot be written: {reason}. Earlier checkpoints are intact: make "
            "room (or the folder writable), then --resume auto"
        )

    def _collect(self, step: int) -> Checkpoint:
        comm, rng, hook_states = self.engine.comm, dict[str, Tensor](), []
        master = self.engine.get_state()
        for rank, (states, hook_state) in enumerate(comm.gather_objects((rng_states(), self.hook.state_dict()))):
            rng |= {f"rank{rank}.{name}": state for name, state in states.items()}
            hook_states.append(hook_state)
        loss = self._validated[1] if self._validated else math.nan
        hook = dict(hook_states[0])
        if "adapters" in hook:
            owners = self.engine.owners
            hook["adapters"] = {
                k: hook_states[r]["adapters"][k] for k, r in owners.items() if k in hook_states[r].get("adapters", {})
            }
        return Checkpoint(
            step=step,
            master=master,
            rng=rng,
            hook=hook,
            config=self.config.model_dump(mode="json"),
            data=self.data.train.sha256,
            counters=dict(self.counters),
            world_size=comm.world_size,
            model=self._model,
            hook_source=self._hook_source,
            validation_loss=loss if self._validated == (step, loss) and math.isfinite(loss) else None,
        )
