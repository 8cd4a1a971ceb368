"""One process: what may change, what is told and recorded, moved folders, forks, finished runs, records of later steps."""

import json
import random
import shutil
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from igascale import assemble, runfolder, runlock
from igascale.checkpoints.content import load
from igascale.checkpoints.manifest import MANIFEST, STATE, describe, render
from igascale.errors import UserError
from igascale.resuming import history
from igascale.resuming.restore import _drew

import runs
from launching import igascale
from tiny import tiny_llama


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("going-on")
    return runs.prepare(
        folder,
        train={"max_steps": 4, "groups_per_batch": 2, "gradient_accumulation_steps": 1},
        eval={"max_groups": 2, "every": 1},
        checkpoint={"every": 1, "keep": 9},
    )


def go(path, out, *overrides, resume=None, stop_after=None, allow=()):
    config = runs.load(path, f"output_dir={out}", *overrides)
    return runs.train(config, assemble.start(config), resume and str(resume), stop_after, allow)


@pytest.fixture(scope="module")
def whole(base):
    """A finished run of 4 steps with a checkpoint after each."""
    go(base, base.parent / "whole")
    return base.parent / "whole"


@pytest.fixture
def stopped(base, whole, tmp_path):
    """A run that stopped after 2 steps, to be gone on with in place."""
    go(base, tmp_path / "run", stop_after=2)
    return tmp_path / "run"


def step(run, number):
    return run / "checkpoints" / f"step-{number:08d}"


def contents(folder):
    """Every file with its bytes and its time: nothing is to be rewritten, not even with the same bytes; the lock is no part of it."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != runlock.LOCK)
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def refused(base, run, *overrides, match, resume="auto", allow=()):
    before = contents(run)
    with pytest.raises(UserError, match=match):
        go(base, run, *overrides, resume=resume, allow=allow)
    assert contents(run) == before


def same_tensors(a, b):
    left, right = load_file(a / "optimizer.safetensors"), load_file(b / "optimizer.safetensors")
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def resumes(run):
    return [json.loads(line) for line in (run / "resumes.jsonl").read_text().splitlines()]


def test_a_change_must_be_allowed_and_is_told_and_recorded(base, stopped, capfd):
    lr = "optimizer.lr=1e-3"
    refused(
        base, stopped, lr, match=r"optimizer\.lr: 0\.0002 in the checkpoint, 0\.001 now.*--allow-change optimizer\.lr"
    )
    refused(
        base, stopped, lr, match="--allow-change seed: nothing of that name differs", allow=["optimizer.lr", "seed"]
    )
    capfd.readouterr()
    go(base, stopped, lr, "logging.every=1", resume="auto", allow=["optimizer.lr"], stop_after=1)
    told = " ".join(capfd.readouterr().out.split())
    assert (
        "another run from step 2 on, as --allow-change says: optimizer.lr: 0.0002 in the checkpoint, 0.001 now" in told
    )
    go(
        base, stopped, lr, resume="auto", allow=["optimizer.lr"]
    )  # the same command after a restart: nothing differs now
    first, second = resumes(stopped)
    assert (first["step"], first["world_size"], first["engine"], first["fork"]) == (2, 1, "single", False)
    assert first["changed"] == {"optimizer.lr": [0.0002, 0.001]}
    assert first["allowed"] == ["optimizer.lr"]
    assert first["versions"]["torch"] == torch.__version__
    assert (second["step"], second["changed"], second["allowed"]) == (3, {}, [])
    refused(base, stopped, lr, "seed=1", match="seed: 0 in the checkpoint, 1 now", allow=["optimizer.lr"])


def test_allow_change_without_a_resume(base, tmp_path):
    with pytest.raises(UserError, match="nothing is resumed"):
        go(base, tmp_path / "run", allow=["optimizer.lr"])
    assert not (tmp_path / "run").exists()


def test_what_is_only_rounding_is_told(base, whole, stopped, capfd):
    capfd.readouterr()
    go(base, stopped, "train.micro_batch_size=3", "train.packing=true", resume="auto")
    told = " ".join(capfd.readouterr().out.split())
    assert "continues the same run to rounding, not to the bit" in told
    assert "train.packing: False in the checkpoint, True now" in told
    assert "1 -> 1 ranks: 1 -> 3 forward passes per step of at most 3 instances on each; the same 2 groups" in told
    ours, theirs = (load_file(step(run, 4) / "optimizer.safetensors") for run in (stopped, whole))
    assert 0 < runs.relative(ours, theirs) < 1e-6


def test_another_dtype_is_another_run(base, stopped):
    refused(base, stopped, "model.dtype=bfloat16", match=r"model\.dtype: 'float32' in the checkpoint, 'bfloat16' now")


def test_neither_pythons_nor_numpys_generator_matters(base, whole, stopped):
    """So neither is saved: with others in every process the run is the same to the bit."""
    random.seed(99)
    np.random.seed(99)
    held = random.getstate(), np.random.get_state()[1].copy()
    go(base, stopped, resume="auto")
    assert random.getstate() == held[0]
    assert (np.random.get_state()[1] == held[1]).all()
    assert same_tensors(step(stopped, 4), step(whole, 4))


def test_records_of_later_steps_are_written_anew(base, whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for name in ("metrics.jsonl", "adapter_metrics.jsonl"):
        with (run / name).open("a") as file:
            file.write('{"step": 2, "kind": "tra')  # cut off by a crash
    go(base, run, resume=step(run, 2))
    for name in ("metrics.jsonl", "adapter_metrics.jsonl"):
        found, expected = ([timeless(line) for line in (r / name).read_text().splitlines()] for r in (run, whole))
        assert found == expected
    kinds = [(r["kind"], r["step"]) for r in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())]
    assert kinds == [(kind, n) for n in (1, 2, 3, 4) for kind in ("train", "validation")]


def test_a_restart_soon_after_going_back_does_not_jump_ahead(base, whole, tmp_path, monkeypatch):
    """The later checkpoints are those of what was given up, and the records of their steps are gone."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    with monkeypatch.context() as patch:
        patch.setattr("igascale.trainer.Trainer._loop", Mock(side_effect=OSError("killed before its first checkpoint")))
        with pytest.raises(OSError, match="killed"):
            go(base, run, "optimizer.lr=1e-3", resume=step(run, 2), allow=["optimizer.lr"])
    go(base, run, "optimizer.lr=1e-3", resume="auto", allow=["optimizer.lr"])
    assert [r["step"] for r in resumes(run)] == [2, 2]
    kinds = [(r["kind"], r["step"]) for r in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())]
    assert kinds == [(kind, n) for n in (1, 2, 3, 4) for kind in ("train", "validation")]
    assert load(step(run, 3)).config["optimizer"]["lr"] == 1e-3


