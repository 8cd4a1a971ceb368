"""Prompt, solution and answer of a row, from two texts or from chat messages; nothing is dropped without being counted and said."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from igascale.data_import.answers import (
    is_sentence,
    last_boxed,
    last_line,
    last_marked,
    mentions,
    otherwise,
    same,
    scorable,
    unboxed,
    unmarked,
)
from igascale.data_import.columns import Columns
from igascale.errors import UserError

_ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant", "developer": "system"}
_TAKEN = ("role", "from", "content", "value", "name", "id", "weight")  # of a message; anything else in it would be lost


class BadRow(Exception):
    """A row that cannot be taken; the message names the column."""


@dataclass(frozen=True)
class Texts:
    """What a row says."""

    problem: str
    cot: str
    answer: str


@dataclass
class TextReader:
    """Takes rows apart.

    Attributes:
        columns: where what stands.
        pattern: of the answer in a completion, with one group or none; ``None``: the usual ones.
        system: what becomes of a system message: ``prepend`` (to the problem) or ``drop``.
        turns: of a conversation of several turns: ``refuse``, or ``join`` (all before the last answer is the problem).
        counts: what happened, for :meth:`notes`.
    """

    columns: Columns
    pattern: re.Pattern[str] | None = None
    system: str = "prepend"
    turns: str = "refuse"
    counts: Counter[str] = field(default_factory=Counter)

    def read(self, row: dict[str, Any]) -> Texts:
        """Raises :class:`BadRow` where something is missing, or two places disagree."""
        columns = self.columns
        if columns.messages:
            problem, completion = self._conversation(_turns(row.get(columns.messages), columns.messages))
        else:
            problem, completion = self._pair(row)
        given = None if columns.answer is None else self._given(_text(row.get(columns.answer), columns.answer))
        cot = None if columns.cot is None else _text(row.get(columns.cot), columns.cot, empty=True)
        spoken = columns.completion or columns.messages or columns.prompt
        if given is None:
            body, answer = self._split(completion)
            of = f"column '{spoken}'"
        else:
            of = f"column '{columns.answer}'"
            body, answer = _without(completion, given, of, "the completion"), given
        _check_answer(answer)
        cot = _without(cot, answer, of, f"column '{columns.cot}'") if cot else cot
        if cot and body and body.strip() != cot.strip():
            raise BadRow(
                f"columns '{columns.cot}' and '{spoken}' hold two different solutions; name one of "
                "them alone (--cot-field, --completion-field)"
            )
        return Texts(problem, cot or body, answer)

    def notes(self) -> list[str]:
        """What was decided, and for how many rows."""
        return [f"{count:,} rows: {what}" for what, count in self.counts.items()]

    # Two texts, or messages.

    def _pair(self, row: dict[str, Any]) -> tuple[str, str]:
        prompt, completion = (
            row.get(name) if name else None for name in (self.columns.prompt, self.columns.completion)
        )
        if isinstance(prompt, list) or isinstance(completion, list):  # conversations in two halves
            if self.columns.input and _holds(row.get(self.columns.input)):
                raise BadRow(f"column '{self.columns.input}' beside messages would be lost; put it into them")
            turns = _turns(prompt, str(self.columns.prompt), "user")
            if self.columns.completion:
                turns += _turns(completion, self.columns.completion, "assistant")
                return self._conversation(turns)
            return self._problem(turns), ""
        problem = self._with_input(_text(prompt, str(self.columns.prompt)), row)
        if self.columns.completion is None:
            return problem, ""
        return problem, _text(completion, self.columns.completion, empty=self.columns.answer is not None)

    def _with_input(self, problem: str, row: dict[str, Any]) -> str:
        """An instruction and what it is about (Alpaca) are one problem."""
        more = _text(row.get(self.columns.input), self.columns.input, empty=True) if self.columns.input else ""
        if not more.strip():
            return problem
        self.counts[
            f"column '{self.columns.input}' stands after the {self.columns.prompt}, as part of the problem"
        ] += 1
        return f"{problem.rstrip()}\n\n{more.strip()}"

    def _conversation(self, turns: list[tuple[str, str]]) -> tuple[str, str]:
        if not turns or turns[-1][0] != "assistant":
            raise BadRow("the last message is not the assistant's, so there is no completion")
        return self._problem(turns[:-1]), turns[-1][1]

    def _problem(self, turns: list[tuple[str, str]]) -> str:
        """Everything before the completion as one text."""
        system = [text for role, text in turns if role == "system" and text.strip()]
        said = [(role, text) for role, text in turns if role != "system"]
        if not any(role == "user" for role, _ in said):
            raise BadRow("no message of the user, so there is no problem")
        if len(said) == 1:
            problem = said[0][1]
        elif self.turns == "join":
            self.counts["earlier turns are part of the problem, each with its speaker (--turns join)"] += 1
            problem = "\n\n".join(f"{role.capitalize()}: {text}" for role, text in said)
        else:
            raise BadRow(
                f"{len(said)} messages before the last answer; a problem is told in one. --turns join makes them one text, with speakers"
            )
        if not system:
            return problem
        if self.system == "drop":
            self.counts["the system message is left out (--system drop)"] += 1
            return problem
        self.counts["the system message stands before the problem (--system prepend)"] += 1
        return "\n\n".join([*system, problem])

    # The answer.

    def _given(self, answer: str) -> str:
        """The answer column's, without an ``Answer:`` or a box of its own."""
        bare = unboxed(unmarked(answer))
        if bare != answer.strip():
            self.counts["'Answer:', '####' or a \\boxed{} around the answer column's text is taken off"] += 1
        return bare

    def _split(self, completion: str) -> tuple[str, str]:
        """Solution and answer of a completion."""
        if self.pattern is not None:
            found = list(self.pattern.finditer(completion))
            if not found:
                raise BadRow(
                    f"no answer in the completion: --answer-pattern {self.pattern.pattern} is not found{_end(completion)}"
                )
            last = found[-1]
            answer = last[1] if self.pattern.groups else last[0]
            return self._cut(completion, last.start(), last.end(), answer, "the pattern")
        if marked := last_line(completion):
            return self._cut(completion, marked[0], len(completion), marked[1], f"a last line {marked[2]}")
        if boxed := last_boxed(completion):
            if other := otherwise(completion, boxed):
                raise BadRow(
                    f"the last \\boxed{{}} says '{_short(boxed)}', and after it stands the answer '{_short(other)}'; mend the row, "
                    "or say which it is with --answer-field or --answer-pattern"
                )
            self.counts["the answer is that of the last \\boxed{}; the solution keeps it"] += 1
            return completion.strip(), boxed
        raise BadRow(
            "no answer in the completion: no last line 'Answer: ...' or '#### ...', no \\boxed{}; give --answer-field or "
            f"--answer-pattern{_end(completion)}"
        )

    def _cut(self, completion: str, start: int, end: int, answer: str | None, name: str) -> tuple[str, str]:
        if not answer or not answer.strip():
            raise BadRow(f"the answer that {name} finds is empty{_end(completion)}")
        answer = unboxed(answer)
        if is_sentence(answer):
            raise BadRow(
                f"what {name} finds is a sentence about the answer ('{_short(answer)}'); give --answer-field or --answer-pattern"
            )
        if completion[end:].strip():  # it stands in the midst of the text, which must not lose it
            self.counts[f"the answer is from {name}, in the text, which keeps it"] += 1
            return completion.strip(), answer
        self.counts[f"the answer is from {name}; the solution is what stands before it"] += 1
        return completion[:start].strip(), answer


