"""What the clauses of the contract share: how they are written down, and the hook under test.

A clause is a function of a :class:`Bench` that returns if it holds and raises :class:`Broken` if it does not. What a hook
itself raises is caught by :func:`igascale.contract.check`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from igascale.contract import cases
from igascale.contract.cases import Case, Result, make_case
from igascale.contract.result import find_fault
from igascale.hooks.base import GradientHook

#: What clauses that look at numbers rest on.
SOUND = ("made", "result", "inputs", "repeatable", "randomness")

Test = Callable[["Bench"], None]


class Broken(Exception):
    """A clause does not hold: what was seen, and what to do."""


class NotApplicable(Exception):
    """A clause does not concern this hook; the message says why."""


@dataclass(frozen=True)
class Rule:
    """A clause to be tried: see :class:`igascale.contract.Clause`.

    Attributes:
        needs: clauses that must hold for this one to mean anything.
        advice: required of built-in hooks only.
    """

    name: str
    statement: str
    test: Callable[[Bench], None]
    needs: tuple[str, ...]
    advice: bool = False


class Rules(list[Rule]):
    """A list of clauses with a decorator that adds one."""

    def add(self, name: str, statement: str, needs: tuple[str, ...], advice: bool = False) -> Callable[[Test], Test]:
        """Register the decorated function as the test of a clause."""

        def register(test: Test) -> Test:
            self.append(Rule(name, statement, test, needs, advice))
            return test

        return register


class Bench:
    """The hook under test: makes new ones, and steps to try them on."""

    def __init__(self, make: Callable[[], GradientHook]):
        self.make = make
        self.hook: GradientHook | None = None

    @property
    def built_in(self) -> bool:
        """Whether the hook comes with igascale."""
        return self.hook is not None and type(self.hook).__module__.startswith("igascale.")

    def case(self, domains: int = 3, seed: int = 0) -> Case:
        """A step of so many domains, or of the fewest that the hook accepts."""
        assert self.hook is not None
        return make_case(self.hook, max(domains, self.hook.min_domains), seed)

    def run(self, case: Case) -> Result:
        """The result of a new hook, if it has the right form."""
        hook = self.make()
        result = case.run(hook)
        if fault := find_fault(result, case.grads, hook):
            raise Broken(fault)
        return result


def refuse_infinite(result: Result, when: str) -> None:
    """Broken if a gradient or reference of the result is not finite."""
    for fqn, grad in result.items():
        for name, tensor in cases.parts(grad).items():
            if not name.startswith("stats") and not bool(tensor.isfinite().all()):
                raise Broken(f"{fqn}.{name} is not finite {when}")
