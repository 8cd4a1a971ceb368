"""The stock ``deepspeed`` launcher on one node."""

from __future__ import annotations

import os
import sys

from igascale.launchers.base import LaunchSpec


def build_command(spec: LaunchSpec) -> list[str]:
    """The launcher's argv.

    ``python -m deepspeed.launcher.runner`` is what the ``deepspeed`` script runs; naming the interpreter makes sure that
    it is the one igascale is installed in.

    Example:
        >>> argv = build_command(LaunchSpec(2, "igascale", ("train", "run.yaml"), 29500))
        >>> argv[1:3], argv[-3:]
        (['-m', 'deepspeed.launcher.runner'], ['igascale', 'train', 'run.yaml'])
    """
    return [
        sys.executable,
        "-m",
        "deepspeed.launcher.runner",
        "--num_accelerators",
        str(spec.num_processes),
        "--master_port",
        str(spec.master_port),
        "--no_local_rank",
        "--log_level",
        "error",
        "--module",
        spec.module,
        *spec.arguments,
    ]


def environment(spec: LaunchSpec) -> dict[str, str]:
    """Variables that the launcher and its ranks need beyond the caller's, who may override each."""
    import torch

    if torch.cuda.is_available():
        return {}
    # The ranks share the cores; PyTorch would start a thread per core in each of them.
    threads = max(1, (os.cpu_count() or 1) // spec.num_processes)
    return {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": str(threads)}
