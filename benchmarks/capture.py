"""What per-domain gradients cost the forward and backward pass: capture against plain PEFT, in one run.

    python -m benchmarks.capture                   # CPU, one process; --shape cpu-wide, 7b, 13b, 70b-layers

Time (the variants take turns, ratio of medians), floating-point operations of every matrix product (counted by PyTorch) and peak live
bytes beyond model and inputs, with and without activation checkpointing. "packed" has texts of many lengths, padded against
packed into one row without padding: the same gradients from fewer tokens.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.projection import peak_extra_bytes
from benchmarks.record import count_flops, save
from benchmarks.shapes import DOMAINS, SHAPES, Shape, build_model, described, make_data, run_config, student
from igascale import assemble
from igascale.isomers.batches import collate
from igascale.isomers.encode import Example
from igascale.loss import domain_token_losses
from igascale.trainer import Trainer

Pass = Callable[[], None]


def build_passes(shape: Shape, device: torch.device, packing: bool = False, ragged: bool = False) -> dict[str, Pass]:
    """Forward and backward of one micro-batch of one model: plain, with capture, and with the noise that `iga` asks for."""
    model = build_model(shape, device)
    data = make_data(dataclasses.replace(shape, groups=shape.groups // shape.accumulation), 1)
    rows = [e for group in data.train.groups for e in group]
    if ragged:  # lengths from a quarter to the whole
        for k, e in enumerate(rows):
            cut = shape.length * (1 + k % 4) // 4
            e.input_ids, e.labels = e.input_ids[:cut], e.labels[:cut]
    batch = collate(sorted(rows, key=lambda e: e.domain), 0, "token").to(device)

    def plain() -> None:
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        domain_token_losses(logits, batch.labels, batch.weights, batch.domain, len(DOMAINS)).sum().backward()
        model.zero_grad()

    found: dict[str, Pass] = {"plain": plain}
    for name, rule in (("capture", "mean"), ("capture and noise", "iga")):
        config = run_config(shape, {"name": rule}, "single", packing=packing)
        hook, who = assemble.build_hook(config), student(model)
        trainer = Trainer(config, data, who, hook, assemble.build_engine(config, who, hook, device))
        found[name] = functools.partial(_captured, trainer, rows)
    return found


def _captured(trainer: Trainer, rows: list[Example]) -> None:
    with trainer.new_capture() as capture, trainer.engine.accumulate():
        trainer._forward_backward(capture, rows, True)


def measure(cases: dict[str, Pass], repeats: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Median seconds (taking turns), FLOPs and peak bytes of each."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(repeats + 1):
        for name, run in cases.items():
            _wait(device)
            started = time.perf_counter()
            run()
            _wait(device)
            if turn:
                seconds[name].append(time.perf_counter() - started)
    found = {}
    for name, run in cases.items():
        found[name] = {
            "seconds": median(seconds[name]),
            "flops": count_flops(run),
            "peak_bytes": float(peak_extra_bytes(run, device.type)),
        }
    return found


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="cpu")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, help="default: PyTorch's")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = SHAPES[args.shape]
    settings: dict[str, tuple[Shape, dict[str, bool]]] = {
        "no checkpointing": (dataclasses.replace(shape, checkpointing="none"), {}),
        "non-reentrant checkpointing": (dataclasses.replace(shape, checkpointing="non-reentrant"), {}),
        "texts of many lengths, packed": (shape, {"packing": True, "ragged": True}),
    }
    if device.type == "cuda":
        del settings["no checkpointing"]  # the activations of a 7B model do not fit
    table = Table("", "", "x plain", "FLOPs x plain", "peak x plain", box=None)
    results: dict[str, Any] = {}
    for label, (variant, options) in settings.items():
        results[label] = found = measure(build_passes(variant, device, **options), args.repeats, device)
        for name, figures in found.items():
            ratios = [f"{figures[k] / found['plain'][k]:.3f}" for k in ("seconds", "flops", "peak_bytes")]
            table.add_row(label if name == "plain" else "", name, *ratios)
    Console(width=110, highlight=False).print(table)
    if args.shape != "tiny":
        print(save("capture", device.type, {"shape": described(shape), "repeats": args.repeats, "results": results}))


if __name__ == "__main__":
    main()
