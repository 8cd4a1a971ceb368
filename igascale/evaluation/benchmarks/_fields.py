"""Strict reading of one record: every complaint names the file, the line or index, the field and what is accepted."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal, NoReturn

from igascale.errors import UserError, did_you_mean

#: In front of an option that carries its own letter: ``A.``, ``(B)``, ``C)``, ``D：``, and ``A,`` right before a Chinese character
#: (dev_zh.txt). Not ``A, B`` and ``A: 1``, which are data.
_LETTERED = re.compile(r"^\s*\(?([A-Z])\s*(?:[.．、)：]|,(?=[\u4e00-\u9fff]))\s*")
_MAYBE_LETTERED = re.compile(r"^\s*\(?([A-Z])\s*[.．、,):：]")


class Fields:
    """The fields of one record.

    Args:
        record: as parsed.
        where: how a message names it, for example ``val.json[3]``.

    Attributes:
        letters: what became of letters in front of the options: ``off``, ``kept``, or None where there were none.
    """

    letters: Literal["off", "kept"] | None = None

    def __init__(self, record: Any, where: str) -> None:
        if not isinstance(record, dict):
            raise UserError(f"{where}: expected an object with one problem, found {_type(record)}")
        try:
            json.dumps(record, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{where}: holds half of a surrogate pair (\\ud800 to \\udfff alone), which is not text; mend the export"
            ) from None
        self.record: dict[str, Any] = record
        self.where = where

    def has(self, spellings: Sequence[str]) -> bool:
        """Whether the field is there and not null or blank text."""
        return any(not _blank(self.record.get(name)) for name in spellings)

    def get(self, spellings: Sequence[str]) -> Any:
        """The value under whichever spelling the record has, None where it has none or null.

        Raises:
            UserError: two spellings with different values.
        """
        found = {name: self.record[name] for name in spellings if not _blank(self.record.get(name))}
        values = list(found.values())
        if any(value != values[0] for value in values[1:]):
            self.fail(" and ".join(found), "are spellings of one field and differ")
        return values[0] if values else None

    def text(self, spellings: Sequence[str]) -> str:
        """A text that must be there and not be empty."""
        value = self.get(spellings)
        if value is None:
            present = [name for name in spellings if name in self.record]
            if present and self.record[present[0]] is not None:
                self.fail(present[0], "is empty")
            self._missing(spellings)
        if not isinstance(value, str):
            self.fail(self._name(spellings), f"must be a text, not {_type(value)}")
        return str(value).strip()

    def optional_text(self, spellings: Sequence[str]) -> str | None:
        """A text, or None; numbers are taken as their text."""
        value = self.get(spellings)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            self.fail(self._name(spellings), f"must be a text, not {_type(value)}")
        return str(value).strip() or None

    def options(self, spellings: Sequence[str], count: int | None = None, *, lettered: bool = False) -> tuple[str, ...]:
        """The answer options: a list of texts; `letters` then says what became of letters in front of them.

        Args:
            spellings: of the field.
            count: how many there must be; None takes two or more.
            lettered: the file is published with letters in front of its options, which are taken off.
        """
        value = self.get(spellings)
        if value is None:
            self._missing(spellings)
        name = self._name(spellings)
        if not isinstance(value, list) or not all(isinstance(option, str) for option in value):
            self.fail(name, f"must be a list of texts, not {_type(value)}")
        if count is not None and len(value) != count:
            self.fail(name, f"has {len(value)} options; there must be {count}")
        if len(value) < 2:
            self.fail(name, f"has {len(value)} options; there must be two or more")
        if len(value) > 26:
            self.fail(name, f"has {len(value)} options; letters reach to 26")
        for index, option in enumerate(value):
            if not option.strip():
                self.fail(f"{name}[{index}]", "is empty")
        bare, kept = without_letters(value), tuple(option.strip() for option in value)
        if lettered and bare != kept:
            self.letters = "off"
            return bare
        self.letters = "kept" if _begin_with_their_own(_MAYBE_LETTERED, kept) else None
        return kept

    def letter(self, spellings: Sequence[str], options: Sequence[str]) -> str:
        """The right option's letter, from an index that counts from 0 (a number or its digits)."""
        value = self.get(spellings)
        if value is None:
            self._missing(spellings)
        name = self._name(spellings)
        if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self.fail(name, f"must be the index of an option, 0 to {len(options) - 1}, not {value!r}")
        if not 0 <= value < len(options):
            self.fail(name, f"is {value}, outside the options 0 to {len(options) - 1}")
        return chr(ord("A") + value)

    def one_of(self, name: str, value: str, known: Sequence[str]) -> str:
        """The known value that this one is."""
        if value not in known:
            self.fail(name, f"is {value!r}, not one of {', '.join(known)}{did_you_mean(value, known)}")
        return value

    def fail(self, name: str, problem: str) -> NoReturn:
        """One line that names the record and the field."""
        raise UserError(f"{self.where}: field '{name}': {problem}")

    def _missing(self, spellings: Sequence[str]) -> NoReturn:
        others = [key for key in self.record if key not in spellings]
        accepted = f"; accepted spellings: {', '.join(spellings)}" if len(spellings) > 1 else ""
        hint = did_you_mean(spellings[0], others).replace("did you mean", "is it")
        self.fail(spellings[0], f"is missing{accepted}{hint}")

    def _name(self, spellings: Sequence[str]) -> str:
        return next((name for name in spellings if not _blank(self.record.get(name))), spellings[0])


def without_letters(options: Sequence[str]) -> tuple[str, ...]:
    """The options stripped of blanks and, where each begins with its own letter, of the letters.

    Letters without which two options would be the same are no mere letters, and stay.

    >>> without_letters(["A.rain", "B. snow"]), without_letters(["A. Smith", "J. Smith"])
    (('rain', 'snow'), ('A. Smith', 'J. Smith'))
    """
    kept = tuple(option.strip() for option in options)
    if not _begin_with_their_own(_LETTERED, kept):
        return kept
    bare = tuple(_LETTERED.sub("", option).strip() for option in kept)
    return bare if all(bare) and len(set(bare)) == len(set(kept)) else kept


def _begin_with_their_own(letters: re.Pattern[str], options: Sequence[str]) -> bool:
    found = [letters.match(option) for option in options]
    return all(match is not None and match[1] == chr(ord("A") + i) for i, match in enumerate(found))


def _blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
