"""Step time of plain PEFT + DeepSpeed, igascale mean and igascale iga, on the same batches in one run.

    python -m benchmarks.step

Two processes under the deepspeed launcher, ZeRO-2, the demo's model shape, data and configuration. The variants take turns
step by step, so that whatever else the machine does hits them alike. "plain" does what a user does without igascale: the
ordinary backward pass and DeepSpeed's own reduction of the same loss. "capture" is igascale's forward and backward pass
(with capture) against plain's (with DeepSpeed's reduction): what per-domain gradients cost before any rule is applied.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml

from benchmarks.record import save
from igascale import assemble
from igascale.capture import GradientCapture
from igascale.config import RunConfig, load_config
from igascale.demo.base_model import BaseModelSettings, build_base_model
from igascale.demo.run import METHODS, DemoSettings, demo_config
from igascale.engine.deepspeed import init_distributed
from igascale.isomers.batches import Batch, collate, domain_denominators, micro_batches, shard_groups
from igascale.isomers.dataset import generate_dataset
from igascale.launchers import base, deepspeed
from igascale.loss import domain_token_losses
from igascale.step import take_step

Steps = tuple[Callable[[int], None], Callable[[int], None]]


def prepare(folder: Path, settings: DemoSettings) -> None:
    """The demo's inputs; the base model is hardly trained, which changes no cost."""
    generate_dataset(folder / "data", groups=400, validation_groups=4, ood_groups=4, seed=0)
    build_base_model(folder / "base", 0, BaseModelSettings(steps=2))
    for name, hook in METHODS.items():
        config = demo_config(folder, settings, 0, name, hook)
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))


class Rows:
    """This rank's micro-batches of every step, and the denominators of the whole step."""

    def __init__(self, config: RunConfig, data: assemble.Data, rank: int, world_size: int, pad: int):
        self.config, self.data, self.rank, self.world_size, self.pad = config, data, rank, world_size, pad
        self.domains = data.train.domains

    def __call__(self, step: int) -> tuple[list[Batch], torch.Tensor, torch.Tensor]:
        everything = self.data.schedule.groups_of_step(step)
        mine = [e for g in shard_groups(everything, self.rank, self.world_size) for e in self.data.train.groups[g]]
        size = assemble.micro_batch_size(self.config, len(everything) // self.world_size, len(self.domains))
        batches = [collate(rows, self.pad, "token") for rows in micro_batches(mine, size)]
        total = domain_denominators(
            [e for g in everything for e in self.data.train.groups[g]], len(self.domains), "token"
        )
        return batches, domain_denominators(mine, len(self.domains), "token"), total


def igascale_variant(config: RunConfig, device: torch.device) -> Steps:
    """(forward and backward with capture, combine and step) of one optimizer step."""
    hook = assemble.build_hook(config)
    student = assemble.build_student(config, device)
    data = assemble.load_data(config, student.tokenizer)
    engine = assemble.build_engine(config, student, hook, device)
    rows = Rows(config, data, engine.comm.rank, engine.comm.world_size, student.tokenizer.pad_token_id)
    capture = GradientCapture(student.adapters, len(rows.domains))
    state: dict[str, Any] = {}

    def backward(step: int) -> None:
        batches, mine_D, _ = rows(step)
        loss_D = torch.zeros(len(rows.domains), dtype=torch.float64)
        capture.reset({"main": engine.new_sums(len(rows.domains))})
        with capture, engine.accumulate():
            for batch in batches:
                with capture.rows(batch.domain):
                    logits = engine.forward(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
                    losses_D = domain_token_losses(logits, batch.labels, batch.weights, batch.domain, len(rows.domains))
                    engine.backward(losses_D.sum())
                    loss_D += losses_D.detach().double()
        state.update(loss=loss_D, denominators=mine_D)

    def step(number: int) -> None:
        take_step(
            engine,
            hook,
            capture.sums(),
            state["loss"],
            state["denominators"],
            domains=rows.domains,
            step=number,
            seed=0,
            lr=1e-3,
            max_grad_norm=1.0,
        )

    return backward, step


def plain_variant(config: RunConfig, device: torch.device) -> Steps:
    """The same loss by ordinary means."""
    import deepspeed as ds

    student = assemble.build_student(config, device)
    data = assemble.load_data(config, student.tokenizer)
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    rows = Rows(config, data, rank, world, student.tokenizer.pad_token_id)
    optimizer = torch.optim.AdamW([p for p in student.model.parameters() if p.requires_grad], lr=1e-3)
    accumulation = config.train.gradient_accumulation_steps
    ds_config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": 2, "reduce_bucket_size": 5000000, "allgather_bucket_size": 5000000},
    }
    engine = ds.initialize(model=student.model, optimizer=optimizer, config=ds_config)[0]

    def backward(step: int) -> None:
        batches, _, total_D = rows(step)
        for batch in batches:
            logits = engine(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
            losses_D = domain_token_losses(logits, batch.labels, batch.weights, batch.domain, len(rows.domains))
            engine.backward((losses_D / total_D.float()).mean() * world * accumulation)

    return backward, lambda number: engine.step()


def worker(folder: Path, steps: int) -> None:
    """Run on every rank; rank 0 prints and saves."""
    torch.set_num_threads(1)
    device = init_distributed()
    configs = {name: load_config(folder / f"{name}.yaml") for name in METHODS}
    variants: dict[str, Steps] = {"plain": plain_variant(configs["mean"], device)}
    variants |= {name: igascale_variant(config, device) for name, config in configs.items()}
    seconds: dict[str, dict[str, list[float]]] = {name: {"backward": [], "step": []} for name in variants}
    for number in range(steps + 2):
        for name, (backward, step) in variants.items():
            torch.distributed.barrier()
            times = [time.perf_counter()]
            for part in (backward, step):
                part(number)
                torch.distributed.barrier()
                times.append(time.perf_counter())
            if number >= 2:
                seconds[name]["backward"].append(times[1] - times[0])
                seconds[name]["step"].append(times[2] - times[1])
    if torch.distributed.get_rank() == 0:
        report(configs["mean"], {n: {k: median(v) for k, v in parts.items()} for n, parts in seconds.items()}, steps)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def report(config: RunConfig, seconds: dict[str, dict[str, float]], steps: int) -> None:
    """Print the table and write the JSON."""
    total = {name: parts["backward"] + parts["step"] for name, parts in seconds.items()}
    print(f"one optimizer step, 2 processes, ZeRO-2, {config.groups_per_step} groups x 4 domains, median of {steps}:")
    for name, parts in seconds.items():
        print(
            f"{name:>10}: {total[name] * 1e3:7.1f} ms = forward+backward {parts['backward'] * 1e3:7.1f} "
            f"+ combine and step {parts['step'] * 1e3:6.1f}   {total[name] / total['plain']:.2f}x plain"
        )
    ratios = {
        "iga / mean": total["iga"] / total["mean"],
        "mean / plain": total["mean"] / total["plain"],
        "capture (forward+backward, mean / plain)": seconds["mean"]["backward"] / seconds["plain"]["backward"],
    }
    for name, ratio in ratios.items():
        print(f"{name} = {ratio:.3f}")
    print(save("step", "cpu", {"steps": steps, "groups": config.groups_per_step, "seconds": seconds, "ratios": ratios}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker, args.steps)
        return
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), DemoSettings())
        spec = base.LaunchSpec(2, "benchmarks.step", ("--worker", name, "--steps", str(args.steps)), base.free_port())
        sys.exit(base.run(deepspeed.build_command(spec), deepspeed.environment(spec)))


if __name__ == "__main__":
    main()
