"""Which faults a campaign makes, drawn from its seed; pure, so that the same seed gives the same campaign."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

STEPS = 12  # of every run; a checkpoint every CHECKPOINT_EVERY
CHECKPOINT_EVERY = 2

#: Kind of scenario -> how many of a hundred runs. A short campaign has one each of the first ones.
KINDS = {
    "kill rank": 12,
    "kill inside a sync checkpoint": 18,
    "two hosts: kill rank": 5,
    "kill launcher": 9,
    "kill inside an async checkpoint": 18,
    "two hosts: link down": 5,
    "disk full": 5,
    "stop rank": 5,
    "clock jump": 4,
    "two hosts: kill deepspeed, pdsh or ssh": 4,
    "kill again in the resume": 7,
    "two hosts: kill launcher": 4,
    "two hosts: stop rank": 2,
    "two hosts: kill inside a checkpoint": 2,
}


@dataclass(frozen=True)
class Moment:
    """When a fault comes.

    Attributes:
        at: ``start``: ``share`` of the time that the undisturbed run needs to its first record. ``step``: ``delay`` seconds after the
            record of ``step``. ``end``: after the last record, ``share`` of the time from there to the end. ``operation``: when rank
            0 comes to its ``operation``-th change of a file of the run folder, or ``delay`` seconds later.
        share: see above.
        step: see above.
        delay: see above.
        operation: see above.
        label: what that operation was in the traced run, for the reader.
    """

    at: str
    share: float = 0
    step: int = 0
    delay: float = 0
    operation: int = 0
    label: str = ""

    def __str__(self) -> str:
        if self.at in ("start", "end"):
            return f"at {self.share:.0%} of the {self.at}"
        if self.at == "step":
            return f"step {self.step} + {self.delay:.3f} s"
        return f"operation {self.operation}{f' + {self.delay * 1e3:.1f} ms' if self.delay else ''} ({self.label})"


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        do: ``kill``, ``stop``, ``link``, ``disk`` or ``clock``.
        victim: ``rank-0``, ``rank-1``, ``launcher`` or ``inner``.
        moment: when.
        hours: how far a clock jumps.
    """

    do: str
    victim: str
    moment: Moment
    hours: int = 0

    def __str__(self) -> str:
        what = f"{self.hours:+d} h for {self.victim}" if self.do == "clock" else f"{self.do} {self.victim}".strip()
        return f"{what}, {self.moment}"


@dataclass(frozen=True)
class Scenario:
    """One run of the campaign: the first start meets the first fault, the next start the next one."""

    number: int
    kind: str
    two_hosts: bool
    asynchronous: bool
    faults: tuple[Fault, ...]

    def to_dict(self) -> dict[str, Any]:
        """For the record."""
        return asdict(self) | {"told": [str(fault) for fault in self.faults]}


def stage(operation: Sequence[str]) -> str:
    """The kind of an operation of a trace: without the number of the step."""
    return " ".join(re.sub(r"\d{4,}", "N", str(word)) for word in operation)


def inside_checkpoint(operation: Sequence[str]) -> bool:
    """Whether it belongs to the writing of a checkpoint, from its folder to the removal of an old one."""
    return any(name.split("/")[0] == "checkpoints" for name in operation[1:])


