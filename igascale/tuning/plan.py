"""What a search is: whom it compares, what it tries, on which folds, and what all of that costs. Decided before anything runs."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igascale import hooks, methods
from igascale.config import RunConfig, load_config
from igascale.errors import UserError, did_you_mean
from igascale.loading import Contents, look_over
from igascale.tuning import space
from igascale.tuning.folds import Fold, plan_folds

#: What is tuned unless a user says otherwise: the least that a claimed gain needs.
DEFAULT_METHODS = ("erm-sft", "iga", "iga-mixed")
LOSS, ACCURACY = "loss", "accuracy"


@dataclass(frozen=True)
class Asked:
    """What the user asked for.

    Attributes:
        config: the YAML file.
        overrides: ``key=value``, the same for all trials.
        methods: names of :mod:`igascale.methods`.
        hooks: names of hooks that take the place of the configuration's.
        by: how trials are scored, as in ``selection.by``.
        trials: of each method.
        folds: how many domains are left out in turn; ``None``: all.
        stops: how many step counts of each run are scored.
        score: :data:`LOSS` or :data:`ACCURACY`.
        search: ``key=a,b,c`` or ``key=low..high:log``.
        seed: of the search.
    """

    config: Path
    overrides: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()
    by: str = "leave_one_domain_out"
    trials: int = 8
    folds: int | None = None
    stops: int = 6
    score: str = LOSS
    search: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Contestant:
    """A method in the search.

    Attributes:
        name: the method's, or the hook's.
        method: for ``--method``; ``None`` for a hook.
        settings: ``key=value``, the same for all its runs.
        config: resolved, without a trial's settings.
        axes: what is searched.
        folds: what each trial is scored on.
        steps: of each run.
    """

    name: str
    method: str | None
    settings: tuple[str, ...]
    config: RunConfig
    axes: Mapping[str, space.Axis]
    folds: Sequence[Fold]
    steps: int

    @property
    def width(self) -> int:
        """Instances that a step takes of each group: the domains of a fold, as its pool is dealt."""
        return len(self.folds[0].domains)

    @property
    def cost(self) -> int:
        """Of a trial, in optimizer steps times domains."""
        return self.steps * sum(len(fold.domains) for fold in self.folds)

    def load(self, asked: Asked, more: Sequence[str]) -> RunConfig:
        """Its configuration with further settings."""
        return load_config(asked.config, [*self.settings, *more], self.method)


def plan(asked: Asked, folder: Path) -> list[Contestant]:
    """Check everything that can be wrong before the first step is taken.

    Args:
        asked: what is to be searched.
        folder: of the left-out domains' files.

    Raises:
        UserError: names the option, key or file that is wrong.
    """
    names = asked.methods or (() if asked.hooks else DEFAULT_METHODS)
    whom: list[tuple[str, str | None]] = [(name, name) for name in names] + [(name, None) for name in asked.hooks]
    called = [name for name, _ in whom]
    if twice := next((name for name in called if called.count(name) > 1), None):
        raise UserError(f"'{twice}' is named twice: each method is searched once")
    searched = _searched(asked)
    look = functools.cache(look_over)  # a large file is gone through once
    contestants = [_contestant(asked, name, method, searched, folder, look) for name, method in whom]
    for key in searched:
        if not any(key in each.axes for each in contestants):
            raise UserError(f"--search {key}: {_why_unknown(key, contestants)}")
    return contestants


def _searched(asked: Asked) -> dict[str, space.Axis]:
    parsed = [space.parse(option) for option in asked.search]
    found = dict(parsed)
    if len(found) < len(parsed):
        raise UserError("--search: a key stands there twice")
    given = {override.partition("=")[0] for override in asked.overrides}
    for key in (*found, "train.schedule_steps", "output_dir"):
        if key in given:
            reason = "it is searched" if key in found else "the search sets it"
            raise UserError(f"override '{key}=...': {reason}; leave it out")
    return found


def _contestant(
    asked: Asked,
    name: str,
    method: str | None,
    searched: Mapping[str, space.Axis],
    folder: Path,
    look: Callable[[str], Contents],
) -> Contestant:
    own = () if method else (f"hook={json.dumps({'name': name})}",)
    settings = (*own, *asked.overrides)
    config = load_config(asked.config, settings, method)
    hooks.build(config.hook.name, config.hook.options)
    axes = _axes(config, method, asked, searched)
    if (count := space.different(axes)) < asked.trials:
        raise UserError(
            f"{name}: there are {count:g} different settings to search ({_shown(axes)}), not {asked.trials}. All methods get the same "
            "number of trials: lower --trials, list more values, or give a range (low..high:log)"
        )
    if (groups := look(config.data.train).groups) < config.groups_per_step:
        raise UserError(
            f"{config.data.train}: {groups} groups, but one optimizer step takes {config.groups_per_step} "
            "(train.groups_per_batch * train.gradient_accumulation_steps); lower one of them"
        )
    folds = plan_folds(config, asked.by, asked.folds, folder, name, look)
    found = Contestant(name, method, settings, config, axes, folds, _steps(config, look))
    _check_values(found, asked)
    return found


def _axes(
    config: RunConfig, method: str | None, asked: Asked, searched: Mapping[str, space.Axis]
) -> dict[str, space.Axis]:
    """The learning rate, what the user asks for where this method has it, and the rule's own strength."""
    set_by_method = methods.find(method).settings.get("hook", {}) if method else {}
    options = hooks.options(hooks.find(config.hook.name))
    given = {
        override.partition("=")[0].removeprefix("hook.") for override in asked.overrides if override.startswith("hook.")
    }
    axes: dict[str, space.Axis] = {space.LEARNING_RATE: space.learning_rates(config.optimizer.lr)}
    axes |= space.own_axes(config.hook.name, {*set_by_method, *given})
    for key, axis in searched.items():
        option = key.removeprefix("hook.")
        if key.startswith("hook.") and (option not in options or option in set_by_method):
            continue  # it is no option of this rule, or what makes this method what it is
        if key == "data.augment" and config.data.augment is None:
            continue
        axes[key] = axis
    return axes


