"""Instances packed into one row: the gradients of separate rows, and no row in which they see each other."""

import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch.nn.functional import scaled_dot_product_attention
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM
from transformers.masking_utils import create_causal_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from igascale import attention
from igascale.adapters import find_adapters
from igascale.attention import check_packing, model_inputs
from igascale.capture import GradientCapture
from igascale.cli.train import command
from igascale.errors import UserError
from igascale.isomers.batches import collate, micro_batches, pack
from igascale.isomers.encode import Example
from igascale.loss import domain_token_losses
from igascale.loss_record import auxiliary_sums
from igascale.model import set_activation_checkpointing

import runs
from launching import environment
from tiny import tiny_llama, tiny_peft

CPU = torch.device("cpu")
D = 3


def examples(lengths=(16, 9, 21, 7, 12, 30, 11, 8, 19), prompt=3):
    """Three groups of three domains, of unequal lengths."""
    generator = torch.Generator().manual_seed(4)
    rows = []
    for k, length in enumerate(lengths):
        ids = torch.randint(3, 120, (length,), generator=generator).tolist()
        rows.append(Example(ids, [-100] * prompt + ids[prompt:], k % D))
    return rows


def student(implementation="sdpa", checkpointing="none", dtype=torch.float32):
    model = tiny_peft(dtype)
    model.get_base_model().config._attn_implementation = implementation
    set_activation_checkpointing(model, checkpointing)
    return model


def statistic(logits_NV, labels_N):
    return (logits_NV.softmax(-1) * logits_NV).sum(-1) - logits_NV.gather(1, labels_N[:, None])[:, 0]


def captured(model, rows, packing, reduction="token", size=9, inputs=model_inputs):
    """Both sets of gradients, the losses and the measurement of noise, as the trainer makes them."""
    losses_D = torch.zeros(D)
    with GradientCapture(find_adapters(model), D, measure_noise=True, ordinary_gradients=False) as capture:
        for part in micro_batches(rows, size):
            batch = pack(part, reduction) if packing else collate(part, 0, reduction)
            with capture.rows(batch.domain, weight=batch.domain_weights):
                logits = model(**inputs(batch, model)).logits
                micro_D = domain_token_losses(logits, batch.labels, batch.weights, batch.domain, D)
                micro_D.sum().backward(retain_graph=True)
            values_D = auxiliary_sums(statistic, logits, batch.labels, batch.weights, batch.domain, D)
            with capture.rows(batch.domain, into="aux"):
                values_D.sum().backward()
            losses_D += micro_D.detach()
    grads = {
        f"{s}.{fqn}.{n}": getattr(g, n) for s in ("main", "aux") for fqn, g in capture.sums(s).items() for n in "ab"
    }
    return grads, losses_D, capture.noise


def worst(found, expected):
    """The largest relative error of one factor's gradient in one domain."""
    assert found.keys() == expected.keys()
    return max(
        float((found[k][d].double() - expected[k][d].double()).norm() / expected[k][d].double().norm())
        for k in expected
        for d in range(D)
    )


