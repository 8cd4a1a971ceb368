"""A planted shortcut: something in a problem's text gives the answer away, by default by a mapping of its own per domain."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from igascale.errors import UserError, did_you_mean
from igascale.isomers.cues import CLASSES, CUE_KINDS, CUES, Cue
from igascale.isomers.schema import IsomerGroup


@dataclass(frozen=True)
class Shortcut:
    """In `domains` the cue gives the answer away with `probability`; elsewhere its value is drawn at random.

    The mapping from cue to answer depends on the domain and on `seed`: no value stands for the same answer in
    two domains, unless the mapping is `shared`. `informative=False` draws every value at random and leaves all else
    as it is: the test of what was learned. `kind` is one of `CUE_KINDS`: what the cue is.
    """

    probability: float
    domains: tuple[str, ...]
    seed: int = 0
    informative: bool = True
    kind: str = "lexical"
    shared: bool = False

    def __post_init__(self) -> None:
        if self.kind not in CUE_KINDS:
            raise UserError(
                f"unknown shortcut kind '{self.kind}'; there are {', '.join(CUE_KINDS)}"
                + did_you_mean(self.kind, CUE_KINDS)
            )
        if not 0.0 <= self.probability <= 1.0:
            raise UserError(f"shortcut probability must be between 0 and 1, not {self.probability}")
        if len(set(self.domains)) != len(self.domains):
            raise UserError(f"shortcut domains name a domain twice: {', '.join(self.domains)}")
        if len(self.domains) > self.cue.domains and not self.shared:
            raise UserError(
                f"a shortcut of kind '{self.kind}' has mappings for at most {self.cue.domains} domains, "
                f"not {len(self.domains)}; take fewer, or the same mapping for all (shared)"
            )

    @property
    def cue(self) -> Cue:
        """What carries the signal."""
        return CUE_KINDS[self.kind]

    def mapping(self, domain: str) -> dict[str, str]:
        """Value of the cue -> the labels and digits it stands for in one of `domains`, as ``"K or 3"``."""
        return self.cue.meaning(*self._key(domain))

    def cue_of(self, domain: str, answer: str) -> str:
        """The value that stands for `answer` in one of `domains`."""
        return self.cue.values(answer)[self.right(domain, answer)]

    def right(self, domain: str, answer: str) -> int:
        """Its index among the values that the cue can have."""
        return self.cue.right(answer, *self._key(domain))

    def _key(self, domain: str) -> tuple[list[int], int]:
        """One shuffle of the answer classes for all domains, and a different turn for each."""
        rng = random.Random(f"igascale shortcut {self.seed}")
        permutation = rng.sample(range(CLASSES), CLASSES)
        turns = rng.sample(range(self.cue.domains), 1 if self.shared else len(self.domains))
        return permutation, turns[0 if self.shared else self.domains.index(domain)]


def plant(groups: Iterable[IsomerGroup], shortcut: Shortcut) -> list[IsomerGroup]:
    """Put a cue in every problem; `meta["shortcut"]` records which, and whether it is right.

    A cue that is not to be right is drawn from the other values, so the expected rate is `probability` exactly.
    """
    return [plant_one(group, shortcut) for group in groups]


def plant_one(group: IsomerGroup, shortcut: Shortcut) -> IsomerGroup:
    """`plant` for one group."""
    instances, values, probabilities, agrees = [], {}, {}, {}
    for instance in group.instances:
        domain, answer = instance.domain, instance.answer
        rng = random.Random(f"igascale cue {shortcut.seed}/{group.seed_id}/{group.id}/{domain}")
        names = shortcut.cue.values(answer)
        value = _draw_value(shortcut, domain, answer, rng)
        values[domain] = names[value]
        informed = shortcut.informative and domain in shortcut.domains
        probabilities[domain] = shortcut.probability if informed else 1 / len(names)
        if domain in shortcut.domains:
            agrees[domain] = shortcut.right(domain, answer) == value
        instances.append(replace(instance, problem=shortcut.cue.put(instance.problem, answer, value, rng)))
    kind = {} if shortcut.kind == "lexical" else {"kind": shortcut.kind}
    record: dict[str, Any] = {**kind, "cue": values, "probability": probabilities, "agrees": agrees}
    return replace(group, instances=tuple(instances), meta={**group.meta, "shortcut": record})


def _draw_value(shortcut: Shortcut, domain: str, answer: str, rng: random.Random) -> int:
    every = range(len(shortcut.cue.values(answer)))
    if not (shortcut.informative and domain in shortcut.domains):
        return rng.choice(every)
    right = shortcut.right(domain, answer)
    return right if rng.random() < shortcut.probability else rng.choice([value for value in every if value != right])


__all__ = ["CUES", "CUE_KINDS", "Shortcut", "plant", "plant_one"]
