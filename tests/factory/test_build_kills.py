"""A build that is killed over and over: nothing stored is asked for again, and the files are those of a build left in peace."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
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
_HANGS = 120.0  # seconds; nothing here takes that long, however busy the machine is
DONE, KILLED = 0, -signal.SIGKILL


class Gate(Plan):
    """Requests beyond `limit`, counted from the first, get no answer: however late the kill comes, there is work left to kill."""

    limit = math.inf

    def fault(self, number, content, times):
        return "hang" if number >= self.limit else super().fault(number, content, times)


class Builder:
    """`igascale data build` processes, one after the other. Each has a key of its own, which its requests can be told by."""

    def __init__(self, arguments, log):
        self.line = [str(log), *arguments]
        self.parent = subprocess.Popen(
            [sys.executable, str(HERE / "forked_builds.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=HERE.parents[1],
            env={**os.environ, "OPENAI_API_KEY": "a key", "PYTHONPATH": str(HERE.parents[1])},
        )
        assert self.parent.stdout.readline() == "ready\n"

    def start(self, key: str = "a key") -> int:
        self.parent.stdin.write(json.dumps([key, *self.line]) + "\n")
        self.parent.stdin.flush()
        return int(self.parent.stdout.readline())

    def end(self) -> int:
        return int(self.parent.stdout.readline())

    def close(self):
        self.parent.stdin.close()
        assert self.parent.wait(_HANGS) == 0


def stored(out) -> int:
    if not (out / "answers.sqlite").exists() or not (out / "answers.sqlite").stat().st_size:
        return 0
    with Store.open_readonly(out / "answers.sqlite") as store:
        return sum(store.count_answers().values())


def until(true, seconds=_HANGS):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    groups = generate(38, seed=4)  # more than the killed ones can answer, at the most that the gate lets through
    oracle = Oracle(groups, {group.id: kind for group, kind in zip(groups, PLANTED)})
    seeds, out = tmp_path / "seeds.jsonl", tmp_path / "killed"
    write_seeds(seeds, oracle.seeds())
    rng = random.Random(20)
    kills, gained = 0, []  # gained: answers stored by each process
    with FaultyServer(oracle, Gate(latency=0.02)) as server:
        arguments = [*map(str, (seeds, "--out", out, "--model", "teacher", "--base-url", server.url))]
        arguments += ["--concurrency", str(CONCURRENCY)]
        builder = Builder(arguments, tmp_path / "log.txt")
        try:
            while True:
                arrived, had = len(server.log), stored(out)
                work = rng.choice([0, 1, 2, 4, 7, 10, 14])
                server.plan.limit = server.received + work + 4 if kills < KILLS else math.inf
                pid = builder.start(f"key-{kills}")
                if kills < KILLS:
                    # After so many requests; sometimes before the first one, or whatever it is doing by then.
                    let_it_work(server, pid, arrived + work, rng.uniform(0.0, 1.0))
                    time.sleep(rng.uniform(0.0, 0.02))
                    kill(pid)
                code = builder.end()
                gained.append(stored(out) - had)
                if code == DONE:
                    break
                assert code == KILLED, (tmp_path / "log.txt").read_text()[-2000:]
                kills += 1
        finally:
            builder.close()
        assert kills == KILLS
        # What a process asked for and did not get to store: at most what it had under way. (The server may read the last
        # requests of a dead one while the next is running: hence the keys.)
        asked_by = Counter(call.headers["authorization"] for call in server.log)
        lost = [asked_by[f"Bearer key-{number}"] - had for number, had in enumerate(gained)]
        assert len(lost) == KILLS + 1 and all(0 <= count <= CONCURRENCY for count in lost) and lost[-1] == 0, lost
        assert 0 < sum(lost) == len(server.log) - stored(out)
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
        text, _ = process.communicate(timeout=_HANGS)
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
    with FaultyServer(oracle) as server:
        server.limit = 6
        process = start(seeds, out, server)
        until(lambda: len(server.log) >= 8)
        process.send_signal(signal.SIGINT)
        server.limit = math.inf  # it hears of the signal first, then of the answers
        text, _ = process.communicate(timeout=_HANGS)
        assert process.returncode == 130, text
        assert "run the same command again to go on" in text and "Traceback" not in text
        assert stored(out) == len(server.log)  # nothing under way was lost
        assert not (out / "groups.jsonl").exists()
