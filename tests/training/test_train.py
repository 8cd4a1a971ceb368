"""One process: training, resuming in a new process, folders of others, interruptions."""

import json
import shutil

import pytest
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from igascale import assemble, runfolder
from igascale.boards import _TensorBoard
from igascale.engine import Collectives
from igascale.errors import UserError

import runs
from launching import igascale, interrupt_when_training


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("single")
    return runs.prepare(folder, train={"max_steps": 6, "groups_per_batch": 4, "gradient_accumulation_steps": 1})


def go(path, out, *overrides, resume=None, stop_after=None):
    config = runs.load(path, f"output_dir={out}", *overrides)
    return runs.train(config, assemble.start(config), resume, stop_after)


def same(a, b):
    left, right = load_file(a), load_file(b)
    return left.keys() == right.keys() and all((left[k] == right[k]).all() for k in left)


@pytest.mark.parametrize("extra", [["hook.name=iga", "lora.dropout=0.1"], ["model.dtype=bfloat16"]])
def test_resume_in_a_new_process_is_bitwise(base, tmp_path, extra):
    first = igascale("train", str(base), f"output_dir={tmp_path / 'a'}", *extra)
    assert first.returncode == 0, first.stderr
    for step in ([], ["--resume", "auto"]):
        done = igascale("train", str(base), f"output_dir={tmp_path / 'b'}", *extra, *(step or ["--stop-after", "2"]))
        assert done.returncode == 0, done.stderr
    assert "resumed at step 2/6" in done.stdout
    checkpoint = "checkpoints/step-00000006/optimizer.safetensors"
    assert same(tmp_path / "a" / checkpoint, tmp_path / "b" / checkpoint)
    adapter = "adapter/adapter_model.safetensors"
    assert (tmp_path / "a" / adapter).read_bytes() == (tmp_path / "b" / adapter).read_bytes()


