"""What `igascale launch` costs before the first step, and what `igascale --help` costs.

    python -m benchmarks.launching                 # 2 processes, 7 starts of each

From the start of the command to the first optimizer step, which is when `metrics.jsonl` gets its first line: `igascale launch` by
its backends, against the bare launchers starting the same `igascale train` with the same arguments (`local` puts no launcher in
between, and stands beside torchrun, the quicker one). And `igascale --help` against a Python that only imports click and rich. Variants take turns; ratios of medians.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import processes

BARE: dict[str, Callable[..., list[str]]] = {"deepspeed": processes.deepspeed, "torchrun": processes.torchrun}
#: igascale's backend -> the bare launcher that it is measured against.
BESIDE = {"deepspeed": "deepspeed", "torchrun": "torchrun", "local": "torchrun"}


def prepare(folder: Path) -> Path:
    """The demo's model, hardly trained, a little data, and a configuration."""
    from igascale.demo.base_model import BaseModelSettings, build_base_model
    from igascale.isomers.dataset import generate_dataset

    build_base_model(folder / "model", settings=BaseModelSettings(steps=5))
    generate_dataset(folder / "data", groups=64, validation_groups=4, ood_groups=4)
    config = {
        "output_dir": "set by each start",
        "model": {"path": str(folder / "model"), "dtype": "float32"},
        "lora": {"r": 8},
        "data": {"train": str(folder / "data" / "train.jsonl"), "max_length": 512},
        "train": {"groups_per_batch": 4, "gradient_accumulation_steps": 1, "max_steps": 4},
    }
    path = folder / "run.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    return path


def seconds_to_first_step(command: list[str], run: Path, environ: dict[str, str]) -> float:
    """Start a run that ends after its first step; the file's time is that of the step's record, its only one."""
    started = time.time()
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    metrics = run / "metrics.jsonl"
    if done.returncode or len(metrics.read_text().splitlines()) != 1:
        sys.exit(f"{command}: status {done.returncode}\n{done.stdout}\n{done.stderr}")
    return metrics.stat().st_mtime - started


def measure_starts(ranks: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of every start, by command; the first round, which fills the page cache, is left out."""
    environ, number = processes.environment(ranks), itertools.count()
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        config = prepare(Path(name))

        def start(title: str, build: Callable[[str], list[str]], keep: bool) -> None:
            run = Path(name) / f"run-{next(number)}"
            seconds = seconds_to_first_step(build(f"output_dir={run}"), run, environ)
            if keep:
                found.setdefault(title, []).append(seconds)

        for turn in range(repeats + 1):
            for launcher, bare in BARE.items():
                train = ["train", str(config), "--stop-after", "1"]
                start(f"{launcher}, bare", lambda out, b=bare, t=train: b(ranks, "igascale", *t, out), turn > 0)  # type: ignore[misc]
            for backend in BESIDE:
                launch = [sys.executable, "-m", "igascale", "launch", str(config), "--stop-after", "1"]
                launch += ["-n", str(ranks), "--backend", backend]
                start(f"igascale launch, {backend}", lambda out, c=launch: [*c, out], turn > 0)  # type: ignore[misc]
    return found


def measure_help(repeats: int) -> dict[str, list[float]]:
    """Seconds of ``igascale --help`` and of a Python that imports click and rich."""
    commands = {"import click, rich": ["-c", "import click, rich"], "igascale --help": ["-m", "igascale", "--help"]}
    found: dict[str, list[float]] = {name: [] for name in commands}
    environ = processes.environment(1)
    for turn in range(repeats + 2):
        for name, arguments in commands.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, *arguments], env=environ, stdout=subprocess.DEVNULL, check=True)
            if turn >= 2:  # the first two write and read the byte code
                found[name].append(time.perf_counter() - started)
    return found


def ratios(starts: dict[str, list[float]], help_: dict[str, list[float]]) -> dict[str, float]:
    """Of medians."""
    pairs = [(f"igascale launch, {backend}", f"{launcher}, bare") for backend, launcher in BESIDE.items()]
    pairs.append(("igascale --help", "import click, rich"))
    middle = {name: median(seconds) for name, seconds in (starts | help_).items()}
    return {f"{ours} / {theirs}": middle[ours] / middle[theirs] for ours, theirs in pairs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--no-save", action="store_true", help="only print")
    args = parser.parse_args()
    starts, help_ = measure_starts(args.ranks, args.repeats), measure_help(4 * args.repeats)
    table = Table("", "median s", "from", "to", box=None)
    for name, seconds in (starts | help_).items():
        table.add_row(name, f"{median(seconds):.3f}", f"{min(seconds):.3f}", f"{max(seconds):.3f}")
    found = ratios(starts, help_)
    for name, ratio in found.items():
        table.add_row(name, f"{ratio:.3f}x")
    Console(width=110, highlight=False).print(table)
    if not args.no_save:
        from benchmarks.record import save

        result: dict[str, Any] = {"ranks": args.ranks, "repeats": args.repeats, "ratios": found}
        print(save("launching", "cpu", result | {"seconds": starts | help_}))


if __name__ == "__main__":
    main()
