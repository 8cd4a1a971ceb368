r"""MATH: the tree of one problem a file, its copies, the last box, and the sides of the split."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igascale.errors import UserError
from igascale.evaluation.benchmarks import find
from igascale.evaluation.benchmarks.math import kind_of, last_boxed

from published_files import math_problem, math_tree, write_json, write_lines

MATH = find("math")


def test_the_published_tree(tmp_path):
    loaded = MATH.load(math_tree(tmp_path))
    assert len(loaded.items) == 14
    item = next(i for i in loaded.items if i.id == "test/geometry/3")
    assert item.subject == "Geometry" and item.level == "2" and item.answer == "4" and item.answer_kind == "numeric"
    assert item.question == "Invented test problem on Geometry: what is 2+2?" and item.solution == "It is $\\boxed{4}$."
    assert not item.options and item.split == "test"
    assert loaded.notes == []


@pytest.mark.parametrize("inner", ["MATH/train", "MATH/train/algebra", "MATH/train/algebra/1.json"])
def test_a_part_of_the_tree_knows_its_split_and_ids(tmp_path, inner):
    whole = {item.id for item in MATH.load(math_tree(tmp_path)).items}
    part = MATH.load(tmp_path / inner).items
    assert part and {item.split for item in part} == {"train"}
    assert {item.id for item in part} <= whole


def test_sides_of_the_split_hold_no_subject_twice(tmp_path):
    items = MATH.load(math_tree(tmp_path)).items
    sides = {side: {item.subject for item in MATH.select(items, side)} for side in ("id", "ood", "all")}
    assert sides["id"] == {"Algebra", "Number Theory"}
    assert sides["ood"] == {"Counting & Probability", "Geometry", "Precalculus"}
    assert sides["all"] - sides["id"] - sides["ood"] == {"Prealgebra", "Intermediate Algebra"}
    assert {i.subject for i in MATH.select(items, "ood", ["Prealgebra"])} == {"Prealgebra"}
    assert len(MATH.select(items, "id", ["Prealgebra"])) == 12
    with pytest.raises(UserError, match="labelled 'Prealgbra'; did you mean 'Prealgebra'"):
        MATH.select(items, "ood", ["Prealgbra"])


def test_columns_of_the_copies_on_the_hub(tmp_path):
    copy = {key: value for key, value in math_problem().items() if key not in ("type", "level")}
    copy |= {"subject": "Number Theory", "level": 5, "answer": "12", "unique_id": "test/number_theory/7.json"}
    other = copy | {"answer": "12 jars", "unique_id": "test/number_theory/8.json"}
    loaded = MATH.load(write_lines(tmp_path / "test.jsonl", [copy, other]))
    assert [(i.id, i.level, i.answer) for i in loaded.items] == [
        ("test/number_theory/7", "5", "12"),
        ("test/number_theory/8", "5", "12 jars"),
    ]
    assert loaded.notes == ["1 have an 'answer' that differs from the last box of the solution; 'answer' is taken"]


def test_an_unknown_level_and_several_boxes_are_told(tmp_path):
    first = math_problem(level="Level ?", solution="$\\boxed{1}$ no, $\\boxed{2}$")
    loaded = MATH.load(write_json(tmp_path / "train" / "1.json", first))
    assert loaded.items[0].level is None and loaded.items[0].answer == "2"
    assert loaded.notes == [
        "1 have no level ('Level ?' in the files)",
        "1 solutions box more than one expression; the last one is the answer",
    ]


def test_a_copy_that_mixes_train_and_test_is_told(tmp_path):
    path = tmp_path / "train.jsonl"
    write_lines(path, [math_problem(problem=f"{n}?") for n in range(7501)])
    assert "7501 IN ONE SPLIT 'train'" in MATH.load(path).notes[0]
    write_lines(path, [math_problem(problem=f"{n}?") for n in range(7500)])
    assert MATH.load(path).notes == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"problem": None}, "field 'problem': is missing"),
        ({"problem": " "}, "field 'problem': is empty"),
        ({"type": "Algbra"}, "field 'type': is 'Algbra', not one of .*; did you mean 'Algebra'"),
        (
            {"type": None, "Type": "Algebra"},
            "field 'type': is missing; accepted spellings: type, subject; is it 'Type'",
        ),
        ({"level": "Level 6"}, "field 'level': is 'Level 6'; accepted: 'Level 1' to 'Level 5', 'Level [?]'"),
        ({"level": None}, "field 'level': is missing"),
        ({"level": True}, "field 'level': must be a text, not a boolean"),
        ({"solution": "It is 12."}, r"field 'solution': holds no complete .boxed"),
        ({"solution": "It is $\\boxed{12$."}, r"field 'solution': holds no complete .boxed"),
        ({"solution": None}, "field 'solution': is missing; accepted spellings: solution, answer"),
        ({"problem": 3}, "field 'problem': must be a text, not a number"),
    ],
)
def test_what_breaks_the_format(tmp_path, changes, said):
    path = write_lines(tmp_path / "train.jsonl", [math_problem(), math_problem(**changes)])
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}:2: {said}") as raised:
        MATH.load(path)
    assert "\n" not in str(raised.value)
    loaded = MATH.load(path, skip_bad=True)
    assert len(loaded.items) == 1 and any("1 LEFT OUT" in note and "train.jsonl:2" in note for note in loaded.notes)


# A TeX group: text without braces or backslashes, escaped braces and macros, and groups of these.
_PLAIN = st.text(alphabet=st.characters(blacklist_characters="{}\\$", blacklist_categories=("Cs",)), max_size=8)
_PIECES = st.recursive(
    st.one_of(_PLAIN, st.sampled_from([r"\{", r"\}", r"\frac", r"\left\{", r"\right.", r"\\", r"\,"])),
    lambda inner: st.lists(inner, max_size=4).map(lambda parts: "{" + " ".join(parts) + "}"),
    max_leaves=12,
)
_GROUPS = st.lists(_PIECES, min_size=1, max_size=5).map(" ".join)


@given(before=_PLAIN, earlier=_GROUPS, content=_GROUPS, after=_PLAIN, macro=st.sampled_from([r"\boxed", r"\fbox"]))
@settings(max_examples=150, deadline=None)
def test_the_last_box_comes_back_whole(before, earlier, content, after, macro):
    text = f"{before} {macro}{{{earlier}}} then {macro} {{{content}}} {after}"
    assert last_boxed(text) == content.strip()


@given(content=_GROUPS, after=_PLAIN)
@settings(max_examples=80, deadline=None)
def test_a_box_that_is_never_closed_is_none(content, after):
    assert last_boxed(f"so \\boxed{{{content} {after}") is None


@given(content=_GROUPS)
@settings(max_examples=60, deadline=None)
def test_a_boxed_is_preferred_to_a_later_fbox(content):
    assert last_boxed(f"\\boxed{{{content}}} and \\fbox{{figure}}") == content.strip()


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"$\boxed{\frac{1}{2}}$", r"\frac{1}{2}"),
        (r"$\boxed{\left\{1,2\right\}}$ for $\{x\}$", r"\left\{1,2\right\}"),
        (r"$\boxed{\left\{x\right.}$", r"\left\{x\right."),
        (r"$\boxed 5$ and that is all", "5"),
        ("\\boxed 5\nnext line", "5"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\fbox{A}", "A"),
        (r"\boxedness{4}", None),
        ("no box", None),
        (r"\boxed", None),
        ("", None),
    ],
)
def test_boxes_one_by_one(solution, answer):
    assert last_boxed(solution) == answer


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        *[(n, "numeric") for n in ("7", "-3", "1,024", "10,\\!000", ".5", "3.25", "\\$12", "50\\%")],
        *[(w, "text") for w in ("\\text{Friday}", "\\text{blue or red}")],
        *[(e, "symbolic") for e in ("x+1", "\\frac{1}{2}", "(1,2)", "3\\text{ cm}", "x")],
    ],
)
def test_kinds_of_answers(answer, kind):
    assert kind_of(answer) == kind


def test_configurations_that_hold_everything_twice_are_read_once():
    seven = ["algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory"]
    seven += ["prealgebra", "precalculus"]
    assert MATH.choose_configurations([*seven, "default"]) == seven
    assert MATH.choose_configurations(["default"]) == ["default"]
    assert MATH.choose_configurations(["main"]) == ["main"]


def test_the_fixture_is_as_published(tmp_path):
    record = json.loads((math_tree(tmp_path) / "train" / "algebra" / "1.json").read_text())
    assert list(record) == ["problem", "level", "type", "solution"]
