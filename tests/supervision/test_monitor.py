"""Monitor and Lifeline over real sockets, with real processes as ranks; no torch in them, so that each takes a moment."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from igascale.supervision import Monitor

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


class Run:
    """A Monitor and its ranks."""

    def __init__(self, *whats, heartbeat=20.0, hang=None, start=120.0, world_size=None):
        self.lines = []
        self.monitor = Monitor(
            world_size or len(whats),
            heartbeat_timeout=heartbeat,
            hang_timeout=hang,
            start_timeout=start,
            on_line=lambda rank, text: self.lines.append((rank, text)),
        )
        self.ranks = [self.start(what, rank, heartbeat) for rank, what in enumerate(whats)]

    def start(self, what, rank, heartbeat=20.0, **env):
        return subprocess.Popen(
            [sys.executable, str(HERE / "plain_rank.py"), what, str(rank), str(heartbeat)],
            env={**os.environ, "PYTHONPATH": str(ROOT), **self.monitor.environment("127.0.0.1"), **env},
            stderr=subprocess.PIPE,
            text=True,
        )

    def until(self, condition, seconds=120.0):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (self.monitor.ranks, self.monitor.verdict, self.lines)
            time.sleep(0.02)

    def training(self, step=1):
        count = len(self.ranks)
        self.until(
            lambda: len(self.monitor.ranks) == count and all(r.step >= step for r in self.monitor.ranks.values())
        )

    def end(self, rank, seconds=120.0):
        """Exit status and stderr of a rank, which must end by itself."""
        _, error = self.ranks[rank].communicate(timeout=seconds)
        return self.ranks[rank].returncode, error


@pytest.fixture
def run():
    runs = []

    def start(*whats, **options):
        runs.append(Run(*whats, **options))
        return runs[-1]

    yield start
    for each in runs:
        for process in each.ranks:
            process.kill()
            process.communicate()
        each.monitor.close(0.1)


def test_ranks_are_told_of(run):
    both = run("works", "works")
    both.training()
    status = both.monitor.ranks[1]
    assert (status.rank, status.host, status.pid) == (1, socket.gethostname(), both.ranks[1].pid)
    assert (status.phase, status.total_steps, status.loss) == ("forward and backward", 100, 2.5)
    assert status.seconds_per_step == pytest.approx(1.5)
    both.until(lambda: both.monitor.ranks[1].silent_for < 2)
    both.until(lambda: both.monitor.ranks[1].still_for < 2)
    assert status.ended is None
    assert both.monitor.verdict is None


def test_killed(run):
    three = run("works", "works", "works")
    three.training()
    three.ranks[1].kill()
    assert [three.end(rank)[0] for rank in (0, 2)] == [75, 75]
    verdict = three.monitor.verdict
    assert (verdict.rank, verdict.host, verdict.exit_code) == (1, socket.gethostname(), 75)
    assert (
        f"rank 1 ({socket.gethostname()}, pid {three.ranks[1].pid}) died without a word, last heard of at step"
        in verdict.message
    )


def test_stopped_process_is_silent(run):
    both = run("works", "works", heartbeat=5.0)
    both.training()
    os.kill(both.ranks[1].pid, signal.SIGSTOP)
    assert both.end(0)[0] == 75
    assert "rank 1" in both.monitor.verdict.message
    told = r"has not been heard of for (\d+) s \(supervision.heartbeat_timeout\)"
    assert int(re.search(told, both.monitor.verdict.message)[1]) >= 5
    os.kill(both.ranks[1].pid, signal.SIGCONT)
    assert both.end(1)[0] == 75  # woken up, it finds the verdict


def test_a_short_sleep_of_a_rank_is_forgiven(run):
    both = run("works", "works", heartbeat=30.0)
    both.training()
    os.kill(both.ranks[1].pid, signal.SIGSTOP)
    both.until(lambda: both.monitor.ranks[1].silent_for > 3.5)  # more than what a rank takes for a delay of its own
    step = both.monitor.ranks[1].step
    os.kill(both.ranks[1].pid, signal.SIGCONT)
    both.until(lambda: both.monitor.ranks[1].step > step)
    assert both.monitor.verdict is None
    assert all(process.poll() is None for process in both.ranks)


@pytest.mark.parametrize("hung", [0, 1, 2])
def test_hung_is_the_one_behind(run, hung):
    three = run(*("hangs" if rank == hung else "waits" for rank in range(3)), hang=3.0)
    ends = [three.end(rank) for rank in range(3)]
    assert [status for status, _ in ends] == [75, 75, 75]
    verdict = three.monitor.verdict
    assert verdict.rank == hung
    assert f"rank {hung} (" in verdict.message
    assert "hangs at step 3, combining (the hook)" in verdict.message
    assert "supervision.hang_timeout" in verdict.message
    # The culprit's stacks show where; without logs of their own the others keep quiet.
    assert ["plain_rank.py" in error for _, error in ends] == [rank == hung for rank in range(3)]


def test_no_progress_is_no_hang_while_one_gets_on(run):
    both = run("waits", "works", hang=6.0)
    both.training()
    both.until(lambda: both.monitor.ranks[0].still_for > 8)
    assert both.monitor.verdict is None


def test_last_words_are_the_verdict(run):
    both = run("works", "raises")
    assert [both.end(rank)[0] for rank in (0, 1)] == [2, 2]
    assert both.monitor.verdict.message == "the hook's file is wrong"
    assert both.monitor.verdict.rank == 1


def test_goodbye_is_no_death(run):
    both = run("works", "done")
    both.until(lambda: 1 in both.monitor.ranks and both.monitor.ranks[1].ended == 0)
    assert both.end(1) == (0, "")
    time.sleep(1)
    assert both.monitor.verdict is None
    assert both.ranks[0].poll() is None


def test_missing_ranks_are_named(run):
    two = run("works", "works", world_size=5)
    two.until(lambda: len(two.monitor.ranks) == 2)
    two.monitor.start_timeout = 2.0
    assert [two.end(rank)[0] for rank in (0, 1)] == [75, 75]
    assert (
        "3 of 5 ranks did not arrive within 2 s (supervision.start_timeout): ranks 2, 3, 4"
        in two.monitor.verdict.message
    )


def test_stop_reaches_all(run):
    both = run("works", "works")
    both.training()
    both.monitor.stop(signal.SIGUSR1)
    assert [both.end(rank)[0] for rank in (0, 1)] == [138, 138]
    assert both.monitor.verdict is None
    assert [r.ended for r in both.monitor.ranks.values()] == [138, 138]


def test_a_second_signal_ends_at_once_and_takes_all_along(run):
    both = run("stubborn", "stubborn")
    both.training()
    # A terminal and a launcher both pass Ctrl-C on: one request. It gets both at once, however late this process is.
    both.ranks[0].send_signal(signal.SIGSTOP)
    both.ranks[0].send_signal(signal.SIGTERM)
    both.ranks[0].send_signal(signal.SIGINT)
    both.ranks[0].send_signal(signal.SIGCONT)
    assert "stopping after this step" in both.ranks[0].stderr.readline()
    time.sleep(2.5)
    assert [process.poll() for process in both.ranks] == [None, None]
    both.ranks[0].send_signal(signal.SIGINT)
    assert [both.end(rank)[0] for rank in (0, 1)] == [130, 130]
    assert "stopped by SIGINT for the second time" in both.monitor.verdict.message


def test_a_signal_before_the_first_step_ends_at_once(run):
    both = run("early", "early")
    both.until(lambda: len(both.monitor.ranks) == 2)
    both.ranks[0].send_signal(signal.SIGTERM)
    assert [both.end(rank)[0] for rank in (0, 1)] == [143, 143]
    assert "SIGTERM before the first step" in both.monitor.verdict.message


def test_abort(run):
    both = run("talks", "works")
    both.training()
    both.monitor.abort("the launcher was told to stop", exit_code=75)
    ends = [both.end(rank) for rank in (0, 1)]
    assert [status for status, _ in ends] == [75, 75]
    assert [error for _, error in ends] == ["error: the launcher was told to stop\n", ""]  # one has its own log


def test_lines_come_from_ranks_with_logs_of_their_own(run):
    both = run("talks", "works")
    both.training()
    both.until(lambda: len(both.lines) == 3)
    assert both.lines == [(0, "line 0"), (0, "line 1"), (0, "line 2")]


def test_a_blocked_terminal_loses_no_run(run):
    one, blocked = run("talks", heartbeat=6.0), threading.Event()
    one.monitor.on_line = lambda rank, text: blocked.wait(600)
    one.training()
    time.sleep(8)
    assert one.monitor.verdict is None
    assert one.ranks[0].poll() is None
    blocked.set()


def test_slow_is_a_warning_once(run):
    three = run("works", "slow", "works")
    three.until(lambda: three.lines)
    time.sleep(2.5)
    [(rank, text)] = three.lines
    assert rank == 1
    assert "rank 1" in text
    assert "is slow: 1.00 s of its own work per step, the median is 0.10 s" in text
    assert three.monitor.verdict is None


def test_the_monitor_ends_in_good_order(run):
    both = run("works", "works")
    both.training()
    both.monitor.close(0.1)
    time.sleep(1.5)
    assert [process.poll() for process in both.ranks] == [None, None]
    both.ranks[0].send_signal(signal.SIGTERM)  # signals are still heard
    assert both.end(0)[0] == 143


LAUNCHER = """
import sys, time
from igascale.supervision import Monitor
monitor = Monitor(1, heartbeat_timeout=6.0, hang_timeout=None, on_line=print)
print(*monitor.environment("127.0.0.1").values(), flush=True)
while not monitor.ranks: time.sleep(0.02)
print("come", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("signum", "words"), [(signal.SIGKILL, "ended without a word"), (signal.SIGSTOP, "was silent for ")]
)
def test_lost_launcher(run, signum, words):
    none = run(world_size=1)
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    )
    try:
        address, token = launcher.stdout.readline().split()
        none.ranks = [none.start("works", 0, 6.0, IGASCALE_MONITOR=address, IGASCALE_MONITOR_TOKEN=token)]
        assert launcher.stdout.readline() == "come\n"
        assert none.ranks[0].poll() is None
        launcher.send_signal(signum)
        status, error = none.end(0)
        assert status == 75
        assert len(error.splitlines()) == 1
        assert words in error
        assert "igascale launch" in error
    finally:
        launcher.kill()
        launcher.communicate()


