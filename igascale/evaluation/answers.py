"""From generated text to an answer, and from two answers to right or wrong."""

from __future__ import annotations

from functools import lru_cache

#: What stands before the answer, in the texts that are trained on and in those that are scored.
ANSWER_PREFIX = "Answer:"
_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "«": "»"}


def extract_answer(text: str) -> str | None:
    """The normalised answer that ``text`` gives, or ``None`` where it gives none.

    It is the rest of the line after the last ``Answer:``. Nothing is guessed: without the prefix (the letter
    case counts), or with nothing behind it on its line, there is no answer, which is a parse failure and
    wrong.

    Example:
        >>> extract_answer("The fee is 3, then 4.\\nAnswer: 'The Bank'.")
        'the bank'
    """
    _, prefix, rest = text.rpartition(ANSWER_PREFIX)
    if not prefix or not rest:
        return None
    # An empty rest would have no lines; `rest` may still begin with the line break.
    return normalise_answer(rest.splitlines()[0]) or None


def normalise_answer(answer: str) -> str:
    """Case-folded, with single spaces, without trailing periods and without quotes around the whole.

    Example:
        >>> normalise_answer(' “Clause  B.” ')
        'clause b'
    """
    answer = " ".join(answer.casefold().split())
    while True:
        stripped = answer.rstrip(".").strip()
        if len(stripped) >= 2 and _QUOTES.get(stripped[0]) == stripped[-1]:
            stripped = stripped[1:-1].strip()
        if stripped == answer:
            return answer
        answer = stripped


def is_correct(predicted: str | None, expected: str) -> bool:
    """Exact match of a predicted (normalised or ``None``) with the expected answer."""
    return predicted is not None and predicted == normalise_answer(expected)


@lru_cache(maxsize=1 << 14)  # the domains of a group mostly have one answer, and a file few
def can_be_right(expected: str) -> bool:
    """Whether a model that writes just what it is taught would be scored as right.

    Not so for two lines, for nothing but dots and quotes, and with ``Answer:`` inside.
    """
    return is_correct(extract_answer(f"{ANSWER_PREFIX} {expected}"), expected)