@pytest.mark.parametrize("reduction", ["token", "instance"])
@pytest.mark.parametrize("checkpointing", ["none", "non-reentrant", "reentrant"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_gradients_of_separate_rows(implementation, checkpointing, reduction):
    model, rows = student(implementation, checkpointing), examples()
    found, losses_D, noise = captured(model, rows, True, reduction, size=6)
    expected, expected_D, expected_noise = captured(model, rows, False, reduction, size=6)
    torch.testing.assert_close(losses_D, expected_D, rtol=1e-5, atol=0)
    assert worst(found, expected) <= 1e-5
    torch.testing.assert_close(noise.overlap, expected_noise.overlap)
    for fqn, gram in expected_noise.grams.items():
        torch.testing.assert_close(noise.grams[fqn], gram, rtol=1e-4, atol=1e-6 * float(gram.abs().max()))


def test_the_implementations_agree():
    rows = examples()
    for packing in (True, False):
        results = [captured(student(name), rows, packing)[0] for name in ("sdpa", "eager")]
        assert worst(*results) <= 1e-5


def test_bf16_within_its_rounding():
    rows = examples()
    exact = captured(student(), rows, False)[0]
    errors = [worst(captured(student(dtype=torch.bfloat16), rows, packing)[0], exact) for packing in (True, False)]
    assert errors[0] <= 2 * errors[1]


def crossing(batch, model):
    """The mistake: one causal text."""
    inputs = model_inputs(batch, model)
    if batch.lengths is not None:
        inputs["attention_mask"] = torch.ones_like(batch.input_ids)
    return inputs


def restarted_only(batch, model):
    """Boundaries left to whoever reads position ids, of which this mask takes no notice."""
    inputs = model_inputs(batch, model)
    if batch.lengths is not None:
        inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"]).tril()
    return inputs


@pytest.mark.parametrize(
    ("implementation", "mistake"), [("sdpa", crossing), ("eager", crossing), ("sdpa", restarted_only)]
)
def test_a_mask_that_crosses_boundaries_is_found(mistake, implementation, monkeypatch):
    """By the comparison above, and by the one that every run makes at its start."""
    model, rows = student(implementation), examples()
    assert worst(captured(model, rows, True, inputs=mistake)[0], captured(model, rows, False)[0]) > 1e-2
    check_packing(model, rows)
    monkeypatch.setattr(attention, "model_inputs", mistake)
    with pytest.raises(UserError, match=rf"train\.packing: packed instances see each other under {implementation}"):
        check_packing(model, rows)
    assert model.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_check_lets_the_right_mask_pass(implementation, dtype):
    check_packing(student(implementation, dtype=dtype), examples())
    check_packing(student(implementation, dtype=dtype), examples([16] * 9))  # the model has no room for more


def test_the_check_in_bfloat16_finds_the_mistake(monkeypatch):
    monkeypatch.setattr(attention, "model_inputs", crossing)
    with pytest.raises(UserError, match="see each other"):
        check_packing(student(dtype=torch.bfloat16), examples())


def test_a_sliding_window_shorter_than_an_instance_is_refused():
    """The mask says where instances end, not how far back a layer looks: what is longer than the window would look further."""
    config = tiny_llama().config.to_dict() | {"sliding_window": 16, "attn_implementation": "sdpa"}
    config = MistralConfig(**{k: v for k, v in config.items() if k not in ("model_type", "architectures")})
    model = MistralForCausalLM(config)
    check_packing(model, examples([16, 9, 12]))
    with pytest.raises(UserError, match="or are seen otherwise than alone"):
        check_packing(model, examples([60, 9, 12]))


def test_positions_start_again(monkeypatch):
    """Rotary positions are relative; learned ones tell, and there are none beyond the model's length."""
    config = GPT2Config(vocab_size=128, n_positions=32, n_embd=32, n_layer=2, n_head=2, attn_implementation="sdpa")
    model = GPT2LMHeadModel(config)
    check_packing(model, examples())

    def running_on(batch, model):
        inputs = model_inputs(batch, model)
        return inputs | {"position_ids": torch.arange(batch.input_ids.shape[1])[None] % 32}

    monkeypatch.setattr(attention, "model_inputs", running_on)
    with pytest.raises(UserError, match="or are seen otherwise than alone"):
        check_packing(model, examples())


def test_an_implementation_that_packing_does_not_know():
    with pytest.raises(UserError, match=r"train\.packing works with sdpa, eager, .* but the model runs flex_attention"):
        check_packing(student("flex_attention"), examples())


def test_a_model_that_does_not_take_the_mask(monkeypatch):
    model = student()

    def forward(**inputs):
        raise ValueError("attention_mask must be [B, T]")

    monkeypatch.setattr(model.get_base_model(), "forward", forward)
    with pytest.raises(
        UserError, match=r"with sdpa, does not take packed rows: attention_mask must be \[B, T\]; set train"
    ):
        check_packing(model, examples())


class Varlen:
    """Stands in for flash attention's kernel for rows of instances: causal attention of each stretch by itself."""

    def __init__(self):
        self.calls = []

    def __call__(self, module, query, key, value, attention_mask, scaling=None, dropout=0.0, **options):
        assert attention_mask is None
        edges = options.get("cu_seq_lens_q")
        self.calls.append(None if edges is None else edges.tolist())
        edges = [0, query.shape[2]] if edges is None else edges.tolist()
        group = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        parts = [
            scaled_dot_product_attention(
                query[:, :, i:j], key[:, :, i:j], value[:, :, i:j], is_causal=True, scale=scaling
            )
            for i, j in zip(edges, edges[1:])
        ]
        if options.get("cu_seq_lens_q") is not None:
            assert options["max_length_q"] == options["max_length_k"] == max(j - i for i, j in zip(edges, edges[1:]))
            assert options["cu_seq_lens_k"].tolist() == edges and options["cu_seq_lens_q"].dtype == torch.int32
        return torch.cat(parts, 2).transpose(1, 2), None


@pytest.mark.parametrize("checkpointing", ["none", "non-reentrant", "reentrant"])
def test_flash_attention_gets_the_boundaries(checkpointing, monkeypatch):
    """There is no flash attention on a CPU: what arrives where its kernel would run, and the gradients from there."""
    kernel, rows = Varlen(), examples()
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "flash_attention_2", kernel)
    expected = captured(student("sdpa"), rows, False)[0]
    model = student("flash_attention_2", checkpointing)
    found = captured(model, rows, True)[0]
    assert worst(found, expected) <= 1e-5
    lengths = [len(e.input_ids) for e in micro_batches(rows, 9)[0]]
    assert kernel.calls[0] == [sum(lengths[:k]) for k in range(10)]
    check_packing(model, rows)
    monkeypatch.setattr(attention, "model_inputs", lambda *a: {**model_inputs(*a), "cu_seq_lens_q": None})
    with pytest.raises(UserError, match="see each other under flash_attention_2"):
        check_packing(model, rows)


def test_the_mask_is_that_of_transformers():
    """Its own reading of positions that start again gives the same mask, for the layers that look back without a limit."""
    model, batch = student("sdpa"), pack(examples(), "token")
    inputs = model_inputs(batch, model)
    embeddings = torch.zeros(1, batch.input_ids.shape[1], 64)
    mask = create_causal_mask(
        config=model.config,
        inputs_embeds=embeddings,
        attention_mask=None,
        past_key_values=None,
        position_ids=inputs["position_ids"],
    )
    assert torch.equal(mask, inputs["attention_mask"])


@pytest.mark.parametrize("hook", ["irm", "iga"])
def test_training_packed_is_training_padded(tmp_path, hook):
    """Also where forward passes cut groups, which the measurement of noise must know."""
    path = runs.prepare(tmp_path)
    overrides = [f"hook.name={hook}", "train.max_steps=2", "eval.every=null", "train.micro_batch_size=6"]
    overrides += ["hook.anneal_steps=0"] if hook == "irm" else []
    results = {
        packing: runs.run(
            runs.load(path, f"output_dir={tmp_path / str(packing)}", f"train.packing={packing}", *overrides), CPU
        )
        for packing in (False, True)
    }
    assert runs.relative(results[True].first, results[False].first) <= 1e-5
    losses = [torch.tensor(results[packing].losses) for packing in (False, True)]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)


