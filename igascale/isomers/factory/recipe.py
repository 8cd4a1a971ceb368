"""What decides a seed's outcome besides the seed. An outcome belongs to one recipe; another recipe asks again for what differs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from igascale.isomers.factory.domains import Domain
from igascale.isomers.factory.gates import GateSettings
from igascale.isomers.factory.prompts import PromptSet

_FORMAT = 2  # of the pipeline itself: raised when the same answers would lead to other outcomes


@dataclass(frozen=True)
class Recipe:
    """Prompts, domains, gates, model and sampling of a build; `id` is their hash."""

    parts: Mapping[str, Any]

    @property
    def id(self) -> str:
        """16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.parts, sort_keys=True).encode()).hexdigest()[:16]


def recipe_of(
    prompts: PromptSet, domains: Sequence[Domain], gates: GateSettings, sampling: Mapping[str, Any]
) -> Recipe:
    """The recipe. `sampling` names model, temperature, seed and max_tokens.

    The endpoint is no part of it: the same model behind another address is the same teacher. `max_tokens` is, although the
    answers do not depend on it: a seed that was rejected because answers were cut off deserves another look under a larger one,
    and the answers that were whole are not asked for again.
    """
    versions = prompts.versions if gates.votes else {k: v for k, v in prompts.versions.items() if k != "solve"}
    return Recipe(
        {
            "format": _FORMAT,
            "prompts": versions,
            "domains": {domain.name: domain.text for domain in domains},
            "domain_order": [domain.name for domain in domains],
            "gates": asdict(gates),
            **sampling,
        }
    )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed from one recipe's parts to another's, for a message."""
    said = []
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            said += [f"{key}.{change}" for change in differences(before, after)]
        elif key not in old or key not in new:
            said.append(f"{key} {'is new' if key in new else 'is gone'}")
        else:
            one, other = ("none" if value is None else str(value) for value in (before, after))
            said.append(f"{key} was {one}, is {other}" if len(one) + len(other) < 80 else f"{key} has changed")
    return said
