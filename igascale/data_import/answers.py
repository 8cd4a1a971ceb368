"""Where a completion says its answer, and whether two places say the same one."""

from __future__ import annotations

import re

_MARK = r"(?:#{1,6}[ \t]+)?(?P<bold>\*\*|__)?(?:final[ \t]+)?answer(?P<inner>\*\*|__)?[ \t]*[:：](?(bold)(?P<outer>\*\*|__)?)"
_ANSWER_LINE = re.compile(rf"(?:\A|\n)[ \t]*{_MARK}[ \t]*(?P<said>\S[^\n]*)\s*\Z", re.IGNORECASE)
_HASHES = re.compile(r"(?:\A|\n)[ \t]*####[ \t]*(?P<said>\S[^\n]*)\s*\Z")
#: Of an answer, anywhere in a text: at the beginning of a line, or in a sentence.
_LINE = re.compile(rf"(?:\A|\n)[ \t]*{_MARK}\s*(?P<said>\S[^\n]*)", re.IGNORECASE)
_NUMBER = re.compile(r"\n[ \t]*####[ \t]*(?!\d+[.):]\s)(?P<said>[^\w\s]*\d[^\n]*)")  # "#### 2. Check" is a heading
_SENTENCE = re.compile(
    r"\banswer\b[*_]*(?:[ \t]+(?:to|of|for)\b[^.\n]{0,60}?)?\s*(?:\bis\b[ \t]*[:：]?|[:：=])\s*(?P<said>\S[^\n]*)",
    re.IGNORECASE,
)
_WRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mbox)\{([^{}]*)\}")
_SPACING = re.compile(r"\\(?:left|right|displaystyle)(?![a-z])|\\[!,;()\[\]]|\\?\$")
_BOX = "\\boxed{"


def last_line(completion: str) -> tuple[int, str, str] | None:
    """The last line's answer: where the line begins, the answer, and what marks it; nothing where it says none.

    Example:
        >>> last_line("Because.\\n**Final Answer:** 7"), last_line("#### 7"), last_line("It is 7.")
        ((8, '7', "'Answer: ...'"), (0, '7', "'#### ...'"), None)
    """
    for name, pattern in (("'Answer: ...'", _ANSWER_LINE), ("'#### ...'", _HASHES)):
        if match := pattern.search(completion):
            return match.start(), _said(match), name
    return None


def last_boxed(text: str) -> str | None:
    r"""What the last ``\boxed{}`` holds, braces balanced.

    Example:
        >>> last_boxed(r"so \boxed{1} or \boxed{\frac{1}{2}}.")
        '\\frac{1}{2}'
    """
    start = text.rfind(_BOX)
    end = _end_of_box(text, start) if start >= 0 else None
    return text[start + len(_BOX) : end - 1].strip() or None if end else None


def unboxed(answer: str) -> str:
    r"""An answer that is one box and nothing else, without it; any other as it is.

    Example:
        >>> unboxed(r"$\boxed{7}$."), unboxed(r"\boxed{1} or \boxed{2}")
        ('7', '\\boxed{1} or \\boxed{2}')
    """
    bare = answer.strip().rstrip(".").strip().strip("$").strip().rstrip(".")
    if bare.startswith(_BOX) and _end_of_box(bare, 0) == len(bare):
        return bare[len(_BOX) : -1].strip()
    return answer.strip()


def unmarked(answer: str) -> str:
    """An answer of one line without an ``Answer:`` or ``####`` in front.

    Example:
        >>> unmarked("Answer: 5"), unmarked("#### 5"), unmarked("5")
        ('5', '5', '5')
    """
    found = last_line(answer)
    return found[1] if found and not answer[: found[0]].strip() else answer


def otherwise(completion: str, answer: str) -> str | None:
    """What the completion says after its last box, if that is another answer; nothing where all agree."""
    after = completion[completion.rfind(_BOX) :]
    after = after[_end_of_box(after, 0) or 0 :]
    for pattern in (_LINE, _NUMBER, _SENTENCE):
        for match in pattern.finditer(after):
            if not mentions(_said(match), answer):
                return _said(match)
    return None


def last_marked(completion: str) -> str | None:
    """What the last line that is marked as an answer says, wherever it stands."""
    found = [match for pattern in (_LINE, _NUMBER) for match in pattern.finditer(completion)]
    return _said(max(found, key=lambda match: match.start())) if found else None


def same(one: str, other: str) -> bool:
    r"""Whether two answers are one: case, a box, dollars, ``\text``, spacing and the sort of fraction aside.

    Example:
        >>> same(r"$\dfrac{1}{2}$", r"\frac{1}{2}"), same(r"\text{(B)}", "B"), same("1", "12")
        (True, True, False)
    """
    return _plain(one) == _plain(other)


def mentions(said: str, answer: str) -> bool:
    """Whether the rest of a line is about that answer: it is it, or holds it as a word."""
    return same(said, answer) or bool(re.search(rf"(?<![\w.]){re.escape(_plain(answer))}(?!\w|\.\d)", _plain(said)))


def is_sentence(answer: str) -> bool:
    """Whether what should be an answer is a sentence about it.

    Example:
        >>> is_sentence("The final answer is 7. I hope it is correct."), is_sentence("The bank")
        (True, False)
    """
    return bool(re.search(r"\banswer is\b", answer, re.IGNORECASE))


def scorable(answer: str) -> bool:
    """Whether a model that writes this answer is right: the line ``Answer: ...``, read back, gives it (evaluation/answers.py).

    Example:
        >>> scorable("5"), scorable("..."), scorable("Answer: 5")
        (True, False, False)
    """
    from igascale.evaluation.answers import normalise_answer

    wanted = normalise_answer(answer)
    return bool(wanted) and "Answer:" not in answer and normalise_answer(f" {answer}".splitlines()[0]) == wanted


def _said(match: re.Match[str]) -> str:
    """Of a marked line, without the emphasis around it."""
    said, groups = match["said"].strip(), match.groupdict()
    if groups.get("bold") and not groups["inner"] and not groups["outer"]:  # **Answer: 7**
        said = said.removesuffix(groups["bold"]).strip()
    if len(said) > 4 and said[:2] in ("**", "__") and said.endswith(said[:2]):
        said = said[2:-2].strip()
    return unboxed(said)


def _end_of_box(text: str, start: int) -> int | None:
    depth = 0
    for place in range(start + len(_BOX) - 1, len(text)):
        depth += (text[place] == "{") - (text[place] == "}")
        if not depth:
            return place + 1
    return None


def _plain(answer: str) -> str:
    from igascale.evaluation.answers import normalise_answer

    text = _SPACING.sub("", _WRAPPED.sub(r"\1", normalise_answer(unboxed(answer))))
    text = re.sub(r"\\[dt]frac(?![a-z])", r"\\frac", text).replace("\\%", "%")
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"\s+(?=[^\w\s])|(?<=[^\w\s])\s+", "", text)
    return re.sub(r"\A\((\w+)\)\Z", r"\1", normalise_answer(text))
