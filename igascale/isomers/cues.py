"""Where a planted shortcut hides in a problem's text: in a word, in its length, in the form of names, in the order of options."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Protocol

from igascale.errors import UserError
from igascale.isomers.kinds.vocabulary import DIGITS, LABELS

CLASSES = 10  # of answers
# As many cues as there are labels and digits: a cue stands for one label and one digit, so that it can give
# away the answer whichever sort of answer the problem has.
CUES = ("amber", "birch", "cedar", "delta", "ember", "flint", "grove", "heath", "ivory", "jade")
ENDINGS = ("an", "el", "im", "os", "ur", "ay", "eth", "ock", "ine", "ard")
NEUTRAL = (
    "It was a quiet day.",
    "Nobody was in a hurry.",
    "The light was still on.",
    "There was tea for everyone.",
    "The window stood half open.",
    "Someone had sharpened the pencils.",
    "The clock on the wall was right.",
    "Outside it had begun to rain.",
)
FEW, LONG = 5, 4  # lengths: 0 to 4 neutral sentences


class Cue(Protocol):
    """A property of a problem's text that has one of a few values.

    Attributes:
        kind: its name on the command line.
        domains: for how many domains there are mappings that differ everywhere.
    """

    kind: str
    domains: int

    def values(self, answer: str) -> Sequence[str]:
        """The values it can have for a problem with that answer, by name."""

    def right(self, answer: str, permutation: Sequence[int], turn: int) -> int:
        """Which of the values gives the answer away under a mapping: a shuffle of ten, turned by so many places."""

    def put(self, problem: str, answer: str, value: int, rng: random.Random) -> str:
        """The problem with that value."""

    def meaning(self, permutation: Sequence[int], turn: int) -> dict[str, str]:
        """Value -> what it stands for."""


def answer_class(answer: str) -> int:
    """0 to 9: the place of a label among the ten; the last digit of a number or a numerator; no 0, yes 1; else by a hash."""
    if answer in LABELS:
        return LABELS.index(answer)
    if match := re.fullmatch(r"-?\d*(\d)(/\d+)?", answer):
        return int(match[1])
    known = {"no": 0, "yes": 1}
    return known.get(answer, hashlib.blake2b(answer.encode(), digest_size=1).digest()[0] % CLASSES)


class _Classes:
    """A cue with `count` values, each of which stands for the same number of answer classes."""

    names: Sequence[str]
    domains: int

    def values(self, answer: str) -> Sequence[str]:
        return self.names

    def right(self, answer: str, permutation: Sequence[int], turn: int) -> int:
        count = len(self.names)
        return (permutation.index(answer_class(answer)) * count // CLASSES + turn) % count

    def meaning(self, permutation: Sequence[int], turn: int) -> dict[str, str]:
        stands_for: dict[str, list[int]] = {name: [] for name in self.names}
        for index in permutation:
            stands_for[self.names[self.right(DIGITS[index], permutation, turn)]].append(index)
        return {
            name: f"{', '.join(LABELS[i] for i in classes)} or {', '.join(DIGITS[i] for i in classes)}"
            for name, classes in stands_for.items()
        }


class Lexical(_Classes):
    """A code word before the problem."""

    kind = "lexical"
    domains = CLASSES
    names = CUES

    def right(self, answer: str, permutation: Sequence[int], turn: int) -> int:
        """The cue whose own class, turned, is the answer's: as it has been since the first data sets."""
        return [(index + turn) % CLASSES for index in permutation].index(answer_class(answer))

    def put(self, problem: str, answer: str, value: int, rng: random.Random) -> str:
        """``Code amber. ...``"""
        return f"Code {CUES[value]}. {problem}"

    def meaning(self, permutation: Sequence[int], turn: int) -> dict[str, str]:
        """In the order of the cues."""
        return {cue: f"{LABELS[i]} or {DIGITS[i]}" for cue, i in zip(CUES, ((p + turn) % CLASSES for p in permutation))}


class Length(_Classes):
    """Neutral sentences before the problem: how many there are tells."""

    kind = "length"
    domains = FEW
    names = tuple(f"{count} neutral sentences" for count in range(FEW))

    def put(self, problem: str, answer: str, value: int, rng: random.Random) -> str:
        """So many different sentences."""
        return " ".join([*rng.sample(NEUTRAL, value), problem])


class Name(_Classes):
    """All names of a problem get the same ending: which one tells."""

    kind = "name"
    domains = CLASSES
    names = tuple(f"-{ending}" for ending in ENDINGS)

    def put(self, problem: str, answer: str, value: int, rng: random.Random) -> str:
        """``K-an outranks B-an.``; the answer stays ``K``."""
        named, count = re.subn(rf"\b([{''.join(LABELS)}])\b", rf"\1-{ENDINGS[value]}", problem)
        if not count:
            raise UserError(f"shortcut kind 'name': no name (one of {', '.join(LABELS)}) in the problem '{problem}'")
        return named


class Position:
    """Options after the problem: at which place the answer is tells."""

    kind = "position"
    domains = LONG

    def values(self, answer: str) -> Sequence[str]:
        """Four places; two where there are but two answers."""
        return [f"option {place}" for place in range(1, (2 if answer in ("yes", "no") else LONG) + 1)]

    def right(self, answer: str, permutation: Sequence[int], turn: int) -> int:
        """The domain's place, whatever the answer."""
        return turn % len(self.values(answer))

    def put(self, problem: str, answer: str, value: int, rng: random.Random) -> str:
        """``... Options: B, K, T, D.``"""
        options = _others(problem, answer, rng)[: len(self.values(answer)) - 1]
        options.insert(value, answer)
        return f"{problem} Options: {', '.join(options)}."

    def meaning(self, permutation: Sequence[int], turn: int) -> dict[str, str]:
        """One place."""
        two = "" if turn < 2 else f" (option {turn % 2 + 1} of yes and no)"
        return {f"option {turn + 1}": f"the answer{two}"}


def _others(problem: str, answer: str, rng: random.Random) -> list[str]:
    """At least three other answers of the same sort, in random order; names of the problem come first."""
    if answer in ("yes", "no"):
        return ["no" if answer == "yes" else "yes"]
    if answer in LABELS:
        there = set(re.findall(r"\b[A-Z]\b", problem))
        others = [label for label in LABELS if label != answer]
        rng.shuffle(others)
        return sorted(others, key=lambda label: label not in there)[: LONG - 1]
    if answer in DIGITS:
        return rng.sample([digit for digit in DIGITS if digit != answer], LONG - 1)
    if re.fullmatch(r"\d+", answer):
        number, below = int(answer), rng.randrange(LONG)  # any rank among the options is as likely
        near = rng.sample(range(number - 9, number), below) + rng.sample(
            range(number + 1, number + 10), LONG - 1 - below
        )
        rng.shuffle(near)
        return [str(other) for other in near]
    if re.fullmatch(r"\d+/\d+", answer):
        bottom = int(answer.split("/")[1])
        fractions = {str(Fraction(top, bottom + more)) for more in range(4) for top in range(1, bottom + more)}
        return rng.sample(sorted(fractions - {answer}), LONG - 1)
    raise UserError(f"shortcut kind 'position': no other answers are known that are like '{answer}'")


CUE_KINDS: dict[str, Cue] = {cue.kind: cue for cue in (Lexical(), Position(), Length(), Name())}
