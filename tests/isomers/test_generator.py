"""Generated problems: reproducible, isomorphic across domains, and right by solvers that read only the prose."""

import itertools
import re
import subprocess
import sys
from collections import Counter

import pytest

from igascale.errors import UserError
from igascale.isomers.generator import generate, logical_form
from igascale.isomers.kinds import KINDS
from igascale.isomers.kinds.vocabulary import LABELS, NUMBER_WORDS, VOCABULARIES
from igascale.isomers.schema import DagNode
from igascale.isomers.solver import solve

ALL_DOMAINS = tuple(VOCABULARIES)


def sentences(text):
    return [part.strip() for part in re.split(r"[.?]", text) if part.strip()]


# Brute force from the words of the problem alone: enumerate every possible world or answer, keep what fits.


def brute_ordering(problem, words):
    pairs = [(s.split()[0], s.split()[-1]) for s in sentences(problem) if re.match(rf"[A-Z] {words.above} [A-Z]$", s)]
    places, direction, start = re.search(r"(\w+) (up|down) from ([A-Z])\W*$", problem).groups()
    distance = NUMBER_WORDS.index(places) * (1 if direction == "up" else -1)
    names = sorted({name for pair in pairs for name in pair})
    rankings = [
        order
        for order in itertools.permutations(names)
        if all(order.index(upper) < order.index(lower) for upper, lower in pairs)
    ]
    (ranking,) = rankings
    return ranking[ranking.index(start) - distance]


def brute_comparison(problem, words):
    values = {k: int(v) for k, v in re.findall(rf"([A-Z]) {words.has} (\d)\.", problem)}
    asked = re.findall(r"\b[A-Z]\b", re.search(r"(?:Of|Among) (.*?), (?:which|find)", problem)[1])
    sign = 1 if "the most" in problem else -1
    return next(k for k in asked if all(sign * values[k] >= sign * values[other] for other in asked))


def brute_rules(problem, words):
    subject = re.search(r"([A-Z])\W*$", problem)[1]
    case = next(s for s in sentences(problem) if s.startswith(f"{subject} is "))
    own = set(re.findall(r"\w+", case)) & {t for pair in words.traits for t in pair}
    place = None
    for trait, where in re.findall(r"(\w+) means ([A-Z])", problem):
        place = where if trait in own else place
    return place


def brute_selection(problem, words):
    traits = {t for pair in words.traits for t in pair}
    facts = {s[0]: set(re.findall(r"\w+", s)) & traits for s in sentences(problem) if s[1:5] == " is "}
    wanted = set(re.findall(r"\w+", sentences(problem)[-1])) & traits
    (answer,) = [name for name in facts if wanted <= facts[name]]
    return answer


def brute_counting(problem, words):
    traits = {t for pair in words.traits for t in pair}
    wanted = next(w for w in re.findall(r"\w+", sentences(problem)[-1]) if w in traits)
    before = int(re.search(r"\d", problem)[0])
    return str(before + len(re.findall(rf"\b[A-Z] is {wanted}\.", problem)))


def brute_arithmetic(problem, words):
    unknown = re.findall(rf"([A-Z]) {words.has} (\d) (more|fewer) than ([A-Z])", problem)
    known = {k: int(v) for k, v in re.findall(rf"([A-Z]) {words.has} (\d)\.", problem)}
    asked = re.findall(r"\b[A-Z]\b", sentences(problem)[-1])[-1]
    names = [k for k, *_ in unknown]
    solutions = set()
    for amounts in itertools.product(range(10), repeat=len(names)):
        world = known | dict(zip(names, amounts))
        if all(world[k] == world[o] + (int(n) if more == "more" else -int(n)) for k, n, more, o in unknown):
            solutions.add(world[asked])
    (amount,) = solutions
    return str(amount)


BRUTE = {
    "ordering": brute_ordering,
    "comparison": brute_comparison,
    "rules": brute_rules,
    "selection": brute_selection,
    "counting": brute_counting,
    "arithmetic": brute_arithmetic,
}


def test_every_kind_has_a_brute_force_solver():
    assert set(BRUTE) == set(KINDS)
    assert len(KINDS) >= 6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_answers_agree_with_brute_force_over_the_words(kind, steps):
    for seed in range(4):
        for group in generate(10, ALL_DOMAINS, [kind], seed, steps=(steps, steps)):
            for instance in group.instances:
                expected = BRUTE[kind](instance.problem, VOCABULARIES[instance.domain])
                assert instance.answer == expected, instance.problem
                last = re.findall(r"\b(?:[A-Z]|\d)\b", instance.cot.split("\n")[-1])
                assert expected in last


