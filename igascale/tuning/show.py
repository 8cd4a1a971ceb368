"""What a search chose, as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence

from igascale.tables import Cell, Column, Table, number
from igascale.tuning.search import Chosen


def chosen_table(chosen: Sequence[Chosen], by: str) -> Table:
    """A row per method: what was chosen, its score and the worst that was tried, what failed, what it took.

    Args:
        chosen: from :meth:`igascale.tuning.search.Search.run`.
        by: how, in words.
    """
    keys = list(dict.fromkeys(key for each in chosen for key in each.contestant.axes))
    columns = [
        Column("method", "left"),
        *(Column(key) for key in keys),
        *(Column(name) for name in ("steps", "score", "worst", "failed", "steps x domains")),
    ]
    return Table(f"Chosen by {by}", columns, [_row(each, keys) for each in chosen], ["score: lower is better"])


def _row(chosen: Chosen, keys: Sequence[str]) -> list[Cell | str | None]:
    scores = [each.best[0] for each in chosen.trials if each.best[1]]
    failed = len(chosen.trials) - len(scores)
    spent = sum(each.budget for each in chosen.trials)
    values: dict[str, Cell | None] = dict.fromkeys(keys)
    score, step, worst = None, None, None
    if chosen.trial is not None:
        best, at = chosen.trial.best
        values |= {key: _value(value) for key, value in chosen.trial.settings.items()}
        score, step, worst = number(best, 4), Cell(str(at), at), number(max(scores), 4)
    lost = Cell(str(failed), failed, emphasis="bad" if failed else "none")
    return [chosen.contestant.name, *values.values(), step, score, worst, lost, Cell(f"{spent:,}", spent)]


def _value(value: object) -> Cell:
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return Cell(f"{value:g}" if plain else json.dumps(value), float(value) if plain else None)  # type: ignore[arg-type]
