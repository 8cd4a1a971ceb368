"""What every benchmark result carries, and where it is kept."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def _flops_of_addition_in_place(sum_shape: Any, left: Any, right: Any, *args: Any, **kwargs: Any) -> int:
    batch = left[0] if len(left) == 3 else 1
    return int(2 * batch * left[-2] * left[-1] * right[-1])


def _flops_of_batched_product(left: Any, right: Any, *args: Any, **kwargs: Any) -> int:
    return int(2 * left[0] * left[1] * left[2] * right[2])


def count_flops(run: Callable[[], object]) -> float:
    """Of every matrix product in ``run``; PyTorch's counter lacks the ones that add in place, and fails at ``out_dtype``."""
    missing = dict.fromkeys((torch.ops.aten.baddbmm_, torch.ops.aten.addmm_), _flops_of_addition_in_place)
    known = missing | {torch.ops.aten.bmm: _flops_of_batched_product}
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        run()
    return float(counter.get_total_flops())


RESULTS = Path(__file__).parent / "results"


def hardware(device: str) -> dict[str, Any]:
    """The machine, the versions and the commit of this run; BENCHMARK_COMMIT tells it where the sources came without their history."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    versions = {}
    for name in ("torch", "deepspeed", "transformers", "peft"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    git = ["git", "-C", str(Path(__file__).parent)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    changed = subprocess.run(
        [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False
    ).stdout
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "python": platform.python_version(),
        "versions": versions,
        "commit": os.environ.get("BENCHMARK_COMMIT") or (commit or "unknown") + ("+changes" if changed else ""),
    }


def save(name: str, device: str, result: dict[str, Any]) -> Path:
    """Write ``benchmarks/results/NAME-DEVICE.json``."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{device}.json"
    path.write_text(json.dumps({"hardware": hardware(device), **result}, indent=2) + "\n")
    return path
