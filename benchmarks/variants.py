"""The ways to take one optimizer step that `benchmarks.step` compares, on the same batches.

plain: PEFT and DeepSpeed as a user has them today (plain PyTorch where there is one process), the mean over domains of the loss.
mean, iga, ...: igascale's trainer, the code that `igascale train` runs.
naive: IGA as one would first write it (:mod:`benchmarks.naive`), in plain PyTorch.
"""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks import naive
from benchmarks.shapes import DOMAINS, Shape, build_model, make_data, run_config, student
from igascale import assemble
from igascale.isomers.batches import Batch, collate, domain_denominators, micro_batches, shard_groups
from igascale.loss import domain_token_losses
from igascale.trainer import Trainer

RULES: dict[str, dict[str, Any]] = {
    "mean": {"name": "mean"},
    "iga": {"name": "iga"},
    "iga-exact": {"name": "iga", "projection": "none"},
    "gate": {"name": "gate"},
}


@functools.cache
def _shared_model(shape: Shape, device: torch.device) -> Any:
    return build_model(shape, device)


def _model(shape: Shape, device: torch.device, distributed: bool) -> Any:
    """A model of its own under DeepSpeed, which puts hooks on it; else one for all, as several do not fit on a GPU."""
    return build_model(shape, device) if distributed else _shared_model(shape, device)


class Clock:
    """Seconds by part of a step; on a GPU each part ends with a synchronisation, which costs little beside a step."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._wait()
        start = time.perf_counter()
        try:
            yield
        finally:
            self._wait()
            self.seconds[name] += time.perf_counter() - start

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return call

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class Igascale:
    """The trainer's own step."""

    def __init__(self, shape: Shape, rule: dict[str, Any], device: torch.device, distributed: bool) -> None:
        config = run_config(shape, rule, "deepspeed" if distributed else "single")
        hook, self.student = assemble.build_hook(config), student(_model(shape, device, distributed))
        engine = assemble.build_engine(config, self.student, hook, device)
        self.trainer = Trainer(config, make_data(shape), self.student, hook, engine)
        self.capture = self.trainer.new_capture()
        self.clock = Clock(device)
        for owner, method, name in (
            (hook, "combine", "combine"),
            (engine, "reduce", "reduce"),
            (engine, "gather", "gather"),
            (engine, "apply", "optimizer"),
            (engine, "step", "optimizer"),
        ):
            setattr(owner, method, self.clock.timed(name, getattr(owner, method)))

    def step(self, number: int) -> None:
        self.trainer.step = number
        with self.capture:  # installed for this step only: in one process the variants share the model
            report, _ = self.trainer._one_step(self.capture, 1e-6)
        if report.skipped:
            raise RuntimeError(f"step skipped: {report.skipped}")


