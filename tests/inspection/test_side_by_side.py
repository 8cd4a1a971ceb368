"""What a group is said to share and not to share, and the terminal's view of it."""

import io

import pytest
from rich.console import Console

from igascale.isomers.generator import generate
from igascale.isomers.inspection.side_by_side import alignment, lay_out, steps_of, visible
from igascale.isomers.inspection.view import OWN, print_groups
from igascale.isomers.schema import Dag

from view_cases import HOSTILE_SHOWN, chain, group, hostile


def printed(groups, width=120, colour=None, domains=()):
    console = Console(file=io.StringIO(), width=width, color_system=colour, force_terminal=colour is not None)
    count = print_groups(console, groups, domains)
    return count, console.file.getvalue()


def squeezed(text):
    """Without what wrapping, columns and indents put in."""
    return "".join(text.replace("│", "").split())


def test_words_of_one_domain_are_told_from_those_of_all():
    law, science = lay_out(group()).sides
    assert law.problem == [
        *[("The", False), (" ", False), ("court", True), (" ", False)],
        *[("of P admits K, if", False), (" ", False), ("foreign", True), (".", False)],
    ]
    assert [text for text, own in science.problem if own] == ["lab", "acidic"]
    for side, instance in zip((law, science), group().instances, strict=True):
        assert "".join(text for text, _ in side.problem) == instance.problem


def test_shared_words_keep_their_order_and_case():
    assert lay_out(group()).common_words == ["The", "of", "P", "admits", "K", "if", "1", "is", "2", "So"]
    assert lay_out(group(), ["law"]).common_words == []  # one domain alone shares nothing


@pytest.mark.parametrize(
    ("cot", "steps"),
    [
        ("1. one\n2) two\n\nStep 3: three", ["one", "two", "three"]),
        ("one\n  two  \n\n", ["one", "two"]),
        ("2 of them\n3. three", ["2 of them", "3. three"]),  # not 1, 2, ...: left as they are
        ("3. three\n1. one", ["3. three", "1. one"]),
        ("1. one\nand more", ["1. one", "and more"]),
        ("", []),
    ],
)
def test_steps_are_lines_without_the_numbers_they_came_with(cot, steps):
    assert steps_of(cot) == steps


def test_what_differs_is_said():
    agreeing = lay_out(group(dag=chain(4)))
    assert agreeing.shared == ["answer H", "2 steps", "a graph of 4 nodes and 3 edges"]
    assert agreeing.differs == []
    parted = lay_out(group(answers=("12 mg", "12"), cots=("a\nb\nc", "a"), dag=Dag(chain(2).nodes, (), steps=2)))
    assert parted.differs == [
        "answers: 12 mg (law); 12 (science)",
        "steps: 1 (science); 3 (law)",
        "the graph says 2 steps",
    ]
    assert parted.shared == ["a graph of 2 nodes and 0 edges"]
    assert lay_out(group(answers=("Yes", " yes "))).differs == []  # as the evaluation compares them


def test_alignment_of_any_other_shape_is_left_in_meta():
    scored = group(meta={"alignment": {"law": 0.9, "science": 1}, "teacher": "t"})
    assert alignment(scored) == {"law": 0.9, "science": 1.0}
    assert [side.score for side in lay_out(scored).sides] == [0.9, 1.0]
    assert lay_out(scored).meta == {"teacher": "t"}
    assert "seed-g1 · rules · alignment 0.95, lowest 0.90 ─" in printed([scored])[1]
    assert "aligned 0.90" in printed([scored])[1]
    for odd in (0.9, "high", {"law": "high"}, None, {"law": True}):
        assert alignment(group(meta={"alignment": odd})) == {}
        assert lay_out(group(meta={"alignment": odd})).meta == {"alignment": odd}


def test_marks_that_nobody_sees_are_spelled_out():
    assert visible("a\x1b[2J\u202eb\x00\ud800\x85") == "a<U+001B>[2J<U+202E>b<U+0000><U+D800><U+0085>"
    assert visible("tab\tand\nline, שלום 😀 \u200f") == "tab\tand\nline, שלום 😀 \u200f"


@pytest.mark.parametrize("width", [20, 45, 80, 200])
def test_everything_of_a_group_is_printed_at_any_width(width):
    (one,) = generate(1, ["mathematics", "medicine", "law", "science"])
    count, text = printed([one], width)
    assert count == 1
    assert max(map(len, text.splitlines())) <= width
    flat = squeezed(text)
    for wanted in (one.id, one.seed_id, one.kind, "graph:", "GOAL"):
        assert squeezed(wanted) in flat or width < 45, wanted  # at 20 the columns of the graph fold
    for instance in one.instances:
        assert instance.domain in flat
        if width < 60:  # one column: its lines follow each other
            assert squeezed(instance.problem) in flat
            assert all(squeezed(step) in flat for step in instance.cot.splitlines())


def test_columns_stand_side_by_side_where_there_is_room():
    (one,) = generate(1, ["mathematics", "medicine", "law", "science"])

    def heads(width):
        names = [instance.domain for instance in one.instances]
        rows = [line.replace("│", " ").split() for line in printed([one], width)[1].splitlines()]
        return [len(row) for row in rows if row and set(row) <= set(names)]

    assert heads(130) == [4]
    assert heads(110) == [2, 2]  # three would fit, and leave one alone
    assert heads(50) == [1, 1, 1, 1]


def test_solutions_can_be_read_across():
    _, text = printed([group(cots=("a\nb\nc", "x"))])
    (first,) = [line for line in text.splitlines() if "1. a" in line]
    assert "1. x" in first
    (third,) = [line for line in text.splitlines() if "3. c" in line]
    assert "│" in third


def test_own_words_are_coloured_and_common_ones_are_not():
    text = printed([group()], colour="standard")[1]
    assert OWN == "cyan"
    assert "\x1b[36mcourt\x1b[0m" in text
    assert "\x1b[36mThe" not in text
    assert "other words in colour" in text
    assert "other words in colour" not in printed([group()])[1]


def test_the_graph_names_each_node_once_after_those_it_rests_on():
    _, text = printed([group(dag=chain(4))])
    lines = [line for line in text.splitlines() if line.strip().startswith("n")]
    assert [line.split()[0] for line in lines] == ["n0", "n1", "n2", "n3"]
    assert "← IMPLIES n2" in lines[3]
    indents = [line.index(f"p{number}") for number, line in enumerate(lines)]
    assert indents == sorted(set(indents))


def test_hostile_text_is_inert_in_the_terminal():
    _, text = printed([hostile()], 400)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[2J" in text
    assert squeezed(HOSTILE_SHOWN) in squeezed(text)


def test_hidden_domains_are_named():
    _, text = printed([group()], domains=["law"])
    assert "not shown: science" in text
    assert "lab" not in text


def test_a_long_chain_is_printed_and_not_pushed_out_of_sight():
    _, text = printed([group(dag=chain(300))], 60)
    assert "p299" in text
