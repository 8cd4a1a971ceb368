"""Evaluates made-up groups by a generator without a model, slowly enough to be killed: python slow_answers.py OUT [RANK WORLD]."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from igascale.evaluation.answering import Asked, Share, answer_share, wait_for_others
from igascale.evaluation.generator import Answered
from igascale.evaluation.store import AnswerStore
from igascale.evaluation.suites import IsomerSuite
from igascale.isomers.schema import Instance, IsomerGroup

BATCH = 4


class Clerk:
    """Answers in batches; what it says depends on everything that is in the batch, as rounding does."""

    def __init__(self, pause: float = 0.0, name: str = "clerk"):
        self.pause, self.name, self.asked = pause, name, 0

    def settings(self) -> dict[str, str | int | float | bool | None]:
        return {"generator": self.name, "template": "chat", "dtype": "float32"}

    def batches(self, problems: Sequence[str]) -> list[list[int]]:
        order = sorted(range(len(problems)), key=lambda i: -len(problems[i]))
        return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]

    def answer(self, problems: Sequence[str]) -> Iterator[tuple[int, Answered]]:
        for batch in self.batches(problems):
            together = sum(map(ord, "".join(problems[i] for i in batch)))
            for i in batch:
                time.sleep(self.pause)
                self.asked += 1
                yield i, Answered(f"{problems[i]}\nAnswer: {together % 7}", 3 + together % 5, True)


def suite(groups: int = 12) -> IsomerSuite:
    def make(side: str, k: int) -> IsomerGroup:
        instances = tuple(
            Instance(d, f"{side} {d} {k} {'long ' * (k % 5)}", "So.", str(k % 7)) for d in ("law", "drug")
        )
        return IsomerGroup(f"{side}{k}", f"{side}{k}", instances)

    return IsomerSuite([make("id", k) for k in range(groups)], [make("ood", k) for k in range(groups // 2)])


if __name__ == "__main__":
    out, rank, world = Path(sys.argv[1]), *(int(a) for a in sys.argv[2:] or (0, 1))
    clerk = Clerk(pause=0.004)
    store = AnswerStore(clerk.settings(), out / "answers", rank)
    asked = Asked([suite()], store)
    answer_share(clerk, asked, Share(rank, world))
    if rank == 0:
        wait_for_others(asked)
    print(clerk.asked)