def _without(text: str, answer: str, of: str, where: str) -> str:
    """The solution, without a last line that says the answer again; a text that says another is a bad row.

    Args:
        text: the solution.
        answer: what it must say, if it says one.
        of: where the answer is from, for a message.
        where: the text is from.
    """
    if same(text, answer):
        return ""
    marked, boxed = last_line(text), last_boxed(text)
    name, said = "last marked answer", last_marked(text)
    if marked or boxed:
        name, said = ("last line", marked[1]) if marked else ("last \\boxed{}", boxed)
    if said and not (same if marked or boxed else mentions)(said, answer):
        raise BadRow(f"{of} says '{_short(answer)}', {where}'s {name} '{_short(said)}'")
    if boxed and not marked and (other := otherwise(text, answer)):
        raise BadRow(f"{of} says '{_short(answer)}', and {where} after its last \\boxed{{}} '{_short(other)}'")
    return (text[: marked[0]] if marked else text).strip()


def _check_answer(answer: str) -> None:
    if len(answer.splitlines()) > 1:
        raise BadRow(
            f"the answer has several lines ('{_short(answer)}'); what is compared with the model's is one line"
        )
    if not scorable(answer):
        raise BadRow(
            f"no model could be scored right on the answer '{_short(answer)}': of a line 'Answer: {_short(answer)}' something else is read"
        )