@pytest.mark.parametrize(("number", "lr", "kept"), [(2, "2e-4", True), (2, "1e-3", False), (4, "2e-4", True)])
def test_a_page_of_wandb_is_not_that_of_other_steps(base, whole, tmp_path, number, lr, kept):
    """W&B keeps the first value of a step: those of the run that was given up would stay."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "wandb.json").write_text('{"id": "1234"}')
    changed = [f"optimizer.lr={lr}", "train.max_steps=5"] if number == 4 else [f"optimizer.lr={lr}"]
    allow = ["train.max_steps"] if number == 4 else ["optimizer.lr"] if lr != "2e-4" else []
    go(base, run, *changed, resume=step(run, number), allow=allow)
    assert (run / "wandb.json").exists() == kept


def timeless(line):
    return {
        k: v for k, v in json.loads(line).items() if k not in ("seconds", "peak_memory_bytes", "peak_memory_by_rank")
    }


def test_model_and_data_may_lie_elsewhere(base, whole, tmp_path, capfd):
    shutil.copytree(base.parent / "model", tmp_path / "model")
    shutil.copy(base.parent / "data" / "train.jsonl", tmp_path / "train.jsonl")
    moved = [f"model.path={tmp_path / 'model'}", f"data.train={tmp_path / 'train.jsonl'}"]
    run = tmp_path / "run"
    capfd.readouterr()
    go(base, run, *moved, resume=step(whole, 2))
    told = " ".join(capfd.readouterr().out.split())
    assert f"model.path: {tmp_path / 'model'} has the same content as {base.parent / 'model'}" in told
    assert "data.train: " in told
    assert "another run" not in told
    assert same_tensors(step(run, 4), step(whole, 4))
    assert resumes(run)[0]["allowed"] == []


@pytest.mark.parametrize("part", ["config.json", "tokenizer.json", "model.safetensors"])
def test_another_model_in_the_same_place(base, whole, tmp_path, part):
    model = tmp_path / "model"
    shutil.copytree(base.parent / "model", model)
    if part == "model.safetensors":  # of the same size, one matrix is another
        tensors = load_file(model / part)
        tensors["model.layers.1.mlp.up_proj.weight"] = tensors["model.layers.1.mlp.up_proj.weight"] * 1.01
        save_file(tensors, model / part, metadata={"format": "pt"})
    else:
        (model / part).write_text((model / part).read_text() + "\n")
    with pytest.raises(UserError, match=f"is not the model that the checkpoint was trained on .*: {part} differ"):
        go(base, tmp_path / "run", f"model.path={model}", resume=step(whole, 2))
    assert not (tmp_path / "run").exists()
    go(base, tmp_path / "run", f"model.path={model}", resume=step(whole, 2), allow=["model.path"])
    assert same_tensors(step(tmp_path / "run", 4), step(whole, 4)) == (part != "model.safetensors")


def test_a_model_of_other_shapes(base, whole, tmp_path):
    shutil.copytree(base.parent / "model", tmp_path / "model")
    tiny_llama(num_key_value_heads=4).save_pretrained(tmp_path / "model")
    path = f"model.path={tmp_path / 'model'}"
    with pytest.raises(UserError, match=r"k_proj\.lora_B\.master is \[32, 4\].*this model has \[64, 4\]"):
        go(base, tmp_path / "run", path, resume=step(whole, 2), allow=["model.path"])
    assert not (tmp_path / "run").exists()


def test_a_fork_leaves_the_other_run_alone(base, whole, tmp_path, capfd):
    before = contents(whole)
    capfd.readouterr()
    go(base, tmp_path / "fork", resume=whole / "checkpoints" / "step-00000003")
    assert "a new run that is forked from" in " ".join(capfd.readouterr().out.split())
    assert contents(whole) == before
    assert same_tensors(step(tmp_path / "fork", 4), step(whole, 4))
    assert (tmp_path / "fork" / "adapter").is_dir()
    assert [r["fork"] for r in resumes(tmp_path / "fork")] == [True]
    with pytest.raises(UserError, match="already exists: continue it with --resume auto"):
        go(base, tmp_path / "fork", resume=step(whole, 3))


def test_a_fork_that_is_lost_before_its_first_checkpoint(base, whole, tmp_path, monkeypatch):
    """It goes on from where it was forked: it must not begin at step 0."""
    fork = tmp_path / "fork"
    assert history.restart(fork, str(step(whole, 3)), []) == str(step(whole, 3))
    with monkeypatch.context() as patch:
        patch.setattr("igascale.trainer.Trainer._resume", Mock(side_effect=OSError("killed")))
        with pytest.raises(OSError, match="killed"):
            go(base, fork, resume=step(whole, 3))
    assert history.restart(fork, str(step(whole, 3)), []) == "auto"
    go(base, fork, resume="auto")
    assert [(r["step"], r["fork"]) for r in resumes(fork)] == [(3, True)]
    assert same_tensors(step(fork, 4), step(whole, 4))
    go(base, fork, resume="auto")
    assert runfolder.check_start(runs.load(base, f"output_dir={fork}"), "auto").finished


def test_a_fork_whose_origin_is_gone(base, whole, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path / "old")
    with monkeypatch.context() as patch:
        patch.setattr("igascale.trainer.Trainer._resume", Mock(side_effect=OSError("killed")))
        with pytest.raises(OSError, match="killed"):
            go(base, tmp_path / "fork", resume=step(tmp_path / "old", 3))
    shutil.rmtree(tmp_path / "old")
    with pytest.raises(UserError, match="there is no such folder"):
        go(base, tmp_path / "fork", resume="auto")


def test_what_a_restart_says(whole, tmp_path):
    """Back to a checkpoint of the same run, until that was done; then on."""
    path = str(step(whole, 2))
    assert history.restart(whole, path, []) == path
    assert history.restart(whole, path, [{"step": 2}]) == "auto"
    assert history.restart(whole, None, []) == history.restart(tmp_path, "auto", []) == "auto"


@pytest.mark.parametrize("verb", ["train", "launch"])
def test_a_finished_run_is_left_as_it_is(base, whole, tmp_path, verb):
    run = tmp_path / "run"  # this process may still hold the lock of the other
    shutil.copytree(whole, run)
    before = contents(run)
    extra = ["engine.name=single"] if verb == "train" else ["engine.name=deepspeed", "--num-processes", "2"]
    done = igascale(verb, str(base), f"output_dir={run}", *extra, "--resume", "auto")
    assert done.returncode == 0, done.stderr
    assert "is finished, at step 4: nothing to do" in done.stdout
    assert contents(run) == before


def test_a_finished_run_can_be_made_longer_or_not_shorter(base, whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    refused(
        base, run, "train.max_steps=2", match="is of step 4, but this run ends at step 2", allow=["train.max_steps"]
    )
    state = go(base, run, "train.max_steps=6", resume="auto", allow=["train.max_steps"])
    assert state.steps == 6


def test_a_result_that_is_missing_is_written(base, whole, tmp_path):
    """A run that died between its last checkpoint and its result is not finished."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    config = runs.load(base, f"output_dir={run}")
    assert runfolder.check_start(config, "auto").finished
    shutil.rmtree(run / "adapter")
    assert not runfolder.check_start(config, "auto").finished
    go(base, run, resume="auto")
    ours, theirs = (r / "adapter" / "adapter_model.safetensors" for r in (run, whole))
    assert ours.read_bytes() == theirs.read_bytes()


