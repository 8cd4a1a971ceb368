"""The gates one by one, and the comparison of dependency structures against a brute-force oracle."""

import itertools
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from igascale.isomers.factory import gates as gates_module
from igascale.isomers.factory.gates import (
    REASONS,
    GateSettings,
    check_copies,
    check_dag,
    check_group,
    check_telling,
    check_verdict,
    check_votes,
)
from igascale.isomers.factory.replies import ExtractReply, InstantiateReply, VerifyReply
from igascale.isomers.factory.structure import describe, first_fault, reduced, same_structure
from igascale.isomers.generator import generate
from igascale.isomers.kinds import ALL_KINDS


@st.composite
def solutions(draw, most=6):
    """Steps that use earlier ones."""
    count = draw(st.integers(1, most))
    return [sorted(draw(st.sets(st.integers(1, step)))) if step else [] for step in range(count)]


def brute_force(one, other):
    """Every mapping of the reduced graphs."""
    a, b = reduced(one), reduced(other)
    if len(a) != len(b):
        return False
    edges = {(used, step) for step, all_used in enumerate(b) for used in all_used}
    return any(
        {(order[used], order[step]) for step, all_used in enumerate(a) for used in all_used} == edges
        for order in itertools.permutations(range(len(a)))
    )


@settings(max_examples=200, deadline=None)
@given(solutions(), solutions())
def test_same_structure_is_isomorphism(one, other):
    assert same_structure(one, other) == brute_force(one, other)
    assert same_structure(other, one) == same_structure(one, other)


@settings(max_examples=200, deadline=None)
@given(solutions(), st.randoms(use_true_random=False))
def test_another_order_of_the_steps_is_the_same_structure(uses, rng):
    order = shuffled(uses, rng)
    place = {old: new for new, old in enumerate(order)}
    again = [[place[used - 1] + 1 for used in uses[old]] for old in order]
    assert first_fault(again) is None and same_structure(uses, again)


def shuffled(uses, rng):
    """A random order in which every step comes after those it uses."""
    left, order = list(range(len(uses))), []
    while left:
        ready = [step for step in left if all(used - 1 in order for used in uses[step])]
        order.append(rng.choice(ready))
        left.remove(order[-1])
    return order


@settings(max_examples=200, deadline=None)
@given(solutions(), st.data())
def test_a_step_told_in_two_sentences_and_an_implied_use_are_the_same_structure(uses, data):
    step = data.draw(st.integers(1, len(uses)))
    moved = [[used + (used > step) for used in later] for later in uses]
    # The second half of the step stands behind it; whoever used the step uses that half.
    halves = [*moved[:step], [step], *([used + (used == step) for used in later] for later in moved[step:])]
    assert same_structure(uses, halves)
    implied = [list(used) for used in uses]
    for later in range(len(uses)):
        behind = {deeper for used in uses[later] for deeper in uses[used - 1]}
        implied[later] = sorted({*uses[later], *behind})
    assert same_structure(uses, implied)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([[], [1]], [[], [1], [2], [3]], True),  # chains, of any length
        ([[], [], [1, 2]], [[], [1], [2]], False),  # a join is no chain
        ([[], [], [1, 2]], [[], [], [], [1, 2, 3]], False),
        ([[], [1], [1], [2, 3]], [[], [1], [1, 2]], False),  # a diamond is none without its second way
        ([[], []], [[]], False),  # a step that leads nowhere
    ],
)
def test_structures(one, other, same):
    assert same_structure(one, other) is same


def test_symmetric_structures_are_compared_at_once():
    """Thirty steps alike, used by one: 30! mappings, of which the first is as good as any."""
    fan = [[] for _ in range(30)] + [list(range(1, 31))]
    assert same_structure(fan, fan)
    assert not same_structure(fan, [[] for _ in range(30)] + [list(range(1, 30))])
    rng = random.Random(0)
    uses = [rng.sample(range(1, step + 1), min(step, 2)) for step in range(40)]
    assert same_structure(uses, uses)


