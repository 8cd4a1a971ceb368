"""Checks of option values, for the constructors of hooks: each raises a ``ValueError`` that names the option."""

from __future__ import annotations

import math
from typing import Any, get_args


def one_of(name: str, value: Any, allowed: Any) -> Any:
    """``value`` if the ``Literal`` type ``allowed`` has it."""
    if value not in get_args(allowed):
        raise ValueError(f"{name}={value!r}: must be one of {', '.join(map(repr, get_args(allowed)))}")
    return value


def number(name: str, value: Any, *, positive: bool = False, most: float = math.inf) -> float:
    """A finite number ``>= 0`` (``> 0`` if positive), at most ``most``."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or value < 0 or (positive and value == 0) or value > most:
        upper = "" if most == math.inf else f" and <= {most:g}"
        raise ValueError(f"{name}={value!r}: must be a finite number {'>' if positive else '>='} 0{upper}")
    return float(value)


def whole(name: str, value: Any, least: int, or_names: str = "") -> int:
    """A whole number ``>= least``; ``or_names`` is what else the message says is allowed."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}={value!r}: must be a whole number >= {least}{or_names}")
    return value


def flag(name: str, value: Any) -> bool:
    """``True`` or ``False`` and nothing else."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r}: must be true or false")
    return value
