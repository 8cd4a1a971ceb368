"""docs/scoring.md says what the code does: its tables are run."""

import re
from pathlib import Path

import pytest

from igascale.evaluation import tasks
from igascale.evaluation.tasks._choice import chosen
from igascale.evaluation.tasks._equivalence import is_equivalent
from igascale.evaluation.tasks._formulas import expression
from igascale.evaluation.tasks._numbers import number
from igascale.evaluation.tasks._tokens import Unreadable

TEXT = (Path(__file__).parents[2] / "docs" / "scoring.md").read_text(encoding="utf-8")
CHOICES = TEXT.split("| written there |")[1].split("\n\n")[0]


def spans(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def row(start: str) -> str:
    (found,) = [line for line in CHOICES.splitlines() if line.startswith(f"| {start}")]
    return found.split(" | ")[0]


def test_every_task_has_a_row():
    assert all(f"\n| `{name}`" in TEXT for name in tasks.available())


@pytest.mark.parametrize("start, options, letter", [
    ("`B`, `b`", ("rain", "snow"), "B"),
    ("`B. snow`", ("rain", "snow"), "B"),
    ("`snow`, in full", ("rain", "snow"), "B"),
    ("`B. Because", ("rain", "snow"), "B"),
    ("`B. rain`", ("rain", "snow"), None),
    ("`A or B`", ("rain", "snow"), None),
    ("`not A but B`", ("rain", "snow"), None),
    ("`E` of four", ("rain", "snow", "hail", "fog"), None),
    ("`A man walks`", ("rain", "snow"), None),
    ("`rain and snow`", ("rain", "snow", "rain and snow"), "C"),
])  # fmt: skip
def test_the_table_of_choices(start, options, letter):
    found = spans(row(start))
    assert found
    for text in found:
        assert chosen(f"Answer: {text}", options) == letter, text


def test_the_table_of_math():
    lines = TEXT.split("| the same |")[1].split("\n\n")[0].splitlines()[2:]
    assert len(lines) == 4
    for line in lines:
        for group in line.split(" | ")[0].split(";"):
            first, *others = spans(group)
            assert others and all(is_equivalent(first, other) for other in others), group
    apart = [
        (r"\frac{1}{2}", "0.50"),
        (r"\frac{1}{2}", "2/4"),
        (r"-\frac{1}{2}", "-1/2"),
        (r"12\text{cm}", "12"),
        ("90°", "90"),
    ]
    apart += [
        ("50%", "50"),
        ("$5$", "5"),
        (r"\sqrt 2", r"\sqrt2"),
        ("(1,2)", "(2,1)"),
        ("1,024", "1024"),
        ("03", "3"),
        ("42.", "42"),
    ]
    for one, other in apart:
        assert one in TEXT and other in TEXT and not is_equivalent(one, other)


def test_what_is_said_of_numbers_and_expressions():
    (refused,) = re.findall(r"^- No answer: (.*?)refused at once", TEXT, re.MULTILINE | re.DOTALL)
    for text in spans(refused):
        with pytest.raises(Unreadable):
            number(text)
    (read,) = re.findall(
        r"^\*Numbers\.\*.*?evaluates nothing but numbers: (.*?), and `sin`", TEXT, re.MULTILINE | re.DOTALL
    )
    assert len([number(text) for text in spans(read)]) >= 9
    (formulas,) = re.findall(r"^\*Expressions\*.*?: names (.*?), powers", TEXT, re.MULTILINE | re.DOTALL)
    assert len([expression(text) for text in spans(formulas)]) >= 5
    assert number("5 km") == number("5 m") == number("5") and number("50%") == 50


def test_every_option_on_the_page_exists():
    from igascale.cli.data.benchmark import command

    options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
    assert {"--show-prompt", "--score"} <= set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT)) <= options
