"""What one unit of training data holds: true isomers, or what a control or a baseline puts in their place.

Only training data passes through here. Every choice is a function of the run's seed alone, so that it is the same on every
rank and in a resumed run.

=================  ===================================================================================================
isomers            one problem, told in every domain: nothing is changed
random pairing     a unit holds one instance of every domain, of unrelated problems
mixed labels       a unit holds true isomers, but which of them counts as which domain is drawn anew for each
pool of instances  the instances of all domains without groups: a unit holds D unrelated ones of the one domain ``all``
pool of seeds      the same with one telling of each seed problem, its repetitions augmented or not
=================  ===================================================================================================
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from igascale.isomers.encode import Example
from igascale.isomers.rows import Rows
from igascale.isomers.schema import Instance, IsomerGroup

#: The only domain of data whose groups have been dissolved.
ONE_DOMAIN = ("all",)


def pair_randomly(groups: Sequence[Sequence[Example]], seed: int) -> Rows:
    """Permute the instances of every domain by themselves: a group then holds one of each domain, of unrelated problems.

    A group keeps its isomers together by chance only, as often as random permutations have it.

    Args:
        groups: per group one example per domain, in one order.
        seed: of the permutations.
    """
    rows = Rows.of(groups)
    places = np.empty_like(rows.places)
    for column in range(places.shape[1]):
        places[:, column] = rows.places[_order(len(rows), f"pairing {seed}/{column}"), column]
    return Rows(rows.store, places)


def mix_labels(groups: Sequence[Sequence[Example]], seed: int) -> Rows:
    """Permute the domain labels within every group: isomers stay together, but a label no longer means a domain.

    Args:
        groups: per group one example per domain.
        seed: of the permutations.

    Returns:
        Per group the same texts, in the order of their new labels.
    """
    rows = Rows.of(groups)
    places = np.empty_like(rows.places)
    for index, row in enumerate(rows.places):
        places[index] = row[_order(len(row), f"labels {seed}/{index}")]
    return Rows(rows.store, places)


def units(pool: Sequence[Example], count: int, size: int, seed: int, places: np.ndarray | None = None) -> Rows:
    """Deal single instances into units of ``size``, all of the one domain.

    The pool is gone through in a new random order as often as it takes, each time as a whole but the last. With as many
    instances as there are places every instance has one.

    Args:
        pool: the instances, at least one.
        count: units to fill.
        size: instances of a unit.
        seed: of the orders.
        places: which of the pool there are, in which order; by default all of them.
    """
    chosen = np.arange(len(pool)) if places is None else places
    passes = -(-count * size // len(chosen))
    dealt = [chosen[_order(len(chosen), f"pool {seed}/{number}")] for number in range(passes)]
    return Rows(pool, np.concatenate(dealt)[: count * size].reshape(count, size), dissolved=True)


def choose_tellings(seed_ids: Iterable[str], num_domains: int, seed: int) -> list[tuple[int, int]]:
    """One telling of each seed problem, as (place of its group, place of its domain); the domains have equal shares, up to one.

    Args:
        seed_ids: the seed problem of each group; of those from one seed problem one is taken.
        num_domains: how many domains a telling may come from.
        seed: of the choice.
    """
    by_seed: dict[str, list[int]] = {}
    for group, name in enumerate(seed_ids):
        by_seed.setdefault(name, []).append(group)
    rng = random.Random(f"igascale seed problems {seed}")
    chosen = [rng.choice(same) for same in by_seed.values()]
    turns = [i % num_domains for i in range(len(chosen))]
    rng.shuffle(turns)
    return list(zip(chosen, turns))


def seed_problems(groups: Sequence[IsomerGroup], domains: Sequence[str], seed: int) -> list[IsomerGroup]:
    """The tellings of :func:`choose_tellings`, as groups of a single instance.

    Args:
        groups: isomer groups.
        domains: that a telling may come from.
        seed: of the choice.
    """
    chosen = choose_tellings((group.seed_id for group in groups), len(domains), seed)
    return [only(groups[group], domains[domain]) for group, domain in chosen]


def only(group: IsomerGroup, domain: str) -> IsomerGroup:
    """The group with its instance of one domain."""
    return replace(group, instances=tuple(i for i in group.instances if i.domain == domain))


def with_augmented(problems: Sequence[IsomerGroup], copies: int, share: float, seed: int) -> list[IsomerGroup]:
    """The problems as they are, then every first copy, every second, and so on (:func:`augmented`).

    Args:
        problems: groups of a single instance, from :func:`seed_problems`.
        copies: augmented copies of each.
        share: of the words that an operation touches, EDA's alpha.
        seed: of the operations.
    """
    return [augmented(problem, number, share, seed) for number in range(copies + 1) for problem in problems]


def augmented(problem: IsomerGroup, number: int, share: float, seed: int) -> IsomerGroup:
    """A copy of a problem with its text augmented; chain of thought and answer stay.

    Odd copies have words swapped, even ones words deleted (:func:`swap_words`, :func:`delete_words`).

    Reference: `EDA <https://arxiv.org/abs/1901.11196>`_ (Wei and Zou, 2019), its two operations that need no lexicon.

    Args:
        problem: a group of a single instance.
        number: of the copy; 0 is the problem as it is.
        share: of the words that an operation touches, EDA's alpha.
        seed: of the operations.
    """
    if not number:
        return problem
    operation = swap_words if number % 2 else delete_words
    (instance,) = problem.instances
    rng = random.Random(f"igascale augment {seed}/{number}/{instance.id}")
    name = f"{_name(problem, instance)}~{number}"
    copy = replace(instance, problem=operation(instance.problem, share, rng), id=name)
    return replace(problem, id=f"{problem.id}~{number}", instances=(copy,))


def swap_words(text: str, share: float, rng: random.Random) -> str:
    """Exchange two random words, ``share`` times the number of words (at least once); a single word stays."""
    words, gaps = _split_words(text)
    if len(words) > 1:
        for _ in range(max(1, round(share * len(words)))):
            i, j = rng.sample(range(len(words)), 2)
            words[i], words[j] = words[j], words[i]
    return "".join(word + gap for word, gap in zip(words, gaps))


def delete_words(text: str, share: float, rng: random.Random) -> str:
    """Delete each word with probability ``share``, at least one of them, but never the last one left."""
    words, gaps = _split_words(text)
    gone = {i for i in range(len(words)) if rng.random() < share} or {rng.randrange(len(words))}
    if len(gone) == len(words):
        gone.discard(rng.randrange(len(words)))
    return "".join(words[i] + gaps[i] for i in range(len(words)) if i not in gone).rstrip()


def _split_words(text: str) -> tuple[list[str], list[str]]:
    """Words, and the blanks that follow each."""
    pieces = re.split(r"(\s+)", text.strip())
    return pieces[::2], [*pieces[1::2], ""]


def _order(count: int, name: str) -> np.ndarray:
    order = list(range(count))
    random.Random(f"igascale {name}").shuffle(order)
    return np.array(order, np.int64)


def _name(group: IsomerGroup, instance: Instance) -> str:
    return instance.id or f"{group.id}/{instance.domain}"
