"""The campaign's own parts: that its checks can fail, that its faults strike where they say, that it finds every process."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

import chaos_checks as checks
import chaos_plan as plan
import chaos_processes as processes

HERE = Path(__file__).parent


def trace(saves: int) -> list[list[str]]:
    """Rank 0's changes of a run folder, as if a checkpoint had 30 stages."""
    first = [["open", "config.yaml"], ["open", "metrics.jsonl"]]
    return first + [["fsync", f"checkpoints/step-{2 * k:08d}/{n}"] for k in range(1, saves + 1) for n in range(30)]


def test_a_hundred_runs_are_reproducible_and_cover_what_they_must():
    traces = {"sync": trace(6), "async": trace(6)}
    first, again = (plan.draw(0, 100, traces) for _ in range(2))
    assert first == again != plan.draw(1, 100, traces)
    assert [s.number for s in first] == list(range(100))
    assert sum(s.two_hosts for s in first) >= 20
    assert {s.kind for s in first} == set(plan.KINDS)
    met = {f.moment.label for s in first for f in s.faults if f.moment.at == "operation"}
    assert {plan.stage(o) for o in trace(6) if plan.inside_checkpoint(o)} <= met
    alone = [kind for kind in plan.KINDS if not plan.needs_two_hosts(kind)]
    assert {s.kind for s in plan.draw(0, 40, traces, alone)} == set(alone)


@pytest.mark.parametrize("runs", [1, 10, 14, 37, 100, 250])
def test_quotas_add_up(runs):
    assert sum(plan.quotas(runs).values()) == sum(plan.quotas(runs, list(plan.KINDS)[:5]).values()) == runs