def test_words():
    assert describe([[], [], [2, 1]]) == "1; 2; 3 from 1, 2"
    assert first_fault([[], [2]]) == "step 2 depends on step 2, which is not an earlier step"
    assert first_fault([[0]]) == "step 1 depends on step 0, which is not an earlier step"
    assert first_fault([[], [1, 1]]) == "step 2 names a step it depends on twice"


NODES = [("a", "ENTITY"), ("p", "PROPOSITION"), ("g", "GOAL")]
EDGES = [("a", "p", "HAS_PROPERTY"), ("p", "g", "IMPLIES")]


def dag(nodes=NODES, edges=EDGES, form="a |- g", steps=1):
    return ExtractReply.model_validate(
        {
            "nodes": [{"id": name, "type": kind, "description": "x"} for name, kind in nodes],
            "edges": [{"from": a, "to": b, "label": label} for a, b, label in edges],
            "logical_form": form,
            "step_count": steps,
        }
    )


@pytest.mark.parametrize(
    ("reply", "reason", "words"),
    [
        (dag(), None, ""),
        (dag(nodes=[("a", "Entity"), *NODES[1:]]), "dag_type", "did you mean 'ENTITY'"),
        (dag(nodes=[*NODES, ("a", "ENTITY")]), "dag_id", "'a' is used twice"),
        (dag(edges=[("a", "p", "SO"), EDGES[1]]), "dag_label", "'SO'"),
        (dag(edges=[*EDGES, ("p", "q", "IMPLIES")]), "dag_edge", "names 'q'"),
        (dag(edges=[*EDGES, ("g", "a", "CAUSES")]), "dag_cycle", "cycle"),
        (dag(edges=[*EDGES, ("a", "a", "CAUSES")]), "dag_cycle", "a -> a"),
        (dag(nodes=[*NODES, ("z", "ENTITY")]), "dag_unconnected", "'a': z"),
        (dag(nodes=NODES[:2], edges=EDGES[:1]), "dag_goal", "no GOAL"),
        (dag(nodes=[], edges=[]), "dag_goal", "no GOAL"),
        (dag(nodes=[(" ", "GOAL")], edges=[]), "dag_empty", "empty id"),
        (dag(form=" "), "dag_empty", "logical_form"),
        (dag(steps=0), "dag_steps", "at least one"),
    ],
)
def test_graphs(reply, reason, words):
    issue = check_dag(reply)
    assert (issue and issue.reason) == reason
    assert words in (issue.detail if issue else "")


def telling(uses=((), (1,)), answer="K", problem="Who?"):
    steps = [{"step": f"step {n}", "depends_on": list(used)} for n, used in enumerate(uses)]
    return InstantiateReply(problem=problem, cot_solution=steps, answer=answer, alignment_score=1.0)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (telling(), None),
        (telling(problem=" "), "problem_missing"),
        (telling(answer=' "." '), "answer_missing"),
        (telling(answer="K\nbecause"), "answer_long"),
        (telling(answer="Answer: K"), "answer_long"),
        (telling(uses=()), "steps_missing"),
        (telling(uses=((2,), ())), "steps_invalid"),
    ],
)
def test_tellings(reply, reason):
    issue = check_telling(reply)
    assert (issue and issue.reason) == reason


def verdict(score=0.85, **answers):
    asked = ("dependencies_preserved", "same_step_count", "same_reasoning", "in_domain")
    return VerifyReply.model_validate({**dict.fromkeys(asked, "yes"), "alignment_score": score, "issues": []} | answers)


def test_verdicts():
    gates = GateSettings()
    assert check_verdict(verdict(), gates) is None  # the bound belongs to it
    assert check_verdict(verdict(0.8499), gates).reason == "low_alignment"
    for score in (1.2, -0.1, float("nan"), float("inf")):
        assert check_verdict(verdict(score), gates).reason == "score_invalid"
    issue = check_verdict(verdict(1.0, same_step_count="No.", issues=["one more"]), gates)
    assert issue.reason == "not_isomorphic" and issue.detail.endswith("same number of steps: one more")
    assert check_verdict(verdict(1.0, same_reasoning=True), gates) is None


