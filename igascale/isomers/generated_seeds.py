"""Seed problems from the generator, and the truth about each: what a teacher pipeline is tested against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from igascale.errors import UserError
from igascale.isomers.generator import STEPS, Draft, Recipe, check, difficulty, draft, draft_stream, tell_draft
from igascale.isomers.kinds import KINDS
from igascale.isomers.kinds.base import connected
from igascale.isomers.kinds.vocabulary import SEED_DOMAIN, TRAINING_DOMAINS
from igascale.isomers.kinds.wording import PLAIN, Wording
from igascale.isomers.schema import Instance, IsomerGroup
from igascale.isomers.seeds import Seed


def generate_with_seeds(
    count: int,
    domains: Sequence[str] = TRAINING_DOMAINS,
    kinds: Sequence[str] = tuple(KINDS),
    seed: int = 0,
    *,
    seed_domain: str = SEED_DOMAIN,
    steps: tuple[int, int] = STEPS,
    width: int = 0,
    wording: Wording = PLAIN,
) -> Iterator[tuple[Seed, IsomerGroup]]:
    """Seed problems one at a time, each with the group that a perfect teacher would make of it.

    Args:
        count: how many.
        domains: domains of the groups.
        kinds: reasoning kinds; they take turns.
        seed: any whole number.
        seed_domain: domain that the seeds are told in.
        steps: fewest and most steps of the longest line of reasoning.
        width: facts that no step uses, beyond the kind's own.
        wording: how many sentence patterns there may be.

    Raises:
        UserError: as `generate`; before the first pair.
    """
    check(count, domains, kinds, steps, width)
    check(count, (seed_domain,), kinds, steps, width)
    return (
        (_seed(made, seed_domain, wording), _truth(made, domains, wording))
        for made in draft_stream(count, kinds, seed, steps, width)
    )


def truth_of(seed: Seed, domains: Sequence[str] = TRAINING_DOMAINS) -> IsomerGroup:
    """The group of a seed that `generate_with_seeds` or `igascale data seeds` made, from what its `meta` says.

    Raises:
        UserError: it is not such a seed, or its problem or answer are not the ones its recipe gives.
    """
    recipe, domain, wording = _recipe_of(seed)
    made = draft(recipe)
    again = _seed(made, domain, wording)
    if (again.problem, again.answer, again.id) != (seed.problem, seed.answer, seed.id):
        raise UserError(
            f"seed '{seed.id}': its recipe gives another problem; it was changed, or made by another version of igascale"
        )
    return _truth(made, domains, wording)


def _seed(made: Draft, domain: str, wording: Wording) -> Seed:
    instance = _instance(made, domain, wording)
    recipe = made.recipe
    return Seed(
        id=f"seed-{recipe.name}",
        problem=instance.problem,
        answer=instance.answer,
        solution=instance.cot,
        kind=recipe.kind,
        source=f"generator/{domain}",
        meta={
            "logical_form": made.dag.logical_form,
            "difficulty": difficulty(made),
            "recipe": {
                "seed": recipe.seed,
                "index": recipe.index,
                "attempt": recipe.attempt,
                "steps": list(recipe.steps),
                "width": recipe.width,
                "domain": domain,
                "wording": [wording.statements, wording.questions],
            },
        },
    )


def _instance(made: Draft, domain: str, wording: Wording) -> Instance:
    (instance,) = tell_draft(made, (domain,), wording).instances
    return instance


def _truth(made: Draft, domains: Sequence[str], wording: Wording) -> IsomerGroup:
    group = tell_draft(made, domains, wording)
    # The first six kinds leave bystanders unconnected; a checker of graphs would rightly complain.
    dag = connected(made.dag) if made.recipe.kind in KINDS else made.dag
    return replace(group, dag=dag)


def _recipe_of(seed: Seed) -> tuple[Recipe, str, Wording]:
    try:
        known: dict[str, Any] = seed.meta["recipe"]
        first, last = known["steps"]
        recipe = Recipe(str(seed.kind), known["seed"], known["index"], known["attempt"], (first, last), known["width"])
        return recipe, known["domain"], Wording(*known["wording"])
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"seed '{seed.id}': no recipe in its meta, so its truth is not known; make seeds by `igascale data seeds`"
        ) from None
