"""Gradient hooks: one file per algorithm; the file name is the name in a configuration.

>>> "iga" in available()
True
"""

if __name__ != "igascale.hooks":
    raise ImportError("import igascale.hooks, not hooks: a second copy of its classes would not be recognised")

import inspect
import typing
from collections.abc import Mapping
from typing import Any

from igascale.errors import UserError, did_you_mean
from igascale.hooks._lookup import available, find, installed
from igascale.hooks.base import (
    AdapterFactors,
    DomainFactorGrads,
    FactorGrads,
    GradientHook,
    HookContext,
    WeightedHook,
)

__all__ = [
    "AdapterFactors",
    "DomainFactorGrads",
    "FactorGrads",
    "GradientHook",
    "HookContext",
    "WeightedHook",
    "available",
    "build",
    "find",
    "installed",
    "options",
    "spell",
]


def options(cls: type[GradientHook]) -> dict[str, inspect.Parameter]:
    """The options of a hook: the named arguments of its constructor."""
    if cls.__init__ is object.__init__:
        return {}
    parameters = inspect.signature(cls).parameters
    return {k: p for k, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def build(name: str, given: Mapping[str, Any]) -> GradientHook:
    """Make a hook from its name and options.

    Args:
        name: see :func:`find`.
        given: option -> value, as in the ``hook:`` section of a configuration.

    Raises:
        UserError: an unknown option, a wrong type, a value out of range, or a constructor that breaks the contract.
    """
    cls = find(name)
    known, hints = options(cls), _annotations(cls, name)
    values = {}
    for key, value in given.items():
        if key not in known:
            hint = did_you_mean(key, known) or f"; '{name}' takes {', '.join(known) or 'no options'}"
            raise UserError(f"unknown key 'hook.{key}'{hint}")
        values[key] = value if _fits(value, hints[key]) else _number(value)
        if not _fits(values[key], hints[key]):
            raise UserError(f"'hook.{key}': expected {spell(hints[key])} (got {value!r})")
    try:
        return cls(**values)
    except Exception as error:
        kind = "" if isinstance(error, (TypeError, ValueError)) else f"{type(error).__name__}: "
        raise UserError(f"hook '{name}': {kind}{error}") from error


def _annotations(cls: type[GradientHook], name: str) -> dict[str, Any]:
    """Option -> type; each must have one, and a default, so that a configuration can be checked before anything runs."""
    known = options(cls)
    try:
        hints = typing.get_type_hints(cls.__init__) if known else {}
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"hook '{name}': the types of {cls.__name__}.__init__ cannot be read ({reason}); import what they name at "
            "the top of the module, not under TYPE_CHECKING"
        ) from None
    for key, parameter in known.items():
        lacks = {"type": key not in hints, "default": parameter.default is parameter.empty}
        if any(lacks.values()):
            told = " and ".join(f"no {what}" for what, lacking in lacks.items() if lacking)
            example = f"write for instance '{key}: float = 1.0'"
            raise UserError(f"hook '{name}': option '{key}' of {cls.__name__}.__init__ has {told}; {example}")
    return hints


def _fits(value: Any, hint: Any) -> bool:
    """Whether a YAML value is of an annotated type; annotations it does not know are left to the hook itself."""
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if typing.get_args(hint):
        return any(_fits(value, arg) for arg in typing.get_args(hint)) if _is_union(hint) else True
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint) if isinstance(hint, type) else True


def _number(value: Any) -> Any:
    """``1e-3`` is a number, though YAML 1.1 reads it as text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) is typing.Union or type(hint).__name__ == "UnionType"


def spell(hint: Any) -> str:
    """An annotated type as a user would write it: ``float``, ``adam | max``."""
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(str(a) for a in typing.get_args(hint))
    if _is_union(hint):
        return " | ".join(spell(a) for a in typing.get_args(hint) if a is not type(None))
    return getattr(hint, "__name__", str(hint))
