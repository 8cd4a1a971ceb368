"""Every reasoning kind, depth and domain: sound graphs, one answer, the same problem in all words, the bytes of old sets."""

import hashlib
import itertools
import random
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igascale.errors import UserError
from igascale.isomers.dataset import generate_dataset
from igascale.isomers.difficulty import depth_of, width_of
from igascale.isomers.generator import Recipe, draft, draft_stream, generate, generate_stream, logical_form, tell_draft
from igascale.isomers.kinds import ALL_KINDS, FAMILIES, KINDS, kind_of, kinds_named
from igascale.isomers.kinds.base import connected
from igascale.isomers.kinds.vocabulary import ALL_VOCABULARIES, DIGITS, LABELS
from igascale.isomers.kinds.wording import Wording
from igascale.isomers.schema import Dag, DagEdge, DagNode, read_groups, write_groups
from igascale.isomers.solver import solve

from plain_reading import facts_and_question, goal

ALL_DOMAINS = tuple(ALL_VOCABULARIES)
FULL = Wording.parse("full")
FURTHER = [kind for kind in ALL_KINDS if kind not in KINDS]
DEPTHS = (1, 2, 3, 4)
DEEP = [(kind, depth) for kind in ALL_KINDS for depth in (*DEPTHS, 6) if depth <= ALL_KINDS[kind].deepest]


def drafts(kind, depth, count, width=0, seed=0):
    return list(draft_stream(count, [kind], seed, (depth, depth), width))


def facts_of(dag):
    return dag.logical_form.split(" |- ")[0].split(" & ")


def components(dag):
    """How many islands the graph has, whichever way its edges point."""
    root = {node.id: node.id for node in dag.nodes}

    def find(name):
        while root[name] != name:
            name = root[name]
        return name

    for edge in dag.edges:
        root[find(edge.source)] = find(edge.target)
    return len({find(node.id) for node in dag.nodes})


def test_kinds_and_families():
    assert len(ALL_KINDS) == 15
    assert kinds_named(["all"]) == tuple(ALL_KINDS)
    assert kinds_named(["default"]) == tuple(KINDS)
    assert {kind for name, family in FAMILIES.items() if name not in ("all", "default") for kind in family} == set(
        ALL_KINDS
    )
    assert kinds_named(["grouping", "sets", "rules"]) == ("selection", "sets", "rules")
    assert not set(FAMILIES) & set(ALL_KINDS)
    with pytest.raises(UserError, match=r"unknown reasoning kind 'logic'; .*did you mean 'logical'"):
        kinds_named(["logic"])
    with pytest.raises(UserError, match="names one twice"):
        kinds_named(["sets", "sets"])


@pytest.mark.parametrize("leaky", [False, True])
def test_old_sets_keep_their_bytes(tmp_path, leaky):
    """Hashes of what the version before the further kinds wrote; committed figures rest on such sets."""
    sizes = {"groups": 60, "validation_groups": 12, "ood_groups": 18}
    generate_dataset(tmp_path / "d", **sizes, seed=5, shortcut_probability=0.8, steps=(1, 4), leaky=leaky)
    content = b"".join(path.read_bytes() for path in sorted((tmp_path / "d").iterdir()))
    assert (
        hashlib.sha256(content).hexdigest()
        == {
            False: "afc6141fe92db1dc57217b253cf64456da5d7a0918e4e354c8ee7225f69b82d5",
            True: "37ba3ab087407076ad2edf5bd7b93d830bf5ae9fb99d49e186db0f424a2c728d",
        }[leaky]
    )


def test_a_set_of_all_kinds_is_pinned(tmp_path):
    groups = generate(60, ALL_DOMAINS, tuple(ALL_KINDS), 1, steps=(1, 4), width=2, wording=FULL)
    write_groups(tmp_path / "all.jsonl", groups)
    assert read_groups(tmp_path / "all.jsonl") == groups  # the strict reader: known types, no cycle, all domains
    assert (
        hashlib.sha256((tmp_path / "all.jsonl").read_bytes()).hexdigest()
        == "f7adb6cb030abbcbfaddb77c769b5bbec8b5c843fc5d917bd2626a9951d8b5d7"
    )


