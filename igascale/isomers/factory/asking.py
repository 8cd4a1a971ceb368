"""All seeds through the pipeline, so many at a time: memory does not grow with the bank, and what is decided is not asked again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Iterator
from typing import Protocol

from igascale.isomers.factory.pipeline import ACCEPTED, Outcome, Pipeline, Unavailable
from igascale.isomers.factory.survey import outcome_id
from igascale.isomers.seeds import Seed
from igascale.isomers.teacher.store import Store

_BREATH = 200  # seeds looked up in the store between two turns of the event loop


class Watches(Protocol):
    """Who is told what becomes of the seeds."""

    def outcome(self, status: str, stage: str, reason: str, known: bool) -> None:
        """A seed has an outcome; `known`: from an earlier run."""

    def unavailable(self, seed_id: str, why: str) -> None:
        """The teacher failed on a seed; it has no outcome."""


async def decide_all(
    pipeline: Pipeline,
    store: Store,
    seeds: Iterator[Seed],
    window: int,
    watch: Watches,
    enough: int | None = None,
    retry: Collection[str] = (),
) -> None:
    """Take every seed to its outcome and store that.

    Args:
        pipeline: makes outcomes.
        store: where they are kept, under the pipeline's recipe.
        seeds: read as they are needed.
        window: seeds under way at once.
        watch: told of each.
        enough: begin no more seeds once so many are accepted.
        retry: reasons; seeds that were rejected for one are given as many attempts once more. Until they have another outcome
            they keep the old one.

    Raises:
        UserError: the teacher or the store cannot go on. Seeds under way are left, their answers are kept.
    """
    running: set[asyncio.Task[str | None]] = set()
    accepted = 0

    async def decide(seed: Seed, attempts: int) -> str | None:
        try:
            outcome = await pipeline.run(seed, attempts)
        except Unavailable as error:
            watch.unavailable(seed.id, str(error))
            return None
        keep(store, seed, pipeline.recipe, outcome)
        watch.outcome(outcome.status, outcome.stage, outcome.reason, known=False)
        return outcome.status

    async def settle() -> None:
        nonlocal running, accepted
        done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        failed = [error for task in done if (error := task.exception()) is not None]  # each is looked at, one is raised
        if failed:
            raise failed[0]
        accepted += sum(task.result() == ACCEPTED for task in done)

    try:
        for number, seed in enumerate(seeds):
            if number % _BREATH == 0:
                await asyncio.sleep(0)
            known = store.get_outcome(outcome_id(seed), pipeline.recipe)
            attempts = pipeline.attempts
            if known is not None and known.status != ACCEPTED and known.reason in retry:
                attempts += json.loads(known.record).get("attempts", pipeline.attempts)
                known = None
            if known is not None:
                watch.outcome(known.status, known.stage, known.reason, known=True)
                accepted += known.status == ACCEPTED
            while len(running) >= window and known is None:
                await settle()
            if enough is not None and accepted >= enough:
                break
            if known is None:
                running.add(asyncio.create_task(decide(seed, attempts)))
        while running:
            await settle()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def keep(store: Store, seed: Seed, recipe: str, outcome: Outcome) -> None:
    """Store an outcome."""
    record = json.dumps(outcome.record, ensure_ascii=False)
    store.put_outcome(outcome_id(seed), recipe, outcome.status, outcome.reason, outcome.stage, record)
