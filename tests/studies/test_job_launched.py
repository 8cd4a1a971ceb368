"""A job by the launcher, on two ranks; another number of ranks later finds it finished."""

import json

import pytest

from igascale.errors import UserError
from igascale.studies.jobs import FINISHED, Job, Launching, run_job

from study_world import world


@pytest.mark.slow
def test_two_ranks(tmp_path):
    config = world(tmp_path)
    settings = ("engine.name=deepspeed", "engine.ds_config=zero2", "train.max_steps=2", "seed=3")
    job = Job("two ranks", tmp_path / "run", config, settings, "erm-sft", None)
    stages = []
    outcome = run_job(job, Launching(2, ("--backend", "local")), on_stage=stages.append)
    assert (outcome.state, outcome.reason) == (FINISHED, "") and stages == ["training"]
    launch = json.loads((job.folder / "launches.jsonl").read_text())
    assert (launch["world_size"], launch["backend"], launch["exit_code"]) == (2, "local", 0)
    assert "# method: erm-sft" in (job.folder / "config.yaml").read_text()
    assert run_job(job, Launching(1)).before
    with pytest.raises(UserError, match=r"two ranks was begun with other settings: seed was 3, is 4"):
        run_job(Job("two ranks", job.folder, config, (*settings[:3], "seed=4"), "erm-sft", None))