@pytest.mark.parametrize(("kind", "depth"), DEEP)
def test_words_say_the_facts_and_the_goal(kind, depth):
    """Whatever the paraphrase, reading the words gives the DAG's facts in their order, and its goal."""
    width = min(2, kind_of(kind).widest(depth))
    for made in drafts(kind, depth, 25, width):
        for instance in tell_draft(made, ("law", "sports", "engineering"), FULL).instances:
            facts, question = facts_and_question(kind, instance.problem, ALL_VOCABULARIES[instance.domain])
            assert facts == facts_of(made.dag), instance.problem
            assert goal(kind, question) == made.dag.logical_form.split(" |- ")[1], instance.problem


@pytest.mark.parametrize(("kind", "depth"), DEEP)
def test_graph_and_tellings(kind, depth):
    for made in drafts(kind, depth, 12, width=1):
        group = tell_draft(made, ALL_DOMAINS, FULL)
        dag, answer = group.dag, group.instances[0].answer
        assert depth_of(dag) == depth
        assert dag.steps >= depth and (dag.steps == depth or kind == "scheduling")
        assert group.meta["difficulty"] == {"depth": depth, "width": width_of(dag)}
        assert components(dag if kind in FURTHER else connected(dag)) == 1
        for instance in group.instances:
            lines = instance.cot.split("\n")
            assert instance.answer == answer and len(lines) == dag.steps
            assert answer in re.findall(r"\d+/\d+|\w+", lines[-1])
        assert len({instance.problem for instance in group.instances}) == len(ALL_DOMAINS)


def skeleton(text, words):
    own = {words.noun, words.nouns, words.has, words.have, words.units, words.place, words.above, words.below}
    own |= {words.job, words.causes, words.cause, *itertools.chain(*words.traits)}
    own |= set(words.measures) | {f"{measure}s" for measure in words.measures}
    return re.sub(rf"\b({'|'.join(own)})\b", "*", text)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_isomers_differ_in_the_domains_words_alone(kind):
    for made in drafts(kind, 3, 10, width=1):
        # Not those whose `has` is a word of the patterns, too.
        domains = [domain for domain in ALL_DOMAINS if domain not in ("medicine", "general")]
        instances = tell_draft(made, domains, Wording(1, 1)).instances
        for texts in ([i.cot for i in instances], [i.problem.replace("Except", "But") for i in instances]):
            told = {skeleton(text, ALL_VOCABULARIES[domain]) for text, domain in zip(texts, domains)}
            assert len(told) == 1, told


def test_words_of_all_domains_do_not_overlap():
    seen = Counter(
        word
        for words in ALL_VOCABULARIES.values()
        for word in {
            words.noun,
            words.nouns,
            words.units,
            words.place,
            words.job,
            words.causes,
            words.above,
            words.below,
        }
        | {*itertools.chain(*words.traits), *words.measures}
    )
    assert len(ALL_DOMAINS) == 11
    assert [word for word, count in seen.items() if count > 1] == []


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_no_domain_word_is_a_word_of_the_patterns(kind):
    """But for the verb: `takes` of medicine is what a job does to minutes, too."""
    told = Counter()
    for domain, words in ALL_VOCABULARIES.items():
        for group in generate(20, (domain,), [kind], 3, wording=FULL):
            text = f"{group.instances[0].problem} {group.instances[0].cot}".replace(words.has, "").replace(
                words.have, ""
            )
            told.update({(domain, word) for word in re.findall(r"[a-z]+", text.lower())})
    domains_of = Counter(word for _, word in told)
    shared = {word for word, count in domains_of.items() if count > 3}
    for words in ALL_VOCABULARIES.values():
        own = {words.noun, words.nouns, words.units, words.place, words.job, words.causes, words.above, words.below}
        own |= {*itertools.chain(*words.traits), *words.measures, *(f"{measure}s" for measure in words.measures)}
        assert not own & shared, own & shared


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_width_adds_facts_that_no_step_uses_to_the_same_problem(kind):
    for depth, seed in itertools.product(DEPTHS, range(8)):
        plain = draft(Recipe(kind, seed, 0, steps=(depth, depth)))
        widest = kind_of(kind).widest(depth)
        assert widest >= 3
        for width in range(1, widest + 1):
            wide = draft(Recipe(kind, seed, 0, steps=(depth, depth), width=width))
            assert width_of(wide.dag) == width_of(plain.dag) + width
            assert len(facts_of(wide.dag)) == len(facts_of(plain.dag)) + width
            assert solve(kind, wide.dag) == solve(kind, plain.dag)
            assert depth_of(wide.dag) == depth


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(ALL_KINDS)), st.sampled_from(DEPTHS), st.integers(0, 10**9), st.integers(0, 3))
def test_any_draw_has_one_answer_from_its_facts_in_any_order(kind, depth, seed, width):
    puzzle = kind_of(kind).draw(random.Random(seed), depth, width)
    dag = kind_of(kind).dag(puzzle)
    answer = solve(kind, dag)
    telling = kind_of(kind).tell(puzzle, ALL_VOCABULARIES["general"], random.Random(0), FULL)
    assert telling.conclusion == answer
    shuffled = random.Random(seed).sample(dag.nodes, len(dag.nodes))
    blind = Dag(tuple(DagNode(n.id, n.type, "nothing") if n.id.startswith("s") else n for n in shuffled), dag.edges)
    assert solve(kind, blind) == answer


