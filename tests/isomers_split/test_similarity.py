"""Near-duplicate problems: what is the same, what is not, and that LSH loses next to nothing."""

import random
import re
from collections import Counter

import pytest

from igascale.errors import UserError
from igascale.isomers.generator import generate
from igascale.isomers.normal import is_symbol, sentences, tokens
from igascale.isomers.similarity import THRESHOLD, NearDuplicates, sketch

PROBLEM = "P outranks B. B outranks T. T outranks W. Who stands 2 above T?"


def similarity(first, second):
    return sketch(first).similarity(sketch(second))


@pytest.mark.parametrize(
    "text",
    [
        PROBLEM.upper(),
        PROBLEM.replace(". ", ";\n\n"),
        PROBLEM.replace(".", ""),
        "  " + PROBLEM.replace(" ", "\u00a0 "),
        PROBLEM.replace("2", "\uff12"),  # full width
    ],
)
def test_case_punctuation_and_blanks_are_nothing(text):
    assert similarity(text, PROBLEM) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        f"Code amber. {PROBLEM}",
        f"Problem 12. {PROBLEM}",
        f"(7) {PROBLEM}",
        "B outranks T. T outranks W. P outranks B. Who stands 2 above T?",
        "P outranks B. B outranks T. T outranks W. Who ranks 2 above T?",
        "P outranks B. B outranks T. T outranks W. Who is it that stands 2 above T?",
    ],
)
def test_a_copy_with_a_change_is_near(text):
    assert THRESHOLD <= similarity(text, PROBLEM) <= 1.0


@pytest.mark.parametrize(
    "text",
    [
        "P outranks B. B outranks T. T outranks W. Who stands 3 above T?",
        "P outranks T. T outranks B. B outranks W. Who stands 2 above T?",
        "P outranks B. B outranks T. T outranks M. Who stands 2 above T?",
        "B outranks P. B outranks T. T outranks W. Who stands 2 above T?",
    ],
)
def test_another_label_or_number_is_another_problem(text):
    assert similarity(text, PROBLEM) < THRESHOLD


def test_labels_are_bound_to_their_sentence():
    first = "W is domestic and insolvent. R is foreign and solvent. F is domestic and solvent. Which is foreign?"
    second = "R is domestic and insolvent. W is domestic and solvent. F is foreign and solvent. Which is foreign?"
    assert similarity(first, second) < THRESHOLD


def test_numbers_in_formulas_decide():
    first = r"Find the sum of the roots of $x^2 - 5x + 6 = 0$."
    assert similarity(first, r"Find the sum of the roots of \( x^{2}-5x+6=0 \).") == 1.0
    assert similarity(first, r"Find the sum of all roots of $x^2 - 5x + 6 = 0$.") >= THRESHOLD
    assert similarity(first, r"Find the sum of the roots of $x^2 + 5x + 6 = 0$.") < THRESHOLD
    assert similarity(first, r"Find the sum of the roots of $x^2 - 7x + 6 = 0$.") < THRESHOLD
    assert similarity(r"What is $\dfrac{1}{2}$ of 1,000?", r"What is \frac{1}{2} of 1000") == 1.0


def test_text_without_blanks_between_words():
    first = "小明有三个苹果，他吃了一个，又买了两个。请问小明现在一共有几个苹果？"
    assert similarity(first, "小明有三个苹果, 他吃了一个, 又买了两个. 请问小明现在一共有几个苹果?") == 1.0
    assert similarity(first, first.replace("请问", "")) >= THRESHOLD
    assert similarity(first, "所有的鸟都会飞，企鹅是鸟，所以企鹅会飞。这个推理错在哪里？") < 0.2
    assert tokens("हिन्दी की किताब") == ["हिन्दी", "की", "किताब"]


def test_what_is_a_symbol():
    assert [
        t for t in tokens("A dog I own has 3 x1 \\frac{p}{2} π legs - well-known, and/or x-1 = 2") if is_symbol(t)
    ] == [*("3", "x1", "\\frac", "p", "2", "π", "x", "-", "1", "=", "2")]
    assert sentences("12) Find P. It is 3.5! So?") == [["12"], ["find", "p"], ["it", "is", "3.5"], ["so"]]


def test_a_text_without_words_is_like_itself_alone():
    near = NearDuplicates()
    near.add("dots", "... !!")
    near.add("cat", "\U0001f408")
    assert near.matches("\U0001f408 ") == [("cat", 1.0)]
    assert near.matches("plain words") == []


