r"""MATH: which text is the answer, and the reference's comparison against an independent statement of it."""

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from igascale.evaluation.benchmarks import BenchmarkItem
from igascale.evaluation.tasks import find
from igascale.evaluation.tasks._equivalence import canonical, is_equivalent
from igascale.evaluation.tasks.math import given_answer

from rewriting_by_hand import NoRewriting, rewrite, same


def item(answer: str | None, kind: str = "symbolic") -> BenchmarkItem:
    return BenchmarkItem("test/algebra/1", "math", "test", "What is it?", answer=answer, answer_kind=kind)  # type: ignore[arg-type]


# first, second, whether they are the same by the reference.
BY_HAND = [
    (r"\frac{1}{2}", "0.5", True),
    (r"\frac{1}{2}", ".5", True),
    (r"\frac{1}{2}", "1/2", True),
    (r"\frac{1}{2}", r"\frac12", True),
    (r"\frac{1}{2}", r"\dfrac12", True),
    (r"\frac{1}{2}", r"\tfrac{1}{2}", True),
    (r"\frac{1}{2}", r"\frac1{2}", True),
    (r"\frac{1}{2}", r"\frac{1}2", False),
    (r"\frac{1}{2}", "0.50", False),
    (r"\frac{1}{2}", "2/4", False),
    (r"-\frac{1}{2}", "-1/2", False),
    (r"\frac{-1}{2}", "-1/2", True),
    (r"-\frac{1}{2}", "-0.5", False),
    (r"\frac{1}{4}", "0.25", False),
    (r"\frac{3}{4}", "3/4", True),
    (r"\frac{3}{4}", "3 / 4", True),
    (r"\frac{3}{4}", "3/4 ", True),
    (r"\frac{3}{4}", "03/4", False),
    (r"\frac{3}{4}", "+3/4", False),
    (r"\frac{3}{4}", "3/4/1", False),
    (r"\frac{3}{4}", "3/ 4", True),
    (r"\frac{x}{y}", "x/y", False),
    ("x/y", "x/y ", True),
    ("x/y", "x / y", True),
    (r"\frac{a}{b}", r"\frac ab", True),
    (r"\sqrt{2}", r"\sqrt2", True),
    (r"\sqrt{2}", r"\sqrt 2", False),
    (r"2\sqrt{3}", r"2\sqrt3", True),
    (r"\sqrt{10}", r"\sqrt10", False),
    (r"\sqrt", r"\sqrt", True),
    (r"\sqrt", r"\sqrt ", False),
    ("0.5", r"\sqrt", False),
    (r"\frac", r"\frac", True),
    (r"\frac", "", False),
    (r"\frac1", r"\frac1", True),
    (r"\frac1", r"\frac 1", True),
    (r"50\%", "50", True),
    ("50%", "50", False),
    ("50%", r"50\%", False),
    (r"90^\circ", "90", True),
    (r"90^{\circ}", "90", True),
    (r"90^\circ", r"90^{\circ}", True),
    ("90°", "90", False),
    (r"\$12", "12", True),
    ("$12$", "12", False),
    (r"\$12.50", "12.50", True),
    (r"12\text{ cm}", "12", True),
    (r"12\text{cm}", "12", False),
    (r"12 \text{ cm}", "12", True),
    (r"12\text{ cm}^2", "12", True),
    (r"\text{ a}\text{ b}", "", False),
    (r"\text{ a}\text{ b}", r"\text{ a}\text{ b}", True),
    (r"12\text{ cm}", r"12\text{ m}", True),
    (r"12\mbox{ cm}", "12", False),
    (r"\text{Friday}", r"\text{Friday}", True),
    (r"\text{Friday}", "Friday", False),
    ("x=5", "5", True),
    ("x = 5", "5", True),
    ("xy=5", "5", True),
    ("xyz=5", "5", False),
    ("x=y=5", "5", False),
    ("=5", "5", True),
    ("5=5", "5", True),
    ("0.1", ".1", True),
    ("x=.1", "0.1", False),
    ("x= .1", "0.1", True),
    ("(.1,.2)", "(0.1,0.2)", False),
    ("{.1}", "{0.1}", True),
    ("-.1", "-0.1", False),
    ("007", "7", False),
    ("1,024", "1024", False),
    (r"1{,}024", "1,024", False),
    (r"1,\!024", "1,024", True),
    (r"\left(1,2\right)", "(1,2)", True),
    ("( 1, 2 )", "(1,2)", True),
    ("(1,2)", "(2,1)", False),
    (r"\left[0,\infty\right)", r"[0,\infty)", True),
    ("10, 4, -2", "4, 10, -2", False),
    ("42.", "42", False),
    ("42", "42", True),
    ("42", " 42 ", True),
    ("42", "42\n", True),
    ("4 2", "42", True),
    (r"a\\b", r"a\b", True),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", True),
    (r"\pi", "π", False),
    ("", "", True),
    ("", " ", True),
    (r"\\%%", "%", True),
    (r"\\\%%", "", True),
    (r"\leftarrow", "arrow", True),
    ("5x", "5X", False),
    (r"\frac\pi2", r"\frac{\pi}{2}", False),
    (r"\frac{\pi}{2}", r"\dfrac{\pi}{2}", True),
    ("A", "a", False),
    (r"\boxed{5}", "5", False),
    (r"3^\circ\text{ C}", "3", True),
]

