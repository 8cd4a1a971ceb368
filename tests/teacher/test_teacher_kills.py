"""kill -9 at random moments: nothing stored is lost or paid for again, and at most ``concurrency`` requests are re-sent for each kill."""

import json
import math
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

import igascale
from igascale.isomers.teacher.store import Spent, Store

from faulty_server import FaultyServer, Plan

BUILDER = Path(__file__).with_name("asking_process.py")


@pytest.mark.slow
def test_killed_at_random_moments_every_answer_is_paid_for_once(tmp_path):
    kills, count, concurrency, chance = 10, 300, 8, random.Random(11)
    path = tmp_path / "store.sqlite"
    plan = Plan(rates={"schema": 0.08, "429": 0.05, "500": 0.05, "truncated": 0.05}, seed=3, latency=0.02)
    under_way = []
    with FaultyServer(lambda messages, body: json.dumps({"answer": messages[-1]["content"]}), plan) as server:
        command = [sys.executable, str(BUILDER), server.url, str(path), str(count), str(concurrency)]
        environment = os.environ | {"OPENAI_API_KEY": "any", "PYTHONPATH": str(Path(igascale.__file__).parents[1])}
        for _ in range(kills):
            target = server.received + chance.randrange(1, count // kills)
            server.limit = target + concurrency  # however late the kill comes, it comes before the end
            builder = subprocess.Popen(command, env=environment)
            server.until(lambda target=target, builder=builder: server.received >= target or builder.poll() is not None)
            time.sleep(chance.random() * 0.03)
            assert builder.poll() is None, "it should not have ended yet"
            before = len(server.log)
            builder.kill()
            builder.wait()
            with Store.open_readonly(path) as store:
                under_way.append(store._one("SELECT count(*) FROM sent")[0])
                stored = sum(store.count_answers().values())
                assert stored == sum(spent.answers for spent in store.spending().values())
                good = sum(call.fault is None for call in server.log[:before])
                assert stored >= good - concurrency - sum(under_way[:-1])
            assert under_way[-1] <= concurrency
        server.limit = math.inf
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert (done.returncode, done.stdout) == (0, f"{count}\n"), done.stderr
        with Store.open_readonly(path) as store:
            assert store.count_answers() == {"extract": count // 2, "verify": count // 2}
            spent = sum(store.spending().values(), Spent())
            assert spent.answers == count and spent.lost == sum(under_way)
        assert sum(under_way) > kills, "the kills came at busy moments"
        good = Counter(call.user for call in server.log if call.fault is None)
        assert len(good) == count, "each question was answered"
        assert count <= good.total() <= count + sum(under_way) <= count + kills * concurrency
        unusable = sum(call.fault in ("schema", "truncated") for call in server.log)
        assert spent.unusable <= unusable <= spent.unusable + sum(under_way)
        before = len(server.log)
        assert subprocess.run(command, env=environment, check=False).returncode == 0 and len(server.log) == before
