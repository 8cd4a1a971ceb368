"""Several processes, and one that dies: the command as users start it, on a real small model."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

import igascale
from igascale.errors import UserError
from igascale.evaluation import ranks, worker
from igascale.evaluation.ranks import perform_on_ranks
from igascale.evaluation.request import Request
from igascale.isomers.schema import Instance, IsomerGroup, write_groups

import tiny
from launching import gone

ROOT = Path(igascale.__file__).parents[1]
HELD = Path(__file__).with_name("held")
WORDS = ("red", "blue", "rule", "case", "drug", "law", "patient", "court")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that depends on its context, and 24 problems."""
    folder = tmp_path_factory.mktemp("eval")
    model = tiny.tiny_llama()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    model.save_pretrained(folder / "model")
    tiny.tiny_tokenizer().save_pretrained(folder / "model")

    def group(k):
        words = " ".join(WORDS[(k * m) % 8] for m in range(1, 3 + k % 7))
        instances = tuple(Instance(d, f"{d} {words} {k}", "So.", "Ann") for d in ("law", "drug"))
        return IsomerGroup(f"g{k}", f"g{k}", instances)

    write_groups(folder / "id.jsonl", [group(k) for k in range(12)])
    return folder


def command(folder, out, *more):
    arguments = ("eval", folder / "model", "--id", folder / "id.jsonl", "--out", out, "--device", "cpu")
    return [sys.executable, "-m", "igascale", *map(str, (*arguments, "--batch-size", 3, "--max-new-tokens", 40, *more))]


def started(arguments, hold=None):
    """Where ``hold`` is a file, no process goes on after some answers as long as it is there."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if hold is not None:
        hold.touch()
        environment |= {"PYTHONPATH": os.pathsep.join([str(HELD), str(ROOT)]), "HOLD": str(hold)}
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(arguments):
    process = started(arguments)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    return out


def result(out):
    """What was written, but for the seconds; the measures of LCS on their own."""
    told = json.loads((out / "evaluation.json").read_text())
    side = told["suites"]["isomers"]["id"]
    side.pop("seconds")
    measures = [side.pop("consistency"), *side.pop("layers")]
    return told, (out / "samples.jsonl").read_bytes(), measures


def assert_same(found, expected):
    """To the byte, but for LCS: two processes form other batches, which round in another order."""
    assert found[:2] == expected[:2]
    for ours, theirs in zip(found[2], expected[2], strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert ours[name] == (pytest.approx(value, rel=1e-6) if isinstance(value, float | dict) else value), name


def kept(out):
    return sum(f.read_bytes().count(b"\n") for f in (out / "answers").glob("rank-*.jsonl"))


def wait_until(condition, seconds=240.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.01)


@pytest.mark.slow
def test_one_process_two_and_two_that_are_killed_agree(folder, tmp_path):
    """The parent is killed with -9 while two processes answer; they end by themselves, and the same command goes on."""
    finished(command(folder, tmp_path / "one"))
    assert not (tmp_path / "one" / "answers").exists()

    out = tmp_path / "two"
    parent = started(command(folder, out, "--num-processes", 2), tmp_path / "hold")
    wait_until(lambda: kept(out) >= 3 or parent.poll() is not None)
    children = psutil.Process(parent.pid).children()
    assert len(children) == 2
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    wait_until(lambda: all(gone(child) for child in children))
    assert not (out / "evaluation.json").exists()
    before = kept(out)
    assert before >= 3

    printed = finished(command(folder, out, "--num-processes", 2))
    assert "Written:" in printed
    assert_same(result(out), result(tmp_path / "one"))
    assert not (out / "answers").exists()


@pytest.mark.slow
def test_a_dead_process_ends_all_with_one_line(folder, tmp_path):
    out = tmp_path / "out"
    parent = started(command(folder, out, "--num-processes", 2), tmp_path / "hold")
    wait_until(lambda: kept(out) >= 3 or parent.poll() is not None)
    first, second = sorted(psutil.Process(parent.pid).children(), key=lambda child: child.pid)
    second.kill()
    _, err = parent.communicate(timeout=240)
    assert parent.returncode == 2
    last = err.strip().splitlines()[-1]
    assert last.startswith(f"error: process 1 (pid {second.pid}) was killed by SIGKILL")
    assert "the same command goes on" in last
    assert "Traceback" not in err
    assert gone(first)


@pytest.mark.slow
def test_ctrl_c_ends_the_processes_and_keeps_the_answers(folder, tmp_path):
    out = tmp_path / "out"
    parent = started(command(folder, out, "--num-processes", 2), tmp_path / "hold")
    wait_until(lambda: kept(out) >= 3 or parent.poll() is not None)
    children = psutil.Process(parent.pid).children()
    parent.send_signal(signal.SIGINT)
    _, err = parent.communicate(timeout=240)
    assert parent.returncode == 130
    assert "the same command goes on" in err
    assert all(gone(child) for child in children)
    assert kept(out) >= 3


def test_a_worker_says_what_is_wrong_with_its_input(tmp_path):
    """Its last word is the error of all."""
    request = Request(model=str(tmp_path / "none"), shown="none", out=str(tmp_path), id_file=str(tmp_path / "no.jsonl"))
    with pytest.raises(UserError, match=r"no\.jsonl") as error:
        perform_on_ranks(request, 2)
    assert "\n" not in str(error.value)


def test_one_device_is_not_for_several_processes(tmp_path):
    request = Request(model="m", shown="m", out=str(tmp_path), device="cuda:1")
    with pytest.raises(UserError, match="--device cuda:1 is one device"):
        perform_on_ranks(request, 2)


def test_a_process_that_does_not_end_when_asked_is_ended(monkeypatch):
    monkeypatch.setattr(ranks, "_GRACE", 0.2)
    stubborn = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal,time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
    )
    stubborn.stdout.readline()
    ranks._end([stubborn])
    assert stubborn.returncode == -signal.SIGKILL


def test_progress_is_left_for_the_parent(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "_EVERY", 600)
    teller = worker._Teller(tmp_path / "progress.json")
    teller("answers", 3, 10)
    teller("answers", 4, 10)  # too soon to be told
    assert ranks._read(tmp_path / "progress.json") == {"stage": "answers", "done": 3, "total": 10}
    teller("answers", 10, 10)
    assert ranks._read(tmp_path / "progress.json")["done"] == 10
    worker._Teller(tmp_path / "none" / "progress.json")("answers", 1, 2)  # a folder that is gone is no reason to stop
