"""ReClor (Yu et al., 2020): logical reading comprehension from LSAT and GMAT; the labels of its test are hidden."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from igascale.errors import UserError
from igascale.evaluation.benchmarks._fields import Fields
from igascale.evaluation.benchmarks.base import Benchmark, BenchmarkItem, Facts

_SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}


class ReClor(Benchmark):
    """ReClor: a passage, a question, four options."""

    name = "reclor"
    facts = Facts(
        title="ReClor",
        homepage="http://whyu.me/reclor",
        citation="Yu et al., ReClor: A Reading Comprehension Dataset Requiring Logical Reasoning, ICLR 2020, arXiv:2002.04326",
        licence="Non-commercial research only: the archive's password says so, and no other licence is stated.",
        obtain="reclor_data.zip of release v1 of github.com/yuweihao/reclor. Its password is printed in that repository's "
        "README, step 3; give it as --password, or unpack the archive and name the folder.",
        files="train.json, val.json, test.json: one JSON array each, alone, in a folder or in reclor_data.zip",
        hub=("metaeval/reclor", "tasksource/reclor"),
        published={"train": 4638, "val": 500, "test": 1000},
        paper_split="'The official hard split'.",
        public_split="Not at all offline. Which test problems are easy and which hard, and the labels of all of them, exist "
        "only on the challenge server (EvalAI challenge 503): send it the file that --npy writes and it answers with Test, "
        "Test-E and Test-H. What can be measured offline is the validation file, so ood is val: all of it, easy and hard "
        "alike, and no figure on it compares with Test-H. id is train; test is on neither side. The paper does not say what "
        "its in-distribution figure was measured on.",
    )

    def split_of(self, file: str) -> str | None:
        """By the file's name."""
        stem = re.sub(r"-\d+-of-\d+", "", file.rpartition("/")[2])
        stem, dot, ending = stem.partition(".")
        return _SPLITS.get(stem.lower()) if not dot or ending in ("json", "jsonl", "parquet") else None

    def item(self, fields: Fields, split: str, key: str) -> BenchmarkItem:
        """See the base class."""
        options = fields.options(["answers"], count=4)
        hidden = split == "test" and not fields.has(["label"])
        question = fields.text(["question"])
        return BenchmarkItem(
            id=fields.text(["id_string"]),
            benchmark=self.name,
            split=split,
            question=f"{fields.text(['context'])}\n\n{question}",
            options=options,
            answer=None if hidden else fields.letter(["label"], options),
            answer_kind="choice",
            meta={"cloze": True} if "_" in question else {},
        )

    def part(self, item: BenchmarkItem) -> Literal["id", "ood"] | None:
        """See ``facts.public_split``."""
        return {"train": "id", "val": "ood"}.get(item.split)  # type: ignore[return-value]

    def remarks(self, items: list[BenchmarkItem]) -> Iterator[str]:
        """Hidden labels and blanks to fill."""
        hidden = sum(item.answer is None for item in items)
        if hidden:
            yield f"{hidden} have no label: those of the test are on the challenge server only"
        cloze = sum("cloze" in item.meta for item in items)
        if cloze:
            yield f"{cloze} questions have a blank '_' that the option is to fill (meta.cloze)"


def challenge_file(
    items: Sequence[BenchmarkItem], predictions: Mapping[str, str | int | None], unanswered: str | None = None
) -> tuple[bytes, list[str]]:
    """The content of ``test_preds.npy`` for the challenge server: element i is the label of the question ``test_i``.

    Args:
        items: the problems of test.json.
        predictions: id -> letter, label (0 to 3), or None where the model gave no answer.
        unanswered: the letter to send where it gave none; None refuses.

    Returns:
        The file (one dimension, int64), and what to tell the user.

    Raises:
        UserError: an id is missing, unknown or not of the form ``test_0 ... test_n``, or a prediction is no option.
    """
    import numpy as np

    tests = [item for item in items if item.split == "test"]
    if not tests:
        raise UserError("the export needs the problems of test.json; there are none in what was read")
    ids = [item.id for item in tests]
    ordered = [f"test_{i}" for i in range(len(ids))]
    if set(ids) != set(ordered):
        wrong = next(i for i in ids if i not in set(ordered))
        raise UserError(
            f"test.json: id_string '{wrong}' is not one of test_0 to test_{len(ids) - 1}, as the server numbers"
        )
    unknown = [key for key in predictions if key not in set(ids)]
    if unknown:
        raise UserError(f"prediction for '{unknown[0]}', which is not in test.json ({len(unknown)} such)")
    missing = [key for key in ordered if key not in predictions]
    if missing:
        raise UserError(
            f"no prediction for '{missing[0]}' ({len(missing)} of {len(ordered)} missing); the server wants all"
        )
    none = [key for key in ordered if predictions[key] is None]
    if none and unanswered is None:
        raise UserError(
            f"no answer for '{none[0]}' ({len(none)} of {len(ordered)}); the server takes labels only: choose the one to "
            "send for these with --unanswered A"
        )
    labels = [_label(key, unanswered if predictions[key] is None else predictions[key]) for key in ordered]
    notes = [f"{len(none)} unanswered questions are sent as {unanswered}"] if none else []
    if ids != ordered:
        notes.append("test.json is not in the order of its id_string; the file written is, as the server expects")
    content = io.BytesIO()
    np.save(content, np.array(labels, dtype=np.int64), allow_pickle=False)
    return content.getvalue(), notes


def read_predictions(path: str | Path) -> dict[str, str | int | None]:
    """Predictions as JSON lines ``{"id": "test_0", "prediction": "B"}``; a label 0 to 3 or null will do.

    Raises:
        UserError: a line that is not that, or an id twice.
    """
    from igascale.evaluation.benchmarks._sources import open_source

    predictions: dict[str, str | int | None] = {}
    for file in open_source(path).files:
        for record in file.load()[1]:
            fields = Fields(record.value, record.where)
            key = fields.text(["id"])
            if "prediction" not in fields.record:
                fields.fail("prediction", "is missing; write null where the model gave no answer")
            if key in predictions:
                fields.fail("id", f"'{key}' was there before")
            predictions[key] = fields.record["prediction"]
    return predictions


def _label(key: str, value: str | int | None) -> int:
    if isinstance(value, str) and value.strip().upper() in ("A", "B", "C", "D"):
        return ord(value.strip().upper()) - ord("A")
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 3:
        return value
    raise UserError(f"prediction for '{key}': {value!r} is neither A to D nor 0 to 3")