@pytest.mark.parametrize("score", [True, "1", "0.9", None])
def test_a_score_is_a_number(score):
    with pytest.raises(ValidationError, match="alignment_score"):
        verdict(score)


def test_a_telling_of_another_domain():
    issue = check_verdict(verdict(1.0, in_domain="no", issues=["It is all about sets."]), GateSettings())
    assert issue.reason == "wrong_domain" and "all about sets" in issue.detail


def test_generated_tellings_are_no_copies():
    """Their sentences differ in a noun or two; and a copy is one whatever is put around it or changed in its numbers."""
    for group in generate(15 * 20, seed=8, kinds=tuple(ALL_KINDS)):
        problems = {instance.domain: instance.problem for instance in group.instances}
        assert check_copies({}, problems) == {}, group.kind
        first, *others = problems
        assert check_copies({first: problems[first]}, {name: problems[name] for name in others}) == {}
        for copy in (
            problems[first].upper(),
            f"Consider this. {problems[first]}",
            " ".join(reversed(problems[first].split(". "))),
            re.sub(r"\d+", "4711", problems[first]),
        ):
            found = check_copies(problems, {"art": copy})
            assert found["art"].reason == "copied" and f"repeats that of {first}" in found["art"].detail, copy


def test_copies_of_long_and_of_terse_tellings():
    words = [f"word{'abcdefghij'[n // 10]}{'abcdefghij'[n % 10]}" for n in range(100)]
    long, changed = " ".join(words), " ".join(["another", *words[1:]])
    assert list(check_copies({"law": long}, {"science": changed})) == ["science"]
    assert check_copies({"law": long}, {"science": " ".join(["other", "words", "here", "now", *words[5:]])}) == {}
    # A problem of mathematics may have hardly a word, and these in common with others.
    assert check_copies({"mathematics": "Find x: 3x + 4 = 10."}, {"law": "Find the fee that the court asks for."}) == {}
    assert check_copies({"mathematics": "3 + 4 = ?"}, {"law": "Find the fee."}) == {}
    assert check_copies({"a": "3 + 4 = ?"}, {"b": "3+4=?", "c": "5 + 4 = ?"}).keys() == {"b"}


def test_votes_need_more_than_half():
    assert check_votes("K", ["k.", "K", "L"]) is None
    assert (
        check_votes("K", ["K", "L"]).detail
        == "the stated answer 'K' got 1 of 2 votes; solving it gave 'k' 1 times, 'l' 1 times"
    )
    assert check_votes("K", ["", "", "K"]) is not None


def test_groups():
    gates = GateSettings()
    chain = {name: telling([(), (1,)]) for name in "abcd"}
    assert check_group(chain, gates) == {}
    assert check_group(chain | {"d": telling([(), (1,), (2,), (3,)])}, gates) == {}  # two more, one chain
    longer = check_group(chain | {"b": telling([(), (1,), (2,), (3,), (4,)])}, gates)
    assert {name: issue.reason for name, issue in longer.items()} == {"b": "step_counts"}
    assert check_group(chain | {"b": telling([(), (1,), (2,), (3,), (4,)])}, GateSettings(step_tolerance=3)) == {}
    fork = telling([(), (), (1, 2)])
    assert list(check_group(chain | {"a": fork}, gates)) == ["a"]
    assert list(check_group({"a": chain["a"], "b": fork}, gates)) == ["b"]  # a draw: the earlier domain is the measure
    assert check_group(chain | {"a": fork}, GateSettings(same_structure=False)) == {}


def test_every_reason_is_listed():
    code = Path(gates_module.__file__).read_text()
    assert set(re.findall(r'Issue\(\s*"(\w+)"', code)) == set(REASONS)
