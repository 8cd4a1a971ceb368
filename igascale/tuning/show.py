"""What a search chose, as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence

from igascale.tables import Cell, Column, Table, number
from igascale.tuning.search import Chosen


def chosen_table(chosen: Sequence[Chosen], by: str) -> Table:
    """A row per method: what was chosen, its score, and the worst and the best that were tried.

    Args:
        chosen: from :meth:`igascale.tuning.search.Search.run`.
        by: how, in words.
    """
    columns = [
        Column("method", "left"),
        Column("chosen", "left"),
        Column("steps"),
        Column("score"),
        Column("worst"),
        Column("failed"),
        Column("steps x domains"),
    ]
    return Table(f"Chosen by {by}", columns, [_row(each) for each in chosen], ["score: lower is better"])


def _row(chosen: Chosen) -> list[Cell | str | None]:
    scores = [each.best[0] for each in chosen.trials if each.best[1]]
    failed = len(chosen.trials) - len(scores)
    spent = sum(each.budget for each in chosen.trials)
    count = Cell(str(failed), value=failed, emphasis="bad" if failed else "none")
    last: list[Cell | str | None] = [count, Cell(f"{spent:,}", value=spent)]
    if chosen.trial is None:
        return [chosen.contestant.name, Cell("nothing: all trials failed", emphasis="bad"), None, None, None, *last]
    score, step = chosen.trial.best
    settings = " ".join(f"{key}={json.dumps(value)}" for key, value in chosen.trial.settings.items())
    return [
        chosen.contestant.name,
        settings,
        Cell(str(step), value=step),
        number(score, digits=4),
        number(max(scores), digits=4),
        *last,
    ]
