"""``igascale launch --backend slurm`` on a real Slurm: submitted, preempted, requeued, finished."""

from __future__ import annotations

import re

import pytest

import training_on_hosts
from gated_iga import shut_after
from training_on_hosts import adapter, steps, wait_for


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm-run")
    return training_on_hosts.prepare(folder, hook={"name": "gated_iga:GatedIga", "gate": str(folder / "gate")})


def test_it_runs_two_tasks(slurm):
    done = slurm.run("srun", "-n2", "-l", "hostname")
    assert sorted(done.stdout.split("\n")) == ["", "0: node-s", "1: node-s"], done.stderr + slurm.logs()


def test_preempted_twice_and_finished(slurm, folder):
    """Once by the warning signal that Slurm sends ahead, once by a requeue that comes without."""
    undisturbed = slurm.igascale("launch", "run.yaml", "-n", "2", "output_dir=undisturbed", cwd=folder)
    assert undisturbed.returncode == 0, undisturbed.stdout + undisturbed.stderr
    gate = folder / "gate"
    shut_after(gate, 3)
    submitted = slurm.igascale("launch", "run.yaml", "--backend", "slurm", "-n", "2", cwd=folder)
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    job = re.match(r"job (\d+) submitted", submitted.stdout)[1]
    run = folder / "run"

    def told():
        log = folder / f"run.slurm-{job}.log"
        return f"{slurm.state(job)}\n{log.read_text() if log.exists() else ''}\n{slurm.logs()}"

    def until(step):
        wait_for(lambda: step in steps(run) or slurm.state(job).startswith(("FAILED", "COMPLETED")), 900, told)
        assert slurm.state(job) == "RUNNING", told()

    until(3)
    slurm.run("scancel", "--signal=USR1", "--batch", job)
    wait_for(lambda: "stopping after this step" in told(), 300, told)
    shut_after(gate, 8)
    wait_for(lambda: slurm.restarts(job) == 1, 300, told)
    until(8)
    slurm.run("scontrol", "requeue", job)
    wait_for(lambda: slurm.restarts(job) == 2, 300, told)
    gate.unlink()
    wait_for(lambda: slurm.state(job) not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING"), 900, told)
    assert slurm.state(job) == "COMPLETED", told()
    assert steps(run) == list(range(1, 17))
    assert adapter(run) == adapter(folder / "undisturbed")


def test_bad_input_submits_nothing(slurm, folder):
    for extra, told in ((["--partition", "none-such"], "Invalid partition"), (["-n", "99"], "more ranks than the")):
        arguments = ["--backend", "slurm", "-n", "2", *extra, "output_dir=never"]
        done = slurm.igascale("launch", "run.yaml", *arguments, cwd=folder)
        assert done.returncode == 2 and told in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (folder / "never").exists()
    assert slurm.run("squeue", "-h").stdout == ""