VALUES = [
    "7",
    "-3",
    "0.5",
    "3/4",
    "-3/4",
    r"\frac{5}{9}",
    r"2\sqrt{3}",
    "x+1",
    "(1,2)",
    r"\frac{\sqrt{2}}{2}",
    r"\pi",
]
# What may be done to an answer without changing it, by the reference.
HARMLESS = {
    "blank behind": lambda a: a + " ",
    "line break": lambda a: a + "\n",
    "unit": lambda a: a + r"\text{ m}",
    "degrees": lambda a: a + r"^\circ",
    "degrees in braces": lambda a: a + r"^{\circ}",
    "percent": lambda a: a + r"\%",
    "dollar": lambda a: r"\$" + a,
    "inverse space": lambda a: a + r"\!",
    "left": lambda a: a.replace("(", r"\left(").replace(")", r"\right)"),
    "name": lambda a: "x=" + a,
    "dfrac": lambda a: a.replace(r"\frac", r"\dfrac"),
    "tfrac": lambda a: a.replace(r"\frac", r"\tfrac"),
    "bare root": lambda a: a.replace(r"\sqrt{3}", r"\sqrt3").replace(r"\sqrt{2}", r"\sqrt2"),
}
HARMFUL = {
    "dot": lambda a: a + ".",
    "bare percent": lambda a: a + "%",
    "bare degree": lambda a: a + "°",
    "dollars around": lambda a: f"${a}$",
    "text without a blank": lambda a: a + r"\text{m}",
    "zero in front": lambda a: "0" + a,
    "long name": lambda a: "xyz=" + a,
}


@pytest.mark.parametrize("first, second, expected", BY_HAND)
def test_by_hand(first, second, expected):
    assert is_equivalent(first, second) is expected
    assert is_equivalent(second, first) is expected
    assert same(first, second) is expected


def test_what_changes_nothing_and_what_does():
    cases = 0
    for answer in VALUES:
        for (_, once), (_, twice) in itertools.product(HARMLESS.items(), repeat=2):
            changed = twice(once(answer))
            if changed.count("=") > 1 or changed.count(r"\text{ ") > 1:
                continue  # not harmless twice
            assert is_equivalent(changed, answer), (changed, answer)
            cases += 1
        for how, change in HARMFUL.items():
            assert not is_equivalent(change(answer), answer), (how, answer)
            cases += 1
    assert cases >= 1000


PIECES = [
    *(
        "\\frac",
        "\\dfrac",
        "tfrac",
        "\\sqrt",
        "\\text{ ",
        "\\text{m}",
        "{",
        "}",
        "\\left",
        "\\right",
        "^\\circ",
        "^{\\circ}",
    ),
    *(
        "\\$",
        "$",
        "\\%",
        "%",
        "\\!",
        "\\\\",
        "\\",
        "\n",
        " ",
        ".5",
        "0.5",
        "1",
        "2",
        "03",
        "-",
        "/",
        "=",
        "x",
        "xy",
        "+",
        ",",
        ".",
    ),
]
texts = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)


