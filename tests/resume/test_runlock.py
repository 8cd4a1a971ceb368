"""A second run in a folder is refused while the first one lives, and not a moment longer."""

import contextlib
import errno
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from igascale import runfolder, runlock
from igascale.cli import main
from igascale.errors import UserError
from igascale.launching import checks

import runs

#: Holds the lock until it is killed; with a child that outlives it.
HOLDER = """
import subprocess, sys, time
from pathlib import Path
from igascale import runlock
runlock.hold(Path(sys.argv[1]))
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], close_fds=False)
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder():
    """Starts a process that holds a folder's lock; returns it when it does."""
    started, children = [], []

    def hold(folder):
        command = [sys.executable, "-c", HOLDER, str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        children.append(int(process.stdout.readline()))
        return process

    yield hold
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run that was stopped after its second step."""
    folder = tmp_path_factory.mktemp("lock")
    config = runs.prepare(folder, checkpoint={"every": 1})
    command = [sys.executable, "-m", "igascale", "train", str(config), "--stop-after", "2"]
    subprocess.run(command, check=True, capture_output=True)
    return config


def listing(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.name != runlock.LOCK}


@pytest.mark.parametrize("resume", [["--resume", "auto"], []])
@pytest.mark.parametrize("verb", ["train", "launch"])
def test_a_run_that_goes_on_keeps_others_out(base, holder, monkeypatch, verb, resume):
    run = base.parent / "run"
    process, before = holder(run), listing(run)
    monkeypatch.setattr(runlock, "PATIENCE", 0.3)
    if verb == "train":
        arguments = ["train", str(base), *resume]
    else:
        arguments = ["launch", str(base), "engine.name=deepspeed", "-n", "2", "--backend", "local", *resume]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2, result.output
    assert (
        f"{run} is in use: process {process.pid} on {os.uname().nodename} has trained in it since 20" in result.output
    )
    assert listing(run) == before


def test_killed_without_a_word_it_lets_go_at_once(base, holder, monkeypatch):
    """And a child of its own, which has inherited every descriptor, does not keep it."""
    process = holder(base.parent / "run")
    process.kill()
    process.wait()
    monkeypatch.setattr(runlock, "time", SimpleNamespace(monotonic=time.monotonic))  # which nobody can sleep by
    runlock.check_free(base.parent / "run")


@pytest.fixture
def ending(monkeypatch):
    """``ending(process)``: it ends while a start waits for it."""

    def end(process):
        waits, sleep = [], time.sleep

        def ended(seconds):
            waits.append(seconds)
            if len(waits) == 3:
                process.kill()
                process.wait()
            sleep(seconds)

        monkeypatch.setattr(runlock, "PATIENCE", 600.0)
        monkeypatch.setattr(runlock, "time", SimpleNamespace(monotonic=time.monotonic, sleep=ended))
        return waits

    return end


def test_a_start_waits_for_one_that_is_about_to_end(base, holder, ending):
    waits = ending(holder(base.parent / "run"))
    runlock.check_free(base.parent / "run")
    assert len(waits) == 3


def test_a_job_may_be_queued_behind_the_one_that_runs(base, holder, monkeypatch):
    holder(base.parent / "run")
    monkeypatch.setattr(runlock, "PATIENCE", 0.0)
    config = runs.load(base)
    with pytest.raises(UserError, match="in use"):
        checks.check_run(config, 1, "auto")
    assert checks.check_run(config, 1, "auto", at_once=False).step == 2


def test_two_starts_of_a_new_run(tmp_path, holder, monkeypatch):
    """Both found no folder; one was first to make it."""
    config = runs.load(runs.prepare(tmp_path))
    folder = tmp_path / "new"
    folder.mkdir()
    holder(folder)
    monkeypatch.setattr(runlock, "PATIENCE", 0.0)
    with pytest.raises(UserError, match="is in use: process"):
        runfolder.record(folder, config, {})
    assert not (folder / "config.yaml").exists()


def test_to_hold_it_twice_is_nothing_and_keeps_it(tmp_path, monkeypatch):
    runlock.hold(tmp_path)
    runlock.hold(tmp_path)
    probe = f"import sys; from pathlib import Path; from igascale import runlock; runlock.PATIENCE = 0; runlock.check_free(Path({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert f"process {os.getpid()} on" in done.stderr


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys):
    def no_locks(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(runlock.fcntl, "lockf", no_locks)
    runlock.hold(tmp_path)
    assert (
        "this file system has no locks (No locks available); nothing keeps a second run out" in capsys.readouterr().err
    )


def test_a_folder_that_cannot_be_written_is_not_its_concern(tmp_path):
    runlock.hold(tmp_path / "not there")


def test_to_look_does_not_let_go(tmp_path, monkeypatch):
    """To close any descriptor of the file would."""
    runlock.hold(tmp_path)
    runlock.check_free(tmp_path)
    probe = f"from pathlib import Path; from igascale import runlock; runlock.PATIENCE = 0; runlock.check_free(Path({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert f"process {os.getpid()} on" in done.stderr


def test_a_run_that_began_and_ended_while_another_start_waited_stays(tmp_path, holder, ending):
    config = runs.load(runs.prepare(tmp_path))
    folder = tmp_path / "new"
    folder.mkdir()
    waits = ending(holder(folder))
    (folder / "config.yaml").write_text("of the other one")
    with pytest.raises(UserError, match="already exists"):
        runfolder.record(folder, config, {})
    assert len(waits) == 3
    assert (folder / "config.yaml").read_text() == "of the other one"


@pytest.mark.parametrize("left", [[], ["config.yaml"], ["config.yaml", f".{runfolder.ENVIRONMENT}.tmp"]])
def test_a_start_that_died_at_once_can_be_tried_again(tmp_path, left):
    config = runs.load(runs.prepare(tmp_path))
    folder = tmp_path / "run"
    folder.mkdir()
    for name in [runlock.LOCK, *left]:
        (folder / name).touch()
    assert runfolder.check_start(config, "auto") is None
    assert runfolder.open_run(config, "auto", _Alone()) is None
    assert (folder / runfolder.ENVIRONMENT).is_file()


def test_a_refused_start_takes_the_launchers_own_account_along(tmp_path, monkeypatch):
    """Even a line of it that comes in the midst of that."""
    folder, rmdir = tmp_path / "run", Path.rmdir
    (folder / "logs").mkdir(parents=True)
    for name in ("config.yaml", runlock.LOCK, "logs/rank-0001.log", "logs/launcher.log"):
        (folder / name).touch()
    (folder / "logs" / "mine").touch()
    runfolder.withdraw(folder)
    assert (folder / "config.yaml").exists()  # with something else in it, it is left alone
    (folder / "logs" / "mine").unlink()
    late = [folder / "logs" / "launcher.log"]

    def interrupted(path):
        if late:
            late.pop().touch()
        rmdir(path)

    monkeypatch.setattr(Path, "rmdir", interrupted)
    runfolder.withdraw(folder)
    assert not folder.exists()


def test_a_start_that_begins_while_another_is_withdrawn_is_left_alone(tmp_path, monkeypatch):
    folder, rmdir = tmp_path / "run", Path.rmdir
    (folder / "logs").mkdir(parents=True)
    (folder / "config.yaml").write_text("refused")
    late = [folder / "config.yaml", folder / runlock.LOCK]

    def interrupted(path):
        while path == folder and late:
            late.pop().write_text("of the other one")
        rmdir(path)

    monkeypatch.setattr(Path, "rmdir", interrupted)
    runfolder.withdraw(folder)
    assert {path.name for path in folder.iterdir()} == {"config.yaml", runlock.LOCK}
    assert (folder / "config.yaml").read_text() == "of the other one"


class _Alone:
    rank, world_size = 0, 1

    def gather_objects(self, mine):
        return [mine]


def test_no_lock_is_left_in_a_folder_of_something_else(tmp_path):
    config = runs.load(runs.prepare(tmp_path), f"output_dir={tmp_path / 'project'}")
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "config.yaml").write_text("theirs: true")
    with pytest.raises(UserError, match="already exists"):
        runfolder.open_run(config, "auto", _Alone())
    assert [p.name for p in (tmp_path / "project").iterdir()] == ["config.yaml"]


def test_a_holder_on_another_host_is_waited_for_longer_and_the_remedy_is_told(tmp_path, holder, monkeypatch, capsys):
    """Its host may be down, and the file server not know it yet."""
    process = holder(tmp_path)
    (tmp_path / runlock.LOCK).write_text('{"host": "node7", "pid": 12, "since": "then"}')
    monkeypatch.setattr(runlock, "PATIENCE", 0.0)
    monkeypatch.setattr(runlock, "PATIENCE_FAR", 0.6)
    monkeypatch.setattr(runlock, "_TOLD_AFTER", 0.2)
    clock = itertools.count(0, 0.1)  # so that no busy machine skips the time between the two
    monkeypatch.setattr(runlock, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda seconds: None))
    with pytest.raises(UserError, match=rf"in use: process 12 on node7 .* remove {tmp_path}/.lock$"):
        runlock.check_free(tmp_path)
    assert next(clock) > 0.6
    assert capsys.readouterr().err.count("waiting up to") == 1
    assert process.poll() is None
