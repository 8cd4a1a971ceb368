"""A study is killed again and again, and gives what it gives undisturbed; one job that cannot work ends nothing else."""

import json
import signal

import pytest

from igascale.studies import records
from igascale.studies.jobs import FAILED, FINISHED, Job, Launching, run_job

from launching import gone
from study_world import ENVIRONMENT, kill_with_children_left, plain, start, until, world, write_study

ADAPTER = "adapter/adapter_model.safetensors"


def _record(job):
    return json.loads((job / records.RECORD).read_text()) if (job / records.RECORD).is_file() else {}


@pytest.mark.slow
def test_kills_while_training_and_while_evaluating_change_nothing(tmp_path):
    config = world(tmp_path)
    held = {"name": "iga", "method": "iga", "set": {"hook.name": "held_hooks:HeldIga"}}
    too_large = {"name": "too large", "method": "erm-sft", "set": {"train.groups_per_batch": 999}}
    study, hold = write_study(tmp_path, methods=[held, too_large]), tmp_path / "hold"
    out, log = tmp_path / "study", tmp_path / "log.txt"
    run, job = out / "runs" / "iga-seed0", out / "runs" / "iga-seed0.job"
    arguments = ("study", str(study), "--out", str(out))

    hold.touch()
    killed = start(*arguments, log=log, hold=hold)
    until(lambda: hold.with_suffix(".reached").exists() and any((run / "checkpoints").glob("step-*")))
    children = kill_with_children_left(killed)
    assert children, "its training was running"
    assert not (run / ADAPTER).exists()
    hold.unlink()

    again = start(*arguments, log=log)  # at once: what was left writes its last checkpoint and goes
    until(lambda: "igascale eval" in (job / records.LOG).read_text())
    assert _record(job)["adapter"] is not None
    kill_with_children_left(again)
    assert all(map(gone, children))

    last = start(*arguments, log=log)
    assert last.wait(600) == 2, log.read_text()  # the other job
    told = log.read_text()
    assert "too large, seed 0: training: " in told and "64 groups, but one optimizer step takes 999" in told
    assert "Traceback" not in told
    assert _record(job)["state"] == FINISHED
    assert (job / records.LOG).read_text().count("igascale train") == 2

    table = (out / "study.md").read_text()
    assert "| iga |" in table and "too large, seed 0: failed: training: " in table

    evaluation = ("--max-new-tokens", "4", "--limit-groups", "2")
    settings = ("seed=0", "hook.name=held_hooks:HeldIga")
    undisturbed = Job("iga", tmp_path / "undisturbed", config, settings, "iga", evaluation)
    one_thread = Launching(environ=ENVIRONMENT)  # as the study had it
    assert run_job(undisturbed, one_thread).state == FINISHED
    assert (run / ADAPTER).read_bytes() == (undisturbed.folder / ADAPTER).read_bytes()
    assert plain(run / "evaluation" / "evaluation.json") == plain(undisturbed.result)
    assert (run / "evaluation" / "samples.jsonl").read_text() == undisturbed.result.with_name(
        "samples.jsonl"
    ).read_text()

    # What is finished is not done again, what failed is not tried again, unless it is asked for.
    before = (job / records.LOG).stat().st_mtime_ns
    quick = start(*arguments, log=log)
    assert quick.wait(240) == 2
    assert (job / records.LOG).stat().st_mtime_ns == before
    assert "2 jobs: 1 done, 1 failed before, 0 to do" in log.read_text()
    bad = out / "runs" / "too-large-seed0.job"
    assert _record(bad)["state"] == FAILED
    retried = start(*arguments, "--retry-failed", log=log)
    assert retried.wait(240) == 2
    assert (bad / records.LOG).read_text().count("igascale train") == 2


@pytest.mark.slow
def test_a_stop_is_passed_on_and_the_rest_goes_on_later(tmp_path):
    world(tmp_path)
    study = write_study(tmp_path, methods=["iga", "erm-sft"])
    out, log = tmp_path / "study", tmp_path / "log.txt"
    process = start("study", str(study), "train.max_steps=2000", "--out", str(out), log=log)
    run = out / "runs" / "iga-seed0"
    until(lambda: any((run / "checkpoints").glob("step-*")))
    process.send_signal(signal.SIGINT)
    assert process.wait(240) == 130
    told = log.read_text()
    assert "interrupted  iga, seed 0" in told and "stopped by SIGINT; the same command goes on from here" in told
    assert json.loads((run / "status.json").read_text())["state"] == "interrupted"
    assert not (out / "runs" / "erm-sft-seed0").exists()
    assert "| iga | – | " not in told and "not run" in (out / "study.md").read_text()
