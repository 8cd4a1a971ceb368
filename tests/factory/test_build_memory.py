"""Thousands of seeds, and a store full of outcomes: memory stays where it was, and a rerun looks only at what is missing."""

import asyncio
import time
import tracemalloc

import pytest

from igascale.isomers.factory.asking import decide_all
from igascale.isomers.factory.domains import Domain
from igascale.isomers.factory.gates import GateSettings
from igascale.isomers.factory.pipeline import Pipeline
from igascale.isomers.factory.prompts import load_prompts
from igascale.isomers.factory.replies import REPLIES
from igascale.isomers.seeds import Seed
from igascale.isomers.teacher.store import Store
from igascale.isomers.teacher.teacher import Answer

SAID = {
    "extract": {
        "nodes": [
            {"id": name, "type": kind, "description": "d" * 200} for name, kind in (("a", "ENTITY"), ("g", "GOAL"))
        ],
        "edges": [{"from": "a", "to": "g", "label": "IMPLIES"}],
        "logical_form": "a |- g",
        "step_count": 1,
    },
    "instantiate": {
        "problem": "p" * 500,
        "cot_solution": [{"step": "s" * 300, "depends_on": []}],
        "answer": "K",
        "alignment_score": 1.0,
    },
    "verify": {
        **dict.fromkeys(("dependencies_preserved", "same_step_count", "same_reasoning", "in_domain"), "yes"),
        "alignment_score": 0.95,
        "issues": [],
    },
}


class Instant:
    """A teacher without a network; counts what is under way."""

    def __init__(self):
        self.asked = self.under_way = self.most = 0

    async def ask(self, request):
        self.asked += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        said = SAID[request.stage]
        if request.stage == "instantiate":  # two domains, two stories
            said = said | {"problem": said["problem"] + (" in court" if "courts" in request.user else " in a lab")}
        value = REPLIES[request.stage].model_validate(said)
        return Answer(value, "", False, "", 10, 10)


class Silent:
    def outcome(self, *args, **kwargs): ...

    def unavailable(self, *args): ...


def seeds(count):
    return (Seed(f"seed-{number}", f"problem {number} " + "x" * 2000) for number in range(count))


def decide(store, teacher, count, window=16):
    domains = [Domain("law", "courts"), Domain("science", "labs")]
    pipeline = Pipeline(teacher, load_prompts(), domains, GateSettings(), "recipe", "teacher")
    asyncio.run(decide_all(pipeline, store, seeds(count), window, Silent()))


@pytest.mark.slow
def test_memory_is_flat_and_a_rerun_is_quick(tmp_path, monkeypatch):
    with Store.open(tmp_path / "answers.sqlite") as store:
        monkeypatch.setattr(store, "_transaction", quick(store))
        decide(store, Instant(), 200)  # caches fill
        tracemalloc.start()
        try:
            decide(store, Instant(), 400)
            _, few = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            teacher = Instant()
            began = time.process_time()
            decide(store, teacher, 2400)
            asked_for = time.process_time() - began
            _, many = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert teacher.asked == 2000 * 5 and teacher.most <= 2 * 16
        assert many < few + 500_000, (few, many)  # bytes; 2,000 seeds alone would be 4 MB
        teacher = Instant()
        began = time.process_time()
        decide(store, teacher, 2401)
        assert teacher.asked == 5
        assert time.process_time() - began < asked_for / 4  # of processor time within one run; it is nearer to 1/50


def quick(store):
    """Transactions that do not wait for the disk."""
    return lambda durable=True: type(store)._transaction(store, durable=False)
