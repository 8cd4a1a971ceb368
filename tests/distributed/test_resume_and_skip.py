"""On two ranks: a resumed run is the undisturbed one to the bit; a NaN on one rank is skipped by both alike."""

import pytest
import torch

import runs
from launching import launch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two-ranks")
    runs.prepare(folder, train={"max_steps": 6, "groups_per_batch": 4, "gradient_accumulation_steps": 2})
    return folder


EXTRAS = [
    ["hook.name=iga", "lora.dropout=0.1"],
    ["model.dtype=bfloat16", "hook.name=iga"],
    ["hook.name=stateful_hook:Momentum"],
]


@pytest.mark.parametrize("extra", EXTRAS)
def test_resume_is_bitwise(folder, tmp_path, extra):
    launch("torchrun", 2, "worker_resume.py", str(folder), str(tmp_path), *extra)
    saved = torch.load(tmp_path / "resume.pt")
    assert all(torch.equal(saved["whole"][k], saved["parts"][k]) for k in saved["whole"])
    whole, parts = ((tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "parts"))
    losses = [
        [line.split('"seconds"')[0] for line in text.splitlines() if '"train"' in line] for text in (whole, parts)
    ]
    assert len(losses[0]) == 6
    assert losses[0] == losses[1]


def test_nan_on_one_rank(folder, tmp_path):
    launch("torchrun", 2, "worker_nan.py", str(folder), str(tmp_path))
    ranks = [torch.load(tmp_path / f"nan-{rank}.pt") for rank in (0, 1)]
    assert ranks[0] == ranks[1]
    skipped = [s for s, _, _ in ranks[0]["seen"]]
    assert skipped == [False, True, False, False, True, True, True]
    assert all(unchanged == was_skipped for was_skipped, unchanged, _ in ranks[0]["seen"])
    assert [steps for _, _, steps in ranks[0]["seen"]] == [1, 1, 2, 3, 3, 3, 3]
    assert "3 steps in a row" in ranks[0]["error"]
    assert "train.max_skipped_steps" in ranks[0]["error"]
    assert (tmp_path / "nan" / "metrics.jsonl").read_text().count("not finite") == 4