def test_the_result_of_an_earlier_end_is_not_taken_for_the_last(base, whole, tmp_path, monkeypatch):
    """A run that was made longer, and died between its last checkpoint and its result."""
    run, config = tmp_path / "run", ("train.max_steps=6",)
    shutil.copytree(whole, run)
    with monkeypatch.context() as patch:
        patch.setattr("igascale.saving.publish_result", Mock(side_effect=OSError(28, "No space left on device")))
        with pytest.raises(UserError, match="the result, adapter/, of step 6 cannot be written"):
            go(base, run, *config, resume="auto", allow=["train.max_steps"])
    assert not runfolder.check_start(runs.load(base, f"output_dir={run}", *config), "auto").finished
    go(base, run, *config, resume="auto")
    result, last = (folder / "adapter" / "adapter_model.safetensors" for folder in (run, step(run, 6)))
    assert result.read_bytes() == last.read_bytes()
    assert runfolder.check_start(runs.load(base, f"output_dir={run}", *config), "auto").finished


def test_checkpoints_on_another_disk(base, whole, stopped, tmp_path):
    (stopped / "checkpoints").rename(tmp_path / "elsewhere")
    (stopped / "checkpoints").symlink_to(tmp_path / "elsewhere")
    for which in ("auto", str(stopped), str(step(stopped, 1))):
        assert not runfolder.check_start(runs.load(base, f"output_dir={stopped}"), which).fork
    go(base, stopped, resume="auto")
    assert same_tensors(step(stopped, 4), step(whole, 4))
    assert [r["fork"] for r in resumes(stopped)] == [False]


