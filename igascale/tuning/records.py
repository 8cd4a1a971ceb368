"""What a search has found so far: ``search.json`` says what is searched, ``trials.jsonl`` what each trial came to."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from igascale.errors import UserError
from igascale.files import write_atomically

SEARCH, TRIALS = "search.json", "trials.jsonl"
FINISHED, FAILED, DIVERGED = "finished", "failed", "diverged"


@dataclass(frozen=True)
class Trial:
    """One setting of one method, trained on every fold.

    Attributes:
        method: or hook.
        trial: its number, from 0 on.
        settings: key -> value.
        status: :data:`FINISHED`; :data:`DIVERGED`: no score of it is finite; :data:`FAILED`: a run ended with an error. The last two
            have the worst score there is, and no step is chosen from them.
        reason: why, in a line.
        steps: of each run.
        budget: optimizer steps times domains, of all folds.
        seconds: of all its processes.
        scores: fold -> step -> score, lower is better; ``None`` where it is not finite.
    """

    method: str
    trial: int
    settings: Mapping[str, Any]
    status: str
    reason: str
    steps: int
    budget: int
    seconds: float
    scores: Mapping[str, Mapping[int, float | None]] = field(default_factory=dict)

    @property
    def means(self) -> dict[int, float]:
        """Step -> mean over the folds, where all of them have a finite score."""
        if self.status != FINISHED or not self.scores:
            return {}
        steps = set.intersection(*(set(each) for each in self.scores.values()))
        found = {step: [each[step] for each in self.scores.values()] for step in sorted(steps)}
        whole = {step: [v for v in values if v is not None] for step, values in found.items() if None not in values}
        return {step: sum(values) / len(values) for step, values in whole.items()}

    @property
    def best(self) -> tuple[float, int]:
        """(score, step) of the best step; infinite where there is none. Of equal ones the earliest."""
        return min(((score, step) for step, score in self.means.items()), default=(math.inf, 0))

    def to_json(self) -> str:
        """A line."""
        score, step = self.best
        best = {"best": {"score": score, "step": step} if step else None}
        return json.dumps(asdict(self) | best, ensure_ascii=False, allow_nan=False)


def read_trials(folder: Path) -> list[Trial]:
    """The trials on record.

    Raises:
        UserError: a line is not one.
    """
    path = folder / TRIALS
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            raw = json.loads(line)
            raw.pop("best")
            scores = {fold: {int(step): s for step, s in steps.items()} for fold, steps in raw.pop("scores").items()}
            found.append(Trial(**raw, scores=scores))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}:{number}: not a trial ({error}); remove the line, and the trial is made again"
            ) from None
    return found


def write_trials(folder: Path, trials: Iterable[Trial]) -> None:
    """All of them, by method and number: the order in which they ended makes no difference."""
    ordered = sorted(trials, key=lambda each: (each.method, each.trial))
    write_atomically(folder / TRIALS, "".join(f"{each.to_json()}\n" for each in ordered))


def check_search(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Begin a search in a folder, or go on with it: with more trials or methods, but with nothing else.

    Args:
        folder: that of the search.
        wanted: ``files`` (what it is -> SHA-256; what one start knew of and another did not is not compared) and ``methods`` (name -> what decides its trials).

    Raises:
        UserError: the folder holds something else, or another search; names what differs.
    """
    path = folder / SEARCH
    if not path.is_file():
        if folder.is_dir() and any(each.name != "lock" for each in folder.iterdir()):
            raise UserError(f"{folder}: already exists and holds no search; choose another --out or delete it")
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(wanted, indent=1, ensure_ascii=False) + "\n")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        known = {name: digest for name, digest in wanted["files"].items() if name in before["files"]}
        common = {name: digest for name, digest in before["files"].items() if name in known}
        differences = [*_differences(common, known, "the content of ")]
        for name in before["methods"].keys() & wanted["methods"].keys():
            differences += _differences(_flat(before["methods"][name]), _flat(wanted["methods"][name]), f"{name}: ")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is not a record of a search; choose another --out") from None
    if differences:
        raise UserError(
            f"{folder} holds another search: {'; '.join(differences[:4])}. Put it back, or choose another --out"
        )
    merged = {"files": before["files"] | wanted["files"], "methods": before["methods"] | wanted["methods"]}
    if merged != before:
        write_atomically(path, json.dumps(merged, indent=1, ensure_ascii=False) + "\n")


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str) -> list[str]:
    missing = object()
    keys = [key for key in {**before, **now} if before.get(key, missing) != now.get(key, missing)]
    return [
        f"{prefix}{key} is not what it was"
        if prefix.startswith("the content")
        else f"{prefix}{key} was {_told(before, key)}, is {_told(now, key)}"
        for key in sorted(keys)
    ]


def _told(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else "not there"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The trial with the best score, of equal ones the one with the fewest steps, then the first; ``None`` where all failed."""
    whole = [each for each in trials if each.best[1]]
    return min(whole, key=lambda each: (*each.best, each.trial), default=None)
