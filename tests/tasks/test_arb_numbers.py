"""ARB's numbers: their values against exact arithmetic written here, and the 1% rule at its edges."""

import itertools
import math
import random
from decimal import Decimal
from fractions import Fraction

import pytest

from igascale.evaluation.benchmarks import BenchmarkItem
from igascale.evaluation.tasks import find
from igascale.evaluation.tasks._numbers import _FUNCTIONS, number, within
from igascale.evaluation.tasks._tokens import FUNCTIONS, Unreadable

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def item(answer: str | None, kind: str = "numeric", **meta) -> BenchmarkItem:
    return BenchmarkItem(
        "math_numerical/1", "arb", "math_numerical", "How many?", answer=answer, answer_kind=kind, meta=meta
    )  # type: ignore[arg-type]


# How a mantissa and a power of ten are written: all mean mantissa * 10 ** exponent.
WRITTEN = [
    "{m}e{e}",
    "{m}E{e}",
    "{m} × 10^{e}",
    "{m}×10{s}",
    "{m} \\times 10^{{{e}}}",
    "{m} \\cdot 10^{{{e}}}",
    "{m} * 10**{e}",
    "{m}x10^{e}",
    "{m} x 10^({e})",
    "$ {m} \\times 10^{{{e}}} $",
    "\\boxed{{{m} \\times 10^{{{e}}}}}",
]
UNITS = [
    "",
    " m",
    " m/s",
    " kg m^2/s^2",
    " kg·m²·s⁻²",
    "\\text{ J}",
    "\\ \\mathrm{kg\\,m}",
    "%",
    "°",
    "^\\circ",
    " \\Omega",
    " eV",
    " (m/s)",
    " sec",
    " in",
]
AROUND = ["{}", "**{}**", "x = {}", "≈ {}", "about {}", "{}.", "\\({}\\)", "v_0 = \\approx {}"]


def written(mantissa: str, exponent: int, form: str) -> str:
    return form.format(m=mantissa, e=exponent, s=str(exponent).translate(SUPERSCRIPTS))


def test_values_of_decimals_and_powers_of_ten():
    cases = 0
    mantissas = ["1", "-3", "2.50", "0.125", "+7", "−4.2", "12,345", "1,234,567.5", ".5", "3."]
    for mantissa, exponent, (form, unit) in itertools.product(
        mantissas, (-19, -1, 0, 3, 27), zip(WRITTEN * 2, UNITS + UNITS)
    ):
        text = AROUND[cases % len(AROUND)].format(written(mantissa, exponent, form) + unit)
        exact = Decimal(mantissa.replace("−", "-").replace(",", "")).scaleb(exponent)
        assert number(text) == Fraction(exact), text
        cases += 1
    assert cases >= 1000


def test_arithmetic_against_pythons_own():
    """Expressions drawn at random, written as LaTeX or plain, valued by Python's evaluation of its own syntax with Fractions."""
    draw = random.Random(7)

    def formula(depth: int) -> tuple[str, str]:
        """The text that is read, and the same as Python with F(...) for numbers."""
        kind = draw.randrange(8) if depth else 0
        if kind in (0, 1):
            literal = draw.choice(["2", "3", "0.5", "7", "1.25", "10"])
            return literal, f"F('{literal}')"
        (a, pa), (b, pb) = formula(depth - 1), formula(depth - 1)
        if kind == 2:
            sign = draw.choice("+-−")
            return f"({a} {sign} {b})", f"({pa} {sign.replace('−', '-')} {pb})"
        if kind == 3:
            sign = draw.choice(["*", "·", "\\cdot", "×", ""])
            return f"({a}) {sign} ({b})", f"({pa} * {pb})"
        if kind == 4:
            return draw.choice(
                [f"\\frac{{{a}}}{{{b}}}", f"(({a})/({b}))", f"\\left({a}\\right) ÷ \\left[{b}\\right]"]
            ), f"(({pa}) / ({pb}))"
        if kind == 5:
            power = draw.choice(["2", "3", "-1"])
            text = draw.choice(
                [
                    f"({a})^{{{power}}}",
                    f"({a})**({power})",
                    f"({a}){power.translate(SUPERSCRIPTS)}",
                    f"{{({a})}}^{power}",
                ]
            )
            return f"({text})", f"(({pa}) ** {power})"
        if kind == 6:
            return f"(-{a})", f"(-{pa})"
        return f"\\left|{a}-{b}\\right|", f"abs({pa}-{pb})"

    cases = impossible = 0
    for _ in range(800):
        text, python = formula(3)
        try:
            expected = eval(python, {"F": Fraction, "abs": abs})  # our own syntax, made four lines above
        except ZeroDivisionError:
            with pytest.raises(Unreadable):
                number(text)
            impossible += 1
            continue
        value = number(text)
        assert value == expected or abs(complex(value) - complex(expected)) <= 1e-9 * abs(complex(expected)), (
            text,
            python,
        )
        cases += 1
    assert cases >= 600 and impossible >= 1


