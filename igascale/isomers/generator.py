"""Generate isomer groups without a teacher: draw a DAG, solve it, tell it in every domain's words."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from igascale.errors import UserError
from igascale.isomers.difficulty import depth_of, width_of
from igascale.isomers.kinds import KINDS, Telling, kind_of
from igascale.isomers.kinds.vocabulary import TRAINING_DOMAINS, vocabulary_of
from igascale.isomers.kinds.wording import PLAIN, Wording
from igascale.isomers.schema import Dag, Instance, IsomerGroup
from igascale.isomers.shortcut import Shortcut, plant_one
from igascale.isomers.solver import solve

STEPS = (2, 3)  # fewest and most reasoning steps of a problem
MOST_STEPS = 6  # of some kinds; others have fewer
_RETELLINGS = 20  # draws of other words; every kind has at least two wordings
_ATTEMPTS = 200  # draws before we say that there are not enough different problems


class Forms:
    """Logical forms that are taken: 8 bytes each, so that a set of any size fits in memory."""

    def __init__(self, forms: Iterable[str] = ()) -> None:
        self._digests: set[bytes] = set()
        self.kinds: Counter[str] = Counter()  # how many of each kind
        for form in forms:
            self.add(form)

    def add(self, form: str) -> bool:
        """Take a form; False where it was taken before. Two forms are mistaken for one with odds of 1 in 10^19."""
        digest = hashlib.blake2b(form.encode(), digest_size=8).digest()
        if digest in self._digests:
            return False
        self._digests.add(digest)
        self.kinds[form.split(":")[0]] += 1
        return True


@dataclass(frozen=True)
class Recipe:
    """Everything that a generated problem depends on: `draft` makes it again without those before it.

    Attributes:
        kind: of reasoning.
        seed: of the set.
        index: of the group in the set.
        attempt: how many problems drawn before at this index had come up already.
        steps: fewest and most steps.
        width: distractors beyond the kind's own.
    """

    kind: str
    seed: int
    index: int
    attempt: int = 0
    steps: tuple[int, int] = STEPS
    width: int = 0

    @property
    def name(self) -> str:
        """Of the group; its `seed_id` is ``seed-`` and this."""
        return f"{self.seed}-{self.index:05d}"


@dataclass(frozen=True)
class Draft:
    """A problem before it is told: `puzzle` is what its kind drew."""

    recipe: Recipe
    puzzle: Any
    dag: Dag

    @property
    def form(self) -> str:
        """Every predicate name tells its kind apart except a few such as `is`, so the kind belongs to the form."""
        return f"{self.recipe.kind}: {self.dag.logical_form}"


def generate(
    num_groups: int,
    domains: Sequence[str] = TRAINING_DOMAINS,
    kinds: Sequence[str] = tuple(KINDS),
    seed: int = 0,
    shortcut: Shortcut | None = None,
    *,
    steps: tuple[int, int] = STEPS,
    exclude: Collection[str] | Forms = (),
    retold: bool = False,
    width: int = 0,
    wording: Wording = PLAIN,
) -> list[IsomerGroup]:
    """Make groups of isomers; the same arguments give the same groups on every machine.

    A group's DAG does not depend on `domains`, `shortcut` or `wording`: more domains leave the others as they were.

    Args:
        num_groups: how many groups; kinds take turns.
        domains: domains each group is told in, in this order.
        kinds: reasoning kinds to draw from.
        seed: any whole number.
        shortcut: plant a cue in each problem.
        steps: fewest and most steps of the longest line of reasoning, within 1 to 6 (some kinds 4), drawn uniformly.
        exclude: logical forms that must not come up (those of a training set, say); a `Forms` also takes the new ones.
        retold: tell the same problems, with the same `seed_id`, under other ids and in other words.
        width: facts that no step uses, beyond the kind's own.
        wording: how many sentence patterns there may be.

    Returns:
        Groups with pairwise different logical forms.

    Raises:
        UserError: an unknown domain or kind, an impossible range or width, or not enough different problems.
    """
    return list(
        generate_stream(
            num_groups,
            domains,
            kinds,
            seed,
            shortcut,
            steps=steps,
            exclude=exclude,
            retold=retold,
            width=width,
            wording=wording,
        )
    )


def generate_stream(
    num_groups: int,
    domains: Sequence[str] = TRAINING_DOMAINS,
    kinds: Sequence[str] = tuple(KINDS),
    seed: int = 0,
    shortcut: Shortcut | None = None,
    *,
    steps: tuple[int, int] = STEPS,
    exclude: Collection[str] | Forms = (),
    retold: bool = False,
    width: int = 0,
    wording: Wording = PLAIN,
) -> Iterator[IsomerGroup]:
    """The groups of `generate` one at a time. Arguments are checked here and now, not at the first group."""
    taken = exclude if isinstance(exclude, Forms) else Forms(exclude)
    check(num_groups, domains, kinds, steps, width, taken)

    def groups() -> Iterator[IsomerGroup]:
        for made in draft_stream(num_groups, kinds, seed, steps, width, taken):
            group = tell_draft(made, domains, wording, retold=retold)
            yield plant_one(group, shortcut) if shortcut is not None else group

    return groups()


def check(
    num_groups: int,
    domains: Sequence[str],
    kinds: Sequence[str],
    steps: tuple[int, int],
    width: int = 0,
    taken: Forms | None = None,
) -> None:
    """Refuse arguments that `generate` cannot serve.

    Raises:
        UserError: as `generate`.
    """
    if num_groups < 1:
        raise UserError(f"the number of groups must be at least 1, not {num_groups}")
    for name, values in (("domains", domains), ("kinds", kinds)):
        if not values:
            raise UserError(f"{name} is empty; name at least one")
        if len(set(values)) != len(values):
            raise UserError(f"{name} names one twice: {', '.join(values)}")
    for domain in domains:
        vocabulary_of(domain)
    for kind in kinds:
        kind_of(kind)
    if not 1 <= steps[0] <= steps[1] <= MOST_STEPS:
        raise UserError(f"steps must be a range within 1 to {MOST_STEPS}, not {steps[0]} to {steps[1]}")
    for number, kind in enumerate(kinds):
        if steps[1] > kind_of(kind).deepest:
            raise UserError(
                f"kind '{kind}' has at most {kind_of(kind).deepest} steps, not {steps[1]}; ask for fewer, or leave it out"
            )
        widest = min(kind_of(kind).widest(depth) for depth in range(steps[0], steps[1] + 1))
        if not 0 <= width <= widest:
            raise UserError(
                f"width must be within 0 to {widest} for kind '{kind}' with up to {steps[1]} steps, not {width}"
            )
        wanted = len(range(number, num_groups, len(kinds)))
        _check_supply(kind, wanted, steps, width, 0 if taken is None else taken.kinds[kind])


def _check_supply(kind: str, wanted: int, steps: tuple[int, int], width: int, taken: int) -> None:
    """Refuse before the first problem what cannot be: distractors only make more problems, so they are not counted."""
    there_are = sum(kind_of(kind).most(depth) for depth in range(steps[0], steps[1] + 1))
    if not width and wanted + taken > there_are:
        depths = f"{steps[0]} to {steps[1]} steps" if steps[0] < steps[1] else f"{steps[0]} step{'s'[: steps[0] - 1]}"
        raise UserError(
            f"there would be no new problem of kind '{kind}': at most {there_are:,} have {depths}, and {wanted:,} are "
            f"asked for{f' beside {taken:,} others' if taken else ''}; ask for fewer groups, more kinds or more steps"
        )


def draft_stream(
    num_groups: int,
    kinds: Sequence[str],
    seed: int,
    steps: tuple[int, int] = STEPS,
    width: int = 0,
    taken: Forms | None = None,
) -> Iterator[Draft]:
    """Problems that are new to `taken` (and to each other), untold; kinds take turns."""
    taken = Forms() if taken is None else taken
    for index in range(num_groups):
        kind = kinds[index % len(kinds)]
        for attempt in range(_ATTEMPTS):
            made = draft(Recipe(kind, seed, index, attempt, steps, width))
            if taken.add(made.form):
                yield made
                break
        else:
            raise UserError(
                f"found no new problem of kind '{kind}' in {_ATTEMPTS} draws for group {index}: {taken.kinds[kind]:,} of "
                f"its problems are taken; ask for fewer groups, more kinds or more steps"
            )


def draft(recipe: Recipe) -> Draft:
    """Draw the problem of a recipe: always the same."""
    kind = kind_of(recipe.kind)
    rng = random.Random(f"igascale group {recipe.seed}/{recipe.index}/{recipe.attempt}")
    puzzle = kind.draw(rng, rng.randint(*recipe.steps), recipe.width)
    return Draft(recipe, puzzle, kind.dag(puzzle))


def logical_form(group: IsomerGroup) -> str:
    """What makes a generated problem the same problem, in the form that `generate(exclude=...)` takes."""
    if group.dag is None:
        raise ValueError(f"group '{group.id}' has no DAG")
    return f"{group.kind}: {group.dag.logical_form}"


def tell_draft(made: Draft, domains: Sequence[str], wording: Wording = PLAIN, *, retold: bool = False) -> IsomerGroup:
    """Solve a problem and tell it in every domain; `meta["difficulty"]` is left out where it is that of old files."""
    recipe = made.recipe
    answer = solve(recipe.kind, made.dag)
    seed_name = recipe.name
    name = f"{seed_name}-again" if retold else seed_name
    instances = []
    for domain in domains:
        telling = _words(made, f"{seed_name}/{domain}", domain, wording, answer)
        if retold:
            names = (f"{name}/{domain}/{attempt}" for attempt in range(_RETELLINGS))
            others = (_words(made, other, domain, wording, answer) for other in names)
            telling = next((other for other in others if other.problem != telling.problem), telling)
        instances.append(Instance(domain, telling.problem, telling.cot, answer, f"{name}/{domain}"))
    return IsomerGroup(
        id=name,
        seed_id=f"seed-{seed_name}",
        instances=tuple(instances),
        kind=recipe.kind,
        dag=made.dag,
        meta={"difficulty": difficulty(made)} if recipe.width or recipe.kind not in KINDS else {},
    )


def difficulty(made: Draft) -> dict[str, int]:
    """Depth and width as read off the graph (`igascale.isomers.difficulty`)."""
    return {"depth": depth_of(made.dag), "width": width_of(made.dag)}


def _words(made: Draft, name: str, domain: str, wording: Wording, answer: str) -> Telling:
    """The problem in the words that its name draws."""
    rng = random.Random(f"igascale words {name}")
    telling = kind_of(made.recipe.kind).tell(made.puzzle, vocabulary_of(domain), rng, wording)
    if telling.conclusion != answer:
        raise RuntimeError(
            f"problem {name}: the steps told in {domain} end with {telling.conclusion}, the solver says {answer}"
        )
    return telling
