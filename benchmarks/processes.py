"""Starting several processes of a benchmark by the stock launchers, without igascale's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from igascale.launchers.base import free_port

ROOT = Path(__file__).parents[1]


def deepspeed(processes: int, module: str, *arguments: str) -> list[str]:
    """What the ``deepspeed`` script runs."""
    options = ["--num_accelerators", str(processes), "--master_port", str(free_port()), "--no_local_rank"]
    runner = [sys.executable, "-m", "deepspeed.launcher.runner", *options, "--log_level", "error"]
    return [*runner, "--module", module, *arguments]


def torchrun(processes: int, module: str, *arguments: str) -> list[str]:
    """What the ``torchrun`` script runs."""
    options = ["--nproc_per_node", str(processes), "--master_port", str(free_port())]
    return [sys.executable, "-m", "torch.distributed.run", *options, "-m", module, *arguments]


def environment(processes: int) -> dict[str, str]:
    """This checkout; on a CPU, as many threads for each process as there is room for."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    found = {**os.environ, "PYTHONPATH": path}
    if not torch.cuda.is_available():
        threads = max(1, (os.cpu_count() or 1) // processes)
        found = {"OMP_NUM_THREADS": str(threads), **found, "DS_ACCELERATOR": "cpu"}
    return found


def run_module(processes: int, module: str, *arguments: str, threads: int | None = None) -> None:
    """A benchmark's own module on several ranks; ends this process where that fails."""
    environ = environment(processes) | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    if status := subprocess.call(deepspeed(processes, module, *arguments), env=environ):
        sys.exit(status)
