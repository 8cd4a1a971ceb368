r"""A number as a model writes it, with or without a unit: its value, exact where it is rational.

The unit is taken off and not looked at: 5 km is 5, and 50% is 50.
"""

from __future__ import annotations

import cmath
import math
import operator
import re
from fractions import Fraction
from typing import Any

from igascale.evaluation.tasks._formulas import Tree, leading_number
from igascale.evaluation.tasks._tokens import FUNCTIONS, Unreadable, plain_formula

Value = Fraction | float | complex
#: What counts as zero where the right answer is: rounding of functions alone (sin π), not an approximation.
ZERO = Fraction(1, 10**12)
_MAX_DIGITS = 1000
_EQUALS = re.compile(r"=|≈|≃|≅|\\approx(?![a-z])|\\simeq(?![a-z])|\\cong(?![a-z])|\\sim(?![a-z])")
_ABOUT = re.compile(
    r"(?:\s|~|about\b|approximately\b|approx\.?|roughly\b|around\b|ca\.|\\\$|\+(?=\s*[\d.]))*", re.IGNORECASE
)
#: Words with an exponent perhaps (m, s^-2, \frac), and signs. Possessive: a text that is no unit is refused at once.
_UNIT = re.compile(
    r"(?:\\?[^\W\d_]++(?:\^?[({]*+[+-]?\d(?:/\d)?[)}]*+)?+|⟦[^⟧]*+⟧|\^\{[+-]?\d\}|(?<=[a-zA-Z])-(?=[a-zA-Z])|(?<=\s)1(?=/)"
    r"|[°%Å*/·(){}\s.\\'\"$€£])*+"
)
_MAX_UNIT = 60
#: Words that are no unit: of a sentence with another number or a condition in it, multiples, functions of something unread.
_NO_UNIT = re.compile(
    r"(?<![A-Za-z])(?:or|and|not|if|to|when|where|but|times|x|X|k|hundred|thousand|million|billion|trillion|dozen|sec\s*\("
    rf"|{'|'.join(sorted(FUNCTIONS - {'sec'}))})(?![A-Za-z])"
)
_ARITHMETIC: dict[str, Any] = {
    "+": operator.add,
    "-": operator.neg,
    "*": operator.mul,
    "/": operator.truediv,
    "abs": abs,
}


def _reciprocal(function: Any) -> Any:
    return lambda x: 1 / function(x)


def _of_reciprocal(function: Any) -> Any:
    return lambda x: function(1 / x)


