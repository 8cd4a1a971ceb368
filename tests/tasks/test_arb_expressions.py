"""ARB's expressions: random formulas and their rewritings, against values computed here with Fractions; and a worker that cannot hang."""

import json
import os
import random
import threading
import time
import warnings
from fractions import Fraction

import pytest

from igascale.evaluation.benchmarks import BenchmarkItem
from igascale.evaluation.tasks import _symbolic, find
from igascale.evaluation.tasks._formulas import expression
from igascale.evaluation.tasks._symbolic import Comparer
from igascale.evaluation.tasks._tokens import NAMES, Unreadable


@pytest.fixture(scope="module")
def comparer():
    one = Comparer(seconds=5)
    yield one
    one.close()


def item(answer: str, kind: str = "symbolic") -> BenchmarkItem:
    return BenchmarkItem("physics_symbolic/1", "arb", "physics_symbolic", "Find it.", answer=answer, answer_kind=kind)  # type: ignore[arg-type]


# A formula of the tests' own: a name, an integer, or (operation, formula, formula).
class Undefined(Exception):
    pass


def value(formula, point):
    if isinstance(formula, str):
        return point[formula]
    if isinstance(formula, int):
        return Fraction(formula)
    sign, a, b = formula[0], value(formula[1], point), value(formula[2], point)
    if (sign == "/" and b == 0) or (sign == "^" and a == 0 and b < 0):
        raise Undefined
    return (
        a + b
        if sign == "+"
        else a - b
        if sign == "-"
        else a * b
        if sign == "*"
        else a / b
        if sign == "/"
        else a ** int(b)
    )


def drawn(draw: random.Random, depth: int):
    if depth == 0 or draw.random() < 0.15:
        return draw.choice(["x", "y", "m", 1, 2, 3, 5])
    sign = draw.choice("+-**/^")
    left = drawn(draw, depth - 1)
    return (sign, left, draw.choice([2, 3, -1]) if sign == "^" else drawn(draw, depth - 1))


def rewritten(draw: random.Random, formula):
    """The same function, written otherwise."""
    if not isinstance(formula, tuple):
        return (
            formula
            if draw.random() < 0.7
            else draw.choice([("+", formula, 0), ("*", 1, formula), ("-", ("+", formula, "y"), "y")])
        )
    sign, a, b = (
        formula[0],
        rewritten(draw, formula[1]),
        formula[2] if formula[0] == "^" else rewritten(draw, formula[2]),
    )
    if sign in "+*" and draw.random() < 0.5:
        a, b = b, a
    if sign == "*" and isinstance(b, tuple) and b[0] in "+-":
        return (b[0], ("*", a, b[1]), ("*", a, b[2]))
    if sign == "/" and draw.random() < 0.5:
        return ("*", a, ("^", b, -1))
    if sign == "^" and b == 2:
        return ("*", a, a)
    if sign == "-" and draw.random() < 0.5:
        return ("+", a, ("*", -1, b))
    return (sign, a, b)


def spoilt(draw: random.Random, formula):
    """With one leaf or sign changed."""
    if not isinstance(formula, tuple):
        return draw.choice([other for other in ("x", "y", 2, 3, 7) if other != formula])
    sign, a, b = formula
    if sign == "^" or draw.random() < 0.5:
        return (sign, spoilt(draw, a), b)
    return (sign, a, spoilt(draw, b))


def text(draw: random.Random, formula) -> str:
    if isinstance(formula, (str, int)):
        return str(formula) if isinstance(formula, str) or formula >= 0 else f"({formula})"
    sign, a, b = formula[0], text(draw, formula[1]), text(draw, formula[2])
    if sign == "/":
        return draw.choice(
            [
                rf"\frac{{{a}}}{{{b}}}",
                f"(({a})/({b}))",
                f"({a} ÷ ({b}))",
            ]
        )
    if sign == "^":
        return draw.choice([rf"\left({a}\right)^{{{formula[2]}}}", f"({a})**({formula[2]})"])
    if sign == "*":
        return draw.choice([rf"({a}) \cdot ({b})", f"({a})({b})", f"(({a})*({b}))", rf"({a}) \, ({b})"])
    return draw.choice([f"({a} {sign} {b})", rf"\left({a} {sign} {b}\right)"])