def test_nobody_listens(run):
    none = run(world_size=1)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    none.ranks = [none.start("works", 0, IGASCALE_MONITOR=address)]
    status, error = none.end(0)
    assert status == 75
    assert len(error.splitlines()) == 1
    assert "cannot reach igascale launch at" in error


GARBAGE = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    b"x" * 300_000,
    b"[" * 100_000 + b"\n",
    b'{"kind": "hello"}\n',
    b'{"kind": "hello", "token": "wrong", "rank": 0, "host": "h", "pid": 1}\n',
    b'{"kind": "hello", "token": "\\ud800", "rank": 0, "host": "h", "pid": 1}\n',
    b'{"kind": "last words", "text": "gotcha", "exit_code": 0}\n',
    b"null\n\n\n",
    b"",
]


def test_strangers_are_turned_away(run):
    one = run("works", world_size=2)
    port = one.monitor.port
    half_open = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
    for data in GARBAGE:
        with socket.create_connection(("127.0.0.1", port), timeout=120) as stranger:
            with contextlib.suppress(OSError):
                stranger.sendall(data)
                stranger.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                assert stranger.recv(100) == b""
    one.until(lambda: 0 in one.monitor.ranks and one.monitor.ranks[0].step >= 1)
    one.ranks.append(one.start("works", 1))
    one.training()
    time.sleep(1.5)
    assert one.monitor.verdict is None
    assert len(one.monitor._strangers) <= 64
    for each in half_open:
        each.close()


