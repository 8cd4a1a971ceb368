"""What a hook says of its plan is printed before the first step, and a plan that cannot work stops the run there."""

import pytest
import torch

from igascale.errors import UserError

import runs


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return runs.prepare(
        tmp_path_factory.mktemp("described"),
        train={"max_steps": 1, "groups_per_batch": 4, "gradient_accumulation_steps": 1},
    )


def test_the_plan_of_the_projection_is_printed(base, tmp_path, capfd):
    runs.train(runs.load(base, f"output_dir={tmp_path / 'run'}", "hook.name=iga"), torch.device("cpu"))
    told = " ".join(capfd.readouterr().out.split())
    assert "projection: " in told
    assert "of memory_mb=1024" in told
    assert told.index("projection: ") < told.index("written: ")


def test_a_budget_that_is_too_small_stops_the_run_before_its_first_step(base, tmp_path):
    config = runs.load(base, f"output_dir={tmp_path / 'run'}", "hook.name=iga", "hook.memory_mb=0.001")
    with pytest.raises(UserError, match=r"hook 'iga': memory_mb=0\.001 is too small: one \d+x\d+ adapter needs"):
        runs.train(config, torch.device("cpu"))
