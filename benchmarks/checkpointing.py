"""What a checkpoint costs: how long a step waits for it, how large it is, how long it takes to go on from it.

    python -m benchmarks.checkpointing             # CPU, one process, 4 layers of 512; --shape cpu-wide, 7b

Three runs of the same trainer take turns, a segment of steps each: without checkpoints, with one every few steps written at once
(fsync included), and with `checkpoint.asynchronous`. "waits" is the time that the trainer spends in saving. "step" compares the
median step in which a checkpoint may still be written in the background with one of the run without. Resuming is finding the newest
checkpoint and checking its hashes, then reading it back into optimizer and hook. Where the run folder lies decides: --folder.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.record import save
from benchmarks.shapes import SHAPES, Shape, build_model, described, make_data, run_config, student
from igascale import assemble
from igascale.checkpoints.find import find
from igascale.config import CheckpointConfig, EvalConfig, RunConfig
from igascale.resuming.restore import restore
from igascale.resuming.start import examine
from igascale.trainer import Trainer

VARIANTS = ("none", "sync", "async")


class Timed(Trainer):
    """Notes how long each call of the saving takes, and each step from one end to the next."""

    waits: list[float]

    def _save(self, last: bool) -> None:
        started = time.perf_counter()
        super()._save(last)
        if not last:  # the end waits for the background on purpose
            self.waits.append(time.perf_counter() - started)


def configuration(shape: Shape, folder: Path, variant: str, every: int) -> RunConfig:
    """The shape's run, with checkpoints every few steps or none."""
    checkpoint = CheckpointConfig(every=None if variant == "none" else every, asynchronous=variant == "async")
    update = {"output_dir": str(folder), "checkpoint": checkpoint, "eval": EvalConfig(every=None)}
    return run_config(shape, {"name": "iga"}, "single").model_copy(update=update)


def build(config: RunConfig, shape: Shape, device: torch.device) -> Timed:
    """A trainer of the shape."""
    who, hook = student(build_model(shape, device)), assemble.build_hook(config)
    trainer = Timed(config, make_data(shape, 1), who, hook, assemble.build_engine(config, who, hook, device))
    trainer.waits = []
    return trainer


def measure(shape: Shape, where: Path, device: torch.device, every: int, rounds: int) -> dict[str, Any]:
    """Every figure; ``where`` is an empty folder on the disk in question."""
    runs = {}
    for name in VARIANTS:
        (where / name).mkdir()
        runs[name] = build(configuration(shape, where / name, name, every), shape, device)
    waits: dict[str, list[float]] = {name: [] for name in VARIANTS}
    steps: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for turn in range(rounds + 1):
        for name, trainer in runs.items():
            trainer.waits = []
            with contextlib.redirect_stdout(io.StringIO()):
                trainer.train(stop_after=3 * every)
            if turn:  # the first round allocates
                waits[name] += trainer.waits
                records = (where / name / "metrics.jsonl").read_text().splitlines()
                steps[name] += [json.loads(line)["seconds"] for line in records[-3 * every :]]
    size = sum(p.stat().st_size for p in newest(where / "sync").rglob("*") if p.is_file())
    trainable = runs["sync"].student.trainable
    return {
        "seconds": {name: median(values) for name, values in steps.items()},
        "waits": {name: median(values) for name, values in waits.items() if values},
        "longest_wait": {name: max(values) for name, values in waits.items() if values},
        "checkpoints": len(waits["sync"]),
        "bytes": size,
        "trainable": trainable,
        "bytes_per_parameter": size / trainable,
        "resume": measure_resume(shape, where / "sync", device, every, rounds + 2),
    }


def newest(run: Path) -> Path:
    """The newest valid checkpoint."""
    found = find(run, "auto").folder
    assert found is not None
    return found


def measure_resume(shape: Shape, run: Path, device: torch.device, every: int, repeats: int) -> dict[str, float]:
    """Median seconds to find and check the newest checkpoint, and to load it; the files are in the page cache."""
    config = configuration(shape, run, "sync", every)
    trainer, seconds = build(config, shape, device), {"find and verify": [0.0], "load": [0.0]}
    for times in seconds.values():
        times.clear()
    for _ in range(repeats):
        started = time.perf_counter()
        start = examine(newest(run), config, run, (), 1)
        checked = time.perf_counter()
        restore(start, config, trainer.data, trainer.engine, trainer.hook)
        seconds["find and verify"].append(checked - started)
        seconds["load"].append(time.perf_counter() - checked)
    return {name: median(times) for name, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="cpu")
    parser.add_argument("--every", type=int, default=3, help="steps between checkpoints")
    parser.add_argument("--rounds", type=int, default=4, help="segments of three checkpoints, of each variant")
    parser.add_argument("--folder", type=Path, help="where the run folders go, for another disk")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = SHAPES[args.shape]
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        found = measure(shape, Path(folder), device, args.every, args.rounds)
    console, step = Console(width=110, highlight=False), found["seconds"]["none"]
    table = Table("checkpoints", "step ms", "x none", "waits ms", "longest", "of a step", box=None)
    for name in VARIANTS:
        cells = [f"{1e3 * found['seconds'][name]:.1f}", f"{found['seconds'][name] / step:.3f}"]
        if name in found["waits"]:
            wait = found["waits"][name]
            cells += [f"{1e3 * wait:.1f}", f"{1e3 * found['longest_wait'][name]:.1f}", f"{wait / step:.1%}"]
        table.add_row(name, *cells)
    console.print(table)
    console.print(f"{found['bytes_per_parameter']:.2f} bytes per trainable parameter ({found['bytes']} in all)")
    console.print("resume: " + ", ".join(f"{name} {1e3 * s:.0f} ms" for name, s in found["resume"].items()))
    if args.shape != "tiny":
        print(save("checkpointing", device.type, {"shape": described(shape), "every": args.every, **found}))


if __name__ == "__main__":
    main()
