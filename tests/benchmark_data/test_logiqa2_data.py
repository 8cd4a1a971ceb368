"""LogiQA 2.0: JSON lines in .txt files, the misspelt type, Chinese files, and problems in two splits."""

import re

import pytest

from igascale.errors import UserError
from igascale.evaluation.benchmarks import _summary, find

from published_files import logiqa_folder, logiqa_question, write_lines

LOGIQA = find("logiqa2")


def test_a_clone_is_read_in_english_without_the_nli_part(tmp_path):
    loaded = LOGIQA.load(logiqa_folder(tmp_path / "LogiQA2.0"))
    assert {f.split: f.items for f in loaded.files} == {"train": 4, "dev": 2, "test": 3, "ood_test": 2}
    (unread,) = [note for note in loaded.notes if "not read" in note]
    assert "dev_zh.txt" in unread and "QA2NLI/test.txt" in unread and "datasource.txt" in unread
    item = loaded.items[0]
    assert item.id == "dev/104" and item.answer == "A" and item.question.endswith("\n\nWhich of the following follows?")
    assert item.meta["types"] == ["Sufficient Conditional Reasoning", "Necessary Conditional Reasoning"]


def test_letters_in_front_of_options_are_taken_off(tmp_path):
    root = logiqa_folder(tmp_path)
    (ood, _) = LOGIQA.load(root / "logiqa/DATA/LOGIQA/ood_test.jsonl").items
    assert ood.options == ("Ada sells rolls", "Ada sleeps late", "Nobody sells rolls", "Ada is no baker")
    (chinese,) = (loaded := LOGIQA.load(root / "logiqa/DATA/LOGIQA/dev_zh.txt")).items
    assert chinese.id == "dev_zh/5" and chinese.options == ("灯亮着", "灯灭了", "没有灯", "无法判断")
    assert loaded.files[0].split == "dev_zh"
    commas = ["A,灯亮着", "B,灯灭了", "C,没有灯", "D,无法判断"]  # as some rows have it
    record = logiqa_question(0, example_id=5, id=None, type=None, options=commas)
    assert LOGIQA.load(write_lines(tmp_path / "test_zh.txt", [record])).items[0].options == chinese.options


def test_options_that_begin_with_letters_as_data_are_kept(tmp_path):
    pairs = ["A, B", "B, C", "C, D", "D, A"]
    colons = ["A: 1, B: 2", "B: 1, A: 2", "C: 3", "D: 4"]
    names = ["A. Smith", "B. Smith", "C. Jones", "D. Jones"]
    records = [logiqa_question(n, id=n, options=options) for n, options in enumerate([pairs, colons, names])]
    loaded = LOGIQA.load(write_lines(tmp_path / "ood_test.jsonl", records))
    assert [list(item.options) for item in loaded.items] == [pairs, colons, names]
    assert not any("which are taken off" in note for note in loaded.notes)
    assert any(note.startswith("ood_test: 3 have options that seem to begin") for note in loaded.notes)
    lettered = ["A. rain", "B. snow", "C. hail", "D. fog"]
    write_lines(tmp_path / "ood_test.jsonl", [logiqa_question(0, options=lettered)])
    write_lines(tmp_path / "dev.txt", [logiqa_question(1, options=lettered)])
    loaded = LOGIQA.load(tmp_path)
    assert [list(item.options) for item in loaded.items] == [lettered, ["rain", "snow", "hail", "fog"]]
    assert "ood_test: 1 have letters in front of their options ('A.'), which are taken off" in loaded.notes
    assert any(
        note.startswith("dev: 1 have options that seem to begin with their own letters") for note in loaded.notes
    )


def test_sides_of_the_split_and_types_held_out(tmp_path):
    root = logiqa_folder(tmp_path)
    other = logiqa_question(0, id=1, type={"Disjunctive Reasoning": True, "Categorical Reasoning": False})
    write_lines(root / "logiqa/DATA/LOGIQA/train.txt", [logiqa_question(1), other])
    items = LOGIQA.load(root).items
    assert {i.split for i in LOGIQA.select(items, "ood")} == {"ood_test"}
    assert {i.split for i in LOGIQA.select(items, "id")} == {"train", "dev", "test"}
    held = LOGIQA.select(items, "ood", ["Disjunctive Reasoning"])
    assert [i.id for i in held] == ["train/1"] and held[0].meta["types"] == ["Disjunctive Reasoning"]
    # ood_test.jsonl has no types: it is on neither side of such a split.
    assert {i.split for i in LOGIQA.select(items, "id", ["Disjunctive Reasoning"])} == {"train", "dev", "test"}