def check_pattern(pattern: str | None) -> re.Pattern[str] | None:
    """The user's pattern.

    Raises:
        UserError: it is no regular expression, or has several groups.
    """
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern, re.MULTILINE)
    except re.error as error:
        raise UserError(f"--answer-pattern {pattern}: not a regular expression ({error})") from None
    if compiled.groups > 1:
        raise UserError(
            f"--answer-pattern {pattern}: has {compiled.groups} groups; one marks the answer, make the others (?:...)"
        )
    return compiled


def _turns(value: Any, column: str, role: str = "user") -> list[tuple[str, str]]:
    """(role, text) of each message; a plain text is one message of ``role``."""
    if isinstance(value, str):
        return [(role, value)]
    if not isinstance(value, list):
        raise BadRow(f"column '{column}': expected a list of messages, not {kind_of(value)}")
    turns = []
    for number, message in enumerate(value):
        at = f"column '{column}', message {number + 1}"
        if not isinstance(message, dict):
            raise BadRow(f"{at}: expected an object with role and content, not {kind_of(message)}")
        said = message.get("from") if message.get("role") is None else message["role"]
        role = _ROLES.get(str(said).lower(), str(said).lower())
        if role not in ("system", "user", "assistant"):
            raise BadRow(f"{at}: role '{said}'; only system, user and assistant can become a problem and its solution")
        if extra := [key for key, value in message.items() if key not in _TAKEN and _holds(value)]:
            raise BadRow(f"{at}: '{extra[0]}' would be lost; put it into the content, or leave it out")
        if _holds(message.get("content")) and _holds(message.get("value")) and message["content"] != message["value"]:
            raise BadRow(f"{at}: 'content' and 'value' differ; leave one out")
        content = message.get("content")
        turns.append((role, _content(message.get("value") if content is None else content, at)))
    return turns


def _holds(value: Any) -> bool:
    """Whether there is something that could be lost. (Tables fill up what a row lacks with nothing, lists too.)"""
    if isinstance(value, (list, dict)):
        return any(_holds(part) for part in (value.values() if isinstance(value, dict) else value))
    return bool(value)


def _content(value: Any, at: str) -> str:
    if isinstance(value, list):  # parts, of which only texts can be kept
        texts = [
            part.get("text")
            if isinstance(part, dict)
            and part.get("type") == "text"
            and not any(_holds(other) for key, other in part.items() if key not in ("type", "text"))
            else None
            for part in value
        ]
        if None in texts:
            raise BadRow(f"{at}: holds something that is not text")
        value = "\n".join(str(text) for text in texts)
    if not isinstance(value, str):
        raise BadRow(f"{at}: expected text, not {kind_of(value)}")
    return value


def _text(value: Any, column: str, empty: bool = False) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = repr(value)
    if value is None and empty:
        value = ""
    if not isinstance(value, str):
        raise BadRow(f"column '{column}': expected text, not {kind_of(value)}")
    if not value.strip() and not empty:
        raise BadRow(f"column '{column}': is empty")
    return value


def kind_of(value: Any) -> str:
    """What a value is, for a message."""
    names = {type(None): "nothing", bool: "a boolean", list: "a list", dict: "an object", str: "a text"}
    return names.get(type(value), type(value).__name__)


def _end(text: str) -> str:
    return f" (it ends '...{_short(text.strip()[-40:])}')"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:60] + "..."