def hello(monitor, rank, token=None):
    token = token or monitor.environment("x")["IGASCALE_MONITOR_TOKEN"]
    connection = socket.create_connection(("127.0.0.1", monitor.port), timeout=120)
    connection.sendall(
        json.dumps({"kind": "hello", "token": token, "rank": rank, "host": "h", "pid": 1}).encode() + b"\n"
    )
    return connection, connection.makefile()


def test_a_rank_comes_once(run):
    one = run("works")
    one.training()
    for rank, words in ((0, "is there already"), (7, "there is no such rank")):
        connection, lines = hello(one.monitor, rank)
        answer = json.loads(lines.readline())
        assert answer["kind"] == "abort"
        assert words in answer["text"]
        connection.close()
    time.sleep(0.3)
    assert one.monitor.verdict is None


@pytest.mark.parametrize("data", [b"nonsense\n", b"y" * 200_000, b'{"no": "kind"}\n'])
def test_a_rank_that_sends_garbage_is_lost(run, data):
    none = run(world_size=1)
    connection, lines = hello(none.monitor, 0)
    assert json.loads(lines.readline())["kind"] == "welcome"
    with contextlib.suppress(ConnectionError):
        connection.sendall(data)
    none.until(lambda: none.monitor.verdict is not None)
    assert none.monitor.verdict.rank == 0
    connection.close()


def test_odd_beats_keep_their_defaults(run):
    none = run(world_size=1)
    connection, lines = hello(none.monitor, 0)
    beat = {"kind": "beat", "step": "x", "phase": 7, "loss": 1, "progress": True, "unknown": {}, "total_steps": 9}
    connection.sendall(json.dumps(beat).encode() + b"\n")
    assert [json.loads(lines.readline())["kind"] for _ in range(2)] == ["welcome", "pong"]
    status = none.monitor.ranks[0]
    assert (status.step, status.phase, status.loss, status.total_steps) == (0, "starting", 1.0, 9)
    connection.close()


def test_who_comes_after_the_verdict_hears_it(run):
    none = run(world_size=2)
    none.monitor.abort("over")
    none.until(lambda: none.monitor.verdict is not None)
    none.ranks = [none.start("works", 0)]
    assert none.end(0)[0] == 75
