"""A real Slurm."""

from __future__ import annotations


def test_it_runs_two_tasks(slurm):
    done = slurm.run("srun", "-n2", "-l", "hostname")
    assert sorted(done.stdout.split("\n")) == ["", "0: node-s", "1: node-s"], done.stderr + slurm.logs()
