"""Processes of jobs: why one failed, stops that reach all, none that outlives the study; and locks."""

import os
import signal
import subprocess
import sys
import threading

import psutil
import pytest

from igascale import status
from igascale.errors import UserError
from igascale.studies import records
from igascale.studies.processes import Processes

from launching import gone
from study_world import ROOT, until


@pytest.fixture
def endless(tmp_path):
    """Arguments of a command that runs until it is stopped: it watches a run that this process seems to train."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("hook: {name: mean}\n")
    status.RunStatus(run)
    return ["runs", "tail", str(run)]


class Running:
    """A command in a thread."""

    def __init__(self, processes, arguments, log):
        self.ended = None
        self._thread = threading.Thread(target=self._run, args=(processes, arguments, log))
        self._thread.start()
        until(lambda: bool(processes._running))
        (self.process,) = processes._running

    def _run(self, *arguments):
        self.ended = Processes.run(*arguments)

    def join(self):
        self._thread.join(120)
        return self.ended


def test_the_last_error_is_the_reason(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("error: of an earlier start\n")
    ended = Processes().run(["validate", "nowhere.yaml"], log)
    assert ended.code == 2 and not ended.asked
    assert ended.reason == "no such configuration file: nowhere.yaml (No such file or directory) (exit status 2)"
    assert "igascale validate nowhere.yaml" in log.read_text()
    assert Processes().run(["--version"], log).reason == ""


def test_a_kill_from_outside_is_told_as_one(tmp_path, endless):
    running = Running(Processes(), endless, tmp_path / "log.txt")
    running.process.send_signal(signal.SIGKILL)
    ended = running.join()
    assert ended.code == -9 and ended.reason == "killed by SIGKILL, as the system does when memory runs out"
    assert not ended.asked


def test_a_stop_reaches_what_runs_and_keeps_the_rest_from_starting(tmp_path, endless):
    processes = Processes()
    running = Running(processes, endless, tmp_path / "log.txt")
    processes.stop(signal.SIGTERM)
    assert running.join().asked and running.ended.code == -15
    later = processes.run(endless, tmp_path / "log.txt")  # which would not end
    assert later.asked and later.code == 143


def test_no_process_outlives_who_started_it(tmp_path, endless):
    code = "import sys; from pathlib import Path; from igascale.studies.processes import Processes; Processes().run(sys.argv[2:], Path(sys.argv[1]))"
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "log.txt"), *endless], cwd=ROOT)
    until(lambda: bool(psutil.Process(parent.pid).children()))
    (child,) = psutil.Process(parent.pid).children()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until(lambda: gone(child))


def test_a_child_whose_parent_is_gone_already_does_nothing(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "igascale.studies.child", "1", "--version"], cwd=ROOT, capture_output=True
    )
    assert ended.returncode == 143 and ended.stdout == b""
    assert os.getpid() != 1


def test_one_process_works_on_a_job(tmp_path):
    code = "import sys, time; from pathlib import Path; from igascale.studies.records import held\nwith held(Path(sys.argv[1]), 'x'): print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "job")], cwd=ROOT, stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"held\n"
    taken = pytest.raises(UserError, match=rf"job a is in use: process {other.pid} on .*; wait for it, or stop it")
    with taken, records.held(tmp_path / "job", "job a"):
        pass
    other.kill()
    other.wait()
    again = pytest.raises(UserError, match="in use")  # also within one process
    with records.held(tmp_path / "job", "job a"), again, records.held(tmp_path / "job", "job a"):
        pass


def test_a_record_that_is_damaged_is_named(tmp_path):
    (tmp_path / records.RECORD).write_text("{")
    with pytest.raises(UserError, match=r"job.json is not a job's record"):
        records.read(tmp_path)
    (tmp_path / records.RECORD).write_text('{"wanted": {"config": 1}}')
    with pytest.raises(UserError, match=r"job.json is not a job's record"):
        records.read(tmp_path)
