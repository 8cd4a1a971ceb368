"""Every method trains; the pools under a launcher and over a resume; leaky data said aloud."""

import json

import pytest
import torch
from click.testing import CliRunner
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from igascale import assemble, methods
from igascale.cli import main
from igascale.config import load_config
from igascale.isomers.dataset import generate_dataset

import runs
from launching import igascale

STEPS = ["train.max_steps=2", "train.groups_per_batch=4", "train.gradient_accumulation_steps=2", "eval.max_groups=2"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return runs.prepare(tmp_path_factory.mktemp("methods"))


@pytest.fixture(scope="module")
def leaky(tmp_path_factory):
    folder = tmp_path_factory.mktemp("leaky") / "data"
    generate_dataset(folder, groups=64, validation_groups=16, ood_groups=8, seed=0, leaky=True)
    return [f"data.{name}={folder / name}.jsonl" for name in ("validation", "ood")]


def data_for(name, leaky):
    return leaky if name == "leakage" else []


def invoke(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def records(run, kind):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["kind"] == kind]


@pytest.mark.parametrize("name", methods.available())
def test_every_method_trains(base, leaky, tmp_path, name):
    run = tmp_path / "run"
    result = invoke("train", base, "--method", name, f"output_dir={run}", *STEPS, *data_for(name, leaky))
    assert result.exit_code == 0, (result.output, result.exception)
    steps = records(run, "train")
    assert [r["step"] for r in steps] == [1, 2]
    assert (run / "config.yaml").read_text().startswith(f"# method: {name}\n")
    one_domain = load_config(base, method=name).data.pool != "groups"
    assert (list(steps[0]["losses"]) == ["all"]) == one_domain
    (validation,) = records(run, "validation")
    assert len(validation["id"]) == {"single-domain": 1, "two-domains": 2}.get(name, 4)
    factors = load_file(run / "adapter" / "adapter_model.safetensors")
    assert any(t.abs().sum() > 0 for n, t in factors.items() if "lora_B" in n)
    assert all(t.isfinite().all() for t in factors.values())
    assert ("LEAKAGE: " in result.output) == (name == "leakage")


@pytest.mark.parametrize("name", methods.available())
def test_every_method_validates(base, leaky, name):
    result = invoke("validate", base, "--method", name, *STEPS, *data_for(name, leaky))
    assert result.exit_code == 0, (result.output, result.exception)
    width = 2 if name == "two-domains" else 4
    assert f"8 groups = {8 * width} instances" in result.output
    assert f"in 2 forward pass(es) of {4 * width} instances" in result.output  # as many passes as for isomers
    assert ("LEAKAGE: " in result.output) == (name == "leakage")


def test_a_step_of_a_pool_is_the_mean_over_its_instances(base, tmp_path):
    """The first combined gradient against autograd of the plain mean loss over the rows that the step took."""
    overrides = [f"output_dir={tmp_path / 'run'}", *STEPS, "train.max_steps=1", "optimizer.max_grad_norm=null"]
    config = load_config(base, overrides, method="erm-sft")
    sizes = []

    def watch(engine, hook):
        forward = engine.forward
        engine.forward = lambda **batch: sizes.append(len(batch["input_ids"])) or forward(**batch)
        return hook

    recorded = runs.run(config, wrap=watch)
    assert sizes == [16, 16]  # gradient_accumulation_steps forward passes, as for isomers
    device = torch.device("cpu")
    student = assemble.build_student(config, device)
    generator = torch.Generator().manual_seed(99)
    for adapter in student.adapters.values():
        adapter.B.data.copy_(0.02 * torch.randn(adapter.B.shape, generator=generator))
    data = assemble.load_data(config, student.tokenizer)
    rows = [e for g in data.schedule.groups_of_step(0) for e in data.train.groups[g]]
    assert len(rows) == 32
    assert len({e.group_id for e in rows}) > 20  # 8 whole groups would be 8
    total, tokens = torch.zeros(()), 0
    for row in rows:
        ids, labels = torch.tensor([row.input_ids]), torch.tensor(row.labels[1:])
        logits = student.model(input_ids=ids).logits[0, :-1]
        total = total + torch.nn.functional.cross_entropy(logits, labels, reduction="sum", ignore_index=-100)
        tokens += int((labels != -100).sum())
    (total / tokens).backward()
    for fqn, adapter in student.adapters.items():
        torch.testing.assert_close(recorded.first[f"{fqn}.a"], adapter.A.grad, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(recorded.first[f"{fqn}.b"], adapter.B.grad, rtol=1e-4, atol=1e-7)
    assert recorded.losses[0] == pytest.approx([float(total.detach()) / tokens], rel=1e-5)


@pytest.mark.parametrize("name", ["lora-sft", "random-pairing"])
def test_resume_is_bitwise(base, tmp_path, name):
    overrides = ["--method", name, *STEPS, "train.max_steps=4"]
    assert invoke("train", base, f"output_dir={tmp_path / 'a'}", *overrides).exit_code == 0
    for more in (["--stop-after", "2"], ["--resume", "auto"]):
        result = invoke("train", base, f"output_dir={tmp_path / 'b'}", *overrides, *more)
        assert result.exit_code == 0, (result.output, result.exception)
    assert "resumed at step 2/4" in result.output
    adapter = "adapter/adapter_model.safetensors"
    assert (tmp_path / "a" / adapter).read_bytes() == (tmp_path / "b" / adapter).read_bytes()
    other = invoke("train", base, f"output_dir={tmp_path / 'b'}", "--method", "iga", *overrides[2:], "--resume", "auto")
    assert other.exit_code == 2
    assert "cannot resume with another configuration" in other.output


def test_a_rule_for_several_domains_refuses_a_pool(base, tmp_path):
    for verb in (["validate"], ["train"], ["launch", "-n", "2"]):
        engine = "engine.name=deepspeed" if verb[0] == "launch" else "engine.name=single"
        result = invoke(*verb, base, "--method", "erm-sft", "hook.name=iga", f"output_dir={tmp_path / 'run'}", engine)
        assert result.exit_code == 2, result.output
        assert "hook 'iga' needs 2 domains or more, but data.pool: instances" in result.output
    assert not (tmp_path / "run").exists()


def test_full_rank_refuses_a_rule_in_weight_space(base, tmp_path):
    for verb in ("validate", "train"):
        result = invoke(
            verb, base, "--method", "full-rank", "hook.space=weight", f"output_dir={tmp_path / verb}", *STEPS
        )
        assert result.exit_code == 2, result.output
        assert "set hook.space=factor (--method full-rank)" in result.output
        assert not (tmp_path / verb).exists()  # before the first step, not at it


def test_launch_refuses_leaks_before_it_starts(base, leaky):
    result = invoke("launch", base, "engine.name=deepspeed", "-n", "2", *leaky)
    assert result.exit_code == 2
    assert "is also in" in result.output
    result = invoke("launch", base, "engine.name=deepspeed", "-n", "2", "--method", "leakage")
    assert "igascale data generate --leaky" in result.output


def test_data_generate_shouts_leaky(tmp_path):
    sizes = ["--groups", 12, "--validation-groups", 4, "--ood-groups", 4]
    result = invoke("data", "generate", "--out", tmp_path / "data", *sizes, "--leaky")
    assert result.exit_code == 0, result.output
    for name in ("validation", "ood"):
        assert f"LEAKY: 4 OF THE 4 GROUPS OF {tmp_path / 'data' / name}.jsonl" in result.output
    assert "train.jsonl TELL" not in result.output
    assert "LEAKY: 4 OF THE 4" in invoke("data", "validate", tmp_path / "data" / "ood.jsonl").output


@pytest.mark.parametrize("name", ["pcgrad", "lora-sft", "full-rank"])
def test_launch_on_two_processes(base, tmp_path, name):
    run = tmp_path / "run"
    arguments = [f"output_dir={run}", "engine.name=deepspeed", *STEPS]
    done = igascale("launch", str(base), "--method", name, "--num-processes", "2", *arguments)
    assert done.returncode == 0, done.stderr
    assert (run / "config.yaml").read_text().startswith(f"# method: {name}\n")
    alone = tmp_path / "alone"
    assert invoke("train", base, "--method", name, f"output_dir={alone}", *STEPS).exit_code == 0
    losses, expected = ([r["losses"] for r in records(f, "train")] for f in (run, alone))
    for mine, theirs in zip(losses, expected, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)  # the same rows in the same steps


def test_the_full_rank_adapter_is_a_peft_folder(base, tmp_path):
    run = tmp_path / "run"
    assert invoke("train", base, "--method", "full-rank", f"output_dir={run}", *STEPS).exit_code == 0
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.parent / "model"), run / "adapter")
    factors = {n: p for n, p in model.named_parameters() if "lora_" in n}
    assert all(torch.equal(p, torch.eye(64)) for n, p in factors.items() if "lora_A" in n)
    merged = invoke("merge", run, "--out", tmp_path / "merged")
    assert merged.exit_code == 0, merged.output
