"""The training loop: rows in, micro-batches through the model, one combined step out."""

from __future__ import annotations

import math
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from igascale import runfolder
from igascale.assemble import Data, Student, find_run_folder, micro_batch_size
from igascale.attention import model_inputs, start_attention
from igascale.capture import SETS, GradientCapture
from igascale.config import RunConfig
from igascale.engine import Engine
from igascale.errors import UserError
from igascale.hooks.base import GradientHook
from igascale.isomers.batches import collate, domain_denominators, micro_batches, pack, shard_groups
from igascale.isomers.encode import Example
from igascale.loss import domain_token_losses
from igascale.loss_record import auxiliary_sums
from igascale.memory import explain, is_out_of_memory
from igascale.metrics import RunLog, peak_memory
from igascale.progress import Reporter
from igascale.replicas import check_replicas
from igascale.resuming.restore import restore, rng_seed
from igascale.resuming.start import ROWS, TOTAL_STEPS, Resumption
from igascale.saving import Saver, asked
from igascale.schedule import learning_rate
from igascale.status import RunStatus
from igascale.step import StepReport, adapter_costs, take_step
from igascale.supervision import Lifeline
from igascale.supervision.lifeline import elected, vote
from igascale.validation import validation_losses


class Interrupted(Exception):
    """A signal asked the run to stop; a checkpoint has been written. ``signum`` is the signal."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Trainer:
    """Trains one student with one hook on one engine.

    Args:
        config: the run's configuration.
        data: the encoded data.
        student: model, adapters and tokenizer.
        hook: the gradient rule.
        engine: who reduces and steps.
        lifeline: hears how the run gets on, and of signals that ask it to stop.

    Raises:
        UserError: ``train.packing``, but the model's attention would let packed instances see each other.
    """

    def __init__(
        self,
        config: RunConfig,
        data: Data,
        student: Student,
        hook: GradientHook,
        engine: Engine,
        lifeline: Lifeline | None = None,
    ):
        self.config, self.data, self.student, self.hook, self.engine = config, data, student, hook, engine
        self.lifeline = lifeline or Lifeline()
        self.lifeline.watch(engine.comm.waiting)
        self.folder = find_run_folder(config)
        self.main = engine.comm.rank == 0
        self.domains = data.train.domains
        engine.distribute(adapter_costs(hook, engine.adapters, len(self.domains)))
        self.step = 0
        self.counters: dict[str, Any] = {"skipped_steps": 0, "skipped_in_a_row": 0, "tokens": 0}
        self.counters[TOTAL_STEPS] = data.total_steps
        self._batch = ""  # what is in the forward pass
        self._pad = student.tokenizer.pad_token_id
        self._attention = start_attention(student.model, data.train.groups, config.train.packing)

    def train(self, start: Resumption | None = None, stop_after: int | None = None) -> None:
        """Run to the end (or for ``stop_after`` more steps), from the start or from a checkpoint.

        Args:
            start: what :func:`igascale.runfolder.open_run` returned.
            stop_after: take so many steps, write a checkpoint and return.

        Raises:
            UserError: the checkpoint does not fit (:func:`igascale.resuming.restore.restore`), too many steps in a row were
                not finite, the run folder cannot be written, there is too little memory, or the ranks' adapters have parted.
            Interrupted: after SIGINT, SIGUSR1 or SIGTERM on any rank, when the checkpoint is written.
        """
        torch.manual_seed(rng_seed(self.config.seed, self.engine.comm.rank))
        notices, warnings = self._resume(start) if start else ([], [])
        last = self.data.total_steps if stop_after is None else min(self.data.total_steps, self.step + stop_after)
        config = self.config
        self.log = RunLog(self.folder if self.main else None, config, self.step if start else None)
        capture = self.new_capture()
        title = f"{config.hook.name} ({self.engine.comm.world_size} x {self.engine.device.type})"
        try:
            reporter = Reporter(self.main, self.data.total_steps, self.step, title, self.lifeline.say)
            status = RunStatus(self.folder if self.main else None, self.data.total_steps, self.step)
            with status as self.status, reporter as self.reporter, capture:
                self.reporter.say(self._attention)
                for warning in self.hook.warnings():
                    self.reporter.warn(warning)
                for line in self._describe():
                    self.reporter.say(line)
                self.saver = Saver(
                    config, self.data, self.student, self.hook, self.engine, self.reporter, self.counters
                )
                for line in notices:
                    self.reporter.say(line)
                for warning in warnings:
                    self.reporter.warn(warning)
                self.lifeline.stop_gracefully()
                try:
                    self._loop(capture, last)
                except (MemoryError, RuntimeError) as error:
                    if not is_out_of_memory(error):
                        raise
                    raise explain(
                        error, self.lifeline.place, self._batch, config, self.hook, self._rows(self._most_groups())
                    ) from error
                finally:
                    self.saver.close()
        finally:
            self.log.close()

    def _resume(self, start: Resumption) -> tuple[list[str], list[str]]:
        """Go back to where the checkpoint was; what the user is told, and what should not be missed."""
        try:
            restored = restore(start, self.config, self.data, self.engine, self.hook)
        except UserError:
            runfolder.abandon(self.config, start, self.engine.comm)
            raise
        self.step = restored.step
        self.counters |= restored.counters | {TOTAL_STEPS: self.data.total_steps, ROWS: restored.rows}
        surroundings = runfolder.record_resume(self.config, start, self.engine.comm)
        notices = [f"resumed at step {self.step}/{self.data.total_steps}", *start.notices(), *restored.notices]
        return notices, [*start.warnings(), *surroundings]

    def new_capture(self) -> GradientCapture:
        """What gathers the gradients of this run's steps."""
        return GradientCapture(self.student.adapters, len(self.domains), self.hook.uses_noise, ordinary_gradients=False)

    def _describe(self) -> list[str]:
        """How the hook and the ranks go about their work, a line each."""
        engine, D = self.engine, len(self.domains)
        shapes = {fqn: (a.out_features, a.in_features, a.rank) for fqn, a in engine.adapters.items()}
        try:
            told = self.hook.describe(shapes, D, engine.device)
        except ValueError as error:
            raise UserError(f"hook '{self.config.hook.name}': {error}") from error
        if engine.comm.world_size > 1:
            told.append(engine.describe(D, self.config.engine.reduce_bucket_mb, self.hook.uses_reference))
        return told

    def _loop(self, capture: GradientCapture, last: int) -> None:
        config, recent = self.config, deque[float](maxlen=20)
        saved = first = self.step
        due = False  # a checkpoint that is put off
        scheduled = config.train.schedule_steps or self.data.total_steps
        while self.step < last:
            started = time.perf_counter()
            waited = self.engine.comm.waiting.seconds
            lr = learning_rate(self.step, scheduled, config.optimizer.lr, config.optimizer.warmup_ratio)
            report, tokens = self._one_step(capture, lr, self.saver.flags())
            self.step += 1
            seconds = time.perf_counter() - started
            own = seconds - (self.engine.comm.waiting.seconds - waited)
            loss = sum(report.losses) / len(report.losses)
            self.lifeline.figures(self.data.total_steps, seconds, own, loss)
            recent.append(seconds)
            self.counters["tokens"] += tokens
            self.log.train(
                self.step, report, self.domains, lr=lr, tokens=tokens, seconds=seconds, memory=self._memory(report)
            )
            self.status.beat(self.step)
            eta = sum(recent) / len(recent) * (self.data.total_steps - self.step)
            self.reporter.step(self.step, report, self.domains, lr, tokens / seconds, eta)
            self.reporter.alarm(self.step, self.hook.alarms(report.stats) if report.adapter_stats else {})
            self._guard(report)
            best = False
            if _due(self.step, config.eval.every) or self.step == self.data.total_steps:
                best = self._validate()
            # A signal that came since this step's gradients is seen in the next step.
            stop, (time_is_up, writing) = report.counts[1] > 0, asked(report.counts[2])
            if report.counts[3] > 0:
                self.saver.stop_if_failed()
            due = due or _due(self.step, config.checkpoint.every) or time_is_up
            # While the one before is still being written, training goes on; the best and the last are of this very step.
            save = (due and not writing) or best or stop
            due = due and not save
            if _due(self.step, config.supervision.check_replicas_every) and not save:
                self._compare_replicas()
            if save:
                self._save(last=stop or self.step == last)
                saved = self.step
            if stop and self.step < self.data.total_steps:
                self.saver.conclude(self.step, result=False)
                raise Interrupted(elected(report.counts[1]))
        self.reporter.conclude(self.step - first)
        if self.counters["skipped_steps"] == self.step:
            raise UserError(
                f"none of the {self.step} steps had a finite loss and gradient: nothing was learnt, no adapter"
            )
        if saved != self.step:
            self._save(last=True)
        done = self.step == self.data.total_steps
        self.lifeline.pulse("finishing")
        self.saver.conclude(self.step, result=done)
        if done and (skipped := self.counters["skipped_steps"]):
            self.reporter.warn(f"{skipped} steps were skipped in all")

    def _save(self, last: bool) -> None:
        """A checkpoint, of adapters that are the same on every rank."""
        self._compare_replicas()
        self.lifeline.pulse("writing a checkpoint")
        self.saver.save(self.step, last=last)

    def _compare_replicas(self) -> None:
        if self.config.supervision.check_replicas_every is not None:
            self.lifeline.pulse("comparing replicas")
            check_replicas(self.engine, self.step)

    def _one_step(self, capture: GradientCapture, lr: float, flags: tuple[float, ...] = ()) -> tuple[StepReport, int]:
        """Forward and backward over this rank's rows of the step, then the step itself; also tokens over all ranks."""
        comm, reduction = self.engine.comm, self.config.train.loss_reduction
        groups = shard_groups(self.data.schedule.groups_of_step(self.step), comm.rank, comm.world_size)
        examples = [e for g in groups for e in self.data.train.groups[g]]
        size = self._rows(len(groups))
        chunks = micro_batches(examples, size)
        sets = {
            name: self.engine.new_sums(len(self.domains), self.config.engine.reduce_bucket_mb)
            for name in (SETS if self.hook.auxiliary else SETS[:1])
        }
        overlap = self.config.engine.overlap_reduce and comm.world_size > 1
        # On the device until the step needs them: to read one waits for the whole backward pass.
        loss_D, aux_D = torch.zeros(2, len(self.domains), dtype=torch.float64, device=self.engine.device)
        capture.reset(sets)
        with self.engine.accumulate():
            for k, rows in enumerate(chunks):
                self.lifeline.pulse("forward and backward", self.step + 1)
                whole = min((k + 1) * size, len(examples)) % self.data.train.width == 0
                on_complete = sets["main"].complete if overlap and k == len(chunks) - 1 else None
                micro_loss_D, micro_aux_D = self._forward_backward(capture, rows, whole, on_complete)
                loss_D += micro_loss_D
                aux_D += micro_aux_D
            for each in sets.values():  # inside: at the end of the block DeepSpeed may communicate
                each.send()
        tokens = float(sum(len(e.input_ids) for e in examples))
        report = take_step(
            self.engine,
            self.hook,
            sets["main"],
            loss_D,
            domain_denominators(examples, len(self.domains), reduction),
            domains=self.domains,
            step=self.step,
            seed=self.config.seed,
            lr=lr,
            max_grad_norm=self.config.optimizer.max_grad_norm,
            aux_sums=sets.get("aux"),
            aux_value_D=aux_D if self.hook.auxiliary else None,
            noise=capture.noise,
            counts=(
                tokens,
                vote(self.lifeline.stop_signal),
                *flags,
                *(peak_memory() * (rank == comm.rank) for rank in range(comm.world_size)),
            ),
            wants_histogram=(self.step + 1) % self.config.logging.every == 0,
            pulse=self.lifeline.pulse,
        )
        return report, int(report.counts[0])

    def _memory(self, report: StepReport) -> list[int]:
        """Most bytes that each rank had held when it came to this step's reduction."""
        return [int(held) for held in report.counts[-self.engine.comm.world_size :]]

    def _rows(self, num_groups: int) -> int:
        """Instances per forward pass on a rank with so many groups of the step."""
        return self.counters.get(ROWS) or micro_batch_size(self.config, num_groups, self.data.train.width)

    def _forward_backward(
        self,
        capture: GradientCapture,
        rows: list[Example],
        whole: bool,
        on_complete: Callable[[str], None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One micro-batch of rows sorted by domain; the sums of losses and of the hook's statistic per domain."""
        reduction = self.config.train.loss_reduction
        host = pack(rows, reduction) if self.config.train.packing else collate(rows, self._pad, reduction)
        self._batch = f"{len(rows)} instances of up to {max(len(e.input_ids) for e in rows)} tokens"
        batch, num_domains = host.to(self.engine.device), len(self.domains)
        with capture.rows(host.domain, weight=host.domain_weights, whole_groups=whole, on_complete=on_complete):
            logits = self.engine.forward(**model_inputs(batch, self.student.model)).logits
            losses_D = domain_token_losses(logits, batch.labels, batch.weights, batch.domain, num_domains)
            self.engine.backward(losses_D.sum(), retain_graph=self.hook.auxiliary is not None)
        values_D = torch.zeros_like(losses_D)
        if self.hook.auxiliary is not None:
            values_D = auxiliary_sums(
                self.hook.auxiliary, logits, batch.labels, batch.weights, batch.domain, num_domains
            )
            with capture.rows(host.domain, into="aux"):
                self.engine.backward(values_D.sum())
        return losses_D.detach().double(), values_D.detach().double()

    def _most_groups(self) -> int:
        """Groups of a step on the rank that has most."""
        return math.ceil(self.config.groups_per_step / self.engine.comm.world_size)

    def _guard(self, report: StepReport) -> None:
        """Count steps without a finite gradient and stop when there are too many in a row."""
        counters = self.counters
        counters["skipped_steps"] += bool(report.skipped)
        counters["skipped_in_a_row"] = counters["skipped_in_a_row"] + 1 if report.skipped else 0
        if counters["skipped_in_a_row"] >= self.config.train.max_skipped_steps:
            raise UserError(
                f"stopped at step {self.step}: {counters['skipped_in_a_row']} steps in a row had a loss or gradient that "
                "is not finite (train.max_skipped_steps); lower optimizer.lr or look at the data. "
                f"Checkpoints in {self.folder / 'checkpoints'} are intact"
            )

    def _validate(self) -> bool:
        """Losses on the held-out files; whether the in-domain one asks for a checkpoint."""
        record: dict[str, dict[str, float]] = {}
        for name, split in (("id", self.data.validation), ("ood", self.data.ood)):
            if split is None:
                continue
            losses = validation_losses(
                self.engine,
                split,
                max_groups=self.config.eval.max_groups,
                micro_batch_size=self._rows(self._most_groups()),
                pad_token_id=self._pad,
                pulse=self.lifeline.pulse,
            )
            record[name] = losses
            shown = " ".join(f"{domain} {loss:.3f}" for domain, loss in losses.items())
            label = "validation (ID)" if name == "id" else "unseen domains (OOD, for the record only)"
            self.reporter.say(f"step {self.step} {label}: {sum(losses.values()) / len(losses):.4f} [{shown}]")
        self.log.validation(self.step, record)
        return "id" in record and self.saver.validated(self.step, record["id"])


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
