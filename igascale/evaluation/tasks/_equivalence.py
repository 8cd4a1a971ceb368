r"""When two answers of MATH are the same: the semantics of ``is_equiv`` in hendrycks/math, ``modeling/math_equivalence.py``.

Both are rewritten by the same rules, in a fixed order, and compared as strings; no algebra is done. The order matters: blanks are
still there when ``\sqrt`` is mended, so ``\sqrt 2`` is not ``\sqrt{2}``. An answer that the rules cannot be carried through on is
compared as it stands, with the other as it stands.
"""

from __future__ import annotations

import re
from contextlib import suppress

#: Before the unit is taken off: what is replaced, by what, in this order.
_FIRST = (
    ("\n", ""),
    (r"\!", ""),
    ("\\\\", "\\"),
    ("tfrac", "frac"),
    ("dfrac", "frac"),
    (r"\left", ""),
    (r"\right", ""),
    (r"^{\circ}", ""),
    (r"^\circ", ""),
    (r"\$", ""),
)
#: After it. The reference takes the percent sign off twice, which matters where taking it off makes a new one.
_THEN = ((r"\%", ""), (r"\%", ""), (" .", " 0."), ("{.", "{0."))
_UNIT = r"\text{ "


class _Malformed(Exception):
    """A rule finds nothing where it must find something."""


def is_equivalent(first: str, second: str) -> bool:
    r"""Whether two answers are equal by the reference's rules.

    Reference: Hendrycks et al., `Measuring Mathematical Problem Solving With the MATH Dataset <https://arxiv.org/abs/2103.03874>`_
    and its code.

    Example:
        >>> is_equivalent(r"\dfrac12", "0.5"), is_equivalent("1/2", "0.5"), is_equivalent("0.50", "0.5")
        (True, True, False)
    """
    with suppress(_Malformed):
        return _rewritten(first) == _rewritten(second)
    return first == second


def canonical(answer: str) -> str:
    """An answer as the rules leave it; as it stands where they cannot be carried through."""
    with suppress(_Malformed):
        return _rewritten(answer)
    return answer


def _rewritten(answer: str) -> str:
    for old, new in _FIRST:
        answer = answer.replace(old, new)
    answer = _without_unit(answer)
    for old, new in _THEN:
        answer = answer.replace(old, new)
    if answer.startswith("."):
        answer = f"0{answer}"
    name, equals, value = answer.partition("=")
    if equals and "=" not in value and len(name) <= 2:
        answer = value  # "x = 5"; also "<=5" and "=5"
    answer = _with_braced_roots(answer).replace(" ", "")
    answer = _with_braced_fractions(answer)
    return _as_fraction(r"\frac{1}{2}" if answer == "0.5" else answer)


def _without_unit(answer: str) -> str:
    r"""What stands before ``\text{ `` with a blank in it, which begins a unit. Twice is no unit."""
    value, unit, rest = answer.partition(_UNIT)
    if unit and _UNIT in rest:
        raise _Malformed
    return value


def _with_braced_roots(answer: str) -> str:
    r"""``\sqrt3`` becomes ``\sqrt{3}``: one character, even if it is a blank."""
    if re.search(r"\\sqrt(?:\Z|(?=\\sqrt))", answer):
        raise _Malformed
    return re.sub(r"\\sqrt([^{])", r"\\sqrt{\1}", answer, flags=re.DOTALL)


def _with_braced_fractions(answer: str) -> str:
    r"""``\frac12`` and ``\frac1{72}`` get braces, ``\frac{72}1`` does not. One that lacks its second half leaves all as it was."""
    before, *parts = answer.split(r"\frac")
    mended = [before]
    for part in parts:
        if not part:
            raise _Malformed
        if len(part) == 1 and part != "{":
            return answer
        if not part.startswith("{"):
            second = part[1] if part[1] == "{" else f"{{{part[1]}}}"
            part = f"{{{part[0]}}}{second}{part[2:]}"
        mended.append(part)
    return r"\frac".join(mended)


def _as_fraction(answer: str) -> str:
    r"""``3/4`` becomes ``\frac{3}{4}`` where both are integers as Python writes them: not ``03/4``, not ``+3/4``."""
    whole = re.fullmatch(r"(0|-?[1-9][0-9]*)/(0|-?[1-9][0-9]*)", answer)
    return rf"\frac{{{whole[1]}}}{{{whole[2]}}}" if whole else answer
