"""Start a test program on several ranks, by the real deepspeed launcher or by torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from igascale.launchers.base import free_port

WORKERS = Path(__file__).parent / "distributed"
REPOSITORY = Path(__file__).parents[1]


def launch(launcher: str, ranks: int, script: str, *arguments: str, timeout: float = 600) -> None:
    """Run ``tests/distributed/script`` on ``ranks`` processes; fail with its output where it fails."""
    command = {
        "deepspeed": [
            "deepspeed.launcher.runner",
            "--num_accelerators",
            str(ranks),
            "--master_port",
            str(free_port()),
            "--no_local_rank",
            "--log_level",
            "error",
        ],
        "torchrun": [
            "torch.distributed.run",
            "--nproc_per_node",
            str(ranks),
            "--master_port",
            str(free_port()),
        ],
    }[launcher]
    done = subprocess.run(
        [sys.executable, "-m", *command, str(WORKERS.parent / "worker.py"), str(WORKERS / script), *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"{launcher} {script}: status {done.returncode}\n{done.stdout}\n{done.stderr}"


def interrupt_when_training(run: Path, *arguments: str) -> tuple[int, str]:
    """Start ``igascale ARGUMENTS``, send it SIGINT after two steps of the run; return its status and stderr."""
    command = [sys.executable, "-m", "igascale", *arguments]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            metrics, deadline = run / "metrics.jsonl", time.monotonic() + 240
            while not (metrics.is_file() and metrics.read_text().count("\n") >= 2):
                assert process.poll() is None, process.communicate()
                if time.monotonic() > deadline:
                    process.kill()
                    raise AssertionError(("no progress", process.communicate()))
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=240)
        finally:
            process.kill()  # one that does not hear of the signal has no end of its own
    return process.returncode, error


def gone(process: psutil.Process) -> bool:
    """Whether it has ended, waited for or not."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def environment() -> dict[str, str]:
    """One thread a process, this checkout first on the path, no accelerator."""
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests"), os.environ.get("PYTHONPATH", "")])
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "PYTHONPATH": path.rstrip(os.pathsep),
    }


def igascale(*arguments: str, cwd: Path | None = None, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "igascale", *arguments],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
