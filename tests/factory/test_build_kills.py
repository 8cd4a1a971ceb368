"""A build that is killed over and over: nothing stored is asked for again, and the files are those of a build left in peace."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from igascale.isomers.generator import generate
from igascale.isomers.seeds import write_seeds
from igascale.isomers.teacher.store import Store

from builds import build, contents
from faulty_server import FaultyServer, Plan
from oracle import PLANTED, Oracle

HERE = Path(__file__).parent
KILLS, CONCURRENCY = 34, 4
DONE, KILLED = 0, -signal.SIGKILL


class Builder:
    """`igascale data build` processes, one after the other."""

    def __init__(self, arguments, log):
        self.line = json.dumps([str(log), *arguments]) + "\n"
        self.parent = subprocess.Popen(
            [sys.executable, str(HERE / "forked_builds.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=HERE.parents[1],
            env={**os.environ, "OPENAI_API_KEY": "a key", "PYTHONPATH": str(HERE.parents[1])},
        )
        assert self.parent.stdout.readline() == "ready\n"

    def start(self) -> int:
        self.parent.stdin.write(self.line)
        self.parent.stdin.flush()
        return int(self.parent.stdout.readline())

    def end(self) -> int:
        return int(self.parent.stdout.readline())

    def close(self):
        self.parent.stdin.close()
        assert self.parent.wait(20) == 0


def stored(out) -> int:
    if not (out / "answers.sqlite").exists() or not (out / "answers.sqlite").stat().st_size:
        return 0
    with Store.open_readonly(out / "answers.sqlite") as store:
        return sum(store.count_answers().values())


def until(true, seconds=20.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    groups = generate(30, seed=4)
    oracle = Oracle(groups, {group.id: kind for group, kind in zip(groups, PLANTED)})
    seeds, out = tmp_path / "seeds.jsonl", tmp_path / "killed"
    write_seeds(seeds, oracle.seeds())
    rng = random.Random(20)
    kills = 0
    with FaultyServer(oracle, Plan(latency=0.02)) as server:
        arguments = [*map(str, (seeds, "--out", out, "--model", "teacher", "--base-url", server.url))]
        arguments += ["--concurrency", str(CONCURRENCY)]
        builder = Builder(arguments, tmp_path / "log.txt")
        try:
            while True:
                arrived, had = len(server.log), stored(out)
                pid = builder.start()
                if kills < KILLS:
                    # After so many requests; sometimes before the first one, or whatever it is doing by then.
                    let_it_work(server, pid, arrived + rng.choice([0, 1, 2, 4, 7, 10, 14]), rng.uniform(0.0, 1.0))
                    time.sleep(rng.uniform(0.0, 0.02))
                    kill(pid)
                code = builder.end()
                if code == DONE:
                    break
                assert code == KILLED, (tmp_path / "log.txt").read_text()[-2000:]
                kills += 1
                until(lambda: server.open == 0)
                # What this process asked for and did not get to store: at most what it had under way.
                assert len(server.log) - arrived - (stored(out) - had) <= CONCURRENCY
        finally:
            builder.close()
        resent = len(server.log) - stored(out)
        assert kills >= 30 and 0 < resent <= kills * CONCURRENCY
        # Everything asked for is stored exactly once in the end, and was stored the first time it was answered in full.
        assert stored(out) == len({call.content for call in server.log})
        asked, before = len(server.log), contents(out)
        builder = Builder(arguments, tmp_path / "log.txt")
        for _ in range(6):  # and while the files are made from the store
            pid = builder.start()
            time.sleep(rng.uniform(0.05, 0.6))
            kill(pid)
            assert builder.end() in (DONE, KILLED)
            assert contents(out) == before  # whole files only, and these are the same again
        builder.close()
        build(seeds, out, server, concurrency=CONCURRENCY)
        assert len(server.log) == asked
        build(seeds, tmp_path / "in_peace", server, concurrency=CONCURRENCY)
    assert contents(out) == contents(tmp_path / "in_peace")
    assert len(contents(out)) == 6 and not (out / ".new").exists()


def let_it_work(server, pid, requests, seconds):
    """Until the server has had so many requests; where that is so from the start, for a while."""
    end = time.monotonic() + (0.0 if requests > len(server.log) else seconds)
    until(lambda: (len(server.log) >= requests and time.monotonic() > end) or not alive(pid))


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):  # it had just ended
        os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_once_more_stops_at_once(tmp_path):
    oracle = Oracle(generate(4, seed=4))
    write_seeds(tmp_path / "seeds.jsonl", oracle.seeds())
    with FaultyServer(oracle, Plan(faults=[None] * 4, rates={"hang": 1.0})) as server:
        process = start(tmp_path / "seeds.jsonl", tmp_path / "out", server)
        until(lambda: len(server.log) == 8)
        process.send_signal(signal.SIGTERM)
        line = next(line for line in process.stdout if "stopping" in line)
        assert "waiting for 4 answers under way" in line
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        text, _ = process.communicate(timeout=10)
        assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in text, text
        assert stored(tmp_path / "out") == 4


def start(seeds, out, server):
    arguments = [*map(str, (seeds, "--out", out, "--model", "teacher", "--base-url", server.url, "--concurrency", 4))]
    return subprocess.Popen(
        [sys.executable, "-m", "igascale", "data", "build", *arguments],
        cwd=HERE.parents[1],
        env={**os.environ, "OPENAI_API_KEY": "a key", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_interrupted_by_the_keyboard(tmp_path):
    """Ctrl-C: what is under way is waited for and stored, the exit code says so, and the next run goes on."""
    groups = generate(20, seed=4)
    oracle = Oracle(groups)
    seeds, out = tmp_path / "seeds.jsonl", tmp_path / "out"
    write_seeds(seeds, oracle.seeds())
    with FaultyServer(oracle, Plan(latency=0.1)) as server:
        process = start(seeds, out, server)
        until(lambda: len(server.log) >= 6)
        process.send_signal(signal.SIGINT)
        text, _ = process.communicate(timeout=20)
        assert process.returncode == 130, text
        assert "run the same command again to go on" in text and "Traceback" not in text
        assert stored(out) == len(server.log)  # nothing under way was lost
        assert not (out / "groups.jsonl").exists()