@pytest.mark.parametrize(
    "text, value",
    [
        ("π", math.pi),
        ("2π/3", 2 * math.pi / 3),
        (r"\frac{3\pi}{4}", 3 * math.pi / 4),
        ("3 pi", 3 * math.pi),
        ("e", math.e),
        ("e^2", math.e**2),
        ("2e", 2 * math.e),
        (r"e^{-1}", 1 / math.e),
        ("√2", 2**0.5),
        (r"\sqrt{2}/2", 2**-0.5),
        (r"\sqrt2", 2**0.5),
        ("sqrt(12)", 12**0.5),
        ("√12", 12**0.5),
        (r"\sqrt[3]{8}", 2.0),
        (r"\sqrt[3]{-8}", -2.0),
        (r"\ln 2", math.log(2)),
        ("ln(2)/2", math.log(2) / 2),
        (r"\log_{10} 1000", 3.0),
        (r"\log_2 8", 3.0),
        ("exp(-1)", 1 / math.e),
        (r"\sin(\pi/6)", 0.5),
        (r"\cos^2(0)", 1.0),
        (r"\tan^{-1}(1)", math.pi / 4),
        ("arctan(1)", math.pi / 4),
        ("5!", 120),
        (r"\binom{5}{2}", 10),
        ("2i", 2j),
        (r"2\pi i", 2j * math.pi),
        ("2πi", 2j * math.pi),
        ("½", 0.5),
        ("1/3", Fraction(1, 3)),
        (r"\frac13", Fraction(1, 3)),
        (r"\dfrac{1}{3}", Fraction(1, 3)),
        ("2^10", 1024),
        ("2^3^2", 512),
        ("-2^2", -4),
        ("1/2/5", Fraction(1, 10)),
        ("6/2(3)", 9),
        ("1/3 ≈ 0.333", Fraction("0.333")),
        (r"\$5", 5),
        ("$5", 5),
        ("50%", 50),
        ("25°C", 25),
        ("2(1/2)", 1),
        ("60 mph", 60),
        ("5 ft-lb", 5),
        ("5 km", 5),
        (r"3.0 \times 10^8 \frac{m}{s}", 3 * 10**8),
        (r"5\,\mu m", 5),
        ("1e-400", Fraction(10) ** -400),
        ("sec(0)", 1),
        ("5 sec", 5),
    ],
)
def test_values(text, value):
    assert complex(number(text)) == pytest.approx(complex(value), rel=1e-12)


UNREAD = [
    *(
        "",
        " ",
        ".",
        "five",
        "x",
        "2x",
        "5x",
        "5k",
        "5 or 6",
        "5 and 6",
        "5, 6",
        "(5, 6)",
        "5 to 6",
        "5 ± 1",
        r"5 \pm 1",
        "1:2",
        "0,5",
        "1.2.3",
    ),
    *(
        "1 2",
        "2 1/2",
        r"2\frac12",
        "2½",
        "1 000",
        "12 hours 5 minutes",
        "3 million",
        "5 thousand",
        "1/0",
        "0^{-1}",
        r"\ln 0",
        "∞",
        r"\infty",
    ),
    *(
        "9**9**9**9",
        r"10^{10^{10}}",
        "1e99999",
        "1e999999999999",
        "200!",
        "0.5!",
        "5 \\sin(x)",
        "5 + x",
        "x + 5",
        "5 if x > 0",
        "> 5",
    ),
    *(
        "__import__('os')",
        "().__class__",
        "exec",
        "0x1F",
        "lambda: 0",
        "5;",
        "5; 6",
        "[5",
        "5(2",
        "(",
        "{",
        r"\frac",
        r"\frac{1}",
        r"\sqrt",
        "^",
        "5^",
    ),
    *(
        "(" * 200 + "1" + ")" * 200,
        "1+" * 300 + "1",
        "9" * 500,
        r"\frac{" * 40 + "1" + "}{2}" * 40,
        "!" * 50,
        "-" * 100 + "1",
        "2^" * 60 + "2",
    ),
]


