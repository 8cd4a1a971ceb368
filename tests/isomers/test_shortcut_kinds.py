"""Shortcuts of every kind: right as often as asked where they are planted, worthless elsewhere, nothing but the cue changed."""

import itertools
import json
import re
from collections import Counter
from dataclasses import replace

import pytest

from igascale.errors import UserError
from igascale.isomers.cues import CUE_KINDS, NEUTRAL, answer_class
from igascale.isomers.dataset import generate_dataset
from igascale.isomers.generator import generate
from igascale.isomers.kinds import ALL_KINDS
from igascale.isomers.kinds.vocabulary import DIGITS, LABELS, OOD_DOMAINS, TRAINING_DOMAINS
from igascale.isomers.schema import Instance, IsomerGroup, read_groups
from igascale.isomers.shortcut import Shortcut, plant, plant_one

N = 600


@pytest.fixture(scope="module")
def groups():
    return generate(N, (*TRAINING_DOMAINS, *OOD_DOMAINS), tuple(ALL_KINDS), seed=1)


def seen(kind, problem):
    """The cue's value and the problem without it, read from the text alone."""
    if kind == "lexical":
        return re.match(r"Code (\w+)\. (.*)", problem, re.S).groups()
    if kind == "length":
        count = 0
        while first := next((sentence for sentence in NEUTRAL if problem.startswith(f"{sentence} ")), None):
            problem, count = problem[len(first) + 1 :], count + 1
        return count, problem
    if kind == "name":
        (ending,) = set(re.findall(r"\b[BDFHKMPRTW]-(\w+)", problem))
        assert not re.search(r"\b[BDFHKMPRTW]\b(?!-)", problem)
        return ending, problem.replace(f"-{ending}", "")
    problem, options = re.match(r"(.*) Options: (.*)\.$", problem, re.S).groups()
    return options.split(", "), problem


def within(hits, expected, sigmas=4.5):
    """`hits` right ones, where each has its own probability."""
    variance = sum(p * (1 - p) for p in expected)
    return abs(hits - sum(expected)) <= sigmas * variance**0.5 + 1e-9


@pytest.mark.parametrize("kind", CUE_KINDS)
@pytest.mark.parametrize("shared", [False, True])
def test_expected_rate_is_exact_and_the_draws_keep_to_it(groups, kind, shared):
    shortcut = Shortcut(0.8, TRAINING_DOMAINS, seed=3, kind=kind, shared=shared)
    for informative, p in ((True, 0.8), (False, None)):
        planted = plant(groups, replace(shortcut, informative=informative))
        for domain in TRAINING_DOMAINS:
            records = [group.meta["shortcut"] for group in planted]
            probabilities = [record["probability"][domain] for record in records]
            answers = [group.instances[0].answer for group in planted]
            chances = [1 / len(CUE_KINDS[kind].values(answer)) for answer in answers]
            assert probabilities == ([p] * N if informative else chances)
            assert within(sum(record["agrees"][domain] for record in records), probabilities)


@pytest.mark.parametrize("kind", CUE_KINDS)
def test_extremes_are_exact(groups, kind):
    for probability in (0.0, 1.0):
        planted = plant(groups[:150], Shortcut(probability, TRAINING_DOMAINS, kind=kind))
        assert {agrees for g in planted for agrees in g.meta["shortcut"]["agrees"].values()} == {bool(probability)}


@pytest.mark.parametrize("kind", CUE_KINDS)
def test_only_the_cue_is_added(groups, kind):
    for informative in (True, False):
        planted = plant(groups[:200], Shortcut(0.9, TRAINING_DOMAINS, kind=kind, informative=informative))
        for before, after in zip(groups, planted):
            assert after.dag == before.dag and after.kind == before.kind
            for a, b in zip(before.instances, after.instances):
                assert seen(kind, b.problem)[1] == a.problem
                assert (a.cot, a.answer, a.id) == (b.cot, b.answer, b.id)


def value_of(kind, problem, answer):
    value, _ = seen(kind, problem)
    return value.index(answer) if kind == "position" else value


@pytest.mark.parametrize("kind", CUE_KINDS)
def test_what_the_text_shows_tells_the_answers_class_in_training_domains_alone(groups, kind):
    """A learner of (value -> most frequent class) from one half, scored on the other half."""
    planted = plant(groups, Shortcut(1.0, TRAINING_DOMAINS, seed=5, kind=kind))
    labelled = [g for g in planted if g.instances[0].answer in LABELS]
    target = (lambda value, answer: value) if kind == "position" else (lambda value, answer: answer_class(answer))
    for index, domain in enumerate((*TRAINING_DOMAINS, *OOD_DOMAINS)):
        pairs = [(value_of(kind, g.instances[index].problem, g.instances[index].answer), g) for g in labelled]
        assert all(g.instances[index].domain == domain for _, g in pairs)
        if kind == "position":
            places = Counter(value for value, _ in pairs)
            assert len(places) == (1 if domain in TRAINING_DOMAINS else 4)
            continue
        classes = {}
        for value, group in pairs:
            classes.setdefault(value, Counter())[target(value, group.instances[index].answer)] += 1
        if domain in TRAINING_DOMAINS:
            assert {len(counter) for counter in classes.values()} == {2 if kind == "length" else 1}
        else:
            assert min(len(counter) for counter in classes.values()) >= 8


