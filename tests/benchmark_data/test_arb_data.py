"""ARB: what the API returns, in its spellings; images left out; law and biology held out."""

import re

import pytest

from igascale.errors import UserError
from igascale.evaluation.benchmarks import find

from published_files import arb_choice, arb_folder, arb_free, write_json

ARB = find("arb")


def test_a_folder_of_saved_answers(tmp_path):
    loaded = ARB.load(arb_folder(tmp_path / "arb"))
    assert {f.split: (f.rows, f.items) for f in loaded.files} == {
        "law": (3, 3),
        "math_numerical": (4, 2),
        "math_symbolic": (1, 1),
        "math_prooflike": (1, 1),
        "physics_numerical": (2, 1),
        "physics_symbolic_img": (1, 0),
        "mcat_science_val": (5, 5),
        "mcat_reading_val": (1, 1),
        "mcat_reading_test": (1, 1),
    }
    kinds = {i.split: i.answer_kind for i in loaded.items}
    assert kinds["law"] == "choice" and kinds["math_symbolic"] == "symbolic" and kinds["math_prooflike"] == "proof"
    number = next(i for i in loaded.items if i.id == f"math_numerical/64c{1:021d}")
    assert number.answer == "$1$" and number.answer_kind == "numeric" and number.meta["topic"] == "Series"
    assert number.solution == "It is the square." and number.meta["rubric"] == "3 points for the square."
    assert loaded.notes == [
        "1 left out: math_numerical: 'Problem Type' is '', not 'Numerical'",
        "1 left out: math_numerical: 'Problem Type' is 'Symbolic', not 'Numerical'",
        "1 left out: physics_numerical: needs an image",
        "1 left out: physics_symbolic_img: needs an image",
        "MCAT science by Subject or Topic: biology 2, chemistry 1, physics 1, Psychology 1",
        "no final answer: math_prooflike 1",
        "1 MCAT reading problems are in val and in test (both routes of the API serve the test set)",
    ]


def test_law_and_biology_are_held_out(tmp_path):
    items = ARB.load(arb_folder(tmp_path)).items
    assert {i.subject for i in ARB.select(items, "ood")} == {"law", "biology"}
    assert {i.subject for i in ARB.select(items, "id")} == {"mathematics", "physics", "chemistry"}
    neither = [i for i in items if ARB.part(i) is None]
    assert {i.subject for i in neither} == {"reading", "Psychology"}


def test_the_three_spellings_give_the_same_problem(tmp_path):
    spaced = arb_choice(1)
    under = {key.replace(" ", "_"): value for key, value in spaced.items()}
    camel = {re.sub(r" (\w)", lambda m: m[1].upper(), k[0].lower() + k[1:]): v for k, v in spaced.items()}
    assert "problemStatement" in camel and "answerCandidates" in camel and "Final_Answer" in under
    read = [
        ARB.load(write_json(tmp_path / str(n) / "law.json", [r])).items for n, r in enumerate([spaced, under, camel])
    ]
    assert read[0] == read[1] == read[2]


def test_a_single_problem_carries_no_type(tmp_path):
    single = {key: arb_free(3)[key] for key in ("_id", "Problem_Statement", "Solution", "Final Answer")}
    (item,) = ARB.load(write_json(tmp_path / "math_numerical.json", single)).items
    assert item.answer == "$9$"


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("B. The kettles", "B"),
        ("The kettles", "B"),
        ("A fine only", "C"),
        ("B. The kettles, not the fine", "B"),
    ],
)
def test_ways_to_name_the_right_option(tmp_path, said, letter):
    (item,) = ARB.load(write_json(tmp_path / "law.json", [arb_choice(0, **{"Final Answer": said})])).items
    assert item.answer == letter


@pytest.mark.parametrize(
    ("name", "collection"),
    [
        ("law.json", "law"),
        ("arb_law.json", "law"),
        ("math/symbolic.json", "math_symbolic"),
        ("math_prooflike.json", "math_prooflike"),
        ("physics/numerical/noimg.json", "physics_numerical"),
        ("physics_numerical_img.json", "physics_numerical_img"),
        ("mcatReading/test.json", "mcat_reading_test"),
        ("mcatscience/val/img.json", "mcat_science_val_img"),
        ("mcatScience_test_noimg.json", "mcat_science_test"),
        ("math.json", None),
        ("law.txt", None),
        ("law-firm/package.json", None),
    ],
)
def test_names_of_files(name, collection):
    assert ARB.split_of(name) == collection


def test_a_file_whose_folders_name_the_route(tmp_path):
    path = write_json(tmp_path / "math" / "numerical" / "index.json", [arb_free(1)])
    assert ARB.load(path).items == ARB.load(tmp_path / "math" / "numerical").items


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"Problem Statement": None},
            "'Problem Statement': is missing; accepted spellings: Problem Statement, Problem_Sta",
        ),
        ({"Answer Candidates": None}, "'Answer Candidates': is missing"),
        ({"Answer Candidates": ["one"]}, "'Answer Candidates': has 1 options; there must be two or more"),
        ({"Final Answer": "D"}, "'Final Answer': is 'D', outside the options A to C"),
        ({"Final Answer": "The pans"}, "'Final Answer': is 'The pans', outside the options A to C"),
        ({"Final Answer": ""}, "'Final Answer': is empty"),
        ({"Final Answer": "B. Nothing."}, "'Final Answer': is 'B. Nothing.': by its letter option B, by its text A"),
        (
            {"Answer Candidates": ["B", "AB", "A", "O"]},
            "'Final Answer': is 'B': by its letter option B, by its text A",
        ),
        ({"Final_Answer": "C"}, "'Final Answer and Final_Answer': are spellings of one field and differ"),
    ],
)
def test_what_breaks_the_format(tmp_path, changes, said):
    path = write_json(tmp_path / "law.json", [arb_choice(0), arb_choice(1, **changes)])
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))}\[1\]: field {said}") as raised:
        ARB.load(path)
    assert "\n" not in str(raised.value)


def test_a_number_must_have_an_answer(tmp_path):
    path = write_json(tmp_path / "math_numerical.json", [arb_free(1, **{"Final Answer": " "})])
    with pytest.raises(UserError, match=r"\[0\]: field 'Final Answer': is empty"):
        ARB.load(path)
