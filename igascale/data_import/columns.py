"""Which column of somebody's rows is what: named by the user, or guessed from common names, and said either way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from igascale.errors import UserError, did_you_mean

#: Field -> names that are taken for it where the user names none, the first that is there.
COMMON = {
    "messages": ("messages", "conversations", "conversation", "chat", "turns"),
    "prompt": ("prompt", "problem", "question", "instruction", "query", "input"),
    "completion": ("completion", "response", "output", "solution"),
    "domain": ("domain", "subject", "topic", "category", "field"),
    "group": ("group", "group_id", "isomer_id", "isomer_group", "problem_id", "pair_id", "set_id"),
    "answer": ("answer", "final_answer", "gold", "target", "label"),
    "cot": ("cot", "chain_of_thought", "rationale", "reasoning", "explanation"),
    "seed": ("seed_id", "source_id"),  # not "seed", which is mostly a sampler's
    "kind": ("kind", "reasoning_type", "type"),
}


@dataclass(frozen=True)
class Columns:
    """The column of each field, or ``None``; either ``messages``, or ``prompt`` with ``completion`` or ``answer``."""

    domain: str
    group: str
    messages: str | None = None
    prompt: str | None = None
    completion: str | None = None
    answer: str | None = None
    cot: str | None = None
    seed: str | None = None
    kind: str | None = None
    input: str | None = None  # beside an instruction, what that is about

    def unused(self, present: Iterable[str]) -> list[str]:
        """Columns of the source that nothing is taken from."""
        used = {getattr(self, field.name) for field in fields(self)}
        return [name for name in present if name not in used]


def choose_columns(named: Mapping[str, str | None], row: Mapping[str, Any], where: str) -> tuple[Columns, list[str]]:
    """Decide from the first rows.

    Args:
        named: field -> the column that the user named, or ``None``.
        row: every column of the first rows, with a value.
        where: they begin, for messages.

    Returns:
        The columns, and what to say of the guesses.

    Raises:
        UserError: a named column is not there, or one that is needed is neither named nor to be guessed.
    """
    present = list(row)
    for field, column in named.items():
        if column is not None and column not in present:
            raise UserError(
                f"{where}: no column '{column}' (--{field}-field){did_you_mean(column, present)}; it has {', '.join(present)}"
            )
    chosen = {field: column for field, column in named.items() if column is not None}
    if "instances" in present and "seed_id" in present and not chosen:
        raise UserError(
            f"{where}: this is a group of isomers already, there is nothing to import; check it with `igascale data validate`"
        )
    guessed = []
    for field, names in COMMON.items():
        if field in chosen or (field in ("prompt", "completion") and "messages" in chosen):
            continue
        if field == "messages" and ("prompt" in chosen or "completion" in chosen):
            continue
        column = next((n for n in names if n in present and n not in chosen.values()), None)
        if column is not None:
            chosen[field] = column
            if (
                field == "answer"
                and "completion" not in chosen
                and "messages" not in chosen
                and "\n" in str(row[column]).strip()
            ):
                field = "completion"  # of several lines: the solution with its answer
                chosen[field] = chosen.pop("answer")
            guessed.append(f"{field} = '{column}'")
    if chosen.get("prompt") == "instruction" and "input" in present and "input" not in chosen.values():
        chosen["input"] = "input"
        guessed.append("the problem's second part = 'input'")
    _check(chosen, present, where)
    notes = [f"guessed from the names of the columns: {', '.join(guessed)}"] if guessed else []
    return Columns(**chosen), notes


def _check(chosen: Mapping[str, str], present: Sequence[str], where: str) -> None:
    for field, why in (
        ("domain", "the domain that a row is told in"),
        ("group", "what the tellings of one problem share"),
    ):
        if field not in chosen:
            raise UserError(
                f"{where}: which column holds {why}? Name it with --{field}-field; it has {', '.join(present)}"
            )
    if "messages" in chosen:
        return
    if "prompt" not in chosen:
        raise UserError(
            f"{where}: no prompt and no messages; name one with --prompt-field or --messages-field; it has {', '.join(present)}"
        )
    if "completion" not in chosen and "answer" not in chosen:
        raise UserError(
            f"{where}: no completion and no answer; name one with --completion-field or --answer-field; it has {', '.join(present)}"
        )