def test_random_formulas_against_exact_values(comparer):
    draw = random.Random(3)
    points = [{name: Fraction(draw.randint(1, 60), draw.randint(1, 60)) for name in ("x", "y", "m")} for _ in range(6)]
    cases = same = 0
    while cases < 400:
        first = drawn(draw, 3)
        second = rewritten(draw, first) if draw.random() < 0.5 else spoilt(draw, rewritten(draw, first))
        try:
            expected = all(value(first, point) == value(second, point) for point in points)
            values = [str(value(first, point)) for point in points]
        except Undefined:
            continue
        if max(map(len, values)) > 300:
            continue
        one, other = text(draw, first), text(draw, second)
        try:
            trees = expression(one), expression(other)
        except Unreadable as error:
            assert "nested" in str(error) or "longer" in str(error) or "tokens" in str(error), (one, other, error)
            continue
        assert comparer.equivalent(*trees) is expected, (one, other)
        cases, same = cases + 1, same + expected
    assert same >= 120 and cases - same >= 120


@pytest.mark.parametrize(
    "first, second, expected",
    [
        (r"\frac{1}{2} m v^2", "m v**2 / 2", True),
        (r"\frac12mv^2", "0.5 m v²", True),
        ("mgh", r"m \cdot g \cdot h", True),
        ("mgh", "mgH", False),
        (r"\sin^2\theta + \cos^2\theta", "1", True),
        (r"\sin 2x", r"2\sin x\cos x", True),
        (r"\sin(2x)", r"2\sin x", False),
        (r"\sqrt{x^2}", "x", True),  # names are positive
        (r"|x|", "x", True),
        (r"\ln(xy)", r"\ln x + \ln y", True),
        (r"\ln x^2", r"2\ln x", True),
        (r"e^{i\pi}", "-1", True),
        (r"e^{-\frac{t}{RC}}", r"\exp(-t/(RC))", True),
        (r"E = \frac{1}{4\pi\epsilon_0}\frac{q}{r^2}", r"\frac{q}{4 \pi \varepsilon_0 r^2}", True),
        (r"\frac{k_B T}{m}", r"k_{B} T / m", True),
        (r"v_{max}", "v_max", True),
        ("v_1 v_2", "v_2 v_1", True),
        ("v₁v₂", "v_1v_2", True),
        (r"\hbar\omega/2", "ħω/2", True),
        (r"\hbar\omega/2", "ℏω/2", True),
        (r"\omega", "omega", True),
        (r"\lambda", "λ", True),
        (r"\Omega", "Ω", True),
        (r"\log_2 8", "3", True),
        (r"\sin^{-1} x", r"\arcsin x", True),
        (r"\frac{n!}{k!(n-k)!}", r"\binom{n}{k}", True),
        ("(x+1)^2", "x^2+2x+1", True),
        ("(x+1)^2", "x^2+2x+2", False),
        ("0.333x", "x/3", False),
        ("10^{-34} x", "2 \\cdot 10^{-34} x", False),
        ("e^{-1000 x}", "2e^{-1000x}", False),
        ("2^{100}", "1267650600228229401496703205376", True),
        ("x^{10}", "x^10", True),
        ("V(r) = kq/r", r"\frac{kq}{r}", True),
        (r"5x \text{ m}", "5x", True),
        (r"\infty", r"\infty", True),
        (r"\infty", "x", None),
        ("x/0", "x/0", None),
        ("1/(x-x)", "2/(x-x)", None),
        (r"\sqrt[3]{-8}", "-2", True),
        ("i^2", "-1", True),
        ("a/b c", "ac/b", True),
        ("x^2", "x^{2}", True),
        ("ax + by", "by + a x", True),
        ("e^(it)", r"e^{i t}", True),
        (r"\theta_{for}", r"\theta_{for}", True),
        ("2x", "x2", "Unreadable"),
    ],
)
def test_by_hand(comparer, first, second, expected):
    try:
        verdict = comparer.equivalent(expression(first), expression(second))
    except Unreadable:
        verdict = "Unreadable"
    assert verdict == expected and type(verdict) is type(expected)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "the answer is large",
            "x^2 + y^2 = 1",
            "a + b = c",
            r"\int x dx",
            r"\sum_n n",
            r"\vec{E}",
            "x > 0",
            "x, y",
            "(x, y)",
            "x +",
            "(x",
            "x)",
        ),
        *(
            "__import__('os').system('true')",
            "x.__class__",
            "x;y",
            "f'(x)",
            "[x for x in y]",
            "lambda x: x",
            "x@y",
            "x#y",
            "x_{a_{b}}",
            r"2\frac12",
        ),
        *(
            "(" * 100 + "x" + ")" * 100,
            "x+" * 300 + "x",
            "x" * 401,
            r"\unknown{x}",
            r"\pm x",
            "2x3",
            r"\begin{pmatrix}1\end{pmatrix}",
        ),
    ],
)
def test_what_is_no_expression(text):
    with pytest.raises(Unreadable):
        expression(text)


