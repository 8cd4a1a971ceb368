"""A hook's state comes back from a checkpoint as it was, or there is no checkpoint."""

import math

import pytest
import torch

from igascale.checkpoints.content import Checkpoint, load, snapshot, write_files
from igascale.checkpoints.publish import publish
from igascale.engine import MasterState

from checkpoint_cases import files_of


def of(hook):
    return Checkpoint(step=1, master=MasterState(1, {}), rng={}, hook=hook, config={}, data="0" * 64)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"seen": {0: 1.5}}, "the key 0"),
        ({"adapters": {"q": {1: torch.ones(2)}}}, "the key 1"),
        ({"range": (1, 2)}, "a tuple in 'range'"),
        ({"history": [[1, (2, 3)]]}, "a tuple in 'history'"),
        ({"history": [{"at": {2: 3}}]}, "a dict in 'history'"),
        ({"history": [torch.ones(2)]}, "a Tensor in 'history'"),
    ],
)
def test_what_a_file_would_change_is_refused_when_it_is_written(state, message):
    with pytest.raises(TypeError, match=message):
        snapshot(of(state))


def test_everything_else_comes_back(tmp_path):
    hook = {
        "calls": 3,
        "on": True,
        "none": None,
        "loss": math.inf,
        "text": "x",
        "list": [1, [2.5, {"deep": None}]],
        "tree": {"empty": {}, "t": torch.arange(3), "flag": torch.tensor(True)},
    }
    files = files_of(1) | {k: v for k, v in snapshot(of(hook)).items() if k == "hook.safetensors"}
    state = snapshot(of(hook))["state.json"]
    published = publish(
        tmp_path, 1, lambda folder: write_files(folder, files | {"state.json": state, "rng.safetensors": RNG}), keep=1
    )
    found = load(published.folder).hook
    tensors = {k: found["tree"].pop(k) for k in ("t", "flag")}
    expected = {k: hook["tree"].pop(k) for k in ("t", "flag")}
    assert found == hook
    assert all(torch.equal(tensors[k], expected[k]) and tensors[k].dtype == expected[k].dtype for k in tensors)


RNG = {"rank0.torch": torch.Generator().get_state()}
