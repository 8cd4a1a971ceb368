"""One optimizer step: plain PEFT + DeepSpeed, igascale mean and iga, and a naive IGA, on the same batches in one run.

    python -m benchmarks.step                      # CPU: 2 processes under the deepspeed launcher, ZeRO-2, 4 layers of 512
    python -m benchmarks.step --shape 7b           # one GPU; also 13b and 70b-layers (8 of the 80 layers)

The variants take turns step by step, so that whatever else the machine does hits them alike; ratios are of medians. Peak memory
comes from runs of each variant by itself: of the process (resident set, less what it was before the model was built) on a CPU, of the
allocator on a GPU. The last table is laid out like Table 3 of the paper, with an epoch of its 31,200 groups at this rate.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table

from benchmarks import variants
from benchmarks.processes import run_module
from benchmarks.record import save
from benchmarks.shapes import SHAPES, Shape, described

ORDER = ("plain", "mean", "iga", "iga-exact", "gate", "naive")
#: The paper's training set: 39,000 groups less the held-out fifth.
PAPER_GROUPS = 31_200


def open_device() -> tuple[torch.device, bool]:
    """This process's device, and whether it is one of several."""
    distributed = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if distributed:
        from igascale.engine.deepspeed import init_distributed

        return init_distributed(), True
    return torch.device("cuda" if torch.cuda.is_available() else "cpu"), False


def measure_time(shape: Shape, names: list[str], steps: int) -> dict[str, Any]:
    """Median seconds of a step, in all and by part, of each variant; they take turns."""
    device, distributed = open_device()
    running = {name: variants.build(name, shape, device, distributed) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    parts: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(steps + 2):
        for name, variant in running.items():
            variant.clock.seconds.clear()
            _wait(device, distributed)
            started = time.perf_counter()
            variant.step(number)
            _wait(device, distributed)
            took = time.perf_counter() - started
            if not distributed or dist.get_rank() == 0:
                print(f"step {number + 1} of {steps + 2}, {name}: {took:.3f} s", file=sys.stderr, flush=True)
            if number >= 2:  # the first two warm up
                seconds[name].append(took)
                parts[name].append(dict(variant.clock.seconds))
    return {
        name: {
            "seconds": median(seconds[name]),
            "parts": {k: median(p[k] for p in parts[name]) for k in parts[name][0]},
            "trainable": running[name].student.trainable,
        }
        for name in names
    }


def measure_memory(shape: Shape, name: str, steps: int = 3) -> int:
    """Peak bytes of one variant by itself, in this process."""
    device, distributed = open_device()
    variants.build(name, SHAPES["tiny"], device, distributed).step(0)  # loads the code, whose memory is not the step's
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = 0
    else:
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    variant = variants.build(name, shape, device, distributed)
    for number in range(steps):
        variant.step(number)
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else _status("VmHWM") - before


def _status(key: str) -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:")]
    return int(line.split()[1]) * 1024


def _wait(device: torch.device, distributed: bool) -> None:
    if distributed:
        dist.barrier()
    if device.type == "cuda":
        torch.cuda.synchronize()


def worker(job: dict[str, Any], out: Path) -> None:
    """One process of one measurement; the first rank writes the result."""
    torch.set_num_threads(job["threads"])
    shape = SHAPES[job["shape"]]
    if job["memory"]:
        result: Any = measure_memory(shape, job["names"][0])
    else:
        result = measure_time(shape, job["names"], job["steps"])
    if not dist.is_initialized() or dist.get_rank() == 0:
        out.write_text(json.dumps(result))
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def run_job(job: dict[str, Any], processes: int) -> Any:
    """Run a worker (under the deepspeed launcher if there are several) and read what it found."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        arguments = ("--worker", json.dumps(job), "--out", str(out))
        if processes == 1:
            if status := subprocess.call([sys.executable, "-m", "benchmarks.step", *arguments]):
                sys.exit(status)
        else:
            run_module(processes, "benchmarks.step", *arguments)
        return json.loads(out.read_text())


def report(shape: Shape, times: dict[str, Any], memory: dict[str, int], processes: int) -> dict[str, float]:
    """Print the tables; return the ratios."""
    console = Console(width=120, highlight=False)
    base_seconds = times["plain"]["seconds"]
    table = Table("step", "ms", "x plain", "combine", "reduce", "gather", "optimizer", "peak MiB", "x mean", box=None)
    for name, found in times.items():
        cells = [f"{found['parts'].get(k, 0) * 1e3:.1f}" for k in ("combine", "reduce", "gather", "optimizer")]
        peak = f"{memory[name] / 2**20:.0f}", f"{memory[name] / memory['mean']:.3f}"
        table.add_row(name, f"{found['seconds'] * 1e3:.1f}", f"{found['seconds'] / base_seconds:.3f}", *cells, *peak)
    console.print(table)
    paper = Table("like Table 3", "min per epoch", "peak GiB", "trainable", box=None)
    for name, found in times.items():
        scale = (shape.layers_in_full or shape.layers) / shape.layers
        minutes = found["seconds"] * scale * PAPER_GROUPS / shape.groups / 60
        paper.add_row(
            name, f"{minutes:.1f}", f"{memory[name] / 2**30:.2f}", f"{found['trainable'] * scale / 1e6:.2f} M"
        )
    console.print(paper)
    ratios = {
        "iga / mean": times["iga"]["seconds"] / times["mean"]["seconds"],
        "iga / plain": times["iga"]["seconds"] / base_seconds,
        "mean / plain": times["mean"]["seconds"] / base_seconds,
        "peak memory iga / mean": memory["iga"] / memory["mean"],
    }
    if "naive" in times:
        ratios["naive / iga"] = times["naive"]["seconds"] / times["iga"]["seconds"]
    for name, ratio in ratios.items():
        console.print(f"{name} = {ratio:.3f}")
    console.print(
        f"{processes} process(es), {shape.tokens} tokens a step, hidden {shape.hidden}, {shape.layers} layers"
    )
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="cpu")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--processes", type=int, help="default: 2 on a CPU, 1 on a GPU")
    parser.add_argument(
        "--variants", default=",".join(ORDER), help=f"of {', '.join(ORDER)}; plain, mean and iga must be there"
    )
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker, args.out)
        return
    cuda = torch.cuda.is_available()
    processes = args.processes or (1 if cuda else 2)
    names = [name for name in ORDER if name in args.variants.split(",")]
    job = {"shape": args.shape, "names": names, "steps": args.steps, "memory": False}
    job["threads"] = max(1, (os.cpu_count() or 1) // processes)
    times = run_job(job, processes)
    memory = {name: run_job(job | {"names": [name], "memory": True}, processes) for name in names}
    shape = SHAPES[args.shape]
    ratios = report(shape, times, memory, processes)
    result = {
        "shape": described(shape),
        "processes": processes,
        "steps": args.steps,
        "variants": times,
        "ratios": ratios,
    }
    if args.shape == "tiny":
        return  # a rehearsal
    label = "step" if args.shape in ("cpu", "7b") else f"step-{args.shape}"
    print(save(label, "cuda" if cuda else "cpu", result | {"peak_bytes": memory}))


if __name__ == "__main__":
    main()
