"""Whether runs can be compared: what differs is said in words, and how much it weighs."""

import json

import pytest

from igascale.errors import UserError
from igascale.evaluation.same_problems import differences

from finished_runs import MODEL, evaluate, facts, write_run


def texts(found, weight):
    return [d.text for d in found if d.weight == weight]


def test_runs_of_one_kind_do_not_differ(tmp_path):
    runs = [write_run(tmp_path / name, config={"seed": seed}) for name, seed in (("a", 1), ("b", 2))]
    for run in runs:
        evaluate(run / "evaluation", {"id": 5, "ood": 3})
    assert differences(runs) == []


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("train", "the training data of B"),
        ("validation", "the validation data (ID) of B"),
        ("ood", "the out-of-distribution data of B"),
    ],
)
def test_other_files(tmp_path, key, words):
    one, two = write_run(tmp_path / "a"), write_run(tmp_path / "b", environment=facts(files={key: "e" * 64}))
    found = texts(differences([one, two], ["A", "B"]), "refuse")
    assert len(found) == 1
    assert found[0].startswith(words) and "is not that of A" in found[0] and "eeeeeeeeeeee" in found[0]


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("model.safetensors", "the model of B is not that of A: model.safetensors differ"),
        ("tokenizer.json", "the tokenizer of B"),
    ],
)
def test_other_models_and_tokenizers(tmp_path, file, words):
    environment = facts()
    environment["model"]["files"] = MODEL | {file: "other"}
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", environment=environment)]
    found = texts(differences(runs, ["A", "B"]), "refuse")
    assert len(found) == 1 and found[0].startswith(words)


def test_what_is_not_recorded_is_unknown_and_not_the_same(tmp_path):
    environment = facts()
    environment["model"]["files"] = None
    del environment["data"]["train"]["sha256"]
    runs = [write_run(tmp_path / "a", environment=environment), write_run(tmp_path / "b")]
    found = texts(differences(runs, ["A", "B"]), "unknown")
    assert [("training data" in found[0]), ("the same model" in found[1])] == [True, True]
    assert all("A did not record" in text for text in found)


def test_keys_that_change_what_is_learnt(tmp_path):
    data = {"train": "train.jsonl", "validation": "validation.jsonl", "ood": "ood.jsonl"}
    one = write_run(tmp_path / "a")
    two = write_run(tmp_path / "b", config={"data": {**data, "max_length": 64, "pairing": "mixed"}})
    found = differences([one, two], ["A", "B"])
    assert texts(found, "refuse") == ["data.max_length is 64 in B, 1024 in A"]
    assert texts(found, "mark") == ["data.pairing is mixed in B, isomers in A"]


def test_a_run_without_validation_is_marked(tmp_path):
    one = write_run(tmp_path / "a", config={"data": {"train": "train.jsonl", "ood": "ood.jsonl"}})
    found = differences([one, write_run(tmp_path / "b")], ["A", "B"])
    assert texts(found, "mark") == ["A names no file for the validation data (ID) (data.validation), B does"]


def test_every_run_is_compared_with_the_first(tmp_path):
    other = facts(files={"train": "e" * 64})
    runs = [write_run(tmp_path / "a")] + [write_run(tmp_path / n, environment=other) for n in "bc"]
    assert [text.split(" (")[0] for text in texts(differences(runs, list("ABC")), "refuse")] == [
        "the training data of B",
        "the training data of C",
    ]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"problem": "another?"}, "another text"),
        ({"expected": "maybe"}, "another expected answer"),
        ({"instance_id": "id-new"}, "only in"),
    ],
)
def test_other_problems_evaluated(tmp_path, changed, words):
    runs = [write_run(tmp_path / name) for name in "ab"]
    evaluate(runs[0] / "evaluation", {"id": 5})
    evaluate(runs[1] / "evaluation", {"id": 5}, changed=changed)
    found = texts(differences(runs, ["A", "B"]), "refuse")
    assert found and all(text.startswith("B beside A, evaluated: ") for text in found)
    assert words in found[0]
    assert str(tmp_path) not in " ".join(found)


def test_other_token_limits_and_devices(tmp_path):
    runs = [write_run(tmp_path / name) for name in "ab"]
    evaluate(runs[0] / "evaluation", {"id": 5}, dtype="float32")
    evaluate(runs[1] / "evaluation", {"id": 5}, dtype="bfloat16", max_new_tokens=512)
    found = differences(runs, ["A", "B"])
    assert texts(found, "refuse") == ["B beside A, evaluated: max_new_tokens is 96 in A, 512 in B"]
    assert texts(found, "mark") == ["B beside A, evaluated: dtype: float32 in A, bfloat16 in B"]


def test_one_evaluation_alone_differs_from_nothing(tmp_path):
    runs = [write_run(tmp_path / name) for name in "ab"]
    evaluate(runs[1] / "evaluation", {"id": 5})
    assert differences(runs) == []
    (runs[0] / "evaluation").mkdir()
    (runs[0] / "evaluation" / "evaluation.json").write_text(json.dumps({"suites": {}}))
    with pytest.raises(UserError, match="samples"):
        differences(runs)