def test_every_name_is_known_to_the_worker(comparer):
    for name in sorted(NAMES):
        formula = expression(f"\\{name}(x)")
        assert comparer.equivalent(formula, formula) is True, name
    for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth"):
        inverse, written_out = expression(f"\\{name}^{{-1}}(1/2)"), expression(f"\\{name}(x)^{{-1}}")
        assert inverse[0] == f"arc{name}" and written_out[0] == "^"
        assert comparer.equivalent(inverse, inverse) is True


@pytest.mark.parametrize("hanging", ["9**9**9**9", r"((((99999999!)!)!)!)"])
def test_a_formula_that_does_not_end_is_ended_and_the_next_is_compared(hanging, monkeypatch):
    monkeypatch.setattr(_symbolic, "_PATIENCE", 600)  # so that it is the processor time that ends it, on any machine
    comparer = Comparer(seconds=1)
    try:
        one = expression("x+x")
        assert comparer.equivalent(one, expression("2x")) is True
        before = comparer._process.pid
        started = time.monotonic()
        assert comparer.equivalent(expression(hanging), one) is None
        assert time.monotonic() - started < 300
        assert comparer.equivalent(one, expression("3x")) is False
        assert comparer._process.pid != before
    finally:
        comparer.close()
    assert comparer._process is None


def test_threads_share_a_worker():
    comparer, wrong = Comparer(), []

    def ask(n: int) -> None:
        for k in range(5):
            if comparer.equivalent(expression(f"{n} x + {k} x"), expression(f"{n + k} x")) is not True:
                wrong.append((n, k))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    comparer.close()
    assert not wrong


def test_a_worker_that_is_gone_is_started_again():
    comparer = Comparer()
    one = expression("x")
    assert comparer.equivalent(one, one) is True
    os.kill(comparer._process.pid, 9)
    comparer._process.wait()
    assert comparer.equivalent(one, one) is True
    comparer.close()
    assert comparer.equivalent(one, expression("y")) is False  # even after it was closed
    comparer.close()


def test_the_task_compares_warns_and_never_guesses():
    task, problem = find("arb"), item(r"$\frac{1}{2} m v^2$")
    assert task.scorable(problem) and not task.scorable(item("x^2 + y^2 = 1"))
    predicted = task.extract("So\n**ANSWER:** $E = 0.5 m v^{2}$", problem)
    assert predicted and task.is_correct(predicted, problem)
    assert not task.is_correct(task.extract("Answer: m v^2", problem), problem)
    assert task.extract("Answer: half of it all", problem) is None and task.extract(r"\boxed{mv^2/2}", problem) is None
    with pytest.warns(UserWarning, match="could not be told in time; it counts as wrong"):
        assert not task.is_correct("x/0", problem)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not task.is_correct(None, problem) and not task.is_correct("no formula at all", problem)
    assert task.chance([item("x+1"), item("x + 1"), item("y")]) == pytest.approx(2 / 3)
    assert task.prompt(problem).endswith("\nAnswer: X")


def test_trees_survive_json():
    tree = expression(r"\frac{\sin x}{\sqrt[3]{y_0}} + 2^{n!}")

    def tuples(tree):
        return tuple(tuples(part) for part in tree) if isinstance(tree, list) else tree

    assert tuples(json.loads(json.dumps(tree))) == tree
