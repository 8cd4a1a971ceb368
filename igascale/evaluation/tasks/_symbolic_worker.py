"""The process that compares expressions by SymPy. It reads trees, never text, so that nothing can be evaluated as code.

One line of JSON in, ``[seconds, tree, tree]``; one line out, true, false, or null where neither could be told. What takes more
processor time than that, or more memory than ``MEMORY``, ends the process: whoever asked starts another.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import resource
import signal
import sys
from typing import Any

import sympy

MEMORY = 2 << 30
#: Decimal digits of an evaluation, and the relative difference that counts as none.
DIGITS, TOLERANCE = 40, sympy.Float("1e-25", 40)
#: Points at which two expressions are compared, and how many of them must give finite numbers.
POINTS, NEEDED = 12, 4
_FUNCTIONS: dict[str, Any] = {
    **{
        name: getattr(sympy, name)
        for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "exp")
    },
    **{f"a{name}": getattr(sympy, f"a{name}") for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{
        f"arc{name}": getattr(sympy, f"a{name}")
        for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "cot", "sec", "csc", "coth")
    },
    "ln": sympy.log,
    "log": sympy.log,
    "sqrt": sympy.sqrt,
    "abs": sympy.Abs,
    "!": sympy.factorial,
    "binom": sympy.binomial,
    "root": lambda degree, radicand: (
        sympy.real_root(radicand, degree) if radicand.is_Number else sympy.root(radicand, degree)
    ),
    "-": lambda a: -a,
    "+": lambda a, b: a + b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "^": lambda a, b: a**b,
}
_CONSTANTS = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "infty": sympy.oo}


def expression(tree: list[Any]) -> sympy.Expr:
    """A tree as SymPy's expression; names are positive reals, decimals exact."""
    operation, *arguments = tree
    if operation == "number":
        return sympy.Rational(arguments[0])
    if operation == "name":
        return _CONSTANTS.get(arguments[0]) or sympy.Symbol(arguments[0], positive=True)
    return _FUNCTIONS[operation](*(expression(argument) for argument in arguments))


def equal(first: sympy.Expr, second: sympy.Expr) -> bool | None:
    """Whether two expressions are the same function of positive variables.

    They are compared at points drawn at random (the same ones each time) to 25 digits: two formulas of a few hundred characters that agree at
    all of them are not different by accident. Where too few points give finite numbers, SymPy's ``simplify`` decides on the difference.
    """
    if any(side.has(sympy.zoo, sympy.nan) for side in (first, second)):
        return None
    if first == second:
        return True
    names = sorted((first.free_symbols | second.free_symbols), key=str)
    draw, finite = random.Random(0), 0
    for _ in range(POINTS if names else 1):
        point = {name: sympy.Rational(draw.randint(50_000, 250_000), 100_003) for name in names}
        values = [sympy.N(side.subs(point), DIGITS) for side in (first, second)]
        if not all(value.is_number and value.is_finite for value in values):
            continue
        zeros = [_is_zero(value) for value in values]
        if zeros[0] != zeros[1] or not (zeros[0] or abs(values[0] - values[1]) <= TOLERANCE * max(map(abs, values))):
            return False
        finite += 1
    if finite >= (NEEDED if names else 1):
        return True
    return True if sympy.simplify(first - second) == 0 else None


def _is_zero(value: sympy.Expr) -> bool:
    """Exactly, or nothing but what is left of a cancellation: SymPy gives that one bit of precision."""
    return all(part == 0 or getattr(part, "_prec", 0) == 1 for part in value.as_real_imag())


def main() -> None:
    """Answer line by line, until there are none."""
    answers = sys.stdout
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    print("ready", file=answers, flush=True)
    with contextlib.redirect_stdout(sys.stderr):
        for line in sys.stdin:
            seconds, first, second = json.loads(line)
            used = resource.getrusage(resource.RUSAGE_SELF)
            limit = math.ceil(used.ru_utime + used.ru_stime + seconds)
            resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
            try:
                verdict = equal(expression(first), expression(second))
            except MemoryError:
                sys.exit(1)
            except Exception:  # whatever SymPy makes of an odd formula
                verdict = None
            print(json.dumps(verdict), file=answers, flush=True)


if __name__ == "__main__":
    main()