class _Rows:
    """This rank's micro-batches of a step, and what each domain's loss is divided by over all ranks."""

    def __init__(self, shape: Shape, device: torch.device, rank: int, world_size: int) -> None:
        self.shape, self.device, self.rank, self.world_size = shape, device, rank, world_size
        self.data = make_data(shape)

    def __call__(self, step: int, domain: int | None = None) -> tuple[list[Batch], Tensor]:
        groups = self.data.schedule.groups_of_step(step)
        mine = shard_groups(groups, self.rank, self.world_size)
        rows = [e for g in mine for e in self.data.train.groups[g] if domain is None or e.domain == domain]
        size = -(-len(rows) // self.shape.accumulation)
        total = domain_denominators([e for g in groups for e in self.data.train.groups[g]], len(DOMAINS), "token")
        return [collate(part, 0, "token").to(self.device) for part in micro_batches(rows, size)], total

    def losses(self, forward: Callable[..., Any], batch: Batch) -> Tensor:
        logits = forward(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        return domain_token_losses(logits, batch.labels, batch.weights, batch.domain, len(DOMAINS))


class Plain:
    """What a user does without igascale: the ordinary backward pass, DeepSpeed's (or PyTorch's) optimizer step."""

    def __init__(self, shape: Shape, device: torch.device, distributed: bool) -> None:
        self.student = student(_model(shape, device, distributed))
        self.parameters = [p for p in self.student.model.parameters() if p.requires_grad]
        self.distributed, self.shape = distributed, shape
        self.world_size = dist.get_world_size() if distributed else 1
        self.rows = _Rows(shape, device, dist.get_rank() if distributed else 0, self.world_size)
        # Float32 masters as DeepSpeed and igascale keep them.
        self.masters = [p.detach().float() for p in self.parameters]
        self.optimizer = torch.optim.AdamW(self.parameters if distributed else self.masters, lr=1e-6)
        self.clock = Clock(device)
        if distributed:
            import deepspeed

            config = {
                "train_micro_batch_size_per_gpu": 1,
                "gradient_accumulation_steps": shape.accumulation,
                "gradient_clipping": 1.0,
                "bf16": {"enabled": shape.dtype == "bfloat16"},
                "zero_optimization": {"stage": 2, "reduce_bucket_size": 5000000, "allgather_bucket_size": 5000000},
            }
            self.engine = deepspeed.initialize(model=self.student.model, optimizer=self.optimizer, config=config)[0]

    def step(self, number: int) -> None:
        batches, total_D = self.rows(number)
        total_D = total_D.float().to(self.rows.device)
        for batch in batches:
            if self.distributed:
                loss = (self.rows.losses(self.engine, batch) / total_D).mean()
                self.engine.backward(loss * self.world_size * self.shape.accumulation)
                self.engine.step()
            else:
                (self.rows.losses(self.student.model, batch) / total_D).mean().backward()
        if not self.distributed:
            with self.clock.part("optimizer"):
                self._step()

    def _step(self) -> None:
        for p, master in zip(self.parameters, self.masters):
            master.grad = p.grad.float() if p.grad is not None else None
            p.grad = None
        torch.nn.utils.clip_grad_norm_(self.masters, 1.0)
        self.optimizer.step()
        with torch.no_grad():
            for p, master in zip(self.parameters, self.masters):
                p.copy_(master)


class Naive:
    """D backward passes, dense matrices, one adapter after another; every rank does all of it."""

    def __init__(self, shape: Shape, device: torch.device, distributed: bool) -> None:
        self.student = student(_model(shape, device, distributed))
        self.parameters = [p for a in self.student.adapters.values() for p in (a.A, a.B)]
        self.masters = [p.detach().float() for p in self.parameters]
        self.optimizer = torch.optim.AdamW(self.masters, lr=1e-6)
        self.distributed = distributed
        self.rows = _Rows(
            shape, device, dist.get_rank() if distributed else 0, dist.get_world_size() if distributed else 1
        )
        self.clock = Clock(device)

    def step(self, number: int) -> None:
        domains = [self._domain(number, n) for n in range(len(DOMAINS))]
        if self.distributed:
            for grads in domains:
                for grad in grads:
                    dist.all_reduce(grad)
        with self.clock.part("combine"):
            for k, adapter in enumerate(self.student.adapters.values()):
                a_DRI = torch.stack([grads[2 * k] for grads in domains])
                b_DOR = torch.stack([grads[2 * k + 1] for grads in domains])
                A, B = adapter.A.detach().float(), adapter.B.detach().float()
                self.masters[2 * k].grad, self.masters[2 * k + 1].grad = naive.align(a_DRI, b_DOR, A, B)
        with self.clock.part("optimizer"):
            torch.nn.utils.clip_grad_norm_(self.masters, 1.0)
            self.optimizer.step()
            with torch.no_grad():
                for p, master in zip(self.parameters, self.masters):
                    p.copy_(master)

    def _domain(self, number: int, domain: int) -> list[Tensor]:
        batches, total_D = self.rows(number, domain)
        sums = [torch.zeros_like(master) for master in self.masters]
        for batch in batches:
            loss = self.rows.losses(self.student.model, batch)[domain] / float(total_D[domain])
            for held, grad in zip(sums, torch.autograd.grad(loss, self.parameters)):
                held.add_(grad.float())
        return sums


def build(name: str, shape: Shape, device: torch.device, distributed: bool) -> Igascale | Plain | Naive:
    """A variant by name."""
    if name == "plain":
        return Plain(shape, device, distributed)
    if name == "naive":
        return Naive(shape, device, distributed)
    return Igascale(shape, RULES[name], device, distributed)
