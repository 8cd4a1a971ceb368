"""A disk that is full, or read-only, for real: a tmpfs of 4 MB in a mount namespace of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import runs
from launching import environment

STEPS = {"train": {"max_steps": 6, "groups_per_batch": 4, "gradient_accumulation_steps": 1}}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Every scenario of worker_disk.py, from one process."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small tmpfs")
    folder = tmp_path_factory.mktemp("disk")
    probe = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if probe.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs here: {probe.stderr.strip()}")
    base = runs.prepare(folder, **STEPS)
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, str(Path(__file__).with_name("worker_disk.py")), base, folder / "place"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert len(outcome) == 10
    return outcome | {"log": done.stderr}


KINDS = ("sync", "async")


def sound(outcome):
    """Whatever happened: no damaged checkpoint, nothing half-written, a pointer to the newest."""
    assert outcome["damaged"] == []
    assert outcome["hidden"] == []
    assert outcome["latest"] == f"step-{outcome['valid'][-1]:08d}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["goes-on", "read-only"])
def test_training_goes_on_and_saves_again_when_it_can(told, name, kind):
    outcome = told[f"{name}-{kind}"]
    sound(outcome)
    assert outcome["valid"] == [1, 2, 5, 6]
    assert outcome["error"] == ""
    assert outcome["result"]
    assert outcome["metrics"] == [1, 2, 3, 4, 5, 6, 6]  # not a line is lost, nor half a one


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["stops", "read-only-stops"])
def test_training_stops_with_one_line(told, name, kind):
    outcome = told[f"{name}-{kind}"]
    sound(outcome)
    assert outcome["valid"] == [1, 2]
    assert not outcome["result"]
    assert "the checkpoint of step 3 cannot be written" in outcome["error"]
    assert ("No space left" if name == "stops" else "Read-only file system") in outcome["error"]
    assert "Earlier checkpoints are intact" in outcome["error"]
    assert "\n" not in outcome["error"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_whose_end_cannot_be_written_does_not_end_well(told, kind):
    outcome = told[f"full-to-the-end-{kind}"]
    sound(outcome)
    assert outcome["valid"] == [1, 2, 3, 4]
    assert "cannot be written" in outcome["error"]
    assert "No space left" in outcome["error"]


def test_each_failure_is_told(told):
    for step in (3, 4):
        assert told["log"].count(f"the checkpoint of step {step} cannot be written") >= 2
    assert "Training goes on (checkpoint.on_error: continue)" in told["log"]
    assert "metrics.jsonl: No space left on device; its lines wait in memory" in told["log"]
