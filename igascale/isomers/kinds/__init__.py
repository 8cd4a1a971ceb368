"""Reasoning kinds (what is reasoned) apart from domain vocabularies (in which words)."""

from __future__ import annotations

from igascale.errors import UserError, did_you_mean
from igascale.isomers.kinds.arithmetic import Arithmetic
from igascale.isomers.kinds.base import Kind, Telling
from igascale.isomers.kinds.comparison import Comparison
from igascale.isomers.kinds.counting import Counting
from igascale.isomers.kinds.ordering import Ordering
from igascale.isomers.kinds.rules import Rules
from igascale.isomers.kinds.selection import Selection

KINDS: dict[str, Kind] = {
    kind.name: kind for kind in (Ordering(), Comparison(), Rules(), Selection(), Counting(), Arithmetic())
}


def kind_of(name: str) -> Kind:
    """The reasoning kind of that name.

    Raises:
        UserError: no such kind.
    """
    if name not in KINDS:
        raise UserError(
            f"unknown reasoning kind '{name}'; the generator knows {', '.join(KINDS)}" + did_you_mean(name, KINDS)
        )
    return KINDS[name]


__all__ = ["KINDS", "Kind", "Telling", "kind_of"]
