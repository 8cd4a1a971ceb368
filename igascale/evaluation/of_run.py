"""What a run's own configuration says of the files that it is evaluated on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from igascale.isomers.schema import IsomerGroup, domains_of


def in_distribution(groups: Sequence[IsomerGroup], section: Mapping[str, Any]) -> tuple[list[IsomerGroup], list[str]]:
    """The groups with the domains that the run was trained on: the others are not in-distribution.

    Args:
        groups: of the run's validation file.
        section: the ``data`` section of the run's configuration.

    Returns:
        The groups, and what the user should be told: what was left out.

    Raises:
        UserError: the training file, whose order of domains ``data.num_domains`` counts in, cannot be read.
    """
    named, count = section.get("domains"), section.get("num_domains")
    if named is None and count is None:
        return list(groups), []
    from igascale.loading import look_over  # needs torch

    trained = (tuple(named) if named else look_over(section["train"]).domains)[:count]
    others = [d for d in domains_of(groups) if d not in trained]
    if not others:
        return list(groups), []
    kept = [replace(g, instances=tuple(i for i in g.instances if i.domain in trained)) for g in groups]
    note = f"ID is {', '.join(trained)}, what the run was trained on; left out: {', '.join(others)}"
    return [g for g in kept if g.instances], [note]


def leakage_note(section: Mapping[str, Any]) -> list[str]:
    """What to say of a run whose held-out files share seed problems with its training."""
    if not section.get("allow_leakage"):
        return []
    return ["LEAKAGE: this run was trained on the seed problems of its held-out files; the figures are inflated"]