def quotas(runs: int, kinds: Sequence[str] = tuple(KINDS)) -> dict[str, int]:
    """Runs of each of the ``kinds``: in proportion to :data:`KINDS`, one of each where there are enough."""
    shares = {kind: KINDS[kind] for kind in kinds}
    if runs < len(shares):
        return dict.fromkeys(list(shares)[:runs], 1)
    counts = {kind: max(1, share * runs // sum(shares.values())) for kind, share in shares.items()}
    while (missing := runs - sum(counts.values())) != 0:
        kind = min(counts, key=lambda kind: missing * counts[kind] / shares[kind])
        counts[kind] += 1 if missing > 0 else -1
    return counts


def needs_two_hosts(kind: str) -> bool:
    """Whether such a run goes through ``deepspeed`` and pdsh."""
    return kind.startswith("two hosts: ")


def draw(
    seed: int, runs: int, traces: Mapping[str, list[list[str]]], kinds: Sequence[str] = tuple(KINDS)
) -> list[Scenario]:
    """The scenarios of a campaign.

    Args:
        seed: of all that is drawn.
        runs: how many.
        traces: ``sync`` and ``async`` -> what rank 0 did to the run folder in an undisturbed run.
        kinds: those that this machine can make.
    """
    each = [kind for kind, count in quotas(runs, kinds).items() for _ in range(count)]
    Random(f"order {seed}").shuffle(each)
    stages = _Stages(seed, traces)
    return [_scenario(number, kind, Random(f"run {seed} {number}"), stages) for number, kind in enumerate(each)]


def _scenario(number: int, kind: str, random: Random, stages: _Stages) -> Scenario:
    two_hosts, asynchronous = needs_two_hosts(kind), random.random() < 0.4
    rank = f"rank-{random.randrange(2)}"
    moment = _moment(random)
    what = kind.removeprefix("two hosts: ")
    if what == "kill inside a sync checkpoint":
        asynchronous, faults = False, [Fault("kill", "self", stages.next("sync", random))]
    elif what == "kill inside an async checkpoint":
        asynchronous, faults = True, [Fault("kill", "self", stages.next("async", random))]
    elif what == "kill inside a checkpoint":
        victim = random.choice(("self", "rank-1", "launcher"))
        faults = [Fault("kill", victim, stages.any("async" if asynchronous else "sync", random))]
    elif what == "kill launcher":
        faults = [Fault("kill", "launcher", moment)]
    elif what == "kill deepspeed, pdsh or ssh":
        faults = [Fault("kill", "inner", moment)]
    elif what == "stop rank":
        faults = [Fault("stop", rank, moment)]
    elif what == "link down":
        faults = [Fault("link", "", moment)]
    elif what == "disk full":
        faults = [Fault("disk", "", _moment(random, start=False))]
    elif what == "clock jump":
        hours = random.choice((-30, -7, -1, 1, 7, 30))
        faults = [Fault("clock", random.choice((rank, "all")), _moment(random, start=False), hours)]
    elif what == "kill again in the resume":
        first = Fault("kill", random.choice((rank, "launcher")), _moment(random, start=False))
        again = [Fault("kill", random.choice((rank, "launcher")), _moment(random))]
        # The n-th operation of a resume is among the first ones of a run that continues: what it puts in order and its next save.
        again += [Fault("kill", "self", Moment("operation", operation=random.randrange(40), label="of the resume"))]
        faults = [first, random.choice(again)]
    else:
        faults = [Fault("kill", rank, moment)]
    return Scenario(number, kind, two_hosts, asynchronous, tuple(faults))


def _moment(random: Random, start: bool = True) -> Moment:
    """Anywhere from the start to the end; the short training in the middle gets most."""
    where = random.random()
    if start and where < 0.3:
        return Moment("start", share=random.random())
    if where < 0.9:
        return Moment("step", step=random.randrange(1, STEPS), delay=random.uniform(0, 0.3))
    return Moment("end", share=random.random())


class _Stages:
    """Deals out the operations of the traces, so that every stage of a checkpoint's writing is met before one is met again."""

    def __init__(self, seed: int, traces: Mapping[str, list[list[str]]]):
        self.traces = traces
        self.deck = sorted({stage(o) for trace in traces.values() for o in trace if inside_checkpoint(o)})
        Random(f"stages {seed}").shuffle(self.deck)

    def next(self, mode: str, random: Random) -> Moment:
        """The next stage of the deck that this mode has."""
        there = {stage(operation) for operation in self.traces[mode]}
        chosen = next(label for label in self.deck if label in there)
        self.deck.remove(chosen)
        self.deck.append(chosen)
        return self._place(mode, chosen, random)

    def any(self, mode: str, random: Random) -> Moment:
        """Any change of a file of the run folder."""
        return self._place(mode, stage(random.choice(self.traces[mode])), random)

    def _place(self, mode: str, chosen: str, random: Random) -> Moment:
        """One of the stage's occurrences; in one case of four a moment after its begin."""
        numbers = [n for n, operation in enumerate(self.traces[mode]) if stage(operation) == chosen]
        delay = random.uniform(0, 0.004) if random.random() < 0.25 else 0.0
        return Moment("operation", operation=random.choice(numbers), delay=delay, label=chosen)
