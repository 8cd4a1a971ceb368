"""How a run's settings were chosen, as a mark beside its figures and in words below the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igascale.evaluation.run_records import read_config
from igascale.tuning import departures, describe_selection

_MARKS = {"leave_one_domain_out": "L", "in_domain": "I", "ood_oracle": "O!", "fixed": "F"}
NOT_STATED = "?"


@dataclass(frozen=True)
class SelectionMark:
    """How a run was selected.

    Attributes:
        mark: ``L`` leave-one-domain-out, ``I`` in-domain validation, ``O!`` the out-of-distribution data itself, ``F`` fixed,
            ``?`` not stated.
        text: ``lr, max_steps by leave-one-domain-out, 12 trials``.
    """

    mark: str
    text: str


def selection_mark(config: Mapping[str, Any]) -> SelectionMark:
    """Of a run's ``config.yaml`` as it is read.

    Example:
        >>> selection_mark({"selection": {"by": "in_domain", "trials": 8, "searched": {"optimizer.lr": [1e-3, 1e-4]}}}).text
        'lr by in-domain validation, 8 trials'
    """
    selection = config.get("selection")
    if not isinstance(selection, Mapping) or not selection.get("by"):
        return SelectionMark(NOT_STATED, "not stated")
    told, searched = describe_selection(selection, departures(config)), selection.get("searched")
    keys = _short(list(searched)) if isinstance(searched, Mapping) and selection["by"] != "fixed" else []
    text = f"{', '.join(keys)} by {told}" if keys else told
    return SelectionMark(_MARKS.get(str(selection["by"]), NOT_STATED), text)


def run_selection(folder: Path) -> SelectionMark:
    """Of a run folder.

    Raises:
        UserError: it is none.
    """
    return selection_mark(read_config(folder))


def legend(marks: Sequence[SelectionMark]) -> str:
    """What the marks stand for, for a note below a table: each text once."""
    told = dict.fromkeys(f"{mark.mark}: {mark.text}" for mark in marks)
    return f"selected by {'; '.join(told)}"


def _short(keys: Sequence[str]) -> list[str]:
    """The last part of each key, or all of it where two would look alike."""
    last = [key.rpartition(".")[2] for key in keys]
    return [short if last.count(short) == 1 else key for key, short in zip(keys, last)]
