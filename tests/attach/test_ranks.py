"""Attach on two real ranks: settings that differ are refused on both, and so is a step too many."""

import pytest
import torch

from launching import launch


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("ranks") / "found"
    launch("torchrun", 2, "../attach/worker_ranks.py", str(out))
    return [torch.load(f"{out}.{rank}") for rank in (0, 1)]


@pytest.mark.parametrize(
    "name, key, values",
    [
        ("seed", "seed", ("0", "1")),
        ("domains", "domains", ("('b', 'a')", "('a', 'b')")),
        ("option", "tau", ("0.5", "1.5")),
    ],
)
def test_ranks_that_differ_are_refused_on_both(found, name, key, values):
    for messages in found:
        assert messages[name] == (
            f"attach: {key} is {values[0]} on rank 0 but {values[1]} on rank 1; give every rank the same"
        )


def test_a_second_step_after_one_backward_pass_is_refused(found):
    for messages in found:
        assert messages["accumulates"] == "None"
        assert messages["double step"].startswith("surgery.step() was called twice after one backward pass")
