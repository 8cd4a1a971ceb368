"""Where in a text the answer stands. Shared by the tasks; docs/scoring.md says the rules in words."""

from __future__ import annotations

import re

#: ``Answer:`` in the ways that models write it: **ANSWER:**, **Answer**: , Final answer is: , Answer：
_MARKER = re.compile(r"(?<![A-Za-z])answer(?:[ \t]+is)?[ \t*_`]*[:：][ \t*_`]*", re.IGNORECASE)
#: A line that holds no answer itself: blank, a rule of markdown, or what opens a displayed formula.
_NOTHING = re.compile(r"[\s*_`#>$-]*|\\\[|\\\(|```\w*")
_WORD_GROUPS = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|mathrm|mathbf|mathsf|mathit|mbox|boldsymbol)\s*\{([^{}]*)\}"
)


def said(text: str) -> str:
    """What a model says after it has thought: all behind the last ``</think>``; nothing where it is still thinking."""
    rest = text.rpartition("</think>")[2]
    return "" if "<think>" in rest else rest


def marked(text: str) -> str | None:
    """The line behind the last ``Answer:``, or where nothing else stands on its line, the first one below that holds something.

    ``None`` without a marker; empty where nothing follows it.

    Example:
        >>> marked("Answer: 1? No.\\n**ANSWER: 12**"), marked("### Answer:\\n\\n(B)\\n"), marked("12")
        ('12**', '(B)', None)
    """
    markers = list(_MARKER.finditer(text))
    if not markers:
        return None
    lines = text[markers[-1].end() :].splitlines()
    return next((line.strip() for line in lines if not _NOTHING.fullmatch(line.strip())), "")


def without_markup(text: str) -> str:
    r"""Without emphasis, code ticks, dollars, formula brackets, and the commands that only set words in another face.

    Example:
        >>> without_markup(r"**$\text{B}$**"), without_markup(r"\(\mathbf{7}\)")
        ('B', '7')
    """
    before = None
    while text != before:
        before = text
        text = _WORD_GROUPS.sub(r"\1", text)
    return " ".join(re.sub(r"\*+|__+|`|(?<!\\)\$|\\[()\[\]]", " ", text).split())
