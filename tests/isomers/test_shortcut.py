"""The planted cue: right as often as asked, by a mapping of its own in each domain, and worthless elsewhere."""

from collections import Counter, defaultdict
from dataclasses import replace

import pytest

from igascale.errors import UserError
from igascale.isomers.generator import generate
from igascale.isomers.kinds.vocabulary import LABELS, OOD_DOMAINS, TRAINING_DOMAINS
from igascale.isomers.shortcut import CUES, Shortcut, plant

N = 1500
SHORTCUT = Shortcut(0.9, TRAINING_DOMAINS, seed=3)


@pytest.fixture(scope="module")
def groups():
    return generate(N, (*TRAINING_DOMAINS, *OOD_DOMAINS), seed=1)


def cue_in(problem):
    first, cue, _ = problem.split(" ", 2)
    assert first == "Code"
    return cue.rstrip(".")


def learned_mapping(groups, domain):
    """Most frequent answer after each (cue, sort of answer): what a learner of the shortcut would find."""
    seen = defaultdict(Counter)
    for group in groups:
        for instance in group.instances:
            if instance.domain == domain:
                seen[cue_in(instance.problem), instance.answer in LABELS][instance.answer] += 1
    return {key: counts.most_common(1)[0][0] for key, counts in seen.items()}


def score(groups, domain, mapping):
    hits = [
        mapping.get((cue_in(i.problem), i.answer in LABELS)) == i.answer
        for g in groups
        for i in g.instances
        if i.domain == domain
    ]
    return sum(hits) / len(hits)


def within(value, p, n, sigmas=4.0):
    return abs(value - p) <= sigmas * (p * (1 - p) / n) ** 0.5


def test_cue_predicts_the_answer_with_probability_p_in_training_domains(groups):
    planted = plant(groups, SHORTCUT)
    for domain in TRAINING_DOMAINS:
        assert within(score(planted, domain, learned_mapping(planted, domain)), 0.9, N)


def test_mapping_differs_between_domains(groups):
    planted = plant(groups, SHORTCUT)
    maps = [learned_mapping(planted, domain) for domain in TRAINING_DOMAINS]
    assert all(len(mapping) == 2 * len(CUES) for mapping in maps)
    for i, first in enumerate(maps):
        for second in maps[:i]:
            assert not any(first[key] == second[key] for key in first)


def test_cue_is_chance_out_of_distribution_under_every_training_mapping(groups):
    planted = plant(groups, SHORTCUT)
    for ood in OOD_DOMAINS:
        for domain in TRAINING_DOMAINS:
            assert within(score(planted, ood, learned_mapping(planted, domain)), 0.1, N)


def test_uninformative_mode_is_chance_and_keeps_the_problems(groups):
    mapping = {domain: learned_mapping(plant(groups, SHORTCUT), domain) for domain in TRAINING_DOMAINS}
    blank = plant(groups, replace(SHORTCUT, informative=False))
    for domain in TRAINING_DOMAINS:
        assert within(score(blank, domain, mapping[domain]), 0.1, N)
    for before, after in zip(groups, blank):
        for a, b in zip(before.instances, after.instances):
            assert b.problem == f"Code {cue_in(b.problem)}. {a.problem}"
            assert (a.cot, a.answer, a.id) == (b.cot, b.answer, b.id)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_extremes(groups, probability):
    planted = plant(groups[:200], Shortcut(probability, TRAINING_DOMAINS))
    agrees = [a for group in planted for a in group.meta["shortcut"]["agrees"].values()]
    assert set(agrees) == {bool(probability)}


def test_meta_tells_the_truth(groups):
    planted = plant(groups, SHORTCUT)
    mapping = {domain: learned_mapping(planted, domain) for domain in TRAINING_DOMAINS}
    for group in planted:
        record = group.meta["shortcut"]
        assert record["probability"] == dict.fromkeys(TRAINING_DOMAINS, 0.9) | dict.fromkeys(OOD_DOMAINS, 0.1)
        for instance in group.instances:
            cue = cue_in(instance.problem)
            assert record["cue"][instance.domain] == cue
            if instance.domain in TRAINING_DOMAINS:
                meant = mapping[instance.domain][cue, instance.answer in LABELS]
                assert record["agrees"][instance.domain] == (meant == instance.answer)


def test_declared_mapping_is_the_real_one(groups):
    planted = plant(groups, SHORTCUT)
    for domain in TRAINING_DOMAINS:
        mapping = learned_mapping(planted, domain)
        declared = SHORTCUT.mapping(domain)
        assert declared == {cue: f"{mapping[cue, True]} or {mapping[cue, False]}" for cue in CUES}


@pytest.mark.parametrize("probability", [-0.1, 1.5])
def test_probability_out_of_range(probability):
    with pytest.raises(UserError, match="between 0 and 1"):
        Shortcut(probability, ("law",))


def test_more_domains_than_mappings():
    with pytest.raises(UserError, match="at most 10 domains"):
        Shortcut(0.5, tuple(f"d{i}" for i in range(11)))
