"""What a run's own configuration says of the files that it is evaluated on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
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


def other_base_note(run: str | Path, base: str) -> list[str]:
    """What to say where the base model is not the one that the run was trained on: other weights, or another template.

    Args:
        run: the run folder, whose ``environment.json`` says what its model's folder held.
        base: the base model of this evaluation.
    """
    from igascale.resuming.sources import fingerprint_model  # needs torch

    try:
        trained_on = json.loads((Path(run) / "environment.json").read_text())["model"]["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    now = fingerprint_model(base)
    if now is None or not isinstance(trained_on, dict):
        return []
    different = sorted(name for name in {*trained_on, *now} if trained_on.get(name) != now.get(name))
    if not different:
        return []
    return [f"THE BASE MODEL {base} IS NOT WHAT THIS RUN WAS TRAINED ON: {', '.join(different[:4])} differ"]
