"""One process: training, resuming in a new process, checkpoints that were tampered with, interruptions."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
import runs
from launching import environment, igascale
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from igascale import assemble
from igascale.errors import UserError
from igascale.trainer import Trainer


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("single")
    return runs.prepare(folder, train={"max_steps": 6, "groups_per_batch": 4, "gradient_accumulation_steps": 1})


def go(path, out, *overrides, resume=None, stop_after=None):
    config = runs.load(path, f"output_dir={out}", *overrides)
    device = assemble.start(config)
    hook = assemble.build_hook(config)
    student = assemble.build_student(config, device)
    data = assemble.load_data(config, student.tokenizer)
    engine = assemble.build_engine(config, student, hook, device)
    Trainer(config, data, student, hook, engine).train(resume, stop_after)
    return engine.get_state()


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
    assert "--resume auto" in done.stderr
    assert "Traceback" not in done.stderr
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.txt"]


@pytest.fixture(scope="module")
def stopped(base, tmp_path_factory):
    """A run that stopped after two steps."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    go(base, out, "checkpoint.every=1", stop_after=2)
    return out


FILES = ["optimizer.safetensors", "rng.safetensors", "state.json", "manifest.json", "adapter/adapter_model.safetensors"]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["truncate", "flip", "delete"])
def test_damaged_checkpoint_is_refused_by_name(base, stopped, tmp_path, file, damage):
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    path = run / "checkpoints" / "step-00000002" / file
    content = bytearray(path.read_bytes())
    if damage == "delete":
        path.unlink()
    elif damage == "truncate":
        path.write_bytes(content[:-7])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with pytest.raises(UserError) as error:
        go(base, run, resume="auto")
    # A flipped bit in the manifest shows as a file that does not match it.
    assert file in str(error.value) or (file, damage) == ("manifest.json", "flip")
    assert "step-00000001 (--resume PATH)" in str(error.value)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


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


def test_ctrl_c_writes_a_checkpoint_and_resume_goes_on(base, tmp_path):
    run = tmp_path / "run"
    arguments = ["train", str(base), f"output_dir={run}", "train.max_steps=400", "eval.every=null"]
    with subprocess.Popen(
        [sys.executable, "-m", "igascale", *arguments],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        metrics = run / "metrics.jsonl"
        deadline = time.monotonic() + 60
        while not (metrics.is_file() and metrics.read_text().count("\n") >= 2):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    step = int((run / "checkpoints" / "latest").read_text().strip().removeprefix("step-"))
    assert 2 <= step < 400
    done = igascale(*arguments, "--resume", "auto", "--stop-after", "1")
    assert done.returncode == 0, done.stderr
    assert f"resumed at step {step}/400" in done.stdout