def test_a_refused_run_leaves_no_folder(tmp_path, monkeypatch):
    path = runs.prepare(tmp_path)
    monkeypatch.setattr(attention, "model_inputs", crossing)
    result = CliRunner().invoke(command, [str(path), "train.packing=true"])
    assert isinstance(result.exception, UserError) and "see each other" in str(result.exception)
    assert not (tmp_path / "run").exists()


def test_two_ranks(tmp_path):
    """The command line, DeepSpeed and checkpointed activations of both kinds: packed and padded end at the same adapter."""
    path = runs.prepare(tmp_path)
    common = ["engine.name=deepspeed", "hook.name=iga", "eval.every=null", "engine.threads=1"]
    common += ["train.max_steps=3", "optimizer.lr=1e-3"]
    adapters, shown = {}, {}
    for packing, checkpointing in (("true", "reentrant"), ("false", "non-reentrant")):
        out = tmp_path / packing
        command = [sys.executable, "-m", "igascale", "launch", str(path), "-n", "2", f"output_dir={out}", *common]
        command += [f"train.packing={packing}", f"model.activation_checkpointing={checkpointing}"]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        adapters[packing] = load_file(out / "adapter" / "adapter_model.safetensors")
        shown[packing] = done.stdout
    assert "attention: sdpa, train.packing (compared: packed instances do not see each other)" in shown["true"]
    assert "attention: sdpa\n" in shown["false"]
    # B starts from zero: what it is is how far the run moved.
    moved = [{name: t for name, t in adapters[packing].items() if "lora_B" in name} for packing in ("true", "false")]
    assert all(t.abs().max() > 1e-4 for t in moved[1].values())
    assert runs.relative(*moved) <= 1e-4
    assert runs.relative(adapters["true"], adapters["false"]) <= 1e-5
