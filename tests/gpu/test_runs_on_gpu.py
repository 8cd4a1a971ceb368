"""On a CUDA device: DeepSpeed over NCCL, exact resume with dropout, a real out-of-memory, and what doctor says."""

import json
import os
import subprocess
import sys

import pytest
import torch

from igascale import trainer
from igascale.errors import UserError

import launching
import runs

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def igascale(*arguments):
    """The command line, on the GPU."""
    path = os.pathsep.join([str(launching.REPOSITORY), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    command = [sys.executable, "-m", "igascale", *map(str, arguments)]
    environ = {k: v for k, v in os.environ.items() if k != "DS_ACCELERATOR"} | {"PYTHONPATH": path}
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300, check=False)


def losses(run):
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return torch.tensor([list(r["losses"].values()) for r in records if r["kind"] == "train"])


@pytest.mark.parametrize("hook, dtype, tolerance", [("mean", "float32", 1e-5), ("iga", "bfloat16", 2**-7)])
def test_deepspeed_equals_the_single_engine(tmp_path, hook, dtype, tolerance):
    path = runs.prepare(tmp_path)
    shared = [f"hook.name={hook}", f"model.dtype={dtype}", "train.max_steps=6"]
    single = igascale("train", path, f"output_dir={tmp_path / 'single'}", *shared)
    assert single.returncode == 0, single.stdout + single.stderr
    where = [f"output_dir={tmp_path / 'zero2'}", "engine.name=deepspeed"]
    zero2 = igascale("launch", path, "-n", 1, *where, *shared)
    assert zero2.returncode == 0, zero2.stdout + zero2.stderr
    ours, theirs = losses(tmp_path / "zero2"), losses(tmp_path / "single")
    assert ours.shape == theirs.shape == (6, 4)
    assert ((ours - theirs).abs() / theirs).max() <= tolerance


@pytest.mark.parametrize("hook", ["mean", "iga"])
def test_resume_is_exact_with_dropout(tmp_path, hook):
    """Dropout draws from the GPU's own generator, whose state the checkpoint holds."""
    path = runs.prepare(tmp_path)
    device = torch.device("cuda")

    def go(out, **options):
        changes = [f"hook.name={hook}", "lora.dropout=0.2", "train.max_steps=6"]
        return runs.train(runs.load(path, f"output_dir={out}", *changes), device, **options).tensors

    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        whole, again = go(tmp_path / "whole"), go(tmp_path / "again")
        go(tmp_path / "halves", stop_after=3)
        torch.rand(7, device=device)  # another process would be elsewhere in its random numbers
        halves = go(tmp_path / "halves", resume="auto")
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(whole[k], again[k]) for k in whole)
    assert all(torch.equal(whole[k], halves[k]) for k in whole)


def test_out_of_memory_says_what_to_change(tmp_path, monkeypatch):
    path = runs.prepare(tmp_path)
    before = trainer.model_inputs

    def huge(*arguments):
        torch.empty(2**45, dtype=torch.uint8, device="cuda")
        return before(*arguments)

    monkeypatch.setattr(trainer, "model_inputs", huge)
    with pytest.raises(UserError, match=r"ran out of memory at step 1.*PyTorch holds .* GiB.*lower train\."):
        runs.train(runs.load(path), torch.device("cuda"))


def test_doctor_sees_the_gpu(tmp_path):
    done = igascale("doctor", "--run-folder", tmp_path, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert f"CUDA {torch.version.cuda}, NCCL " in found["CUDA"]["found"]
    assert found["CUDA"]["status"] == "pass"
    # Other tests may be on the GPU at this moment, of which it warns.
    assert torch.cuda.get_device_name() in found["GPUs"]["found"] or "in use" in found["GPUs"]["found"]
