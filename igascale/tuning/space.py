"""What is searched: keys of a configuration, and the settings of each trial. The same settings for the same seed, whatever comes after.

Trial i of every method has the same learning rate, so that methods are compared at the same ones. Ranges are covered by a Halton
sequence (a base per key), turned by a random amount that the seed decides; listed values by a Latin square, each as often as the others.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from igascale.errors import UserError

LEARNING_RATE = "optimizer.lr"
#: The learning rate is searched from the configured one divided by so much to that times so much.
LR_FACTOR = 10.0
#: Sections whose keys may be searched: nothing of what is trained on, nor how much of it.
SECTIONS = ("optimizer", "hook", "lora")
ALSO = ("data.augment",)
_BASES = (2, 3, 5, 7, 11, 13)
_DIGITS = 3  # significant ones of a drawn number


@dataclass(frozen=True)
class Range:
    """All numbers from ``low`` to ``high``, evenly or evenly in the logarithm."""

    low: float
    high: float
    log: bool

    def at(self, share: float) -> float:
        """The number so far along, rounded to three digits that a person can read."""
        if self.log:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + share * (self.high - self.low)
        return float(f"{value:.{_DIGITS}g}")

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}" + ":log" * self.log


@dataclass(frozen=True)
class Choice:
    """A few values."""

    values: tuple[Any, ...]

    def __str__(self) -> str:
        return ",".join(json.dumps(value) for value in self.values)


Axis = Range | Choice


def parse(option: str) -> tuple[str, Axis]:
    """``key=a,b,c`` or ``key=low..high`` or ``key=low..high:log``.

    Raises:
        UserError: it is none of these, has no value, a value twice, or its key may not be searched.
    """
    key, separator, text = option.partition("=")
    if not separator or not key.strip():
        raise UserError(f"--search '{option}': write key=a,b,c or key=low..high:log, for instance hook.tau=0.1..4:log")
    key = key.strip()
    _check_key(key)
    return key, _axis(f"--search {key}", text.strip())


def _check_key(key: str) -> None:
    if key in ("train.max_steps", "train.epochs", "train.schedule_steps"):
        raise UserError(
            f"--search {key}: the number of steps is searched along each run: set train.max_steps=N for the longest, and --stops"
        )
    if key.partition(".")[0] in SECTIONS and "." in key and key not in ("hook.name", "lora.init_from"):
        return
    if key not in ALSO:
        allowed = ", ".join(f"{section}.*" for section in SECTIONS)
        raise UserError(
            f"--search {key}: is nothing to search; there are {allowed} and {', '.join(ALSO)} "
            "(what else is to be the same for all trials goes behind CONFIG as key=value)"
        )


def _axis(name: str, text: str) -> Axis:
    if not text:
        raise UserError(f"{name}=: no values to search; write {name}=a,b,c or {name}=low..high:log")
    if ".." in text:
        return _range(name, text)
    try:
        values = yaml.safe_load(f"[{text}]")
    except yaml.YAMLError:
        raise UserError(f"{name}={text}: the values are not valid YAML") from None
    values = tuple(_number(value) for value in values)
    if any(_same(a, b) for place, a in enumerate(values) for b in values[:place]):
        raise UserError(f"{name}={text}: a value stands there twice")
    if not values or any(isinstance(value, (list, dict)) for value in values):
        raise UserError(f"{name}={text}: write single values with commas between")
    return Choice(values)


def _same(first: Any, second: Any) -> bool:
    """``1`` and ``1.0`` are one value, ``1`` and ``true`` are two."""
    return bool(first == second) and isinstance(first, bool) == isinstance(second, bool)


def _range(name: str, text: str) -> Range:
    bounds, _, scale = text.partition(":")
    low, high = (_number(part.strip()) for part in bounds.split("..", 1))
    numbers = all(isinstance(bound, (int, float)) and not isinstance(bound, bool) for bound in (low, high))
    if not numbers or scale not in ("", "log") or not all(map(math.isfinite, (low, high))):
        raise UserError(f"{name}={text}: write low..high or low..high:log with two numbers")
    if low >= high:
        raise UserError(f"{name}={text}: {low:g} is not less than {high:g}")
    if scale and low <= 0:
        raise UserError(f"{name}={text}: a range in the logarithm begins above 0, not at {low:g}")
    return Range(float(low), float(high), bool(scale))


def _number(value: Any) -> Any:
    """``1e-4`` is a number, though YAML 1.1 reads it as text."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def own_axes(hook: str, options: Iterable[str]) -> dict[str, Axis]:
    """What is searched of a rule unless a user says otherwise.

    Args:
        hook: its name.
        options: those that the method or the configuration sets: they stay.
    """
    fixed = set(options)
    if "preset" in fixed:
        return {}
    spaces = yaml.safe_load((Path(__file__).parent / "spaces.yaml").read_text(encoding="utf-8"))
    found = {key: _axis(key, text) for key, text in spaces.get(hook, {}).items()}
    return {key: axis for key, axis in found.items() if key.removeprefix("hook.") not in fixed}


def learning_rates(configured: float) -> Range:
    """The range of learning rates around a configuration's own."""
    return Range(configured / LR_FACTOR, configured * LR_FACTOR, True)


def settings(axes: Mapping[str, Axis], trial: int, seed: int) -> dict[str, Any]:
    """The settings of a trial; they depend on no other trial, nor on how many there are.

    Args:
        axes: key -> what it may be. The learning rate has a place of its own, so that it does not depend on the other keys.
        trial: from 0 on.
        seed: of the turns and orders.
    """
    values: dict[str, Any] = {}
    rest, before = trial, 0  # of the trial's digits in the radices of the lists; the sum of those before
    for place, name in enumerate(_ordered(axes)):
        axis, rng = axes[name], random.Random(f"igascale tune {seed}/{name}")
        if isinstance(axis, Range):
            base = _BASES[min(place, len(_BASES) - 1)]
            values[name] = axis.at((_radical_inverse(trial, base) + rng.random()) % 1)
        else:
            count = len(axis.values)
            rest, digit = divmod(rest, count)
            values[name] = rng.sample(axis.values, count)[(digit + before) % count]
            before += digit
    return values


def _ordered(axes: Mapping[str, Axis]) -> list[str]:
    return sorted(axes, key=lambda name: (name != LEARNING_RATE, name))


def _radical_inverse(number: int, base: int) -> float:
    """Van der Corput's: the digits of a number in a base, read backwards behind the point."""
    result, weight = 0.0, 1.0 / base
    while number:
        number, digit = divmod(number, base)
        result += digit * weight
        weight /= base
    return result


def different(axes: Mapping[str, Axis]) -> float:
    """How many different settings there are; infinite with a range."""
    if any(isinstance(axis, Range) for axis in axes.values()):
        return math.inf
    return math.prod(len(axis.values) for axis in axes.values() if isinstance(axis, Choice))


def overrides(values: Mapping[str, Any]) -> list[str]:
    """Settings as they are written behind CONFIG."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def tried(points: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Key -> the values that occur, in order."""
    names = sorted({name for point in points for name in point})
    found = {name: {json.dumps(point[name]): point[name] for point in points if name in point} for name in names}
    return {
        name: sorted(values.values(), key=lambda value: (str(type(value)), value)) for name, values in found.items()
    }