def _why_unknown(key: str, contestants: Sequence[Contestant]) -> str:
    if key == "data.augment":
        return "none of the methods augments its data (lora-sft does)"
    fixed = [each.name for each in contestants if each.method and _sets(each.method, key)]
    if fixed:
        return f"is what makes {', '.join(fixed)} that method; tune another one"
    known = sorted(
        {f"hook.{option}" for each in contestants for option in hooks.options(hooks.find(each.config.hook.name))}
    )
    none = f"; their options are {', '.join(known)}" if known else "; they have no options"
    told = "is no option of any of the rules"
    return f"{told} ({', '.join(each.name for each in contestants)}){did_you_mean(key, known) or none}"


def _sets(method: str, key: str) -> bool:
    return key.removeprefix("hook.") in methods.find(method).settings.get("hook", {})


def _check_values(contestant: Contestant, asked: Asked) -> None:
    """Every listed value and both ends of every range must be allowed."""
    for key, axis in contestant.axes.items():
        for value in axis.values if isinstance(axis, space.Choice) else (axis.low, axis.high):
            try:
                config = contestant.load(asked, space.overrides({key: value}))
                hooks.build(config.hook.name, config.hook.options)
            except UserError as error:
                raise UserError(f"--search {key}={axis}, for {contestant.name}: {str(error).splitlines()[0]}") from None


def _steps(config: RunConfig, look: Callable[[str], Contents]) -> int:
    """Optimizer steps of a run: they do not depend on how many domains there are."""
    if config.train.max_steps is not None:
        return config.train.max_steps
    groups = look(config.data.train).groups
    return max(1, math.floor(config.train.epochs * (groups // config.groups_per_step)))


def stops(steps: int, count: int) -> int:
    """Steps between those that are scored: ``count`` of them, the last among them, in even distances."""
    return max(1, -(-steps // count))


def budget(contestants: Sequence[Contestant], trials: int) -> list[str]:
    """The budget of the search in words; of each method where they differ."""
    costs = {each.cost * trials for each in contestants}
    if len(costs) == 1:
        return [f"each method: {_spelt(contestants[0], trials)}"]
    told = [f"{each.name}: {_spelt(each, trials)}" for each in contestants]
    return [
        *told,
        "the methods train on different numbers of domains, so their budgets are equal in trials and steps only",
    ]


def _spelt(contestant: Contestant, trials: int) -> str:
    folds, total = len(contestant.folds), contestant.cost * trials
    counts = f"{trials} trial{'s' * (trials != 1)} x {folds} fold{'s' * (folds != 1)}"
    return f"{counts} x {contestant.steps} steps x {contestant.width} domains = {total:,} steps x domains"


def _shown(axes: Mapping[str, space.Axis]) -> str:
    return " ".join(f"{key}={axis}" for key, axis in axes.items())


def describe(contestant: Contestant) -> str:
    """What is searched of a method, in a line."""
    return f"{contestant.name}: {_shown(contestant.axes)}"


def facts(contestant: Contestant, asked: Asked) -> dict[str, Any]:
    """All that decides the result of a trial, its number aside."""
    config = contestant.config.model_dump(mode="json", exclude={"output_dir", "selection"})
    return {
        "config": config,
        "searched": {key: str(axis) for key, axis in contestant.axes.items()},
        "folds": [fold.name for fold in contestant.folds],
        "steps": contestant.steps,
        "by": asked.by,
        "stops": asked.stops,
        "score": asked.score,
        "seed": asked.seed,
    }
