"""What was scored at a step is what a run that ends there computes: the same losses, to the bit."""

import json

import pytest

from igascale.config import load_config
from igascale.errors import UserError
from igascale.loading import load_data

from runs import prepare, run
from tiny import tiny_tokenizer


def records(folder, kind):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {each["step"]: each for each in lines if each["kind"] == kind}


def test_a_run_that_ends_early_is_the_beginning_of_the_whole_one(tmp_path):
    path = prepare(tmp_path, optimizer={"lr": 1e-2})
    trained = {}
    for name, more in (
        ("whole", ["train.max_steps=4"]),
        ("early", ["train.max_steps=3", "train.schedule_steps=4"]),
        ("other", ["train.max_steps=3"]),
    ):
        config = load_config(path, [*more, "eval.every=3", f"output_dir={tmp_path / name}"], "iga")
        trained[name] = run(config).losses
    whole, early, other = (records(tmp_path / name, "train") for name in ("whole", "early", "other"))
    assert trained["early"] == trained["whole"][:3]
    assert [early[k]["lr"] for k in (1, 2, 3)] == [whole[k]["lr"] for k in (1, 2, 3)]
    assert [other[k]["lr"] for k in (1, 2, 3)] != [whole[k]["lr"] for k in (1, 2, 3)]
    scored = [records(tmp_path / name, "validation")[3] for name in ("whole", "early", "other")]
    assert scored[0] == scored[1] != scored[2]


def test_a_schedule_that_is_too_short_for_the_epochs(tmp_path):
    path = prepare(tmp_path)
    config = load_config(path, ["train.max_steps=null", "train.epochs=2", "train.schedule_steps=15"])
    with pytest.raises(UserError, match=r"train.schedule_steps: 15, but train.epochs makes 16 steps"):
        load_data(config, tiny_tokenizer())
