"""Prompt, solution and answer of a row, from two texts or from chat messages; nothing is dropped without being counted and said."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from igascale.data_import.columns import Columns
from igascale.errors import UserError

_ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant", "developer": "system"}
_ANSWER_LINE = re.compile(r"(?:\A|\n)[ \t]*Answer:[ \t]*(\S[^\n]*)\s*\Z")
_HASHES = re.compile(r"(?:\A|\n)[ \t]*####[ \t]*(\S[^\n]*)\s*\Z")


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
        given = None if columns.answer is None else _text(row.get(columns.answer), columns.answer)
        cot = None if columns.cot is None else _text(row.get(columns.cot), columns.cot, empty=True)
        if given is None:
            body, answer = self._split(completion)
        else:
            body, answer = self._without(completion, given), given.strip()
        if "\n" in answer:
            raise BadRow(
                f"the answer has several lines ('{_short(answer)}'); what is compared with the model's is one line"
            )
        cot = self._without(cot, answer) if cot else cot
        if cot and body and body.strip() != cot.strip():
            raise BadRow(
                f"columns '{columns.cot}' and '{columns.completion or columns.messages}' hold two different solutions; name one of "
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
            turns = _turns(prompt, str(self.columns.prompt), "user")
            if self.columns.completion:
                turns += _turns(completion, self.columns.completion, "assistant")
                return self._conversation(turns)
            return self._problem(turns), ""
        problem = _text(prompt, str(self.columns.prompt))
        if self.columns.completion is None:
            return problem, ""
        return problem, _text(completion, self.columns.completion, empty=self.columns.answer is not None)

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
        for name, pattern in (("a last line 'Answer: ...'", _ANSWER_LINE), ("a last line '#### ...'", _HASHES)):
            if match := pattern.search(completion):
                return self._cut(completion, match.start(), match.end(), match[1], name)
        if boxed := last_boxed(completion):
            self.counts["the answer is that of the last \\boxed{}; the solution keeps it"] += 1
            return completion.strip(), boxed
        raise BadRow(
            "no answer in the completion: no last line 'Answer: ...' or '#### ...', no \\boxed{}; give --answer-field or "
            f"--answer-pattern{_end(completion)}"
        )

    def _cut(self, completion: str, start: int, end: int, answer: str | None, name: str) -> tuple[str, str]:
        if not answer or not answer.strip():
            raise BadRow(f"the answer that {name} finds is empty{_end(completion)}")
        if completion[end:].strip():  # it stands in the midst of the text, which must not lose it
            self.counts[f"the answer is from {name}, in the text, which keeps it"] += 1
            return completion.strip(), answer.strip()
        self.counts[f"the answer is from {name}; the solution is what stands before it"] += 1
        return completion[:start].strip(), answer.strip()

    def _without(self, completion: str, given: str) -> str:
        """The solution, without a last line that says the answer of the answer column again."""
        from igascale.evaluation.answers import normalise_answer

        if normalise_answer(completion) == normalise_answer(given):
            return ""
        for pattern in (_ANSWER_LINE, _HASHES):
            if repeated := pattern.search(completion):
                if normalise_answer(repeated[1]) != normalise_answer(given):
                    raise BadRow(
                        f"column '{self.columns.answer}' says '{_short(given)}', the completion's last line '{_short(repeated[1])}'"
                    )
                return completion[: repeated.start()].strip()
        return completion.strip()


def last_boxed(text: str) -> str | None:
    r"""What the last ``\boxed{}`` holds, braces balanced.

    Example:
        >>> last_boxed(r"so \boxed{1} or \boxed{\frac{1}{2}}.")
        '\\frac{1}{2}'
    """
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed")
    for place in range(begin, len(text)):
        depth += (text[place] == "{") - (text[place] == "}")
        if not depth:
            return text[begin + 1 : place].strip() or None
    return None


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
        said = message.get("role", message.get("from"))
        role = _ROLES.get(str(said).lower(), str(said).lower())
        if role not in ("system", "user", "assistant"):
            raise BadRow(f"{at}: role '{said}'; only system, user and assistant can become a problem and its solution")
        extra = [k for k in ("tool_calls", "function_call", "reasoning_content", "thinking") if message.get(k)]
        if extra:
            raise BadRow(f"{at}: '{extra[0]}' would be lost; put it into the content, or leave it out")
        turns.append((role, _content(message.get("content", message.get("value")), at)))
    return turns


def _content(value: Any, at: str) -> str:
    if isinstance(value, list):  # parts, of which only texts can be kept
        texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in value]
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
