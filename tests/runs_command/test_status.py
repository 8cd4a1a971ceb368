"""status.json tells how a run ended, and a killed one does not pass for running."""

import json
import os
import subprocess
import sys
import threading

import pytest
from click.testing import CliRunner

from igascale import status
from igascale.cli import main
from igascale.errors import UserError
from igascale.runs.reading import read_run

import runs
from launching import environment, free_port, igascale


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return runs.prepare(tmp_path_factory.mktemp("status"))


def told(folder):
    return json.loads((folder / "status.json").read_text())


def invoke(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


class Stopped(Exception):
    signum = 15


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, ("finished", "", 0)),
        (Stopped(), ("interrupted", "stopped by SIGTERM", 143)),
        (UserError("mend this"), ("failed", "mend this", 2)),
        (ValueError("no"), ("failed", "ValueError: no", 1)),
    ],
)
def test_how_an_attempt_ended(tmp_path, monkeypatch, error, expected):
    monkeypatch.setattr(status, "BEAT_SECONDS", 3600.0)
    try:
        with status.RunStatus(tmp_path, 10, 3) as attempt:
            assert told(tmp_path)["state"] == "running"
            assert told(tmp_path)["step"] == 3
            attempt.beat(10)
            assert told(tmp_path)["step"] == 3  # not at every step
            if error:
                raise error
    except Exception as raised:
        assert raised is error
    found = told(tmp_path)
    assert (found["state"], found["message"], found["exit_code"]) == expected
    assert (found["step"], found["total"]) == (10, 10)


def test_a_beat_is_written_after_a_while_and_attempts_add_up(tmp_path, monkeypatch):
    monkeypatch.setattr(status, "BEAT_SECONDS", 0.0)
    with status.RunStatus(tmp_path, 10) as attempt:
        attempt.beat(4)
        assert told(tmp_path)["step"] == 4
    assert told(tmp_path)["state"] == "interrupted"  # --stop-after
    record = told(tmp_path) | {"ran_seconds": 100.0, "process": None}
    (tmp_path / "status.json").write_text(json.dumps(record))
    with status.RunStatus(tmp_path, 10, 4) as attempt:
        attempt.beat(10)
    assert 100 <= told(tmp_path)["ran_seconds"] < 200