def test_any_two_strings():
    """The second is any other, or the first with something put in or taken out, so that both verdicts occur."""
    seen: list[bool] = []

    @settings(max_examples=600, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(texts, texts, st.sampled_from(PIECES), st.integers(0, 12), st.integers(0, 3))
    def compare(first, other, piece, at, how):
        second = (first[:at] + piece + first[at:], first[:at] + first[at + 1 :], first + piece, other)[how]
        verdict = is_equivalent(first, second)
        assert verdict is same(first, second)
        try:
            assert canonical(first) == rewrite(first)
        except NoRewriting:
            assert canonical(first) == first
        seen.append(verdict)

    compare()
    assert len(seen) >= 500 and sum(seen) >= 100 and seen.count(False) >= 100


@pytest.mark.parametrize(
    "text, answer",
    [
        (r"The answer is \boxed{42}.", "42"),
        (r"First \boxed{1}, then $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"\boxed{\left\{1,2\right\}}", r"\left\{1,2\right\}"),
        (r"\boxed{\{1\}}", r"\{1\}"),
        (r"\boxed{a_{b_{c}}} and so on}", "a_{b_{c}}"),
        (r"\boxed 7$ is it", "7"),
        (r"\fbox{3}", "3"),
        (r"\boxed{2} or \fbox{3}", "2"),
        (r"$\boxed{ 5 }$", "5"),
        ("\\boxed{1\n2}", "1\n2"),
        (r"\boxed{3} But then \boxed{4", None),
        (r"\boxed{}", None),
        (r"Answer: 5, or \boxed{", None),
        (r"\boxedness: none. Answer: 5", "5"),
        (r"\boxed{5}" + "\nAnswer: 6", "5"),
        ("Answer: 42", "42"),
        ("so\n**ANSWER: 42**", "42"),
        ("**Answer:** 42.", "42"),
        ("Final answer is: $42$", "42"),
        ("Answer: 0.5.", "0.5"),
        ("Answer: $x = 5$", "x = 5"),
        (r"Answer: \(\frac12\)", r"\frac12"),
        (r"Answer: \$5", r"\$5"),
        ("Answer: $5", "$5"),
        ("Answer:\n\n$$\n\\frac{3}{4}\n$$", r"\frac{3}{4}"),
        ("Answer：7", "7"),
        ("Answer: 1\nAnswer: 2", "2"),
        ("Answer: 1\nAnswer:", None),
        ("It is 42.", None),
        ("", None),
        ("<think>Answer: 3</think> Answer: 4", "4"),
        (r"<think>\boxed{3}", None),
        (r"<think>\boxed{3}</think> I do not know", None),
        ("the answers: 3", None),
    ],
)
def test_which_text_is_the_answer(text, answer):
    assert given_answer(text) == answer
    assert find("math").extract(text, item("42")) == answer


def test_what_the_prompt_asks_for_is_read():
    task = find("math")
    prompt = task.prompt(item("42"))
    assert prompt.startswith("What is it?\n") and prompt.endswith("\nAnswer: \\boxed{X}")
    last = prompt.splitlines()[-1]
    assert task.extract("So.\n" + last.replace("X", r"\frac{1}{2}"), item("42")) == r"\frac{1}{2}"


def test_right_wrong_and_chance():
    task = find("math")
    assert task.is_correct(r"\dfrac12", item("0.5")) and not task.is_correct(None, item("0.5"))
    assert not task.is_correct("None", item("0.5"))
    # 0.5 and 1/2 are one answer, so three of five.
    answers = [item(a) for a in ("0.5", "1/2", r"\frac12", "3", "4")] + [item(None)]
    assert task.chance(answers) == pytest.approx(0.6)
    assert not task.scorable(item(None)) and task.left_out(item("5")) is None
    assert task.chance(
        [item("7", "numeric"), item("7", "numeric"), item("8", "numeric"), item("x"), item("y")]
    ) == pytest.approx(0.6)