@pytest.mark.parametrize("text", [text for text in UNREAD if text != "5;"])
def test_what_is_no_number(text):
    with pytest.raises(Unreadable):
        number(text)


def test_every_function_has_a_value():
    names = FUNCTIONS - {"abs", "sqrt"} | {f"arc{name}" for name in ("cot", "sec", "csc", "coth")}
    assert names == set(_FUNCTIONS)
    for name in FUNCTIONS:
        assert math.isfinite(abs(complex(number(f"{name}(0.5)"))))  # of some outside their real domain: complex
    for name in ("sin", "cot", "sec", "coth"):
        assert complex(number(f"\\{name}^{{-1}}(\\{name}(0.5))")).real == pytest.approx(0.5)


def test_one_percent_against_decimal_arithmetic():
    """Right exactly where |predicted - expected| / |expected| < 0.01, in decimals, whatever floating point would say."""
    task, cases, right = find("arb"), 0, 0
    offsets = [
        "0",
        "0.001",
        "0.0099",
        "0.00999999999999999999",
        "0.01",
        "0.01000000000000000001",
        "0.0101",
        "0.5",
        "1",
        "2",
    ]
    for expected, offset, sign in itertools.product(
        ["1", "3", "-2", "0.07", "-4.5e-20", "6.02e23", "1000"], offsets, (1, -1)
    ):
        exact = Decimal(expected) * (1 + sign * Decimal(offset))
        verdict = abs(exact - Decimal(expected)) / abs(Decimal(expected)) < Decimal("0.01")
        for text in (f"{exact}", f"{exact} m", f"{exact:E}".replace("E", "×10^{") + "}"):
            problem = item(expected)
            predicted = task.extract(f"Answer: {text}", problem)
            assert predicted is not None, text
            assert task.is_correct(predicted, problem) is verdict, (text, expected)
            cases, right = cases + 1, right + verdict
    assert cases >= 400 and right >= 150 and cases - right >= 150


def test_where_zero_is_expected():
    for predicted, right in [
        ("0", True),
        ("0.0 m", True),
        ("sin(π)", True),
        ("1e-30", True),
        ("0.001", False),
        ("-1e-9", False),
    ]:
        assert find("arb").is_correct(predicted, item("0")) is right, predicted
    assert within(Fraction(0), Fraction(0), Fraction(1, 100)) and not within(Fraction(0), Fraction(1), Fraction(1, 100))


@pytest.mark.parametrize(
    "text, predicted",
    [
        ("Answer: 1", "1"),
        ("**ANSWER: 1**", "1**"),
        ("ANSWER: 2.5×10⁻³ m/s", "2.5×10⁻³ m/s"),
        ("Answer: 1\nNo.\nAnswer: 2", "2"),
        ("Answer: $\\pi$", "$\\pi$"),
        (r"\boxed{5}", None),
        ("It is 5.", None),
        ("Answer: five", None),
        ("Answer: 5 or 6", None),
        ("Answer:", None),
        ("Answer:\n\\[\n5\n\\]", "5"),
        (r"Answer: \boxed{5}", r"\boxed{5}"),
        ("<think>Answer: 5", None),
    ],
)
def test_which_text_is_the_answer(text, predicted):
    assert find("arb").extract(text, item("5")) == predicted


def test_prompt_left_out_and_chance():
    task = find("arb")
    prompt = task.prompt(item("5", output_format_instructions="Give a number."))
    assert prompt.startswith("How many?\n\nGive a number.\n\nThink") and prompt.endswith("\nAnswer: X")
    assert task.scorable(item("5")) and task.scorable(item(r"$\frac{1}{2}$ m"))
    assert "not read as one number" in str(task.left_out(item("5 and 6")))
    assert "proof" in str(task.left_out(item(None, "proof"))) and "proof" in str(task.left_out(item("QED", "proof")))
    assert "hidden" in str(task.left_out(item(None)))
    assert task.left_out(item("x = 5", "text")) is not None
    numbers = [item(a) for a in ("0.5", "1/2", "5 and 6", "3")]
    assert task.chance(numbers) == pytest.approx(2 / 3)
