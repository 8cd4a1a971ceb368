"""What a user calls the layers at which LCS is measured; without torch, so that a wrong name is told at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from igascale.errors import UserError, did_you_mean

#: Layers of the paper's Table 5, of the 32 of its model.
TABLE5, TABLE5_DEPTH = (8, 16, 24, 31), 32
_NAMES: dict[str, Callable[[int], Sequence[int]]] = {
    "penultimate": lambda depth: [depth - 1],
    "last": lambda depth: [depth],
    "all": lambda depth: range(depth + 1),
    "table5": lambda depth: [_at_depth(layer / TABLE5_DEPTH, depth) for layer in TABLE5],
}


def parse_layers(spec: str, depth: int | None = None) -> tuple[int, ...]:
    """The layers that ``--layers`` names, in ascending order, each once.

    Args:
        spec: parts with commas between: ``penultimate``, ``last``, ``all``, ``table5`` (the paper's layers 8, 16, 24 and 31 of 32,
            or what lies as deep in another model), a number from 0 to L, or a share of the depth with a point, ``0.5``.
        depth: L; ``None`` only checks how it is written, and returns nothing.

    Raises:
        UserError: a part that is none of these, or a layer that the model has not.
    """
    found: set[int] = set()
    for part in spec.split(","):
        part = part.strip()
        if part in _NAMES:
            found.update(_NAMES[part](depth) if depth else ())
        elif re.fullmatch(r"\d+", part):
            if depth is not None and int(part) > depth:
                raise UserError(f"--layers {part}: the model has {depth} layers, so the last index is {depth}")
            found.add(int(part))
        elif re.fullmatch(r"[01]?\.\d+", part) and float(part) <= 1:
            found.update([_at_depth(float(part), depth, most=depth)] if depth else ())
        else:
            raise UserError(
                f"--layers '{part}' is not a layer{did_you_mean(part, _NAMES)}; give {', '.join(_NAMES)}, a number from 0 to the "
                "number of layers, or a share of the depth such as 0.5"
            )
    return tuple(sorted(found)) if depth is not None else ()


def _at_depth(share: float, depth: int, most: int | None = None) -> int:
    """The layer at a share of the depth; of Table 5's, neither the embeddings nor what the final norm has changed."""
    nearest = int(share * depth + 0.5)
    return min(max(nearest, 0), most) if most is not None else min(max(nearest, 1), depth - 1)


def shown_layer(layers: Sequence[int], penultimate: int) -> int:
    """The layer whose LCS the tables show: the penultimate, as in the paper, or else the deepest that was asked for."""
    return penultimate if penultimate in layers else max(layers)
