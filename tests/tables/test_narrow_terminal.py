"""A table with a heading over its rows, and intervals, in terminals of any usual width: no word and no number is broken."""

import io

import pytest
from rich.console import Console

from igascale.tables import Cell, Column, Table, number, to_rich

HEADING = "isomers OOD: 120 problems in 40 groups, chance 20.0%"


def table():
    columns = [Column("evaluation", "left"), Column("accuracy %"), Column("no answer %"), Column("difference")]
    columns += [Column(name) for name in ("p", "p (Holm)", "gained", "lost")]
    accuracy, difference = (
        number(65.0, low=50.8, high=76.9, bound_digits=1),
        number(-27.5, low=-39.1, high=-18.3, sign=True),
    )
    rest = [Cell("0.0"), difference, Cell("<0.001"), Cell("<0.001"), Cell("33"), Cell("0")]
    first = [Cell("  results/mean (reference)"), accuracy, Cell("0.0"), *[Cell("")] * 5]
    return Table(
        "Compared", columns, [[Cell(HEADING), *[Cell("")] * 7], first, [Cell("  results/iga"), accuracy, *rest]]
    )


def shown(width):
    console = Console(file=io.StringIO(), width=width)
    console.print(to_rich(table()))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 90, 100, 120, 150, 200])
def test_no_word_and_no_interval_is_broken(width):
    text = shown(width)
    assert all(len(line) <= width for line in text.splitlines())
    words = text.replace("│", " ").split()
    for word in [*HEADING.split(), "results/mean", "(reference)", "results/iga", "<0.001", "difference"]:
        assert word in words
    assert "[50.8, 76.9]" in text and "[-39, -18]" in text


def test_a_long_heading_does_not_stack_the_intervals():
    assert "65.0 [50.8, 76.9]" in shown(120) and HEADING not in shown(120)
    assert HEADING in shown(200)
    assert "65.0 [50.8, 76.9]" not in shown(80)


@pytest.mark.parametrize("turn", ["\u202a", "\u202e", "\u2066", "\u2069"])
def test_nothing_turns_the_direction_of_the_table(turn):
    console = Console(file=io.StringIO(), width=80)
    console.print(to_rich(Table("x", [Column("name", "left")], [[f"a{turn}b"]])))
    assert turn not in console.file.getvalue() and "a\ufffdb" in console.file.getvalue()
