"""Gradient hooks: one file per algorithm; the file name is the name in a configuration.

>>> "iga" in available()
True
"""

if __name__ != "igascale.hooks":
    raise ImportError("import igascale.hooks, not hooks: a second copy of its classes would not be recognised")

import importlib
import inspect
import pkgutil
import typing
from collections.abc import Mapping
from typing import Any

from igascale.errors import UserError, did_you_mean
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
    "options",
]


def available() -> list[str]:
    """The names of the hooks that come with igascale."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base")


def find(name: str) -> type[GradientHook]:
    """The class behind a name.

    Args:
        name: ``iga`` for the one hook in ``hooks/iga.py``, or ``package.module:Class`` for one from anywhere.

    Raises:
        UserError: there is none.
    """
    module_name, _, class_name = name.partition(":")
    if not class_name:
        if name not in available():
            hint = did_you_mean(name, available()) or f"; there are {', '.join(available())}, or package.module:Class"
            raise UserError(f"hook.name: unknown hook '{name}'{hint}")
        module_name = f"{__name__}.{name}"
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a user's module does when it is imported
        raise UserError(f"hook.name: cannot import '{module_name}': {type(error).__name__}: {error}") from None
    found = [
        cls
        for cls_name, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, GradientHook)
        and not inspect.isabstract(cls)
        and (cls_name == class_name if class_name else cls.__module__ == module.__name__)
    ]
    if class_name and not hasattr(module, class_name):
        raise UserError(
            f"hook.name: there is no '{class_name}' in {module_name}{did_you_mean(class_name, dir(module))}"
        )
    if class_name and not found:
        raise UserError(f"hook.name: '{name}' is not a subclass of igascale.hooks.GradientHook with combine()")
    if len(found) != 1:
        raise UserError(f"hook.name: '{name}' must name one GradientHook, found {len(found)}")
    return found[0]


def options(cls: type[GradientHook]) -> dict[str, inspect.Parameter]:
    """The options of a hook: the arguments of its constructor."""
    if cls.__init__ is object.__init__:
        return {}
    return {k: p for k, p in inspect.signature(cls).parameters.items() if p.kind is not p.VAR_KEYWORD}


def build(name: str, given: Mapping[str, Any]) -> GradientHook:
    """Make a hook from its name and options.

    Args:
        name: see :func:`find`.
        given: option -> value, as in the ``hook:`` section of a configuration.

    Raises:
        UserError: an unknown option, a wrong type or a value out of range.
    """
    cls = find(name)
    known = options(cls)
    hints = typing.get_type_hints(cls.__init__) if known else {}
    for key, value in given.items():
        if key not in known:
            hint = did_you_mean(key, known) or f"; '{name}' takes {', '.join(known) or 'no options'}"
            raise UserError(f"unknown key 'hook.{key}'{hint}")
        if key in hints and not _fits(value, hints[key]):
            raise UserError(f"'hook.{key}': expected {_spell(hints[key])} (got {value!r})")
    try:
        return cls(**given)
    except (TypeError, ValueError) as error:
        raise UserError(f"hook '{name}': {error}") from None


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


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) is typing.Union or type(hint).__name__ == "UnionType"


def _spell(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(str(a) for a in typing.get_args(hint))
    if _is_union(hint):
        return " | ".join(_spell(a) for a in typing.get_args(hint) if a is not type(None))
    return getattr(hint, "__name__", str(hint))
