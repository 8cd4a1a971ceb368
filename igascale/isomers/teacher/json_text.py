r"""The one JSON object in a teacher's text: strictly, or not at all.

Let pass: prose and code fences around the object, a ``<think>`` block before it, commas before a closing bracket, raw line breaks in a string.
Not let pass, because the answer would be a guess: an object that does not end, two objects, an array around it, NaN and infinities, a
name twice in an object, half a surrogate pair.

LaTeX is the trap. ``"\frac"`` in a reply is JSON for a form feed and ``rac``; ``"\theta"`` for a tab and ``heta``; ``"\("`` is no JSON at all.
Three kinds of backslash are told apart, from left to right (so that ``\\`` is always one escaped backslash):

- no JSON escape (``\(``, ``\alpha``, ``\%``): the backslash was meant, and is kept; ``\'`` is a quote. Before a digit: refused.
- ``\b``, ``\f``, ``\n``, ``\r`` or ``\t`` that begins a LaTeX command (``\frac``, ``\neq``): the command was meant.
- a command that reads as a line break or tab and a plain word as well (``\nu``: a new line, then "u"; ``\to``, ``\ne``): the command, if it
  follows ``$``, ``{``, ``^`` or ``_`` at once or the reply has a backslash of the first two kinds elsewhere; else what JSON says it is. A
  relation before a closing bracket or full stop relates nothing: ``\ni)`` is the first item of a list on a new line.

A backspace or form feed that is left over is a command not in the list of latex.py, damaged: refused.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from igascale.isomers.teacher.latex import AMBIGUOUS, CONTROL, UNICODE

_ESCAPES = "bfnrt"
_RELATIONS = ("ne", "ni")
_BACKSLASH = re.compile(r"\\(u[0-9a-fA-F]{4}|[A-Za-z]+|.)|\\$", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_MARKS = re.compile(r'["{}\[\]]')
_END_OF_THOUGHTS = re.compile(r"^</think>", re.MULTILINE)
_TRAILING_COMMA = re.compile(r"(?<![\[{,:\s])(\s*),(\s*[}\]])")


class NotJson(ValueError):
    """The text does not hold exactly one JSON object; the message says why."""


def parse_object(text: str) -> dict[str, Any]:
    """The one JSON object in a text.

    Args:
        text: what the teacher wrote.

    Raises:
        NotJson: there is none, more than one, or it is damaged.
    """
    source = _mended(_the_object(_after_thoughts(text)))
    try:
        value = json.loads(source, strict=False, object_pairs_hook=_object, parse_constant=_refuse, parse_float=_finite)
    except NotJson:
        raise
    except RecursionError:
        raise NotJson("nested too deeply") from None
    except ValueError as error:
        raise NotJson(str(error)) from None
    assert isinstance(value, dict)
    _check_characters(value)
    return value


def _after_thoughts(text: str) -> str:
    """The text without the thoughts before it; chat templates may have opened them, so that only their end is there to see."""
    if text.lstrip().startswith("<think>"):
        _, end, text = text.partition("</think>")
        if not end:
            raise NotJson("the thoughts never end")
        return text
    end_of_line = _END_OF_THOUGHTS.search(text)
    return text[end_of_line.end() :] if end_of_line else text


def _the_object(text: str) -> str:
    """The part from the first object's opening brace to its closing one, when it is the only object."""
    found: list[tuple[int, int]] = []
    at = 0
    while (start := text.find("{", at)) >= 0:
        if not re.match(r'\{\s*["}]', text[start : start + 200]):
            at = start + 1  # braces of prose, such as {A, B}
            continue
        end = _end_of_object(text, start)
        found.append((start, end))
        at = end
    if not found:
        raise NotJson("no JSON object in the text")
    if len(found) > 1:
        raise NotJson(f"{len(found)} JSON objects in the text")
    start, end = found[0]
    if text[:start].rstrip().endswith("["):
        raise NotJson("the object is inside an array")
    if text.count("{", 0, start) > text.count("}", 0, start):
        raise NotJson("the object is inside braces that are not JSON")
    return text[start:end]


def _end_of_object(text: str, start: int) -> int:
    """One past the brace that closes the one at ``start``."""
    open_brackets: list[str] = []
    at = start
    while mark := _MARKS.search(text, at):
        character, at = mark.group(), mark.end()
        if character == '"':
            string = _STRING.match(text, mark.start())
            if string is None:
                break
            at = string.end()
        elif character in "{[":
            open_brackets.append("}" if character == "{" else "]")
        elif not open_brackets or open_brackets.pop() != character:
            raise NotJson(f"brackets do not match at character {mark.start()}")
        if not open_brackets:
            return at
    raise NotJson("the object is cut off: it never ends")


def _mended(source: str) -> str:
    """Backslashes and trailing commas as JSON has them."""
    if "\\" not in source and not _TRAILING_COMMA.search(source):
        return source
    raw = "\\" in source and any(
        _is_raw(m) is True for s in _STRING.finditer(source) for m in _BACKSLASH.finditer(s.group())
    )
    parts: list[str] = []
    at = 0
    for string in _STRING.finditer(source):
        parts.append(_TRAILING_COMMA.sub(r"\1\2", source[at : string.start()]))
        parts.append(_BACKSLASH.sub(lambda m: _escape(m, raw), string.group()))
        at = string.end()
    parts.append(_TRAILING_COMMA.sub(r"\1\2", source[at:]))
    return "".join(parts)


def _is_raw(match: re.Match[str]) -> bool | None:
    """Whether a backslash stands for itself: yes, no, or (None) it depends on the rest of the reply."""
    what = match.group(1)
    if what is None or what[0] in "\"\\/'" or re.fullmatch("u[0-9a-fA-F]{4}", what):
        return False
    if what[0] not in _ESCAPES:
        return True
    if what in _RELATIONS and match.string[match.end() : match.end() + 1] in (")", "."):
        return False
    if what in AMBIGUOUS:
        return True if match.string[match.start() - 1] in "${^_" else None
    return what in CONTROL


def _escape(match: re.Match[str], raw: bool) -> str:
    what = match.group(1)
    if what == "'":
        return "'"
    is_raw = _is_raw(match)
    if is_raw and (what.isdigit() or what.isspace() or (what[0] == "u" and what not in UNICODE)):
        raise NotJson(f"a backslash before {what!r}: neither JSON nor LaTeX")
    return "\\" + match.group() if is_raw or (is_raw is None and raw) else match.group()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise NotJson(f"the name {twice!r} stands twice in one object")
    return value


def _refuse(constant: str) -> Any:
    raise NotJson(f"{constant} is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise NotJson(f"{digits} is too large a number")
    return value


def _check_characters(value: Any) -> None:
    written = json.dumps(value, ensure_ascii=False)
    try:
        written.encode("utf-8")
    except UnicodeEncodeError:
        raise NotJson("half a surrogate pair in a string") from None
    # json.dumps writes these two escapes for the control characters alone; an escaped backslash is always written as two.
    if damaged := re.search(r"(?<!\\)(?:\\\\)*\\([bf])(\w*)", written):
        raise NotJson(
            f"a control character: '\\{damaged[1]}{damaged[2]}' looks like a LaTeX command that was not escaped"
        )
