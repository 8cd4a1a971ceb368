"""A model that does not stop after its answer: the last `Answer:` counts, and that is said."""

from dataclasses import replace

import pytest

from igascale.evaluation.accuracy import Sample
from igascale.evaluation.perform import _notes_of
from igascale.evaluation.results import EvaluationResult

SAMPLE = Sample("id", "g", "g/law", "law", None, "1+1?", "So.\nAnswer: 2", "2", "2", True, 9, True)
ON = "So.\nAnswer: 2\n\nQuestion: 2+2?\n**Final Answer:** 4\n\nQuestion: 3"


def notes(samples):
    return " ".join(_notes_of(EvaluationResult({}, {"template": "chat template"}, samples)))


@pytest.mark.parametrize(
    ("samples", "told"),
    [
        ([SAMPLE] * 10, False),
        ([SAMPLE] * 9 + [replace(SAMPLE, generated=ON, finished=False)], True),
        ([SAMPLE] * 99 + [replace(SAMPLE, generated=ON, finished=False)], False),  # one in a hundred
        ([replace(SAMPLE, generated=ON)], False),  # ended by itself: it corrected itself
        ([replace(SAMPLE, finished=False)], False),
        ([replace(SAMPLE, generated="The answer: 2, or the answer: 3", finished=False)], False),
    ],
)
def test_running_on_is_told(samples, told):
    assert ("several lines `Answer:`" in notes(samples)) is told


def test_how_many():
    assert "1 of 10 texts" in notes([SAMPLE] * 9 + [replace(SAMPLE, generated=ON, finished=False)])
