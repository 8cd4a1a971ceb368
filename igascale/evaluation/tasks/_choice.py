"""Multiple choice: which option a text names, by its letter or its full text (docs/scoring.md).

Nothing is guessed: a text that names two options, denies one, or names a letter that no option has, gives no answer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from igascale.evaluation.benchmarks.base import BenchmarkItem
from igascale.evaluation.benchmarks.math import last_boxed
from igascale.evaluation.tasks._reading import marked, said, without_markup
from igascale.evaluation.tasks.base import Task, with_instruction

_ROUND = " \t.,;:!()[]{}<>\"'“”‘’«»_"
#: "The answer is B" without a colon.
_PROSE = re.compile(
    r"\b(?:answer|(?:correct|right|best)\s+(?:option|choice))\s+(?:is|must be|would be|should be)\b[ \t]*",
    re.IGNORECASE,
)
#: What may stand before the letter in an answer.
_BEFORE = re.compile(
    r"(?:(?:the\s+)?(?:correct\s+|right\s+|best\s+|final\s+)*(?:answer|option|choice)\s+is\s*:?\s*)?"
    r"(?:(?:the\s+)?(?:option|choice|letter|answer)\s*:?\s+)?",
    re.IGNORECASE,
)
#: A letter of its own: (B), [b], B. or B before something; then what parts it from the rest.
_LETTERED = re.compile(
    r"[(\[{<]?\s*(?P<letter>[A-Za-z])\s*(?P<glue>[)\]}>]\s*[.:,;–—-]?|[.:,;–—-]|(?=\s))(?P<rest>.*)", re.DOTALL
)
#: After a letter that nothing parts from the rest: what makes it a letter still, not the article "a" or the pronoun "I".
_ASSERTED = re.compile(r"\s*(?:because|since|as\b|,|is\s+(?:the\s+)?(?:correct|right|best|most|only)\b)", re.IGNORECASE)
_DENIED = re.compile(
    r"\W*(?:(?:is|was|are|can|could|must|does|would)(?:\s+not\b|n[’']t\b|not\b|\s+never\b)"
    r"|(?:is|was)\s+(?:clearly\s+)?(?:wrong|incorrect|false|ruled|eliminated)|(?:is\s+)?(?:wrong|incorrect)\b)",
    re.IGNORECASE,
)
#: A second letter that stands beside the first as its equal: "or C", "/C", "and (C)".
_SECOND = re.compile(
    r"\s*(?:(?:and/or|or|and|&|/|\+|,)\s*)+(?:option\s+|choice\s+)?[(\[]?([A-Za-z])(?![A-Za-z'’])", re.IGNORECASE
)


class MultipleChoice(Task):
    """A passage, a question, lettered options, one of them right."""

    def prompt(self, item: BenchmarkItem) -> str:
        """Problem, options with their letters, instruction."""
        return with_instruction(item.problem, "X", "where X is the letter of the right option")

    def extract(self, text: str, item: BenchmarkItem) -> str | None:
        """The letter of the option that the text names, see :func:`chosen`."""
        return chosen(text, item.options)

    def is_correct(self, predicted: str | None, item: BenchmarkItem) -> bool:
        """Whether it is the right option's letter."""
        return predicted is not None and predicted == item.answer


def chosen(text: str, options: Sequence[str]) -> str | None:
    r"""The letter of the option that a text gives as its answer, or ``None``.

    Read is, in this order, the first that there is: the line behind the last ``Answer:``; the last ``\boxed{}`` that names an
    option; what follows the last "the answer is"; the text, where it is one line; the last line, where it is a letter alone
    and no line of a list.

    Args:
        text: what the model wrote.
        options: their texts; the first is A.

    Example:
        >>> chosen("It cannot be A.\n**ANSWER: (b)**", ["rain", "snow"]), chosen("Answer: A or B", ["rain", "snow"])
        ('B', None)
    """
    text = unicodedata.normalize("NFKC", said(text))
    line = marked(text)
    if line is not None:
        return _named(line, options)
    boxed = last_boxed(text)
    in_box = None if boxed is None else _named(boxed, options)
    if in_box is not None:
        return in_box
    prose = list(_PROSE.finditer(text))
    if prose:
        return _named(text[prose[-1].end() :].split("\n")[0], options)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) == 1:
        return _named(lines[0], options)
    if len(lines) > 1 and not _LETTERED.match(without_markup(lines[-2])):
        return _lone(without_markup(lines[-1]), options)
    return None


def _named(line: str, options: Sequence[str]) -> str | None:
    """The option that a line names as its whole content, or with more behind it."""
    if r"\boxed" in line or r"\fbox" in line:
        line = last_boxed(line) or ""
    text = without_markup(line)
    for reading in dict.fromkeys((text, text[_match_end(_BEFORE, text) :])):
        found = _lone(reading, options) or _by_text(reading, options)
        if found is not None:
            return found
    return _by_letter(text[_match_end(_BEFORE, text) :], options)


def _by_text(reading: str, options: Sequence[str]) -> str | None:
    """The one option whose full text the reading is, or its first sentences are."""
    plain = [_plain(option) for option in options]
    for part in _beginnings(reading):
        same = [index for index, option in enumerate(plain) if option and option == _plain(part)]
        if len(same) == 1:
            return _letter(same[0])
    return None


def _beginnings(reading: str) -> Iterator[str]:
    """The whole, then what ends before each full stop, the longest first."""
    yield reading
    for stop in reversed([match.start() for match in re.finditer(r"\.\s", reading)]):
        if len(reading[:stop].strip(_ROUND)) > 1:  # "B. ..." begins with a letter, whatever the options say
            yield reading[:stop]


def _by_letter(reading: str, options: Sequence[str]) -> str | None:
    found = _LETTERED.match(reading)
    if not found:
        return None
    letter, rest = found["letter"].upper(), found["rest"]
    index = ord(letter) - ord("A")
    if index >= len(options):
        return None
    plain = [_plain(option) for option in options]
    if _plain(rest) == plain[index]:
        return letter
    if _plain(rest) in plain or _DENIED.match(rest):
        return None
    if not found["glue"] and not _ASSERTED.match(rest):
        return None
    listed = "," + rest if found["glue"].strip().endswith(",") else rest
    second = _SECOND.match(listed)
    alone = rest.strip(_ROUND)
    if (second and second[1].upper() != letter) or (len(alone) == 1 and alone.isalpha() and alone.upper() != letter):
        return None
    return letter


def _lone(text: str, options: Sequence[str]) -> str | None:
    """The letter that is all of a text, if an option has it."""
    bare = text.strip(_ROUND).upper()
    return bare if len(bare) == 1 and "A" <= bare <= _letter(len(options) - 1) else None


def _plain(text: str) -> str:
    """For the comparison of full texts: compatibility form, case, white space, markup and what stands around it aside."""
    return " ".join(without_markup(unicodedata.normalize("NFKC", text)).casefold().split()).strip(_ROUND)


def _letter(index: int) -> str:
    return chr(ord("A") + index)


def _match_end(pattern: re.Pattern[str], text: str) -> int:
    match = pattern.match(text)
    return match.end() if match else 0
