"""``igascale launch`` for real on one node: every backend to the end, losses, restarts, signals, and nothing left behind."""

import io
import os
import signal
import subprocess
import time
from dataclasses import replace

import pytest
from rich.console import Console

from igascale.launching import display
from igascale.supervision.verdict import RankStatus

import runs
from gated_iga import shut_after
from launch_cases import Started, adapter, launches, steps
from launching import environment, igascale

LONG = ("train.max_steps=20", "checkpoint.every=3", "eval.every=null", "data.validation=null", "data.ood=null")


@pytest.fixture(autouse=True)
def clean_up():
    """A test that fails leaves no run behind."""
    yield
    Started.kill_all()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    train = {"max_steps": 4, "groups_per_batch": 2, "gradient_accumulation_steps": 1}
    changes = {"engine": {"name": "deepspeed"}, "hook": {"name": "gated_iga:GatedIga"}}
    return runs.prepare(tmp_path_factory.mktemp("launch"), train=train, **changes)


@pytest.fixture
def gate(tmp_path):
    """Shut after step 2; further arguments of a launch make its rank 1, or another one, wait there."""
    path = tmp_path / "gate"
    shut_after(path, 2)
    return path


@pytest.fixture(scope="module")
def undisturbed(base, tmp_path_factory):
    """Two ranks, 20 steps."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    started = Started(base, run, "-n", "2", "--backend", "local", *LONG)
    started.wait_for_steps(1)
    status, _, err = started.finish()
    assert status == 0, err
    assert started.left() == []
    return run


@pytest.mark.parametrize("backend", ["deepspeed", "torchrun"])
def test_backends_compute_the_same(base, undisturbed, tmp_path, backend):
    run = tmp_path / "run"
    started = Started(base, run, "-n", "2", "--backend", backend, *LONG)
    started.wait_for_steps(1)
    status, out, err = started.finish()
    assert status == 0, err
    assert started.left() == []
    assert "Traceback" not in err
    assert adapter(run) == adapter(undisturbed)
    assert "step 20/20" in out  # rank 0's lines came through the lifeline
    for rank in (0, 1):
        log = (run / "logs" / f"rank-{rank:04d}.log").read_text()
        assert f"attempt 1: rank {rank} of 2" in log
    assert "step 20/20" in (run / "logs" / "rank-0000.log").read_text()
    (record,) = launches(run)
    assert (record["backend"], record["exit_code"], record["world_size"]) == (backend, 0, 2)


@pytest.mark.parametrize(("backend", "victim"), [("local", 1), ("deepspeed", 0)])
def test_a_killed_rank_is_started_again_and_nothing_is_lost(base, undisturbed, tmp_path, gate, backend, victim):
    run = tmp_path / "run"
    shut_after(gate, 7)
    gated = (f"hook.gate={gate}", f"hook.gated={victim}")
    started = Started(base, run, "-n", "2", "--backend", backend, "--max-restarts", "2", *LONG, *gated)
    started.wait_for_steps(7)
    process = started.ranks()[victim]
    process.kill()
    gate.unlink()
    while len(steps(run)) < 20 and started.process.poll() is None:
        started.look()
        time.sleep(0.05)
    status, out, err = started.finish()
    assert status == 0, err
    assert f"rank {victim} (" in err
    assert f"pid {process.pid}" in err
    assert "died" in err
    assert "attempt 2 of 3 continues with --resume auto" in out
    assert "resumed at step" in out
    assert "Traceback" not in err
    assert adapter(run) == adapter(undisturbed)
    assert steps(run) == list(range(1, 21))
    assert [(r["attempt"], r["exit_code"]) for r in launches(run)] == [(1, 75), (2, 0)]
    assert f"rank {victim}" in launches(run)[0]["reason"]
    assert "attempt 2: rank 1 of 2" in (run / "logs" / "rank-0001.log").read_text()
    assert started.left() == []


def test_without_restarts_a_killed_rank_is_75(base, tmp_path, gate):
    started = Started(base, tmp_path / "run", "-n", "2", "--backend", "local", *LONG, f"hook.gate={gate}")
    started.wait_for_steps(2)
    started.ranks()[1].kill()
    status, out, err = started.finish()
    assert status == 75
    assert err.count("error: ") == 1
    assert "attempt 2" not in out
    assert started.left() == []


@pytest.mark.parametrize(
    ("backend", "signum", "status"),
    [("deepspeed", signal.SIGINT, 130), ("torchrun", signal.SIGTERM, 143), ("local", signal.SIGUSR1, 138)],
)
def test_a_signal_stops_with_a_checkpoint(base, undisturbed, tmp_path, gate, backend, signum, status):
    run = tmp_path / "run"
    arguments = ("-n", "2", "--backend", backend, "--max-restarts", "3", *LONG, f"hook.gate={gate}")
    started = Started(base, run, *arguments)
    started.wait_for_steps(2)
    started.process.send_signal(signum)
    started.wait_for_log(0, "stopping after this step")
    gate.unlink()
    found, out, err = started.finish()
    assert found == status, err
    assert "error" not in err.lower()  # the launchers' own accounts of it too
    assert f"stopped on {signum.name} after a checkpoint" in out
    assert "attempt 2" not in out
    assert 2 < len(steps(run)) < 20
    taken = len(steps(run))
    assert (run / "checkpoints" / "latest").read_text().strip() == f"step-{taken:08d}"
    assert started.left() == []
    assert launches(run)[0]["reason"] == f"stopped on {signum.name} after a checkpoint"
    if backend == "local":
        done = igascale("launch", str(base), f"output_dir={run}", *arguments, "--resume", "auto")
        assert done.returncode == 0, done.stderr
        assert adapter(run) == adapter(undisturbed)


def test_a_second_signal_ends_at_once(base, tmp_path):
    started = Started(base, tmp_path / "run", "-n", "2", "--backend", "deepspeed", *LONG, "train.max_steps=4000")
    started.wait_for_steps(2)
    stopped = started.ranks()[1]
    stopped.send_signal(signal.SIGSTOP)  # it cannot finish its step
    started.process.send_signal(signal.SIGINT)
    started.wait_for_log(0, "stopping after this step")  # so that the launcher has seen it before the second comes
    with pytest.raises(subprocess.TimeoutExpired):
        started.process.wait(3)
    started.process.send_signal(signal.SIGINT)
    status, _, _ = started.finish()
    assert status == 130
    assert started.left() == []


def test_a_signal_before_any_rank_is_there(base, tmp_path):
    # The ranks' processes have begun and come no further.
    (tmp_path / "sitecustomize.py").write_text("import os, time\nif 'RANK' in os.environ: time.sleep(600)\n")
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    started = Started(base, tmp_path / "run", "-n", "2", *LONG, env={"PYTHONPATH": path})
    while len(started.ranks()) < 2:
        assert started.process.poll() is None, started.process.communicate()
        time.sleep(0.05)
    started.process.send_signal(signal.SIGTERM)
    status, _, err = started.finish()
    assert status == 143, err
    assert "Traceback" not in err
    assert started.left() == []
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("backend", ["local", "deepspeed", "torchrun"])
def test_no_orphans_when_the_launcher_is_killed(base, tmp_path, backend):
    started = Started(base, tmp_path / "run", "-n", "2", "--backend", backend, *LONG, "train.max_steps=4000")
    started.wait_for_steps(2)
    assert len(started.ranks()) == 2
    started.process.kill()
    started.finish()
    assert started.left() == []
    log = (tmp_path / "run" / "logs" / "rank-0001.log").read_text()
    assert "igascale launch ended without a word" in log


def test_a_traceback_is_shown(base, tmp_path):
    rules = tmp_path / "rules_that_raise.py"
    rules.write_text(
        "import os\n"
        "from igascale.hooks import GradientHook\n"
        "class Rule(GradientHook):\n"
        "    def combine(self, grads, adapters, ctx):\n        return grads\n"
        "    def warnings(self):\n"
        "        raise ZeroDivisionError(os.environ['MINE'])\n"
    )
    words = (
        "launch",
        str(base),
        "-n",
        "2",
        "--env",
        "MINE=my own mistake",
        "hook.name=rules_that_raise:Rule",
        f"output_dir={tmp_path / 'run'}",
    )
    done = igascale(*words, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "Traceback (most recent call last)" in done.stderr
    assert "ZeroDivisionError: my own mistake" in done.stderr
    assert done.stderr.count("error: ") == 1


def test_a_user_error_of_the_ranks_is_one_line_and_leaves_no_folder(base, tmp_path):
    run = tmp_path / "run"
    done = igascale("launch", str(base), "-n", "2", "lora.target_modules=[q_prj]", f"output_dir={run}")
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1, done.stderr
    assert "q_prj" in done.stderr
    assert "Traceback" not in done.stderr
    assert not run.exists()


def test_a_rank_that_is_late_leaves_no_folder_of_a_refused_start_behind(base, tmp_path):
    """Its log would begin when rank 0 has removed the folder, and it has not heard yet that all is over."""
    (tmp_path / "late_log.py").write_text(
        "import os, time\n"
        "from igascale import logs\n"
        "from igascale.hooks.mean import Mean as Rule\n"
        "from igascale.supervision.rank import RankLifeline\n"
        "def late(function, seconds):\n"
        "    return lambda *arguments: time.sleep(seconds) or function(*arguments)\n"
        "if os.environ.get('RANK') == '1':\n"
        "    RankLifeline._abort, logs.redirect = late(RankLifeline._abort, 5), late(logs.redirect, 3)\n"
    )
    run, words = tmp_path / "run", ("-n", "2", "--backend", "local", "lora.target_modules=[q_prj]")
    done = igascale("launch", str(base), *words, "hook.name=late_log:Rule", f"output_dir={run}", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert not run.exists()


STATUS = RankStatus(0, "node1", 42, 3, 10, "stepping", 1.25, 4.5, 0.4, 0.2, None)


def test_table():
    def shown(ranks, world_size):
        console = Console(width=120, record=True, file=io.StringIO())
        console.print(display.table({s.rank: s for s in ranks}, world_size, "run"))
        return console.export_text()

    text = shown([STATUS, replace(STATUS, rank=1, ended=0, step=10)], 4)
    assert "3/10" in text
    assert "stepping" in text
    assert "ended (0)" in text
    assert "1.250" in text
    assert "2 of 4 ranks have not arrived yet" in text
    many = [replace(STATUS, rank=r, host=f"node{r // 8}", step=5 - (r == 9)) for r in range(32)]
    text = shown(many, 32)
    assert len([line for line in text.splitlines() if "node" in line]) == 4
    assert "rank 9" in text  # the one behind
