"""Two ranks under DeepSpeed ZeRO-2 save together: one decision, one message, the same bytes, and not too many of them."""

import json

import pytest
from safetensors.torch import load_file

from igascale.checkpoints.manifest import verify

import runs
from launching import launch


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two-ranks-save")
    runs.prepare(folder, train={"max_steps": 6, "groups_per_batch": 4, "gradient_accumulation_steps": 1})
    launch("torchrun", 2, "worker_checkpoints.py", str(folder), str(folder))
    return folder


@pytest.fixture
def told(out):
    ranks = [json.loads((out / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0] == ranks[1]
    return ranks[0]


def steps(run):
    return sorted(int(p.name[5:]) for p in (run / "checkpoints").glob("step-*"))


def test_rank_0s_clock_decides_for_all(out, told):
    assert told["clock"] == ""
    assert steps(out / "clock") == [3, 6]


def test_in_the_background_the_same_tensors(out, told):
    assert told["sync"] == told["async"] == ""
    assert steps(out / "sync") == steps(out / "async") == [2, 4, 6]
    for step in (2, 4, 6):
        one, two = (out / name / "checkpoints" / f"step-{step:08d}" for name in ("sync", "async"))
        files = set(verify(one).files)
        assert files == set(verify(two).files)
        for name in files - {"state.json"}:
            assert (one / name).read_bytes() == (two / name).read_bytes(), name


@pytest.mark.parametrize("kind", ["false", "true"])
def test_a_failure_on_rank_0_stops_both_with_one_message(out, told, kind):
    assert "checkpoint of step 2 cannot be written: Disk quota exceeded" in told[f"stop-{kind}"]
    assert steps(out / f"stop-{kind}")[0] == 1
    assert 6 not in steps(out / f"stop-{kind}")


@pytest.mark.parametrize("kind", ["false", "true"])
def test_a_failure_on_rank_0_is_passed_over_by_both(out, told, kind):
    assert told[f"continue-{kind}"] == ""
    assert steps(out / f"continue-{kind}") == [1, 3, 4, 5, 6]


def test_size(out, told):
    assert told["size"] == ""
    folder = out / "size" / "checkpoints" / "step-00000001"
    parameters = sum(t.numel() for t in load_file(out / "size" / "adapter" / "adapter_model.safetensors").values())
    on_disk = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    assert parameters > 10_000
    assert on_disk <= 16 * parameters + 1_000_000
    assert on_disk <= 16 * parameters + 40_000  # what is not parameters: headers, two ranks' random states, texts