def test_a_disk_that_takes_nothing_does_not_stop_the_run(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    with status.RunStatus(gone, 2) as attempt:
        (gone / "status.json").unlink()
        gone.rmdir()
        attempt.beat(2)
    assert not gone.exists()


def test_someone_else_concludes_only_a_run_that_has_not(tmp_path):
    status.conclude(tmp_path, "failed", "rank 1 was lost", 75)
    assert not (tmp_path / "status.json").exists()
    status.RunStatus(tmp_path, 9, 5)
    status.conclude(tmp_path, "failed", "rank 1 was lost", 75)
    assert (told(tmp_path)["state"], told(tmp_path)["exit_code"], told(tmp_path)["step"]) == ("failed", 75, 5)
    status.conclude(tmp_path, "finished", "", 0)
    assert told(tmp_path)["message"] == "rank 1 was lost"


def test_a_verdict_outranks_the_exception_that_it_caused(tmp_path):
    with pytest.raises(RuntimeError), status.RunStatus(tmp_path, 9, 5):
        raise RuntimeError("connection closed by peer")
    status.conclude_quickly(tmp_path, "failed", "rank 1 (host b, pid 7) was killed", 75)
    assert (told(tmp_path)["message"], told(tmp_path)["exit_code"]) == ("rank 1 (host b, pid 7) was killed", 75)
    with pytest.raises(UserError), status.RunStatus(tmp_path, 9, 5):
        raise UserError("mend this")
    status.conclude(tmp_path, "failed", "something else", 75)
    assert told(tmp_path)["message"] == "mend this"


def test_a_file_system_that_hangs_does_not_hold_up_the_end(tmp_path, monkeypatch):
    mended, over = threading.Event(), threading.Event()
    monkeypatch.setattr(status, "conclude", lambda *arguments: (mended.wait(60), over.set()))
    status.conclude_quickly(tmp_path, "failed", "", 75, seconds=0.2)
    assert not over.is_set()
    mended.set()


def test_whether_a_process_is_gone():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        living = status.this_process() | {"pid": child.pid, "started_ticks": status._started_ticks(child.pid)}
        assert not status.is_gone(living)
        assert status.is_gone(living | {"started_ticks": 1})  # another process has its number now
        assert not status.is_gone(living | {"machine": "another"})
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert status.is_gone(living)  # a zombie, too
    assert status.is_gone(living)
    assert not status.is_gone(None)
    assert not status.is_gone(status.this_process())


def test_real_runs_finish_stop_fail_and_are_withdrawn(base, tmp_path):
    run = tmp_path / "run"
    arguments = ["train", base, f"output_dir={run}", "train.max_steps=2", "eval.every=null"]
    assert invoke(*arguments, "--stop-after", 1).exit_code == 0
    assert (told(run)["state"], told(run)["step"], told(run)["total"]) == ("interrupted", 1, 2)
    assert invoke(*arguments, "--resume", "auto").exit_code == 0
    assert (told(run)["state"], told(run)["step"]) == ("finished", 2)
    hopeless = [a if a != f"output_dir={run}" else f"output_dir={tmp_path / 'nan'}" for a in arguments]
    result = invoke(*hopeless, "optimizer.lr=1e30", "optimizer.max_grad_norm=null", "train.max_steps=60")
    assert result.exit_code == 2, result.output
    found = told(tmp_path / "nan")
    assert (found["state"], found["exit_code"]) == ("failed", 2)
    assert "not finite" in found["message"]
    result = invoke(*arguments[:2], f"output_dir={tmp_path / 'never'}", "data.train=missing.jsonl")
    assert result.exit_code == 2
    assert not (tmp_path / "never").exists()


def test_a_killed_run_is_seen_to_have_died(base, tmp_path):
    """SIGKILL from within, right after the second step: nothing can be written any more."""
    (tmp_path / "killing_rule.py").write_text(
        "import os\n"
        "from igascale.hooks import FactorGrads, GradientHook\n"
        "class Kill(GradientHook):\n"
        "    def combine(self, grads, adapters, ctx):\n"
        "        if ctx.step == 2: os.kill(os.getpid(), 9)\n"
        "        return {k: FactorGrads(g.a.mean(0), g.b.mean(0)) for k, g in grads.items()}\n"
    )
    run = tmp_path / "run"
    done = igascale("train", str(base), f"output_dir={run}", "hook.name=killing_rule:Kill", cwd=tmp_path)
    assert done.returncode == -9, done.stderr
    assert told(run)["state"] == "running"
    found = read_run(run)
    assert (found.state, found.step, found.total) == ("died", 2, 4)
    listing = invoke("runs", "ls", tmp_path)
    assert "died" in listing.output
    assert "--resume auto" in listing.output


@pytest.mark.parametrize("way", ["launch, rank 0", "torchrun, rank 1"])
def test_when_a_rank_is_killed_someone_else_writes_why(base, tmp_path, way):
    """The launcher where rank 0 is gone; rank 0 where there is no igascale launcher."""
    launcher, _, victim = way.partition(", rank ")
    (tmp_path / "killing_ranks_rule.py").write_text(
        "import os\n"
        "from igascale import status\n"
        "status.conclude_quickly.__defaults__ = (600.0,)\n"  # on a disk that is slow and does not hang
        "from igascale.hooks import FactorGrads, GradientHook\n"
        "class Kill(GradientHook):\n"
        "    def combine(self, grads, adapters, ctx):\n"
        f"        if ctx.step == 1 and os.environ['RANK'] == '{victim}': os.kill(os.getpid(), 9)\n"
        "        return {k: FactorGrads(g.a.mean(0), g.b.mean(0)) for k, g in grads.items()}\n"
    )
    run = tmp_path / "run"
    train = [str(base), f"output_dir={run}", "hook.name=killing_ranks_rule:Kill", "engine.name=deepspeed"]
    if launcher == "launch":
        done = igascale("launch", *train, "-n", "2", "--backend", "local", cwd=tmp_path)
        assert done.returncode == 75, done.stderr
    else:
        port = ["--nproc_per_node", "2", "--master_port", str(free_port())]
        command = [sys.executable, "-m", "torch.distributed.run", *port, "-m", "igascale", "train", *train]
        options = {"cwd": tmp_path, "env": environment(), "capture_output": True, "text": True, "timeout": 1200}
        done = subprocess.run(command, **options, check=False)
        assert done.returncode, done.stderr
    found = told(run)
    assert (found["state"], found["exit_code"]) == ("failed", 75)
    assert f"rank {victim} (" in found["message"]
    assert read_run(run).state == "failed"
