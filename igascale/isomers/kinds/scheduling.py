"""Scheduling: jobs that wait for others, all begun as early as they can be; when is the last one done?"""

from __future__ import annotations

import math
import random

from igascale.isomers.kinds.base import insert_at_random
from igascale.isomers.kinds.factual import Fact, Factual, Puzzle, Step, other_labels
from igascale.isomers.kinds.vocabulary import LABELS

LONGEST = 20  # minutes of a job


TYPES = {"after": "CONSTRAINT"}
STATEMENTS = {
    "takes": (
        "{0} takes {1} minutes.",
        "The {w.job} {0} takes {1} minutes.",
        "It takes {1} minutes to do {0}.",
        "Allow {1} minutes for {0}.",
    ),
    "after": (
        "{0} waits for {1}.",
        "{1} must be done before {0} begins.",
        "The {w.job} {0} cannot begin until {1} is done.",
        "Only after {1} comes {0}.",
    ),
}
QUESTIONS = {
    "done": (
        "Every {w.job} begins as early as it can, the first at minute 0. At which minute is {0} done?",
        "Each {w.job} begins as soon as it can, from minute 0 on. Find the minute at which {0} is done.",
        "Nothing begins before minute 0, and no {w.job} is late. When is {0} done, in minutes?",
        "From minute 0, every {w.job} begins when nothing holds it. In how many minutes is {0} done?",
    )
}
LINES = {
    "then": "{0} begins at {1}, done at {2}.",
    "join": "{0} waits for {1} and {2}: begins at {3}, done at {4}.",
}


class Scheduling(Factual):
    """A chain of jobs; a second job may have to be done first, and a side branch may join later: two premises meet."""

    name = "scheduling"
    deepest = 6
    types = TYPES
    statements = STATEMENTS
    questions = QUESTIONS
    lines = LINES
    names = 3

    def draw(self, rng: random.Random, steps: int, width: int = 0) -> Puzzle:
        """A first job, `steps` more in a row, and up to two others that must be done as well."""
        first, early, side, *chain = rng.sample(LABELS, steps + 3)
        chain = [first, *chain]
        waits: list[tuple[str, str]] = list(zip(chain[1:], chain))
        if rng.random() < 0.5:
            waits.append((chain[1], early))
        if steps >= 2 and rng.random() < 0.5:
            waits += [(side, first), (chain[rng.randint(2, steps)], side)]
        jobs = [job for job in (first, early, side, *chain[1:]) if any(job in pair for pair in waits)]
        takes = {job: rng.randint(2, LONGEST) for job in jobs}
        facts: list[Fact] = [("takes", job, str(takes[job])) for job in jobs]
        facts += [("after", *pair) for pair in waits]
        rng.shuffle(facts)
        for label in other_labels(rng, facts, width):
            extra: Fact = ("takes", label, str(rng.randint(2, LONGEST)))
            insert_at_random(rng, facts, [extra if rng.random() < 0.5 else ("after", label, rng.choice(jobs))])
        taken = _steps(waits, takes, [job for job in (side, *chain[1:]) if job in jobs], first)
        return Puzzle(tuple(facts), ("done", chain[-1]), taken, taken[-1].said[-1])

    def most(self, steps: int) -> int:
        """Names, which jobs wait for which, minutes, the order of the facts."""
        names = math.perm(len(LABELS), steps + 3)
        return names * 2 * (steps + 1) * (LONGEST - 1) ** (steps + 3) * math.factorial(2 * steps + 6)


def _steps(waits: list[tuple[str, str]], takes: dict[str, int], jobs: list[str], first: str) -> tuple[Step, ...]:
    """One step per job of `jobs` (each after those it waits for), a side branch in parallel with the chain."""
    done = {job: minutes for job, minutes in takes.items() if job not in jobs}
    number: dict[str, int] = {}
    taken: list[Step] = []
    for job in jobs:
        before = [other for waiting, other in waits if waiting == job]
        begins = max(done[other] for other in before)
        done[job] = begins + takes[job]
        known = [other for other in before if other not in number]  # its end is its own length
        uses: list[Fact] = [("takes", job, str(takes[job])), *(("after", job, other) for other in before)]
        uses += [("takes", other, str(takes[other])) for other in known]
        times = (str(begins), str(done[job]))
        said: Fact = ("then", job, *times) if len(before) == 1 else ("join", job, *before[:2], *times)
        after = tuple(number[other] for other in before if other in number)
        number[job] = len(taken)
        taken.append(Step(f"done({job})={done[job]}", tuple(uses), said, after))
    return tuple(taken)