@pytest.mark.parametrize("kind", KINDS)
def test_solver_reads_facts_not_steps(kind):
    for group in generate(20, ("law",), [kind], 11):
        derived = {edge.target for edge in group.dag.edges if edge.label == "IMPLIES"}
        nodes = tuple(
            DagNode(n.id, n.type, "nothing") if n.id in derived and n.type != "GOAL" else n for n in group.dag.nodes
        )
        blind = type(group.dag)(nodes, group.dag.edges, None, None)
        assert solve(kind, blind) == group.instances[0].answer


def skeleton(text, words):
    """The text with the domain's own words taken out: equal for isomers told with the same paraphrase."""
    own = {words.noun, words.nouns, words.has, words.have, words.units, words.place}
    own |= {t for pair in words.traits for t in pair} | {words.above, words.below}
    return re.sub(rf"\b({'|'.join(own)})\b", "*", text)


def test_isomers_share_dag_steps_and_all_but_the_words():
    for group in generate(120, ALL_DOMAINS, seed=2, steps=(2, 4)):
        assert [i.domain for i in group.instances] == list(ALL_DOMAINS)
        assert len({i.answer for i in group.instances}) == 1
        assert {len(i.cot.split("\n")) for i in group.instances} == {group.dag.steps}
        cots = {skeleton(i.cot, VOCABULARIES[i.domain]) for i in group.instances}
        assert len(cots) == 1, cots
        problems = {i.problem for i in group.instances}
        assert len(problems) == len(ALL_DOMAINS)
        steps = [n for n in group.dag.nodes if n.type == "PROPOSITION" and n.id.startswith("s")]
        assert len(steps) == group.dag.steps


def test_domain_words_do_not_overlap():
    seen = Counter(
        word
        for words in VOCABULARIES.values()
        for word in {words.noun, words.nouns, words.units, words.place, *itertools.chain(*words.traits)}
    )
    assert set(seen.values()) == {1}


def test_more_domains_do_not_change_the_others():
    one, many = generate(12, ("law",), seed=4), generate(12, ALL_DOMAINS, seed=4)
    for a, b in zip(one, many):
        assert a.dag == b.dag
        assert a.instances[0] == b.instances[ALL_DOMAINS.index("law")]


def test_no_problem_twice_and_exclude():
    groups = generate(1500, ("law",), seed=0)
    forms = {logical_form(group) for group in groups}
    assert len(forms) == 1500
    assert len({group.instances[0].problem for group in groups}) == 1500
    again = generate(1500, ("law",), seed=0, exclude=forms)
    assert not forms & {logical_form(group) for group in again}


def test_answers_are_spread_and_from_the_declared_set():
    groups = generate(2000, ("law",), seed=0)
    answers = Counter(group.instances[0].answer for group in groups)
    assert set(answers) == {*LABELS, *"0123456789"}
    assert max(answers.values()) / 2000 < 0.12
    for kind in KINDS:
        own = Counter(g.instances[0].answer for g in groups if g.kind == kind)
        assert max(own.values()) / sum(own.values()) <= 0.20


def test_two_processes_make_the_same_file(tmp_path):
    program = (
        "import sys; from igascale.isomers.dataset import generate_dataset as g; "
        "g(sys.argv[1], groups=40, validation_groups=8, ood_groups=8, seed=7, shortcut_probability=0.8)"
    )
    for name, salt in (("a", "1"), ("b", "2")):
        subprocess.run([sys.executable, "-c", program, str(tmp_path / name)], check=True, env={"PYTHONHASHSEED": salt})
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(names) == 5
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_different_seeds_differ():
    assert generate(20, ("law",), seed=0) != generate(20, ("law",), seed=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domains": ("lawe",)}, "unknown domain 'lawe'.*did you mean 'law'"),
        ({"kinds": ("orderin",)}, "unknown reasoning kind 'orderin'.*did you mean 'ordering'"),
        ({"domains": ()}, "domains is empty"),
        ({"domains": ("law", "law")}, "domains names one twice"),
        ({"num_groups": 0}, "at least 1"),
        ({"steps": (3, 2)}, "steps must be a range"),
        ({"steps": (2, 9)}, "steps must be a range"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(UserError, match=message):
        generate(**{"num_groups": 4, **options})


def test_says_when_there_are_no_more_problems():
    with pytest.raises(UserError, match="no new problem of kind 'counting'"):
        generate(20_000, ("law",), ["counting"], steps=(1, 1))