_RECIPROCALS = (("cot", "tan"), ("sec", "cos"), ("csc", "sin"), ("coth", "tanh"))
_FUNCTIONS: dict[str, Any] = {
    **{name: getattr(cmath, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "exp")},
    **{f"a{name}": getattr(cmath, f"a{name}") for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{f"arc{name}": getattr(cmath, f"a{name}") for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{name: _reciprocal(getattr(cmath, of)) for name, of in _RECIPROCALS},
    **{f"arc{name}": _of_reciprocal(getattr(cmath, f"a{of}")) for name, of in _RECIPROCALS},
    "ln": cmath.log,
    "log": cmath.log,
}
_CONSTANTS: dict[str, Value] = {"pi": math.pi, "e": math.e, "i": 1j}


def number(text: str) -> Value:
    r"""The value of a number with a unit, or of a formula of numbers.

    Read are decimals, ``1,024``, ``1.6e-19``, ``1.6 × 10⁻¹⁹``, fractions, powers, roots, π, e, i, and functions in LaTeX, Unicode or
    plain text. Of an equation or an approximation, what stands behind the last sign.

    Example:
        >>> number("x = 3/4 kg"), number("-2.5×10⁻³ m/s²"), number(r"\frac{\pi}{2}")
        (Fraction(3, 4), Fraction(-1, 400), 1.5707963267948966)

    Raises:
        Unreadable: it is no number, two of them, or too large.
    """
    formula = _EQUALS.split(plain_formula(text))[-1]
    formula = re.sub(r"(?<=[\d.)])\s*[xX]\s*(?=10\s*(?:\^|\*\*))", "*", formula)
    formula = formula[_match_end(_ABOUT, formula) :]
    tree, unit = leading_number(formula)
    if len(unit) > _MAX_UNIT or not _UNIT.fullmatch(unit) or _NO_UNIT.search(unit):
        raise Unreadable(f"'{unit.strip()[:30]}' behind the number is no unit")
    try:
        value = _value(tree)
        if isinstance(value, complex) and value.imag == 0:
            value = value.real
        finite = cmath.isfinite(value)
    except (ArithmeticError, ValueError):  # division by zero, too large, log 0
        raise Unreadable("no finite number") from None
    if not finite:
        raise Unreadable("no finite number")
    return value


def within(predicted: Value, expected: Value, tolerance: Fraction) -> bool:
    """Whether the relative error is below a tolerance, in exact arithmetic: 1.01 is not within 1% of 1.

    Differs from the reference: of an expected 0 it has no relative error; here the prediction must be 0 too, but for rounding.

    Args:
        predicted, expected: real, or complex; floats count at their exact value.
        tolerance: strictly above the relative error.
    """
    error, size = _square(predicted, expected), _square(expected, Fraction(0))
    return error <= ZERO**2 if size == 0 else error < tolerance**2 * size


def _square(first: Value, second: Value) -> Fraction:
    """Of the distance."""
    real = _part(first, "real") - _part(second, "real")
    imaginary = _part(first, "imag") - _part(second, "imag")
    return real**2 + imaginary**2


def _part(value: Value, name: str) -> Fraction:
    return Fraction(getattr(value, name))


def _value(tree: Tree) -> Value:
    operation, *arguments = tree
    if operation == "number":
        return _literal(arguments[0])
    if operation == "name":
        if arguments[0] not in _CONSTANTS:
            raise Unreadable(f"'{arguments[0]}' is no number")
        return _CONSTANTS[arguments[0]]
    values: list[Any] = [_value(argument) for argument in arguments]
    first, last = values[0], values[-1]
    if operation == "^":
        return _power(first, last)
    if operation == "root":
        return _root(degree=first, radicand=last)
    if operation == "!":
        return _factorial(first)
    if operation == "binom":
        return _binomial(first, last)
    if operation in _ARITHMETIC:
        return _ARITHMETIC[operation](*values)
    return _FUNCTIONS[operation](complex(first))


def _literal(digits: str) -> Fraction:
    exponent = re.search(r"[eE]([+-]?\d+)", digits)
    if len(digits) > _MAX_DIGITS or (exponent and (len(exponent[1]) > 5 or abs(int(exponent[1])) > _MAX_DIGITS)):
        raise Unreadable(f"more than {_MAX_DIGITS} digits")
    return Fraction(digits)


def _power(base: Any, exponent: Any) -> Value:
    """Exact for rational to the power of a small integer, so that 10⁻³ is; else as floating point has it."""
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        size = max(len(str(base.numerator)), len(str(base.denominator)))
        if abs(exponent) * size <= _MAX_DIGITS:
            return base ** int(exponent)
    if isinstance(base, complex) or isinstance(exponent, complex) or (base < 0):
        return complex(base) ** complex(exponent)
    return float(base) ** float(exponent)


def _root(degree: Any, radicand: Any) -> Value:
    """The real one where there is one (of -8, the third is -2); else the principal."""
    if isinstance(radicand, complex) or isinstance(degree, complex):
        return complex(radicand) ** (1 / complex(degree))
    odd = degree == int(degree) and int(degree) % 2 == 1
    size = float(abs(radicand)) ** (1 / float(degree))
    if radicand >= 0 or odd:
        return size if radicand >= 0 else -size
    return complex(float(radicand)) ** (1 / float(degree))


def _factorial(value: Value) -> Fraction:
    if not isinstance(value, Fraction) or value.denominator != 1 or not 0 <= value <= 170:
        raise Unreadable("a factorial of what is no integer from 0 to 170")
    return Fraction(math.factorial(int(value)))


def _binomial(n: Value, k: Value) -> Fraction:
    if not all(isinstance(value, Fraction) and value.denominator == 1 and 0 <= value <= 1000 for value in (n, k)):
        raise Unreadable("a binomial coefficient of what are no integers from 0 to 1000")
    return Fraction(math.comb(int(n.real), int(k.real)))


def _match_end(pattern: re.Pattern[str], text: str) -> int:
    match = pattern.match(text)
    return match.end() if match else 0
