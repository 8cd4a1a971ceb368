"""A search that is killed with its training, by real signals, ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from igascale import status

from launching import gone
from runs import prepare

OPTIONS = (
    *("--method", "erm-sft", "--by", "in-domain", "--trials", "2", "--stops", "2"),
    *(
        "hook.name=held_hooks:HeldMean",
        "checkpoint.every=1",
        "engine.threads=1",
    ),  # more threads wait for each other on a busy machine
)
LIMIT = 600  # seconds
ROOT = Path(__file__).parents[2]


def command(path, out, steps):
    where = ("--out", str(out), f"train.max_steps={steps}")
    return [sys.executable, "-m", "igascale", "tune", str(path), *where, *OPTIONS]


@pytest.fixture
def start():
    """Starts a search; none is left behind."""
    started = []

    def begin(path, out, steps=20, hold=None):
        process = subprocess.Popen(
            command(path, out, steps),
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT / "tests")} | ({"HOLD": str(hold)} if hold else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:  # its own children end with it
        process.kill()
        process.communicate()


def result_of(out):
    """Everything that the search says, but for seconds and paths."""
    trials = [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]
    for each in trials:
        del each["seconds"]
    return trials, (out / "tuned" / "erm-sft.yaml").read_text().replace(str(out), "OUT")


def wait_for(condition):
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_while_training_and_between_trials(tmp_path, start):
    path = prepare(tmp_path)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = start(path, whole)
    hold = tmp_path / "hold"
    hold.touch()
    search = start(path, killed, hold=hold)
    run = killed / "trials" / "erm-sft" / "000" / "in-domain"
    wait_for(lambda: hold.with_suffix(".reached").exists() and list((run / "checkpoints").glob("step-*")))
    training = psutil.Process(search.pid).children(recursive=True)
    search.kill()
    search.wait()
    assert training and not (killed / "trials.jsonl").exists()
    hold.unlink()
    wait_for(lambda: all(map(gone, training)))
    hold.touch()  # for the second trial; the first is past it
    again = start(path, killed, hold=hold)
    wait_for(lambda: (killed / "trials.jsonl").exists())
    again.send_signal(signal.SIGKILL)
    again.wait()
    hold.unlink()
    last = start(path, killed)
    told, _ = last.communicate(timeout=LIMIT)
    assert last.returncode == 0, told
    assert "[2] erm-sft 1" in told and "[1]" not in told  # the trial on record was not made again
    assert undisturbed.wait(timeout=LIMIT) == 0, undisturbed.stdout.read()
    assert result_of(killed) == result_of(whole)
    resumes = (run / "resumes.jsonl").read_text().splitlines()
    assert len(resumes) == 1 and json.loads(resumes[0])["step"] >= 1  # it went on, and did not begin anew
    assert not list(killed.rglob("checkpoints"))
    for other in killed.rglob("status.json"):
        assert status.read(other.parent)["state"] == "finished"


@pytest.mark.slow
def test_ctrl_c_stops_with_a_checkpoint_and_says_how_to_go_on(tmp_path, start):
    path, out = prepare(tmp_path), tmp_path / "t"
    search = start(path, out, steps=2000)
    run = out / "trials" / "erm-sft" / "000" / "in-domain"
    wait_for(lambda: len(list((run / "checkpoints").glob("step-*"))) >= 1)
    os.kill(search.pid, signal.SIGINT)
    told, _ = search.communicate(timeout=LIMIT)
    assert search.returncode == 130 and "stopped on request; the same command goes on" in told
    assert status.read(run)["state"] == "interrupted"
    assert not (out / "trials.jsonl").exists()