def test_matches_are_sorted_and_keys_may_repeat():
    near = NearDuplicates()
    near.add(("b", 1), "Code amber. " + PROBLEM)
    near.add("a", PROBLEM)
    near.add("a", PROBLEM.lower())
    near.add("c", "All birds fly. Penguins are birds. Do penguins fly?")
    found = near.matches(PROBLEM)
    assert [key for key, _ in found] == ["a", "a", ("b", 1)]
    assert found[0][1] == 1.0 and THRESHOLD <= found[2][1] < 1.0
    assert len(near) == 4


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_texts_with_the_same_words_does_not_matter(order):
    """Where their sentences end decides their shingles: each text is found by what is like it, not only the first."""
    apart = "Baker K has 5 loaves. Miller B has 7 sacks. Clerk T has 3 books. Find the total of all goods held"
    as_one = apart.replace(".", "")
    like_it = as_one.replace("goods", "wares")
    assert similarity(apart, as_one) == 1.0 and similarity(apart, like_it) < THRESHOLD <= similarity(as_one, like_it)
    near = NearDuplicates()
    for name, text in (("apart", apart), ("as one", as_one))[::order]:
        near.add(name, text)
    assert [key for key, _ in near.matches(like_it)] == ["as one"]
    assert sorted(near.matches(apart)) == [("apart", 1.0), ("as one", 1.0)]


@pytest.mark.parametrize("threshold", [0.0, -1, 1.5, 1e-9, float("nan")])
def test_threshold_is_checked(threshold):
    with pytest.raises(UserError, match=r"threshold must be at least 0\.05 and at most 1"):
        NearDuplicates(threshold)


def test_the_lowest_threshold_works():
    near = NearDuplicates(0.05)
    near.add("a", PROBLEM)
    assert near.matches(f"Code amber. {PROBLEM}")


def edits(text, rng):
    """Copies of a problem that are the same problem."""
    pieces = re.split(r"(\w+)", text)
    words = [i for i in range(1, len(pieces), 2) if not is_symbol(pieces[i].lower())]
    at = rng.choice(words)
    body = re.findall(r"[^.?]+[.?]", text)
    facts = [fact.strip() for fact in body[:-1]]
    rng.shuffle(facts)
    return {
        "case": text.swapcase(),
        "punctuation": re.sub(r"[.,?]", "", text),
        "order": " ".join(facts + body[-1:]),
        "cue": f"Code amber. {text}",
        "swapped": "".join([*pieces[:at], "certain", *pieces[at + 1 :]]),
        "deleted": "".join(pieces[:at] + pieces[at + 1 :]),
    }


def test_recall_on_planted_edits_and_rate_of_false_alarms():
    kinds = ("ordering", "comparison", "rules", "selection", "counting", "arithmetic")
    groups = generate(600, ("law", "science"), kinds, seed=4)
    rng = random.Random(0)
    near = NearDuplicates()
    alarms = 0
    for group in groups:
        for instance in group.instances:
            alarms += bool(near.matches(instance.problem))
            near.add(instance.id, instance.problem)
    assert alarms <= 12  # of 1200 texts, each against all before it
    missed = Counter()
    for group in groups[:300]:
        instance = group.instances[0]
        for name, copy in edits(instance.problem, rng).items():
            missed[name] += instance.id not in dict(near.matches(copy))
    assert missed["case"] == missed["punctuation"] == 0
    assert max(missed.values()) <= 6, missed  # of 300 each


def test_lsh_finds_what_brute_force_finds():
    """Sets of random words with overlaps around the threshold: recall at and above it is 0.99, and nothing false comes up."""
    rng = random.Random(1)
    vocabulary = [f"word{chr(97 + i % 26)}{chr(97 + i // 26 % 26)}{chr(97 + i // 676)}" for i in range(3000)]
    texts = []
    for _ in range(250):
        base = rng.sample(vocabulary, 60)
        texts.append(base)
        for cut in (
            2,
            3,
            4,
            5,
            6,
            7,
            8,
        ):  # a run of words replaced: two words share a shingle, so J = (59-c-1)/(59+c+1)
            at = rng.randrange(60 - cut)
            texts.append(base[:at] + rng.sample(vocabulary, cut) + base[at + cut :])
    sketches = [sketch(" ".join(words)) for words in texts]
    near = NearDuplicates(0.8)
    wanted = found = 0
    for i, item in enumerate(sketches):
        true = {j for j in range(i - i % 8, i) if item.similarity(sketches[j]) >= 0.8}  # families alone overlap so much
        got = near.matches(item)
        assert all(value == item.similarity(sketches[key]) >= 0.8 for key, value in got)
        wanted += len(true)
        found += len(true & {key for key, _ in got})
        near.add(i, item)
    assert wanted > 1000
    assert found / wanted >= 0.99


def test_other_hash_functions_decide_alike():
    """The seed changes which candidates are looked at, not what a match is."""
    texts = [instance.problem for group in generate(60, seed=2) for instance in group.instances]
    results = []
    for seed in (1, 2):
        near = NearDuplicates(0.5, seed=seed)
        for index, text in enumerate(texts):
            near.add(index, text)
        results.append([dict(near.matches(text)) for text in texts])
    first, second = results
    assert first != [] and all(a[k] == b[k] for a, b in zip(first, second) for k in a.keys() & b.keys())
