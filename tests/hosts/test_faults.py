"""One run over two hosts that everything happens to; it ends with the adapter of a run that nothing happened to."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

import training_on_hosts
from gated_iga import shut_after
from training_on_hosts import adapter, saved, steps, wait_for

#: Seconds for everything to be gone after a loss: the heartbeat's timeout, the grace for processes to end, a busy machine.
PATIENCE = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run whose rank on node-b waits in the hook before the steps that it may not take; the other one waits for it."""
    folder = tmp_path_factory.mktemp("faults")
    return training_on_hosts.prepare(folder, hook={"name": "gated_iga:GatedIga", "gate": str(folder / "gate")})


class Launched:
    """A launch over both hosts in its own terminal; it takes all steps, or so many."""

    def __init__(self, hosts, folder: Path, step: int = 1000):
        shut_after(folder / "gate", step)
        self.hosts, self.run = hosts, folder / "run"
        where = ["-H", str(hosts.hostfile()), "--ssh-config", str(hosts.ssh_config), "--resume", "auto"]
        command = [sys.executable, "-m", "igascale", "launch", "run.yaml", *where]
        self.from_step, self.before = saved(self.run), self._written()
        self.process = hosts.a.start(*command, cwd=folder, env=hosts.environment())

    def _written(self) -> int:
        """When metrics were last written, in nanoseconds; 0 before there are any."""
        metrics = self.run / "metrics.jsonl"
        return metrics.stat().st_mtime_ns if metrics.is_file() else 0

    def until_step(self, step: int) -> None:
        """Wait until the step has been taken in this launch, and not in one before it."""
        assert self.from_step < step, f"resumes at step {self.from_step}: the launch before got too far"
        wait_for(
            lambda: (self._written() > self.before and step in steps(self.run)) or self.process.poll() is not None,
            600,
            lambda: f"no step {step}\n{self.end()}",
        )
        assert self.process.poll() is None, self.end()

    def end(self, patience: float = PATIENCE) -> str:
        """All it said."""
        try:
            return self.process.communicate(timeout=patience)[0]
        except Exception:
            self.process.kill()
            return "did not end:\n" + self.process.communicate()[0]

    def gone(self) -> None:
        """No training process is left on either host."""
        left = self.hosts.left_over(PATIENCE)
        assert not left, left


def trainers(host) -> list[int]:
    """Ranks on this host: the processes that launchers have started, and no launcher."""
    return [p for p, command in host.processes().items() if " igascale train " in command.replace(" -m ", " ")
            and "deepspeed.launcher" not in command and "torch.distributed.run" not in command and "ssh" not in command.split()[0]]  # fmt: skip


def test_everything_happens_to_one_run(quiet_hosts, folder):
    hosts = quiet_hosts
    shut_after(folder / "gate", 1000)
    undisturbed = hosts.igascale("launch", "run.yaml", "-n", "2", "output_dir=undisturbed", cwd=folder)
    assert undisturbed.returncode == 0, undisturbed.stdout + undisturbed.stderr
    _interrupt(hosts, folder)
    _kill_remote_rank(hosts, folder)
    _kill_launcher(hosts, folder)
    _pull_the_cable(hosts, folder)
    _stop_remote_rank(hosts, folder)
    last = Launched(hosts, folder)
    said = last.end(600)
    assert last.process.returncode == 0, said
    assert steps(folder / "run") == list(range(1, 17))
    assert adapter(folder / "run") == adapter(folder / "undisturbed")


def _interrupt(hosts, folder):
    launch = Launched(hosts, folder, 3)
    launch.until_step(3)
    os.kill(launch.process.pid, signal.SIGINT)
    log = folder / "run" / "logs" / "rank-0000.log"
    wait_for(lambda: "stopping after this step" in log.read_text(), PATIENCE, log.read_text)
    shut_after(folder / "gate", 1000)
    said = launch.end()
    assert launch.process.returncode == 130, said
    launch.gone()
    assert saved(folder / "run") == steps(folder / "run")[-1], said


def _kill_remote_rank(hosts, folder):
    launch = Launched(hosts, folder, 6)
    launch.until_step(6)
    (rank,) = trainers(hosts.b)
    os.kill(rank, signal.SIGKILL)
    said = launch.end()
    assert launch.process.returncode == 75, said
    assert "rank 1" in said and "node-b" in said, said
    launch.gone()


def _kill_launcher(hosts, folder):
    launch = Launched(hosts, folder, 8)
    launch.until_step(8)
    os.kill(launch.process.pid, signal.SIGKILL)
    launch.process.communicate(timeout=PATIENCE)
    launch.gone()


def _pull_the_cable(hosts, folder):
    launch = Launched(hosts, folder, 10)
    launch.until_step(10)
    hosts.link(hosts.b, up=False)
    try:
        said = launch.end()
        wait_for(lambda: not trainers(hosts.b), PATIENCE, lambda: str(hosts.b.processes()))
    finally:
        hosts.link(hosts.b, up=True)
    assert launch.process.returncode == 75, said
    assert "node-b" in said, said
    launch.gone()


def _stop_remote_rank(hosts, folder):
    """It cannot leave by itself, and no stock launcher ends it."""
    launch = Launched(hosts, folder, 12)
    launch.until_step(12)
    (rank,) = trainers(hosts.b)
    os.kill(rank, signal.SIGSTOP)
    said = launch.end()
    assert launch.process.returncode == 75, said
    assert f"rank 1 (node-b, pid {rank})" in said, said
    launch.gone()
