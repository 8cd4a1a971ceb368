"""Extraction of answers: a table of traps."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from igascale.evaluation.answers import can_be_right, extract_answer, is_correct, normalise_answer
from igascale.isomers.encode import completion_text
from igascale.isomers.schema import Instance


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Answer: Ann", "ann"),
        ("So it is Bob.\nAnswer: Bob", "bob"),
        ("Answer: Ann\nwait\nAnswer: Bob", "bob"),  # the last one counts
        ("Answer: Bob\nQ: and then?", "bob"),  # only its first line
        ("Answer: Bob\r\nmore", "bob"),
        ("Answer:Bob", "bob"),
        ("Answer:   Clause \t B  ", "clause b"),
        ("Answer: 42.", "42"),
        ("Answer: 0.5", "0.5"),
        ("Answer: 0.50.", "0.50"),
        ("Answer: -3", "-3"),
        ("Answer: 'Ann'", "ann"),
        ('Answer: "Ann."', "ann"),
        ('Answer: "Ann".', "ann"),
        ("Answer: “the court”", "the court"),
        ("Answer: `x`", "x"),
        ("Answer: the patient's file", "the patient's file"),
        ("Answer: 5'", "5'"),
        ("Answer: STRASSE", "strasse"),
        ("Answer: Straße", "strasse"),
        ("Answer: Answer: yes", "yes"),
        ("Answer: no, the answer: yes", "no, the answer: yes"),  # the prefix is matched to the letter
        ("answer: Ann", None),
        ("Ann", None),
        ("", None),
        ("Answer:", None),
        ("Answer: ", None),
        ("Answer: .", None),
        ('Answer: ""', None),
        ("Answer:\nAnn", None),  # nothing on its line
        ("Answer: Ann\nAnswer:", None),  # cut off while starting again: the last one counts
    ],
)
def test_extraction(text, answer):
    assert extract_answer(text) == answer


def test_a_missing_answer_is_wrong():
    assert not is_correct(None, "none")
    assert not is_correct(extract_answer("no idea"), "")


@pytest.mark.parametrize(
    ("predicted", "expected", "right"),
    [
        ("Ann", "ann.", True),
        ("4", "4.0", False),
        ("yes", "no", False),
        ("rule  B", "'Rule B'", True),
        ("ann", "Anna", False),
    ],
)
def test_match_is_exact_after_normalisation(predicted, expected, right):
    assert is_correct(extract_answer(f"Answer: {predicted}"), expected) is right


@given(st.text(max_size=30))
def test_normalisation_is_idempotent(text):
    once = normalise_answer(text)
    assert normalise_answer(once) == once


@given(st.text(alphabet=st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1).filter(normalise_answer))
def test_what_training_writes_is_read_back(answer):
    from igascale.isomers.encode import completion_text
    from igascale.isomers.schema import Instance

    if "Answer:" not in answer:
        text = completion_text(Instance("d", "p", "First, Answer: no.", answer))
        assert is_correct(extract_answer(text), answer)


@given(
    cot=st.sampled_from(["", "So it is 3.", "Answer: 4", "Answer"]),
    answer=st.text("aA5 .\n\"'\u2028", min_size=1, max_size=6),
)
@example(cot="", answer="Answer: 5")
@example(cot="Answer:", answer="...")
def test_what_can_be_right_is_what_the_taught_text_scores(cot, answer):
    taught = completion_text(Instance("law", "Which?", cot, answer))
    assert can_be_right(answer) == is_correct(extract_answer(taught), answer)