def test_problems_that_occur_twice_are_told_within_and_between_splits(tmp_path):
    same, twin = logiqa_question(1), logiqa_question(1, id=999, text=logiqa_question(1)["text"].upper() + "  ")
    shuffled = logiqa_question(1, id=7, options=["w", "x", "y", "z"])
    clash = logiqa_question(1, id=8, answer=3)
    write_lines(tmp_path / "dev.txt", [same, twin, shuffled, logiqa_question(2)])
    write_lines(tmp_path / "test.txt", [clash, logiqa_question(3)])
    write_lines(tmp_path / "ood_test.jsonl", [logiqa_question(4, type=None)])
    told = list(_summary.duplicates(LOGIQA.load(tmp_path).items))
    assert told == [
        "dev: 2 of its problems repeat an earlier one: same question, 1 of them with the same options "
        "(for example dev/101 and dev/999)",
        "dev and test share 1 problems: same question, 1 of them with the same options; 1 OF THESE WITH ANOTHER ANSWER "
        "(for example dev/101 and test/8)",
    ]


def test_ids_that_occur_twice_become_unique(tmp_path):
    loaded = LOGIQA.load(write_lines(tmp_path / "test.txt", [logiqa_question(n, id=5) for n in range(3)]))
    assert [i.id for i in loaded.items] == ["test/5", "test/5#2", "test/5#3"]
    assert loaded.notes == ["2 ids occur more than once; the later ones have '#2' and so on appended"]


@pytest.mark.parametrize("spelled", ['{"Conjunctive Reasoning": true}', "{'Conjunctive Reasoning': True}"])
def test_types_as_text_of_the_copy_on_the_hub(tmp_path, spelled):
    (item,) = LOGIQA.load(write_lines(tmp_path / "test.txt", [logiqa_question(0, type=spelled)])).items
    assert item.meta["types"] == ["Conjunctive Reasoning"]


def test_missing_empty_and_null_types(tmp_path):
    # Parquet makes one structure of all types: what a row lacks is null.
    merged = {"Conjunctive Reasoning": True, "Disjunctive Reasoning": None}
    records = [logiqa_question(0, type={}), logiqa_question(1, type=None), logiqa_question(2, type=merged)]
    loaded = LOGIQA.load(write_lines(tmp_path / "dev.txt", records))
    assert [i.meta.get("types") for i in loaded.items] == [[], None, ["Conjunctive Reasoning"]]
    assert any(note.startswith("1 have no field 'type'") for note in loaded.notes)
    assert "1 have an empty 'type'" in loaded.notes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"answer": 4}, "field 'answer': is 4, outside the options 0 to 3"),
        ({"answer": None}, "field 'answer': is missing"),
        ({"answer": 1.0}, "field 'answer': must be the index of an option"),
        ({"options": ["a", "b", "c", "d", "e"]}, "field 'options': has 5 options; there must be 4"),
        ({"options": ["a", "", "c", "d"]}, r"field 'options\[1\]': is empty"),
        ({"text": None}, "field 'text': is missing"),
        ({"question": "  "}, "field 'question': is empty"),
        ({"type": {"Conjunctve Reasoning": True}}, "'Conjunctve Reasoning', not one of .*did you mean 'Conj"),
        ({"type": {"Conjunctive Reasoning": "yes"}}, "must be true or false, not 'yes'"),
        ({"type": ["Conjunctive Reasoning"]}, "field 'type': must be an object"),
        ({"type": "nonsense"}, "field 'type': is the text 'nonsense', which is no object"),
        ({"id": 1, "example_id": 2}, "field 'id and example_id': are spellings of one field and differ"),
    ],
)
def test_what_breaks_the_format(tmp_path, changes, said):
    path = write_lines(tmp_path / "train.txt", [logiqa_question(0), logiqa_question(1, **changes)])
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}:2: .*{said}") as raised:
        LOGIQA.load(path)
    assert "\n" not in str(raised.value)


def test_an_option_twice_is_told_with_whether_it_is_the_answer(tmp_path):
    records = [logiqa_question(0, options=["a", "a", "b", "c"]), logiqa_question(3, options=["a", "a", "b", "c"])]
    loaded = LOGIQA.load(write_lines(tmp_path / "dev.txt", records))
    assert loaded.notes == ["2 have the same option twice; in 1 of them it is the right one"]
