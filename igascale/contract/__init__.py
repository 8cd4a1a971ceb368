"""The contract of a gradient hook (:class:`igascale.hooks.base.GradientHook`) as code: ``igascale hooks check NAME``.

A hook is tried on synthetic steps of five small adapters on the CPU. Every clause either holds or says what was seen and
what to do; nothing a hook does ends in a traceback. The clauses are in ``form.py``, ``behaviour.py`` and ``sharing.py``.

>>> from igascale import hooks
>>> [clause.name for clause in check(lambda: hooks.build("mean", {})) if clause.ok is False]
[]
"""

from __future__ import annotations

import inspect
import linecache
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from igascale.contract import behaviour, form, sharing
from igascale.contract.bench import Bench, Broken, NotApplicable, Rule
from igascale.contract.cases import global_randomness
from igascale.contract.result import find_fault
from igascale.errors import UserError
from igascale.hooks.base import GradientHook

__all__ = ["Clause", "check", "find_fault", "holds"]


RULES = [*form.RULES, *behaviour.RULES, *sharing.RULES]


@dataclass(frozen=True)
class Clause:
    """One clause of the contract, and whether a hook keeps it.

    Attributes:
        name: a word or two.
        statement: what the clause asks for, in one line.
        ok: ``None`` if it was not checked; ``detail`` says why.
        detail: what was seen, with the remedy; "" where the clause holds.
        required: a clause that is not is good advice only: breaking it is told, not refused.
    """

    name: str
    statement: str
    ok: bool | None
    detail: str = ""
    required: bool = True


def check(make: Callable[[], GradientHook]) -> list[Clause]:
    """Try a hook on every clause.

    Args:
        make: returns a new hook each time, always with the same options.

    Returns:
        The clauses in order. A clause that rests on one that does not hold is not checked. The global random state is
        left as it was.
    """
    bench = Bench(make)
    found: dict[str, Clause] = {}
    with global_randomness(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for rule in RULES:
            broken = next((name for name in rule.needs if found[name].ok is not True), None)
            if broken:
                found[rule.name] = Clause(rule.name, rule.statement, None, f"rests on '{broken}'")
            else:
                found[rule.name] = _try(rule, bench)
    return list(found.values())


def holds(clauses: list[Clause]) -> bool:
    """Whether no required clause is broken."""
    return not any(clause.ok is False and clause.required for clause in clauses)


def _try(rule: Rule, bench: Bench) -> Clause:
    ok: bool | None = True
    detail = ""
    try:
        rule.test(bench)
    except NotApplicable as reason:
        ok, detail = None, str(reason)
    except Broken as fault:
        ok, detail = False, str(fault)
    except (Exception, SystemExit) as error:  # whatever the hook under test does
        ok, detail = False, _describe(error, bench.hook)
    required = not (rule.advice and not bench.built_in)
    return Clause(rule.name, rule.statement, ok, detail, required)


def _describe(error: BaseException, hook: GradientHook | None) -> str:
    """Type, message and the line in the author's own file."""
    message = " ".join(str(error).split())
    if isinstance(error, UserError):
        return f"{message} ({_place(error.__cause__, hook)})" if error.__cause__ else message
    return f"{type(error).__name__}: {message} ({_place(error, hook)})"


def _place(error: BaseException, hook: GradientHook | None) -> str:
    here = Path(__file__).parent
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).parent != here]
    files = {
        inspect.getfile(c)
        for c in type(hook).__mro__
        if c.__module__ not in ("builtins", "abc", GradientHook.__module__)
    }
    outside = [f for f in frames if here.parent not in Path(f.filename).parents]
    own = [f for f in frames if hook is not None and f.filename in files]
    frame = (own or [f for f in outside if "site-packages" not in f.filename] or outside or frames)[-1]
    line = linecache.getline(frame.filename, frame.lineno or 0).strip()
    return f"{Path(frame.filename).name}, line {frame.lineno}: {line}"