@pytest.mark.parametrize(
    ("kind", "facts", "asked", "message"),
    [
        ("deductive", ["member(K,B)", "sub(B,D)"], "in(K,F)", "F"),
        ("deductive", ["member(K,B)", "sub(B,D)", "apart(D,F)", "sub(B,F)"], "in(K,F)", "0 answers"),
        ("inductive", ["either(t0,t1)", "case(1,t0a,t1a,K)", "case(2,t0b,t1b,B)", "has(P,t0a,t1b)"], "place(P)", "2 contrasts"),
        ("abductive", ["makes(K,t0a)", "makes(B,t0a)", "seen(P,t0a)"], "cause(P)", "2 answers"),
        ("sets", ["holds(K,1,2)", "holds(B,1,2,3)"], "left(K,keep,B)", "2 answers"),
        ("scheduling", ["takes(K,3)", "after(K,B)", "after(B,K)", "takes(B,2)"], "done(K)", "do not determine"),
        ("causal", ["causes(K,B)", "causes(B,K)"], "does(B)", "2 answers"),
        ("conversion", ["amount(K,2,u0)", "rate(u1,3,u2)"], "convert(K,u2)", "0 answers"),
        ("conversion", ["amount(K,2,u0)", "rate(u0,3,u1)", "rate(u0,4,u1)"], "convert(K,u1)", "contradict"),
        ("geometry", ["east(B,K,3)"], "apart(K,T)", "0 answers"),
        ("geometry", ["east(B,K,3)", "east(B,K,4)"], "apart(K,B)", "answers"),
    ],
)  # fmt: skip
def test_solvers_refuse_facts_that_allow_no_or_several_answers(kind, facts, asked, message):
    nodes = [DagNode(f"f{i}", "PROPOSITION", fact) for i, fact in enumerate(facts)]
    with pytest.raises((ValueError, KeyError), match=message):
        solve(kind, Dag((*nodes, DagNode("g", "GOAL", asked)), ()))


@pytest.mark.parametrize("kind", FURTHER)
def test_answers_are_spread(kind):
    answers = Counter(solve(kind, made.dag) for made in draft_stream(600, [kind], 0, (2, 3)))
    top = max(answers.values()) / 600
    if kind in ("deductive", "causal"):
        assert set(answers) == {"yes", "no"} and top < 0.57
    elif kind in ("inductive", "abductive"):
        assert set(answers) == set(LABELS) and top < 0.16
    elif kind == "sets":
        assert set(answers) == set(DIGITS) and top < 0.16
    else:
        assert len(answers) >= 15 and top < 0.16


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_paraphrases_multiply_the_skeletons_of_problems(kind):
    """One and the same problem in many wordings: with names and words the same, only the patterns differ."""
    (made,) = drafts(kind, 2, 1)
    counts = {}
    for name, wording in (("plain", Wording()), ("2", Wording.parse("2")), ("full", FULL)):
        rng = random.Random(0)
        told = {kind_of(kind).tell(made.puzzle, ALL_VOCABULARIES["law"], rng, wording).problem for _ in range(300)}
        counts[name] = len(told)
    assert counts["plain"] <= 4
    assert counts["2"] >= 8 and counts["full"] >= 60, counts
    assert counts["plain"] < counts["2"] < counts["full"]


