"""Reasoning kinds (what is reasoned) apart from domain vocabularies (in which words)."""

from __future__ import annotations

from collections.abc import Sequence

from igascale.errors import UserError, did_you_mean
from igascale.isomers.kinds.abductive import Abductive
from igascale.isomers.kinds.arithmetic import Arithmetic
from igascale.isomers.kinds.base import Kind, Telling
from igascale.isomers.kinds.causal import Causal
from igascale.isomers.kinds.comparison import Comparison
from igascale.isomers.kinds.conversion import Conversion
from igascale.isomers.kinds.counting import Counting
from igascale.isomers.kinds.deductive import Deductive
from igascale.isomers.kinds.geometry import Geometry
from igascale.isomers.kinds.inductive import Inductive
from igascale.isomers.kinds.ordering import Ordering
from igascale.isomers.kinds.probability import Probability
from igascale.isomers.kinds.rules import Rules
from igascale.isomers.kinds.scheduling import Scheduling
from igascale.isomers.kinds.selection import Selection
from igascale.isomers.kinds.sets import Sets

#: The kinds of a set that names none: one-token answers for small models. The demo and committed figures are made of them.
KINDS: dict[str, Kind] = {
    kind.name: kind for kind in (Ordering(), Comparison(), Rules(), Selection(), Counting(), Arithmetic())
}
_FURTHER: tuple[Kind, ...] = (
    Deductive(),
    Inductive(),
    Abductive(),
    Sets(),
    Scheduling(),
    Causal(),
    Conversion(),
    Probability(),
    Geometry(),
)
ALL_KINDS: dict[str, Kind] = {**KINDS, **{kind.name: kind for kind in _FURTHER}}

#: Names for several kinds at once.
FAMILIES: dict[str, tuple[str, ...]] = {
    "all": tuple(ALL_KINDS),
    "default": tuple(KINDS),
    "logical": ("deductive", "inductive", "abductive", "rules", "causal"),
    "numeric": ("comparison", "counting", "arithmetic", "conversion", "probability"),
    "relational": ("ordering", "scheduling", "geometry"),
    "grouping": ("selection", "sets"),
}


def kind_of(name: str) -> Kind:
    """The reasoning kind of that name.

    Raises:
        UserError: no such kind.
    """
    if name not in ALL_KINDS:
        raise UserError(
            f"unknown reasoning kind '{name}'; the generator knows {', '.join(ALL_KINDS)}"
            + did_you_mean(name, ALL_KINDS)
        )
    return ALL_KINDS[name]


def kinds_named(names: Sequence[str]) -> tuple[str, ...]:
    """Kinds and families (``logical,sets``) as kinds, each once.

    Raises:
        UserError: neither a kind nor a family, or a name given twice.
    """
    kinds: list[str] = []
    for number, name in enumerate(names):
        if name in names[:number]:
            raise UserError(f"kinds names one twice: {', '.join(names)}")
        if name not in ALL_KINDS and name not in FAMILIES:
            known = [*ALL_KINDS, *FAMILIES]
            raise UserError(
                f"unknown reasoning kind '{name}'; the generator knows {', '.join(ALL_KINDS)} "
                f"and the families {', '.join(FAMILIES)}" + did_you_mean(name, known)
            )
        kinds += FAMILIES.get(name, (name,))
    return tuple(dict.fromkeys(kinds))


__all__ = ["ALL_KINDS", "FAMILIES", "KINDS", "Kind", "Telling", "kind_of", "kinds_named"]