@pytest.fixture
def run(tmp_path) -> Path:
    """A finished run folder, as far as the checks look."""
    folder = tmp_path / "run"
    checkpoint = folder / "checkpoints" / "step-00000004"
    for adapter in (folder / "adapter", checkpoint / "adapter"):
        adapter.mkdir(parents=True)
        save_file({"a": torch.ones(3), "b": torch.zeros(2)}, adapter / "adapter_model.safetensors")
    save_file({"a.master": torch.ones(3)}, checkpoint / "optimizer.safetensors")
    state = {"step": 4, "optimizer_steps": 4, "world_size": 2, "hook": {}, "counters": {"tokens": 1}, "data": "x"}
    (checkpoint / "state.json").write_text(json.dumps(state))
    seal(checkpoint)
    (folder / "checkpoints" / "latest").write_text("step-00000004\n")
    lines = [{"kind": "train", "step": k, "loss": 1 / k, "seconds": 0.1} for k in range(1, 5)]
    for name in ("metrics.jsonl", "adapter_metrics.jsonl"):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def seal(checkpoint: Path) -> None:
    """Write a manifest that fits."""
    files = {}
    for path in checkpoint.rglob("*"):
        if path.is_file() and path.name != "manifest.json":
            content = path.read_bytes()
            files[str(path.relative_to(checkpoint))] = {
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
    (checkpoint / "manifest.json").write_text(json.dumps({"files": files}))


def test_a_copy_passes_whatever_time_it_took(run, tmp_path):
    shutil.copytree(run, tmp_path / "copy")
    metrics = tmp_path / "copy" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"seconds": 0.1', '"seconds": 7'))
    assert checks.compare(tmp_path / "copy", run) == []


def test_a_checkpoint_that_was_put_off_is_of_another_step(run, tmp_path):
    copy, checkpoints = tmp_path / "copy", run / "checkpoints"
    shutil.copytree(checkpoints / "step-00000004", checkpoints / "step-00000002")
    shutil.copytree(run, copy)
    (copy / "checkpoints" / "step-00000002").rename(copy / "checkpoints" / "step-00000003")
    assert checks.compare(copy, run, asynchronous=True) == []
    assert any("left over: checkpoints/step-00000003" in problem for problem in checks.compare(copy, run))
    shutil.rmtree(copy / "checkpoints" / "step-00000003")
    assert any("missing" in problem for problem in checks.compare(copy, run, asynchronous=True))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def flip_sealed(copy: Path, name: str) -> None:
    checkpoint = copy / "checkpoints" / "step-00000004"
    flip(checkpoint / name)
    seal(checkpoint)


def edit_state(copy: Path) -> None:
    checkpoint = copy / "checkpoints" / "step-00000004"
    state = checkpoint / "state.json"
    state.write_text(state.read_text().replace('"tokens": 1', '"tokens": 2'))
    seal(checkpoint)


def edit(name: str, change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def damage(copy: Path) -> None:
        path = copy / name
        path.write_text("".join(change(path.read_text().splitlines(keepends=True))))

    return damage


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "adapter": (lambda c: flip(c / "adapter" / "adapter_model.safetensors"), "1 of 2 tensors differ"),
    "no adapter": (lambda c: (c / "adapter" / "adapter_model.safetensors").unlink(), "missing"),
    "masters": (lambda c: flip_sealed(c, "optimizer.safetensors"), "1 of 1 tensors differ"),
    "checkpoint": (
        lambda c: flip(c / "checkpoints" / "step-00000004" / "optimizer.safetensors"),
        "not what the manifest says",
    ),
    "counters": (edit_state, "counters"),
    "not in the manifest": (lambda c: (c / "checkpoints/step-00000004/more").touch(), "not in both"),
    "latest": (lambda c: (c / "checkpoints" / "latest").write_text("step-00000006\n"), "manifest.json"),
    "no latest": (lambda c: (c / "checkpoints" / "latest").unlink(), "without latest"),
    "temporary folder": (lambda c: (c / "checkpoints" / ".step-00000006.tmp").mkdir(), "left over"),
    "a step twice": (edit("metrics.jsonl", lambda lines: [*lines, lines[-1]]), "stands 2 times"),
    "a step missing": (edit("metrics.jsonl", lambda lines: lines[:1] + lines[2:]), "3 records"),
    "another loss": (edit("metrics.jsonl", lambda lines: [line.replace("0.25", "0.26") for line in lines]), "differs"),
    "half a line": (edit("adapter_metrics.jsonl", lambda lines: [*lines, '{"ste']), "not JSON lines"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_each_difference_is_found(run, tmp_path, damage):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    make, expected = DAMAGE[damage]
    make(copy)
    problems = checks.compare(copy, run)
    assert any(expected in problem for problem in problems), problems


WRITER = """
import os, pathlib, shutil, sys
run = pathlib.Path(sys.argv[1])
temporary = run / ".new"
temporary.mkdir()
(temporary / "file").write_text("content")
with (temporary / "file").open("rb") as file:
    os.fsync(file.fileno())
temporary.rename(run / "new")
shutil.rmtree(run / "old")
(run.parent / "elsewhere").touch()
"""
OPERATIONS = [
    ["mkdir", ".new"],
    ["open", ".new/file"],
    ["fsync", ".new/file"],
    ["rename", ".new", "new"],
    ["remove", "old/file"],
    ["rmdir", "old"],
]


def write(folder: Path, **instructions: object) -> subprocess.CompletedProcess[str]:
    """Run WRITER as rank 0 under the plan."""
    run, inject = folder / "run", folder / "inject"
    (run / "old").mkdir(parents=True)
    (run / "old" / "file").touch()
    inject.mkdir()
    shutil.copy(HERE / "inject" / "sitecustomize.py", inject)
    (inject / "plan.json").write_text(json.dumps({"folder": str(run), **instructions}))
    return subprocess.run(
        [sys.executable, "-c", WRITER, str(run)],
        env={**os.environ, "PYTHONPATH": str(inject), "RANK": "0"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_change_below_the_run_folder_is_traced(tmp_path):
    done = write(tmp_path, trace=str(tmp_path / "trace"))
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in (tmp_path / "trace").read_text().splitlines()] == OPERATIONS


@pytest.mark.parametrize("operation", range(len(OPERATIONS)))
def test_the_kill_comes_just_before_the_operation(tmp_path, operation):
    stage = {"operation": operation, "delay": 0, "victim": "self"}
    done = write(tmp_path, trace=str(tmp_path / "trace"), stage=stage)
    assert done.returncode == -9, done.stderr
    assert len((tmp_path / "trace").read_text().splitlines()) == operation + 1
    assert (tmp_path / "run" / ".new").exists() == (0 < operation <= 3)
    assert (tmp_path / "run" / "new").exists() == (operation > 3)
    assert (tmp_path / "run" / "old" / "file").exists() == (operation < 5)
    fired = json.loads((tmp_path / "inject" / "fired").read_text())
    assert fired["where"].startswith(OPERATIONS[operation][0])
    assert abs(fired["time"] - time.monotonic()) < 600  # of the same clock


def test_processes_are_found_in_any_session_and_nothing_else_is(tmp_path):
    marker = str(tmp_path / "inject")
    sleep = ["sleep", "600"]
    ours = subprocess.Popen(sleep, env={"PYTHONPATH": marker, "PATH": os.environ["PATH"]}, start_new_session=True)
    named = subprocess.Popen(["sh", "-c", f"export X={marker}; sleep 600; true"])
    other = subprocess.Popen(sleep)
    try:
        found = processes.of_run(marker)
        assert {ours.pid, named.pid} <= found.keys()
        assert other.pid not in found
        processes.end_all(marker)
        assert ours.wait(60) == named.wait(60) == -9
        assert processes.of_run(marker) == {}
        assert other.poll() is None
    finally:
        for process in (ours, named, other):
            process.kill()
            process.wait()


EXECUTES = """
import os, sys, time
if time.monotonic() < float(sys.argv[1]):
    os.execv(sys.executable, [sys.executable, "-SsE", *sys.argv])
"""


def test_a_process_in_the_middle_of_an_exec_is_found(tmp_path):
    """For a moment it has neither command line nor environment: whoever looks just then must not take it for gone."""
    (tmp_path / "executes.py").write_text(EXECUTES)
    marker, end = str(tmp_path), time.monotonic() + 2
    command = [sys.executable, "-SsE", str(tmp_path / "executes.py"), str(end)]
    with subprocess.Popen(command) as process:
        looks = 0
        while time.monotonic() < end - 0.2:
            found, ended = processes.of_run(marker), process.poll()
            assert process.pid in found or ended is not None
            looks += 1
        assert looks
        assert process.wait(60) == 0


def test_what_has_no_environment_is_not_waited_for(monkeypatch):
    with subprocess.Popen(["sleep", "600"], env={}) as process:
        try:
            assert process.pid in processes.of_run("sleep")
            assert process.pid not in processes.of_run("no such marker anywhere")
            monkeypatch.setattr(processes, "time", SimpleNamespace(monotonic=time.monotonic))  # nobody can sleep by it
            assert processes._settled(Path(f"/proc/{process.pid}")) == (b"sleep\x00600\x00", b"")
        finally:
            process.kill()