def test_a_checkpoint_that_knows_less(base, whole, tmp_path):
    """As an earlier version would have written it: without some keys and without the model's fingerprint."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    folder = step(run, 2)
    state = json.loads((folder / STATE).read_text())
    del (
        state["model"],
        state["counters"]["total_steps"],
        state["config"]["train"]["packing"],
        state["config"]["logging"],
    )
    (folder / STATE).write_text(json.dumps(state))
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).write_text(render(describe(folder, 2)))
    go(base, run, resume=folder)
    assert same_tensors(step(run, 4), step(whole, 4))


def test_a_model_with_dropouts_of_its_own(base, whole, tmp_path):
    """Nothing in the configuration tells of them; the random states in the checkpoint do."""
    model = tmp_path / "model"
    shutil.copytree(base.parent / "model", model)
    tiny_llama(attention_dropout=0.1).save_pretrained(model)
    run = tmp_path / "run"
    go(base, run, f"model.path={model}", stop_after=1)
    assert _drew(load(step(run, 1)).rng, 0)
    assert not _drew(load(step(whole, 4)).rng, 0)
    split = [f"model.path={model}", "train.micro_batch_size=4"]
    refused(base, run, *split, match="the model draws random numbers of its own.*--allow-change train.micro_batch_size")
    assert go(base, run, *split, resume="auto", allow=["train.micro_batch_size"]).steps == 4


def test_a_history_that_was_cut_off(base, stopped):
    (stopped / "resumes.jsonl").write_text('{"step": 1, "allowed": []}\n{"step": 2, "al')
    go(base, stopped, resume="auto")
    lines = (stopped / "resumes.jsonl").read_text().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[2])["step"] == 2
