"""A universal checkpoint of DeepSpeed, from a real run on two ranks: its tensors, and what is refused."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from igascale import assemble
from igascale.cli import main
from igascale.errors import UserError
from igascale.resuming.importing import import_universal

import runs
from launching import environment, launch

WORKER = str(Path(__file__).parent / "worker_plain_deepspeed.py")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("import")
    train = {"max_steps": 5, "groups_per_batch": 2, "gradient_accumulation_steps": 1}
    return runs.prepare(folder, train=train, eval={"max_groups": 2})


@pytest.fixture(scope="module")
def sources(base):
    """By dtype, the folder that DeepSpeed's own converter wrote; what DeepSpeed said of the state is ``truth.pt`` beside it."""
    dtypes = ("float32", "bfloat16")
    launch("torchrun", 2, WORKER, str(base), str(base.parent), *dtypes)
    for dtype in dtypes:
        folders = ["--input_folder", str(base.parent / dtype / "global_step3")]
        folders += ["--output_folder", str(base.parent / dtype / "universal")]
        command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state", *folders]
        workers = ["--num_extract_workers", "1", "--num_merge_workers", "1"]
        done = subprocess.run([*command, *workers], env=environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return {dtype: base.parent / dtype / "universal" for dtype in dtypes}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_to_the_bit_and_it_goes_on(base, sources, tmp_path, capfd, dtype):
    source = sources[dtype]
    arguments = [f"output_dir={tmp_path / 'run'}", f"model.dtype={dtype}"]
    done = CliRunner().invoke(main, ["checkpoint", "import", str(source), str(base), *arguments])
    assert done.exit_code == 0, done.output
    assert "imported step 3; go on with --resume auto" in done.output
    truth = torch.load(source.parent / "truth.pt", weights_only=True)
    folder = tmp_path / "run" / "checkpoints" / "step-00000003"
    saved = load_file(folder / "optimizer.safetensors")
    assert saved.keys() == truth.keys()
    assert all(torch.equal(saved[k], truth[k]) for k in truth)
    assert all(truth[k].any() for k in truth if k.endswith("exp_avg_sq"))
    config = runs.load(base, *arguments, "train.gradient_accumulation_steps=1")
    state = runs.train(config, assemble.start(config), "auto", 0)
    assert state.steps == 3
    assert all(torch.equal(state.tensors[k], truth[k]) for k in truth)
    capfd.readouterr()
    assert runs.train(config, assemble.start(config), "auto").steps == 5
    told = " ".join(capfd.readouterr().out.split())
    assert "resumed at step 3/5" in told
    assert f"imported from {source}" in told
    assert "ranks" not in told  # nobody knows on how many it ran, and it does not matter
    last = tmp_path / "run" / "checkpoints" / "step-00000005" / "state.json"
    assert "imported_from" not in json.loads(last.read_text())["counters"]


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path(self.target),))

    def __init__(self, target):
        self.target = target


def damaged(folder, how):
    one = sorted(folder.glob("zero/*lora_A*"))[0]
    fp32 = one / "fp32.pt"
    if how == "pickle":
        fp32.write_bytes(pickle.dumps(Evil(folder / "run-by-pickle")))
    elif how == "torch-pickle":
        torch.save({"param": torch.zeros(4, 64), "more": Evil(folder / "run-by-pickle")}, fp32)
    elif how == "truncated":
        fp32.write_bytes(fp32.read_bytes()[:-100])
    elif how == "missing-file":
        (one / "exp_avg.pt").unlink()
    elif how == "missing-parameter":
        shutil.rmtree(one)
    elif how == "shape":
        torch.save({"param": torch.zeros(8, 64)}, fp32)
    elif how == "dtype":
        torch.save({"param": torch.zeros(4, 64, dtype=torch.bfloat16)}, fp32)
    elif how == "no-tensor":
        torch.save({"param": [1.0]}, fp32)
    elif how == "not-lora":
        shutil.copytree(one, folder / "zero" / "base_model.model.lm_head.weight")
    elif how == "other-module":
        shutil.copytree(one, folder / "zero" / one.name.replace("q_proj", "up_proj").replace("k_proj", "up_proj"))
    elif how == "steps-differ":
        torch.save(torch.tensor(4.0), one / "step.pt")
    elif how == "no-steps":
        for path in folder.glob("zero/*/step.pt"):
            path.unlink()
    elif how == "not-universal":
        shutil.rmtree(folder / "zero")


REFUSED = {
    "pickle": "could run code, so it is refused",
    "torch-pickle": "could run code, so it is refused",
    "truncated": r"fp32\.pt: cannot be read",
    "missing-file": r"exp_avg\.pt: missing",
    "missing-parameter": r"holds nothing of .*lora_A, which this run trains",
    "shape": r"is \[8, 64\], but \[4, 64\] in this run; set lora\.r",
    "dtype": "is bfloat16, but masters and moments are float32",
    "no-tensor": "holds no tensor under 'param'",
    "not-lora": "is no LoRA factor",
    "other-module": "this run has no .*up_proj.*; set model.path and lora.target_modules",
    "steps-differ": "the optimizer's steps differ",
    "no-steps": "the optimizer's steps are not in it; say how many it has taken: --optimizer-steps",
    "not-universal": "no universal checkpoint of DeepSpeed",
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", REFUSED)
def test_what_is_refused(base, sources, tmp_path, how):
    folder = tmp_path / "universal"
    shutil.copytree(sources["float32"], folder)
    damaged(folder, how)
    config = runs.load(base, f"output_dir={tmp_path / 'run'}")
    with pytest.raises(UserError, match=REFUSED[how]) as error:
        import_universal(folder, config, None, None, print)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
    assert not (folder / "run-by-pickle").exists()
    if how == "no-steps":
        assert import_universal(folder, config, 1, 3, print) == 1
        state = json.loads((tmp_path / "run" / "checkpoints" / "step-00000001" / "state.json").read_text())
        assert (state["step"], state["optimizer_steps"]) == (1, 3)


def test_a_place_behind_the_end(base, sources, tmp_path):
    config = runs.load(base, f"output_dir={tmp_path / 'run'}", "train.max_steps=2")
    with pytest.raises(UserError, match="is of step 3, but this run ends at step 2"):
        import_universal(sources["float32"], config, None, None, print)
    assert not (tmp_path / "run").exists()