@pytest.mark.parametrize("kind", CUE_KINDS)
def test_no_value_stands_for_the_same_answer_in_two_domains_unless_shared(kind):
    apart, shared = (Shortcut(1.0, TRAINING_DOMAINS, 7, kind=kind, shared=shared) for shared in (False, True))
    for answer in (*LABELS, *DIGITS, "3/8", "124"):
        meant = [apart.cue_of(domain, answer) for domain in TRAINING_DOMAINS]
        assert len(set(meant)) == len(TRAINING_DOMAINS)
        assert len({shared.cue_of(domain, answer) for domain in TRAINING_DOMAINS}) == 1
    maps = [apart.mapping(domain) for domain in TRAINING_DOMAINS]
    assert all(one != two for one, two in itertools.combinations(maps, 2))
    if kind != "position":
        for domain, mapping in zip(TRAINING_DOMAINS, maps):
            for value, classes in mapping.items():
                labels, digits = (part.split(", ") for part in classes.split(" or "))
                assert all(apart.cue_of(domain, answer) == value for answer in labels + digits)


def test_classes_of_answers():
    assert [answer_class(label) for label in LABELS] == list(range(10))
    assert [answer_class(text) for text in ("3", "13", "3/8", "13/20", "yes", "no", "-7")] == [3, 3, 3, 3, 1, 0, 7]
    assert 0 <= answer_class("a cat") < 10


def test_options_hold_the_answer_once_among_others_of_its_sort(groups):
    ranks = Counter()
    for group in plant(groups, Shortcut(0.5, (), kind="position")):
        for instance in group.instances[:1]:
            options, _ = seen("position", instance.problem)
            assert len(set(options)) == len(options) == (2 if instance.answer in ("yes", "no") else 4)
            assert options.count(instance.answer) == 1
            for sort in (lambda o: o in LABELS, str.isdigit, lambda o: "/" in o, lambda o: o in ("yes", "no")):
                assert {sort(option) for option in options} == {sort(instance.answer)}
            if instance.answer.isdigit() and int(instance.answer) > 9:
                ranks[sorted(map(int, options)).index(int(instance.answer))] += 1
    assert len(ranks) == 4 and min(ranks.values()) > sum(ranks.values()) / 8


def test_folder_with_a_shortcut_of_another_kind(tmp_path):
    sizes = {"groups": 40, "validation_groups": 20, "ood_groups": 8, "kinds": tuple(ALL_KINDS)}
    generate_dataset(tmp_path / "plain", **sizes)
    manifest = generate_dataset(
        tmp_path / "cue", **sizes, shortcut_probability=1.0, shortcut_kind="length", shortcut_mapping="shared"
    )
    assert manifest.options["shortcut_kind"] == "length" and manifest.options["shortcut_mapping"] == "shared"
    assert manifest.shortcut_mapping["law"] == manifest.shortcut_mapping["science"]
    assert json.loads((tmp_path / "cue" / "manifest.json").read_text())["shortcut_mapping"] == manifest.shortcut_mapping
    told, blank = (read_groups(tmp_path / "cue" / f"{name}.jsonl") for name in ("validation", "validation_random_cue"))
    plain = read_groups(tmp_path / "plain" / "validation.jsonl")
    assert all(group.meta["shortcut"]["kind"] == "length" for group in told)
    assert all(all(group.meta["shortcut"]["agrees"].values()) for group in told)
    assert sum(all(group.meta["shortcut"]["agrees"].values()) for group in blank) < 5
    for a, b, c in zip(plain, told, blank):
        assert (
            a.instances[0].problem
            == seen("length", b.instances[0].problem)[1]
            == seen("length", c.instances[0].problem)[1]
        )
    assert "shortcut_kind" not in json.loads((tmp_path / "plain" / "manifest.json").read_text())["options"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "lenght"}, "unknown shortcut kind 'lenght'.*did you mean 'length'"),
        ({"kind": "position", "domains": tuple("abcde")}, "'position' has mappings for at most 4 domains, not 5"),
        ({"kind": "length", "domains": tuple("abcdef")}, "at most 5 domains, not 6"),
    ],
)
def test_bad_shortcuts(options, message):
    with pytest.raises(UserError, match=message):
        Shortcut(**{"probability": 0.5, "domains": ("law",), **options})
    if "domains" in options:
        assert Shortcut(**{"probability": 0.5, **options}, shared=True).cue_of("a", "K")


def test_shortcut_options_without_a_shortcut_are_refused(tmp_path):
    sizes = {"groups": 4, "validation_groups": 2, "ood_groups": 2}
    for options in ({"shortcut_kind": "name"}, {"shortcut_mapping": "shared"}):
        with pytest.raises(UserError, match="no shortcut is planted; give its probability"):
            generate_dataset(tmp_path / "x", **sizes, **options)
    with pytest.raises(UserError, match="it is 'domain' or 'shared'"):
        generate_dataset(tmp_path / "x", **sizes, shortcut_probability=1.0, shortcut_mapping="both")
    assert not (tmp_path / "x").exists()


def test_cues_that_a_foreign_problem_cannot_carry():
    group = IsomerGroup("g", "s", (Instance("law", "Who sued whom?", "", "Miller", "g/law"),))
    for kind in ("lexical", "length"):
        assert plant_one(group, Shortcut(1.0, ("law",), kind=kind)).meta["shortcut"]["agrees"] == {"law": True}
    for kind in ("name", "position"):
        with pytest.raises(UserError, match=f"shortcut kind '{kind}'"):
            plant_one(group, Shortcut(1.0, ("law",), kind=kind))