def test_wording_does_not_change_the_problem():
    plain = generate(45, ("law",), tuple(ALL_KINDS), 3)
    full = generate(45, ("law",), tuple(ALL_KINDS), 3, wording=FULL)
    for a, b in zip(plain, full):
        assert (a.dag, a.kind, a.instances[0].answer, a.instances[0].cot) == (
            b.dag,
            b.kind,
            b.instances[0].answer,
            b.instances[0].cot,
        )
    assert sum(a.instances[0].problem != b.instances[0].problem for a, b in zip(plain, full)) > 30


@pytest.mark.parametrize("text", ["0", "many", "-1", "1.5", ""])
def test_bad_paraphrase(text):
    with pytest.raises(UserError, match="paraphrase is"):
        Wording.parse(text)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_no_more_problems_than_there_are_said_to_be(kind):
    """Where the bound is small, nearly as many as it says are found; where it is large, nothing contradicts it."""
    most = kind_of(kind).most(1)
    draws = 4 * most if most < 10_000 else 1_500
    forms = {draft(Recipe(kind, 0, index, steps=(1, 1))).form for index in range(draws)}
    assert len(forms) <= most
    if draws == 4 * most:
        assert len(forms) > 0.9 * most


def test_exhaustion_is_refused_before_the_first_problem():
    with pytest.raises(UserError, match=r"no new problem of kind 'geometry': at most 3,600 have 1 step, and 4,000 are"):
        generate_stream(4000, ("law",), ["geometry"], steps=(1, 1))
    taken = [logical_form(group) for group in generate(200, ("law",), ["geometry"], steps=(1, 1))]
    with pytest.raises(UserError, match="3,500 are asked for beside 200 others"):
        generate_stream(3500, ("law",), ["geometry"], 1, steps=(1, 1), exclude=taken)


def test_steps_beyond_a_kind():
    assert {kind for kind in ALL_KINDS if ALL_KINDS[kind].deepest < 6} == {
        *("rules", "selection", "inductive", "abductive", "conversion", "probability")
    }
    with pytest.raises(UserError, match="kind 'rules' has at most 4 steps, not 5; ask for fewer, or leave it out"):
        generate(1, ("law",), ["sets", "rules"], steps=(5, 5))


def test_width_out_of_range():
    with pytest.raises(UserError, match="width must be within 0 to 3 for kind 'deductive' with up to 4 steps, not 4"):
        generate(1, ("law",), ["deductive"], steps=(2, 4), width=4)
    with pytest.raises(UserError, match="width must be within 0 to"):
        generate(1, ("law",), ["sets"], width=-1)


def test_stream_gives_the_same_groups_one_at_a_time():
    stream = generate_stream(30, ("law",), tuple(ALL_KINDS), 2)
    assert next(stream) == generate(30, ("law",), tuple(ALL_KINDS), 2)[0]
    assert list(stream) == generate(30, ("law",), tuple(ALL_KINDS), 2)[1:]


def test_depth_follows_the_longest_path_and_width_the_unused_facts():
    nodes = [DagNode(name, "PROPOSITION", name) for name in ("f0", "f1", "f2", "s1", "s2", "s3")]
    edges = [("f0", "s1"), ("f1", "s2"), ("s1", "s3"), ("s2", "s3"), ("s3", "g")]
    dag = Dag((*nodes, DagNode("g", "GOAL", "g")), tuple(DagEdge(a, b, "IMPLIES") for a, b in edges))
    assert (depth_of(dag), width_of(dag)) == (2, 1)
