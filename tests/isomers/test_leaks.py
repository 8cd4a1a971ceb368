"""Without a shortcut, where names stand, how long a problem is and which names it has tell nothing about the answer."""

import functools
import re
from collections import Counter

import numpy as np
import pytest

from igascale.isomers.cues import answer_class
from igascale.isomers.generator import generate
from igascale.isomers.kinds import ALL_KINDS
from igascale.isomers.kinds.vocabulary import LABELS
from igascale.isomers.kinds.wording import Wording

N = 600
# Kinds in which places tell, by their nature; docs/data.md says how much. A later exception overrides an earlier
# rule, so the answer of `rules` is named late. The ends of a ranking are named once, so those of `ordering` come late.
PLACES_TELL = {"rules", "ordering"}
NAMED = [
    kind for kind in ALL_KINDS if kind in ("ordering", "comparison", "rules", "selection", "inductive", "abductive")
]


def named(text):
    return list(dict.fromkeys(re.findall(rf"\b[{''.join(LABELS)}]\b", text)))


def chi_square(table):
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    return float((np.square(table - expected) / np.where(expected > 0, expected, 1)).sum())


def independence(features, answers, draws=400):
    """p of a permutation test that feature and answer are independent: exact whatever the counts."""
    a, b = (np.unique(values, return_inverse=True)[1] for values in (np.array(features), np.array(answers)))
    shape = (a.max() + 1, b.max() + 1)
    rng = np.random.default_rng(0)

    def statistic(b):
        return chi_square(np.bincount(a * shape[1] + b, minlength=shape[0] * shape[1]).reshape(shape))

    observed = statistic(b)
    return (1 + sum(statistic(rng.permutation(b)) >= observed - 1e-9 for _ in range(draws))) / (draws + 1)


@functools.cache
def problems(kind, depth, width=0):
    groups = generate(N, ("general",), [kind], 11, steps=(depth, depth), width=width, wording=Wording.parse("full"))
    return [(group, group.instances[0]) for group in groups]


def places_of_answers(pairs):
    """(how often the answer is the k-th of those that could be it, how often it would be if all were as likely)."""
    found, expected = np.zeros(10), np.zeros(10)
    for group, instance in pairs:
        goal = group.dag.logical_form.split(" |- ")[1]
        asked = [label for label in LABELS if re.search(rf"\b{label}\b", goal)]
        facts = instance.problem[: -len(re.split(r"(?<=[.?]) ", instance.problem)[-1])]  # without the question
        could = [label for label in named(facts) if (label in asked) == (group.kind == "comparison")]
        found[could.index(instance.answer)] += 1
        expected[: len(could)] += 1 / len(could)
    return found, expected


def uniformity(found, expected, draws=1000):
    keep = expected > 0
    statistic = lambda counts: (np.square(counts - expected[keep]) / expected[keep]).sum()  # noqa: E731
    rng = np.random.default_rng(0)
    chances = expected[keep] / expected.sum()
    simulated = [statistic(rng.multinomial(int(found.sum()), chances)) for _ in range(draws)]
    return (1 + sum(s >= statistic(found[keep]) for s in simulated)) / (draws + 1)


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("depth", [3])
def test_length_tells_nothing(kind, depth):
    pairs = problems(kind, depth)
    classes = [answer_class(instance.answer) for _, instance in pairs]
    words = [len(instance.problem.split()) for _, instance in pairs]
    assert independence(np.digitize(words, np.quantile(words, [0.2, 0.4, 0.6, 0.8])), classes) > 0.0025


@pytest.mark.parametrize("kind", [kind for kind in ALL_KINDS if kind not in NAMED])
@pytest.mark.parametrize("depth", [3])
def test_names_and_their_places_tell_nothing_about_numbers_and_yes_or_no(kind, depth):
    pairs = problems(kind, depth, width=1)
    classes = [answer_class(instance.answer) for _, instance in pairs]
    order = [named(instance.problem) for _, instance in pairs]
    for feature in (
        [names[0] for names in order],
        [names[-1] for names in order],
        [names.index(label) for names, label in zip(order, (last_asked(group) for group, _ in pairs)) if label] or None,
    ):
        assert feature is None or independence(feature, classes) > 0.0025
    assert min(independence([label in names for names in order], classes) for label in LABELS) > 0.0025


def last_asked(group):
    """The last name in the goal: what is asked for."""
    return next(iter(named(group.dag.logical_form.split(" |- ")[1])[::-1]), None)


@pytest.mark.parametrize("kind", [kind for kind in NAMED if kind not in PLACES_TELL])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_the_answer_is_as_likely_at_every_place(kind, depth):
    found, expected = places_of_answers(problems(kind, depth))
    assert uniformity(found, expected) > 0.0025, (found, expected)


@pytest.mark.parametrize("kind", NAMED)
def test_no_name_is_likelier_than_another(kind):
    answers = Counter(instance.answer for _, instance in problems(kind, 3))
    assert uniformity(np.array([answers[label] for label in LABELS]), np.full(10, N / 10)) > 0.0025


@pytest.mark.parametrize(
    ("kind", "depth", "place", "share"),
    [("rules", 2, 2, 0.67), ("rules", 3, 3, 0.75), ("ordering", 2, 1, 0.5), ("ordering", 3, 2, 0.3)],
)
def test_places_that_tell_tell_as_much_as_the_docs_say(kind, depth, place, share):
    found, _ = places_of_answers(problems(kind, depth))
    assert found.argmax() == place
    assert abs(found[place] / N - share) < 0.06