def test_run_folder(base, tmp_path):
    go(base, tmp_path / "run", "checkpoint.every=2", "checkpoint.keep=2", "eval.every=3")
    run = tmp_path / "run"
    assert runs.load(run / "config.yaml").output_dir == str(run)
    assert json.loads((run / "environment.json").read_text())["versions"]["torch"]
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if r["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    validations = [r for r in records if r["kind"] == "validation"]
    assert [r["step"] for r in validations] == [3, 6]
    assert set(validations[0]["id"]) == {"mathematics", "medicine", "law", "science"}
    assert set(validations[0]["ood"]) == {"finance", "engineering"}
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["latest", "step-00000004", "step-00000006"]
    model = AutoModelForCausalLM.from_pretrained(base.parent / "model")
    PeftModel.from_pretrained(model, run / "adapter")  # PEFT's own loader
    saved = json.loads((run / "checkpoints" / "step-00000006" / "manifest.json").read_text())["files"]
    parameters = sum(t.numel() for t in load_file(run / "adapter" / "adapter_model.safetensors").values())
    assert sum(f["bytes"] for f in saved.values()) <= 16 * parameters + 1_000_000


def test_existing_run_folder_is_left_alone(base, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    done = igascale("train", str(base), f"output_dir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert "already exists" in done.stderr
    assert "neither a run nor a checkpoint" in done.stderr
    assert "choose another output_dir" in done.stderr
    assert "Traceback" not in done.stderr
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.txt"]


@pytest.fixture(scope="module")
def stopped(base, tmp_path_factory):
    """A run that stopped after two steps."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    go(base, out, "checkpoint.every=1", stop_after=2)
    return out


def test_resume_from_the_older_checkpoint(base, stopped, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    state = go(base, run, resume=str(run / "checkpoints" / "step-00000001"))
    assert state.steps == 6
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines() if '"train"' in line]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_resume_refuses_other_mathematics(base, stopped, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    with pytest.raises(UserError, match=r"optimizer\.lr: 0\.0002 in the checkpoint, 0\.1 now"):
        go(base, run, "optimizer.lr=0.1", resume="auto")
    go(base, run, "eval.max_groups=2", resume="auto")  # does not touch the mathematics


def test_resume_from_nothing(base, tmp_path):
    with pytest.raises(UserError, match="no checkpoint in"):
        go(base, tmp_path / "run", resume=str(tmp_path / "elsewhere"))
    assert go(base, tmp_path / "run", resume="auto").steps == 6  # a first start with --resume auto is a start


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_resume_never_writes_into_another_run(base, stopped, tmp_path):
    other = tmp_path / "other"
    go(base, other)
    before = contents(other)
    with pytest.raises(UserError, match="already exists"):
        go(base, other, resume=str(stopped))
    assert contents(other) == before
    fresh = tmp_path / "fresh"  # a new folder is fine
    assert go(base, fresh, resume=str(stopped)).steps == 6
    assert (fresh / "config.yaml").is_file()


def test_resume_auto_leaves_a_foreign_folder_alone(base, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("precious")
    with pytest.raises(UserError, match="already exists"):
        go(base, tmp_path / "run", resume="auto")
    assert (tmp_path / "run" / "config.yaml").read_text() == "precious"


def test_a_refused_start_leaves_no_folder_and_a_loading_run_keeps_its_own(base, tmp_path):
    run = tmp_path / "run"
    refused = igascale("train", str(base), f"output_dir={run}", "lora.target_modules=[q_prj]")
    assert refused.returncode == 2, refused.stderr
    assert "q_prj" in refused.stderr
    assert not run.exists()
    config = runs.load(base, f"output_dir={run}")
    comm = Collectives(assemble.start(config))
    runfolder.open_run(config, None, comm)  # a run that is still loading its model
    before = contents(run)
    with pytest.raises(UserError, match="already exists"):
        runfolder.open_run(config, None, comm)
    assert contents(run) == before


def test_killed_before_the_first_checkpoint(base, tmp_path):
    go(base, tmp_path / "run", stop_after=1)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert go(base, tmp_path / "run", resume="auto").steps == 6


def test_resume_from_an_older_checkpoint_keeps_what_it_publishes(base, tmp_path):
    run = tmp_path / "run"
    go(base, run, "checkpoint.every=1", "checkpoint.keep=6")
    older = run / "checkpoints" / "step-00000002"
    go(base, run, "checkpoint.every=null", "checkpoint.keep=2", resume=str(older), stop_after=1)
    assert (run / "checkpoints" / "latest").read_text().strip() == "step-00000003"
    names = sorted(p.name for p in (run / "checkpoints").glob("step-*"))
    assert names == [f"step-{n:08d}" for n in (2, 3, 4, 5, 6)]
    assert go(base, run, resume="auto").steps == 6


def test_changed_training_data_is_refused(base, stopped, tmp_path):
    run, data = tmp_path / "run", base.parent / "data" / "train.jsonl"
    shutil.copytree(stopped, run)
    original = data.read_bytes()
    try:
        data.write_bytes(b"".join(reversed(original.splitlines(keepends=True))))
        with pytest.raises(UserError, match="not the file that the checkpoint was trained on"):
            go(base, run, resume="auto")
    finally:
        data.write_bytes(original)


def test_tensorboard_has_every_step_once(base, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    go(base, run, "logging.tensorboard=true", stop_after=3)
    go(base, run, "logging.tensorboard=true", resume="auto")
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("loss/law")] == [1, 2, 3, 4, 5, 6]


def test_tensorboard_of_an_attempt_that_was_lost_before_its_first_checkpoint(base, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    run = tmp_path / "run"
    with SummaryWriter(str(run / "tensorboard")) as lost:
        lost.add_scalar("loss/law", 99.0, 1)
        lost.add_scalar("loss/law", 99.0, 7)
    _TensorBoard(run, None).close()
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert "loss/law" not in events.Tags()["scalars"] or not events.Scalars("loss/law")


def test_single_engine_refuses_several_processes(base, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="a launcher started several processes"):
        go(base, tmp_path / "run")


def test_text_longer_than_the_model(base, tmp_path):
    config = runs.load(base, f"output_dir={tmp_path / 'run'}")
    student = assemble.build_student(config, assemble.start(config))
    student.model.config.max_position_embeddings = 40
    with pytest.raises(UserError, match=r"the model has 40 positions; set data\.max_length=40"):
        assemble.check_room(assemble.load_data(config, student.tokenizer), student.model)


def test_ctrl_c_writes_a_checkpoint_and_resume_goes_on(base, tmp_path):
    run = tmp_path / "run"
    arguments = ["train", str(base), f"output_dir={run}", "train.max_steps=100000", "eval.every=null"]
    status, err = interrupt_when_training(run, *arguments)
    assert status == 130, err
    assert "Traceback" not in err
    step = int((run / "checkpoints" / "latest").read_text().strip().removeprefix("step-"))
    assert 2 <= step < 100000
    done = igascale(*arguments, "--resume", "auto", "--stop-after", "1")
    assert done.returncode == 0, done.stderr
    assert f"resumed at step {step}/100000" in done.stdout
