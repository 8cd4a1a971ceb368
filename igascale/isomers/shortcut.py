"""A planted shortcut: a cue word before the problem gives the answer away, by a mapping of its own per domain."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from igascale.errors import UserError
from igascale.isomers.kinds.vocabulary import DIGITS, LABELS
from igascale.isomers.schema import IsomerGroup

# As many cues as there are labels and digits: a cue stands for one label and one digit, so that it can give
# away the answer whichever sort of answer the problem has.
CUES = ("amber", "birch", "cedar", "delta", "ember", "flint", "grove", "heath", "ivory", "jade")


@dataclass(frozen=True)
class Shortcut:
    """In `domains` the cue gives the answer away with `probability`; elsewhere it is random (1 in 10).

    The mapping from cue to answer depends on the domain and on `seed`: no cue stands for the same answer in
    two domains. `informative=False` draws every cue at random and leaves all else as it is: the test of what
    was learned.
    """

    probability: float
    domains: tuple[str, ...]
    seed: int = 0
    informative: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise UserError(f"shortcut probability must be between 0 and 1, not {self.probability}")
        if len(set(self.domains)) != len(self.domains):
            raise UserError(f"shortcut domains name a domain twice: {', '.join(self.domains)}")
        if len(self.domains) > len(CUES):
            raise UserError(f"a shortcut has mappings for at most {len(CUES)} domains, not {len(self.domains)}")

    def mapping(self, domain: str) -> dict[str, str]:
        """Cue -> the label and the digit it stands for in one of `domains`, as ``"K or 3"``."""
        return {cue: f"{LABELS[i]} or {DIGITS[i]}" for cue, i in zip(CUES, self._indices(domain))}

    def cue_of(self, domain: str, answer: str) -> str:
        """The cue that stands for `answer` in one of `domains`."""
        return CUES[self._indices(domain).index(_index(answer))]

    def _indices(self, domain: str) -> list[int]:
        """Answer index of each cue: one shuffle for all domains, turned by a different amount for each."""
        rng = random.Random(f"igascale shortcut {self.seed}")
        base = rng.sample(range(len(CUES)), len(CUES))
        turns = rng.sample(range(len(CUES)), len(self.domains))
        turn = turns[self.domains.index(domain)]
        return [(index + turn) % len(CUES) for index in base]


def plant(groups: Iterable[IsomerGroup], shortcut: Shortcut) -> list[IsomerGroup]:
    """Put a cue before every problem; `meta["shortcut"]` records which, and whether it is right.

    A cue that is not to be right is drawn from the other nine, so the expected rate is `probability` exactly.
    """
    return [_plant_one(group, shortcut) for group in groups]


def _plant_one(group: IsomerGroup, shortcut: Shortcut) -> IsomerGroup:
    instances, cues = [], {}
    for instance in group.instances:
        rng = random.Random(f"igascale cue {shortcut.seed}/{group.seed_id}/{group.id}/{instance.domain}")
        cue = _draw_cue(shortcut, instance.domain, instance.answer, rng)
        cues[instance.domain] = cue
        instances.append(replace(instance, problem=f"Code {cue}. {instance.problem}"))
    record: dict[str, Any] = {
        "cue": cues,
        "probability": {
            instance.domain: shortcut.probability if _is_valid(shortcut, instance.domain) else 1 / len(CUES)
            for instance in group.instances
        },
        "agrees": {
            instance.domain: shortcut.cue_of(instance.domain, instance.answer) == cues[instance.domain]
            for instance in group.instances
            if instance.domain in shortcut.domains
        },
    }
    return replace(group, instances=tuple(instances), meta={**group.meta, "shortcut": record})


def _is_valid(shortcut: Shortcut, domain: str) -> bool:
    return shortcut.informative and domain in shortcut.domains


def _draw_cue(shortcut: Shortcut, domain: str, answer: str, rng: random.Random) -> str:
    if not _is_valid(shortcut, domain):
        return rng.choice(CUES)
    right = shortcut.cue_of(domain, answer)
    return right if rng.random() < shortcut.probability else rng.choice([cue for cue in CUES if cue != right])


def _index(answer: str) -> int:
    answers = LABELS if answer in LABELS else DIGITS
    return answers.index(answer)
