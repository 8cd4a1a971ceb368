"""What a comparison of runs cannot show, by how their settings were chosen and by what stands beside them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["erm", "mixed", "control", "rule"]
#: ``selection.by`` in words.
BY = {
    "leave_one_domain_out": "leave-one-domain-out",
    "in_domain": "in-domain validation",
    "ood_oracle": "the out-of-distribution data",
    "fixed": "fixed settings",
}
NOT_STATED = "selection not stated"


@dataclass(frozen=True)
class Compared:
    """A run, or all seeds of a method, in a comparison.

    Attributes:
        name: as the table calls it.
        hook: the rule's name.
        role: ``erm``: the mean of the training data as it is; ``mixed``: the control with permuted domain labels; ``control``: one
            with other things permuted, or the mean of other data; ``rule``: any other.
        selection: the ``selection`` section of its configuration; empty where none is stated.
        departed: keys that were set after the search to what it never tried.
    """

    name: str
    hook: str
    role: Role
    selection: Mapping[str, Any] = field(default_factory=dict)
    departed: Sequence[str] = ()

    @classmethod
    def of(cls, name: str, config: Mapping[str, Any]) -> Compared:
        """From a run's ``config.yaml`` as it is read; keys that an older version did not write are taken as not set."""
        data, hook = config.get("data") or {}, config.get("hook") or {}
        role, chosen = _role(hook, data), config.get("selection") or {}
        return cls(name, hook.get("name", "iga"), role, chosen, departures(config))

    @property
    def by(self) -> str | None:
        """``selection.by``; ``None`` where it is not stated."""
        return self.selection.get("by")

    @property
    def tuned(self) -> bool:
        """Something was searched, not on the out-of-distribution data, and the run has what was searched."""
        searched = self.by in ("leave_one_domain_out", "in_domain") and self.selection.get("trials", 1) > 1
        return searched and not self.departed


def _role(hook: Mapping[str, Any], data: Mapping[str, Any]) -> Role:
    pairing = data.get("pairing", "isomers")
    if hook.get("name") == "mean":
        whole = data.get("pool", "groups") in ("groups", "instances") and data.get("num_domains") is None
        return "erm" if whole and pairing == "isomers" else "control"
    if pairing == "mixed":
        return "mixed"
    return "control" if hook.get("shuffled") or pairing == "random" else "rule"


def departures(config: Mapping[str, Any]) -> list[str]:
    """Keys that a search chose and that have a value now which it never tried: an override, a row of a study, another hook.

    Args:
        config: a run's; a section that it lacks is not looked at.
    """
    searched = (config.get("selection") or {}).get("searched")
    if not isinstance(searched, Mapping):
        return []
    found = []
    for key, tried in searched.items():
        section, _, rest = str(key).partition(".")
        values = config.get(section)
        if isinstance(values, Mapping) and isinstance(tried, list) and values.get(rest) not in tried:
            found.append(str(key))
    return found


def describe_selection(selection: Mapping[str, Any] | None, departed: Sequence[str] = ()) -> str:
    """How a run was selected, for a cell of a table: ``leave-one-domain-out, 8 trials``.

    Args:
        selection: the section of its configuration.
        departed: from :func:`departures`.
    """
    by = (selection or {}).get("by")
    if selection is None or by is None:
        return NOT_STATED
    if by == "fixed":
        return BY[by]
    trials = selection.get("trials", 1)
    told = f"{BY.get(by, by)}, {trials} trial{'s' * (trials != 1)}"
    return f"{told}, then changed: {', '.join(departed)}" if departed else told


def claims(runs: Sequence[Compared], gains: Collection[str] | None = None) -> list[str]:
    """What a reader must be told before believing a difference between runs.

    Args:
        runs: what is compared, each under a name of its own.
        gains: names of those that are said to be better than ERM; by default every rule that is neither ERM nor a control.

    Returns:
        A sentence per reservation, the gravest first; empty where nothing is to be said.
    """
    claimed = [run for run in runs if run.role == "rule" and (gains is None or run.name in gains)]
    return [
        *_without_erm(runs, claimed),
        *_without_control(runs, claimed),
        *_how_selected(runs),
        *_unequal(runs),
    ]


def _without_erm(runs: Sequence[Compared], claimed: Sequence[Compared]) -> Iterable[str]:
    if not claimed or any(run.role == "erm" and run.tuned for run in runs):
        return
    erm = [run.name for run in runs if run.role == "erm"]
    found = (
        f"{_names(erm)} {'was' if len(erm) == 1 else 'were'} not tuned"
        if erm
        else "there is no ERM (hook mean, method erm-sft)"
    )
    yield (
        f"NO TUNED ERM beside {_names(run.name for run in claimed)}: {found}. How the learning rate is chosen moves ERM by more than "
        "any rule does; without it a gain says nothing about the rule (igascale tune --method erm-sft)"
    )


def _without_control(runs: Sequence[Compared], claimed: Sequence[Compared]) -> Iterable[str]:
    controls = {run.hook for run in runs if run.role == "mixed"}
    lacking = [run for run in claimed if run.hook not in controls]
    if lacking:
        yield (
            f"NO MIXED CONTROL beside {_names(run.name for run in lacking)}: without the same rule on permuted domain labels "
            "(data.pairing: mixed, method iga-mixed) a gain may come from anything but conflict between domains"
        )


def _how_selected(runs: Sequence[Compared]) -> Iterable[str]:
    by: dict[str | None, list[str]] = {}
    for run in runs:
        by.setdefault(run.by, []).append(run.name)
    if oracle := by.get("ood_oracle"):
        yield f"SELECTED ON THE OUT-OF-DISTRIBUTION DATA: {_names(oracle)}; such figures are a ceiling, not a result"
    if in_domain := by.get("in_domain"):
        yield (
            f"only in-domain validation chose the settings of {_names(in_domain)}: it favours runs that fitted what holds in the "
            "training domains alone; leave one training domain out (igascale tune --by leave-one-domain-out)"
        )
    if fixed := by.get("fixed"):
        yield f"{_names(fixed)} ran at fixed settings that nothing was done to choose: equal settings are not a fair comparison"
    for run in runs:
        if run.departed:
            yield (
                f"{run.name} was searched, but {_names(run.departed)} {'is' if len(run.departed) == 1 else 'are'} now what the search never "
                "tried: its settings were not chosen by it"
            )
    if missing := by.get(None):
        yield f"how learning rate and steps of {_names(missing)} were chosen is not stated (selection in the configuration)"
    ways = [BY.get(way, way) for way in by if way is not None]
    if len(by) > 1 and ways:
        told = [*ways, *(["not stated"] if None in by else [])]
        yield f"the runs were not selected in one way ({', '.join(told)}): their difference is also one of selection"


def _unequal(runs: Sequence[Compared]) -> Iterable[str]:
    """Budgets, in training where every search says so, else in trials."""
    searched = [run for run in runs if run.by not in (None, "fixed")]
    whole = all(run.selection.get("budget") is not None for run in searched)
    key, unit = ("budget", "steps x domains") if whole else ("trials", "trials")
    budgets = {run.name: run.selection.get(key, 1) for run in searched}
    if len(set(budgets.values())) > 1:
        shown = ", ".join(f"{name} {budget}" for name, budget in sorted(budgets.items(), key=lambda item: -item[1]))
        yield f"UNEQUAL BUDGETS of the searches, in {unit}: {shown}; more tries alone look like a better rule"


def _names(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
