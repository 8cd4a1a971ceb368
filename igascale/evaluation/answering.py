"""Ask every question of some suites once, alone or as one of several processes. Plain Python: any generator will do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from igascale.evaluation.generator import Answered, Generator
from igascale.evaluation.store import AnswerStore, Kept
from igascale.evaluation.suites import Suite

Progress = Callable[[str, int, int], None]
ANSWERING = "answers"  # the stage that progress names
_POLL = 0.5


@dataclass(frozen=True)
class Share:
    """Which part of the work is this process's: every ``world``-th batch from the ``rank``-th on."""

    rank: int = 0
    world: int = 1


ALONE = Share()


class Asked:
    """Every side of every suite with the keys of its questions, in the order of the samples."""

    def __init__(self, suites: Sequence[Suite], store: AnswerStore):
        self.store = store
        self.sides: list[tuple[Suite, str, list[str], list[str]]] = []  # suite, side, prompts, keys
        for suite in suites:
            for side in suite.sides:
                questions = suite.questions(side)
                keys = [store.key(suite.name, suite.version, side, q.id, q.prompt) for q in questions]
                self.sides.append((suite, side, [q.prompt for q in questions], keys))
        every = dict.fromkeys(key for *_, keys in self.sides for key in keys)
        self.total = len(every)
        self._missing = {key for key in every if store.get(key) is None}
        self._looked = float("-inf")

    def missing(self) -> int:
        """How many questions have no answer yet; looks at what other processes wrote, now and then."""
        now = time.monotonic()
        if now - self._looked >= _POLL:  # not for each of thousands of answers
            self._looked = now
            self.store.refresh()
        self._missing.difference_update(self.store.take_new())
        return len(self._missing)

    def answers(self, keys: Sequence[str]) -> list[Kept]:
        """The answers of one side; all of them must be there."""
        found = [self.store.get(key) for key in keys]
        assert all(kept is not None for kept in found)
        return [kept for kept in found if kept is not None]


def answer_share(generator: Generator, asked: Asked, share: Share = ALONE, progress: Progress | None = None) -> None:
    """Ask this process's part of what has no answer yet, and keep each answer as it comes.

    Batches are formed of all questions of a side, whoever answers them and whatever is answered already; a batch counts as
    answered when all of it is. So every question meets the same others in its batch on any number of processes, and after any
    interruption: not even a rounding depends on these.
    """
    for _, _, prompts, keys in asked.sides:
        batches = _batches(generator, prompts)
        mine = [batch for n, batch in enumerate(batches) if n % share.world == share.rank]
        open_ = [batch for batch in mine if any(asked.store.get(keys[i]) is None for i in batch)]
        _tell(asked, progress)
        for batch, answers in _answered(generator, prompts, open_):
            asked.store.put((keys[i], *answer) for i, answer in zip(batch, answers))
            _tell(asked, progress)


def wait_for_others(asked: Asked, progress: Progress | None = None) -> None:
    """Until every question has an answer. Whoever started the processes ends this one when another has died."""
    while asked.missing():
        _tell(asked, progress)
        time.sleep(_POLL)
    _tell(asked, progress)


def _batches(generator: Generator, prompts: Sequence[str]) -> list[list[int]]:
    """What the generator answers in one go; a server answers each problem by itself."""
    batches: Any = getattr(generator, "batches", None)
    return batches(prompts) if batches is not None else [[i] for i in range(len(prompts))]


def _answered(
    generator: Generator, prompts: Sequence[str], batches: Sequence[list[int]]
) -> Iterator[tuple[list[int], list[tuple[Answered, float]]]]:
    """Each batch once all of it is answered, with the seconds that each answer took."""
    flat = [i for batch in batches for i in batch]
    if not flat:
        return
    place = [batch for batch in batches for _ in batch]
    found: dict[int, tuple[Answered, float]] = {}
    last = time.perf_counter()
    for position, answered in generator.answer([prompts[i] for i in flat]):
        now = time.perf_counter()
        found[flat[position]] = (answered, now - last)
        last = now
        batch = place[position]
        if all(i in found for i in batch):
            yield batch, [found[i] for i in batch]
            last = time.perf_counter()


def _tell(asked: Asked, progress: Progress | None) -> None:
    if progress is not None:
        progress(ANSWERING, asked.total - asked.missing(), asked.total)
