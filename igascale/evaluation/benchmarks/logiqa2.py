"""LogiQA 2.0 (Liu et al., 2023): logical reasoning from civil service examinations, in English and Chinese."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection, Iterator
from typing import Any, Literal

from igascale.evaluation.benchmarks._fields import Fields
from igascale.evaluation.benchmarks.base import Benchmark, BenchmarkItem, Facts

#: A reasoning type as the files spell it -> as it is meant.
TYPES = {
    "Sufficient Conditional Reasoning": "Sufficient Conditional Reasoning",
    "Necessry Condtional Reasoning": "Necessary Conditional Reasoning",
    "Necessary Conditional Reasoning": "Necessary Conditional Reasoning",
    "Conjunctive Reasoning": "Conjunctive Reasoning",
    "Disjunctive Reasoning": "Disjunctive Reasoning",
    "Categorical Reasoning": "Categorical Reasoning",
}
_FILE = re.compile(
    r"(?P<split>train|dev|validation|test|ood_test)(?P<zh>_zh)?(-\d+-of-\d+)?(\.(txt|json|jsonl|parquet))?"
)


class LogiQA2(Benchmark):
    """LogiQA 2.0: a passage, a question, four options."""

    name = "logiqa2"
    only_named = ("train_zh", "dev_zh", "test_zh", "ood_test_zh")
    facts = Facts(
        title="LogiQA 2.0",
        homepage="https://github.com/csitfun/LogiQA2.0",
        citation="Liu et al., LogiQA 2.0: An Improved Dataset for Logical Reasoning in Natural Language Understanding, "
        "IEEE/ACM TASLP 31, 2947-2962, 2023, doi:10.1109/TASLP.2023.3293046",
        licence="CC BY-NC-SA 4.0 (README): no commercial use; what is made from it is shared under the same licence.",
        obtain="git clone https://github.com/csitfun/LogiQA2.0; the files are in logiqa/DATA/LOGIQA.",
        files="train.txt, dev.txt, test.txt and ood_test.jsonl (JSON lines all of them), alone or in a folder or clone. Of "
        "the Chinese files (train_zh.txt, ...) one must be named itself: a folder is read in English. Not read: the "
        "premise-hypothesis files of logiqa2nli, and the *_fol files.",
        hub=("baber/logiqa2",),
        published={
            "train": 12567,
            "dev": 1569,
            "test": 1572,
            "ood_test": 575,
            "train_zh": 12751,
            "dev_zh": 1593,
            "test_zh": 1594,
        },
        paper_split="Train on business and academic texts, test on news and government reports ('domain-shuffled OOD').",
        public_split="Not at all: no public file carries a genre or a source per problem (datasource.txt lists nine web "
        "sites for the whole set). ood is ood_test.jsonl, id is train, dev and test; that is not the paper's split. "
        "ood_test.jsonl is not disjoint from dev and test either: 140 of its 575 rows have the passage and question of a "
        "row there; the summary counts them. --held-out TYPE holds out a reasoning type instead (of the English files).",
    )

    def split_of(self, file: str) -> str | None:
        """By the file's name; Chinese files only when they are named themselves, NLI files never."""
        folder, _, name = file.rpartition("/")
        match = _FILE.fullmatch(name.lower())
        if not match or re.search(r"nli", folder.rpartition("/")[2], re.IGNORECASE) or "logieval" in folder:
            return None
        chinese = match["zh"] or ("_zh" if folder.rpartition("/")[2].endswith("_zh") else "")
        split = "dev" if match["split"] == "validation" else match["split"]
        return f"{split}{chinese}"

    def item(self, fields: Fields, split: str, key: str) -> BenchmarkItem:
        """See the base class."""
        lettered = split.startswith("ood_test") or split.endswith("_zh")
        options = fields.options(["options"], count=4, lettered=lettered)
        own = fields.optional_text(["id", "example_id"])
        types = _types(fields)
        return BenchmarkItem(
            id=f"{split}/{own if own is not None else f'row{key}'}",
            benchmark=self.name,
            split=split,
            question=f"{fields.text(['text'])}\n\n{fields.text(['question'])}",
            options=options,
            answer=fields.letter(["answer"], options),
            answer_kind="choice",
            meta={"types": types} if types is not None else {},
        )

    def part(self, item: BenchmarkItem) -> Literal["id", "ood"]:
        """See ``facts.public_split``."""
        return "ood" if item.split.startswith("ood") else "id"

    def labels(self, item: BenchmarkItem) -> Collection[str]:
        """The reasoning types."""
        return item.meta.get("types", [])

    def choose_configurations(self, names: list[str]) -> list[str]:
        """The English questions."""
        return ["logiqa2"] if "logiqa2" in names else names

    def remarks(self, items: list[BenchmarkItem]) -> Iterator[str]:
        """Problems without a type, and with an option twice."""
        untyped = sum("types" not in item.meta for item in items)
        if untyped:
            yield f"{untyped} have no field 'type' (ood_test.jsonl and the Chinese files have none)"
        empty = sum(item.meta.get("types") == [] for item in items)
        if empty:
            yield f"{empty} have an empty 'type'"
        twice = [item for item in items if len(set(item.options)) < len(item.options)]
        if twice:
            right = sum(item.options.count(item.options[item.answer_index or 0]) > 1 for item in twice)
            yield f"{len(twice)} have the same option twice; in {right} of them it is the right one"


def _types(fields: Fields) -> list[str] | None:
    """The reasoning types: an object of type -> true or, in copies on the Hub, its text; None without the field."""
    value: Any = fields.record.get("type")
    if value is None:
        return None
    if isinstance(value, str):
        value = _from_text(fields, value)
    if not isinstance(value, dict):
        fields.fail("type", "must be an object of reasoning type -> true")
    types = []
    for name, holds in value.items():
        fields.one_of("type", name, list(TYPES))
        if holds is not None and not isinstance(holds, bool):
            fields.fail(f"type.{name}", f"must be true or false, not {holds!r}")
        if holds:
            types.append(TYPES[name])
    return list(dict.fromkeys(types))


def _from_text(fields: Fields, text: str) -> Any:
    if not text.strip():
        return {}
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return fields.fail("type", f"is the text {text[:60]!r}, which is no object")
