"""What the factory's teacher client costs: throughput against the ideal, and CPU time beside a bare client.

    python -m benchmarks.factory             # 2 s of latency, 64 at once, 640 requests, 3 rounds

A server in another process answers after a fixed latency; the ideal is concurrency / latency. In turns, the same questions go through a
bare `AsyncOpenAI` client (a semaphore, nothing else: no store, no retries, no structure) and through the `Teacher`: store on disk with
an fsync per answer, budget, adaptive limit, structured output. CPU is that of this process per request, user and system. Then the
store: a full one of 100,000 groups is opened, asked for what is missing, and read through. Where it lies decides: --folder.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from openai import AsyncOpenAI
from pydantic import BaseModel, ConfigDict
from rich.console import Console

from benchmarks.record import save
from igascale.isomers.teacher.request import Request
from igascale.isomers.teacher.store import Spent, Store, StoredAnswer
from igascale.isomers.teacher.teacher import Teacher, TeacherSettings

SERVER = Path(__file__).parents[1] / "tests" / "faulty_server.py"
SYSTEM = "You tell a problem again in the words of another domain. " * 20
PROBLEM = "Ann stands two places above Bob, and Cid one below Ann. Who stands between them? " * 10
STEPS = [f"Step {i}: because of what was said before, one more thing follows from it." for i in range(12)]
TEXT = json.dumps({"problem": PROBLEM, "steps": STEPS, "answer": "Cid"})


class Telling(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    problem: str
    steps: list[str]
    answer: str


@contextmanager
def server(latency: float):
    """Its URL."""
    command = [sys.executable, str(SERVER), "--latency", str(latency), "--text", TEXT]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def cpu() -> float:
    """Seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def timed(ask: Callable[[int], Awaitable[Any]], requests: int) -> dict[str, float]:
    began, cpu_before = time.perf_counter(), cpu()
    await asyncio.gather(*(ask(i) for i in range(requests)))
    seconds = time.perf_counter() - began
    return {"requests_per_second": requests / seconds, "cpu_ms_per_request": 1e3 * (cpu() - cpu_before) / requests}


async def bare(url: str, concurrency: int, requests: int) -> dict[str, float]:
    client, turns = AsyncOpenAI(api_key="any", base_url=url, max_retries=0), asyncio.Semaphore(concurrency)

    async def ask(i: int) -> None:
        async with turns:
            messages: Any = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"{i} {PROBLEM}"}]
            await client.chat.completions.create(model="teacher", messages=messages, max_tokens=4096, seed=0)

    async with client:
        return await timed(ask, requests)


async def ours(url: str, concurrency: int, requests: int, folder: Path) -> dict[str, float]:
    os.environ.setdefault("OPENAI_API_KEY", "any")
    settings = TeacherSettings("teacher", url, concurrency=concurrency, input_price=1.0, output_price=2.0, budget=1e6)
    with Store.open(folder / "store.sqlite") as store:
        teacher = Teacher(settings, store, on_event=print)

        async def ask(i: int) -> None:
            await teacher.ask(Request("instantiate", SYSTEM, f"{i} {PROBLEM}", Telling))

        found = await timed(ask, requests)
        again = await timed(ask, requests)
        await teacher.close()
        assert store.spending()["instantiate"].answers == requests
    return found | {"stored_answers_per_second": again["requests_per_second"]}


def measure_store(folder: Path, groups: int, missing: int) -> dict[str, float]:
    """Seconds and bytes of a store in which all but ``missing`` seeds are decided."""
    record = json.dumps({"instances": [{"domain": d, "problem": PROBLEM, "cot": "\n".join(STEPS)} for d in "abcd"]})
    path, recipe = folder / "full.sqlite", "r"
    with Store.open(path) as store:
        fill(store, groups, missing, record)
    found: dict[str, float] = {"bytes": path.stat().st_size}
    began = time.perf_counter()
    with Store.open(path) as store:
        found["open_seconds"] = time.perf_counter() - began
        began = time.perf_counter()
        left = list(store.undecided((f"s{i:06}" for i in range(groups)), recipe))
        found["undecided_seconds"] = time.perf_counter() - began
        assert len(left) == missing
        began = time.perf_counter()
        counts = store.count_outcomes(recipe)
        found["count_seconds"] = time.perf_counter() - began
        assert sum(counts.values()) == groups - missing
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began, read = time.perf_counter(), 0
        for outcome in store.iter_outcomes(recipe):
            read += len(outcome.record)
        found["read_seconds"] = time.perf_counter() - began
        found["read_bytes"] = read
        found["peak_memory_grew_bytes"] = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    return found


def fill(store: Store, groups: int, missing: int, record: str) -> None:
    """By SQL in one transaction; one answer for each group beside its outcome."""
    db, gap = store._db, groups // missing
    with store._transaction():
        for i in range(groups):
            if i % gap or i // gap >= missing:
                status = "accepted" if i % 9 else "rejected"
                row = ("r", f"s{i:06}", status, "", "verify", "2026-01-01T00:00:00+00:00", record)
                db.execute("INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            db.execute("INSERT INTO answers VALUES (?, 'x', ?, 1, 1, '{}', '')", (f"{i:064x}", TEXT))
    store.put("k", StoredAnswer(TEXT, 1, 1, "x"), Spent(1, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=2.0, help="seconds")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--requests", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--groups", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="where the stores go, for another disk")
    args = parser.parse_args()
    ideal = args.concurrency / args.latency
    rounds: dict[str, list[dict[str, float]]] = {"bare": [], "teacher": []}
    with server(args.latency) as url:
        for _ in range(args.rounds):
            rounds["bare"].append(asyncio.run(bare(url, args.concurrency, args.requests)))
            with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                rounds["teacher"].append(asyncio.run(ours(url, args.concurrency, args.requests, Path(folder))))
    found = {name: {key: median(r[key] for r in all_) for key in all_[0]} for name, all_ in rounds.items()}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        store = measure_store(Path(folder), args.groups, args.groups // 1000)
    console = Console(width=110, highlight=False)
    for name, row in found.items():
        rate, used = row["requests_per_second"], row["cpu_ms_per_request"]
        console.print(
            f"{name:8} {rate:6.2f} requests/s, {rate / ideal:.1%} of the ideal; {used:.2f} ms of CPU a request"
        )
    ratio = found["teacher"]["cpu_ms_per_request"] / found["bare"]["cpu_ms_per_request"]
    console.print(f"CPU beside the bare client: {ratio:.2f}x")
    console.print(f"stored answers: {found['teacher']['stored_answers_per_second']:.0f} a second")
    console.print("store: " + ", ".join(f"{key} {value:.4g}" for key, value in store.items()))
    shape = {key: getattr(args, key) for key in ("latency", "concurrency", "requests", "rounds", "groups")}
    shares = {name: row["requests_per_second"] / ideal for name, row in found.items()}
    result = {"shape": shape, "ideal_requests_per_second": ideal, **found, "of_the_ideal": shares, "cpu_ratio": ratio}
    print(save("factory", "cpu", result | {"store": store}))


if __name__ == "__main__":
    main()
