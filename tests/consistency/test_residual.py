"""GIR on held-out groups against plain autograd, one domain at a time; nothing of the model may change."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional as F

from igascale.cli.eval import command
from igascale.errors import UserError
from igascale.evaluation.evaluate import evaluate_model
from igascale.evaluation.residual import _residual, check_adapter, gir_remarks, held_out_residual
from igascale.evaluation.results import read_result, write_result
from igascale.isomers.encode import encode_example
from igascale.isomers.schema import Instance, IsomerGroup, write_groups

import tiny

DOMAINS = ("law", "drug", "code")


def make_groups(count=5, domains=DOMAINS):
    names = ("Ann", "Bob", "Cid", "Dee")
    return [
        IsomerGroup(
            f"g{k}",
            f"s{k}",
            tuple(
                Instance(
                    d, f"{d} rule {k}: Who has " + "the " * (k + n) + "case?", f"So {names[(k + n) % 4]}.", names[k % 4]
                )
                for n, d in enumerate(domains)
            ),
        )
        for k in range(count)
    ]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.tiny_tokenizer()


def autograd_gradients(model, tokenizer, groups, domains=DOMAINS):
    """``{factor: [D, ...]}``: the mean loss per supervised token of each domain, differentiated by itself."""
    model = copy.deepcopy(model).eval()
    factors = {name: p for name, p in model.named_parameters() if "lora_" in name}
    for p in factors.values():
        p.requires_grad_(True)
    gradients, losses = {name: [] for name in factors}, []
    for domain in domains:
        parts = []
        for group in groups:
            (instance,) = (i for i in group.instances if i.domain == domain)
            example = encode_example(tokenizer, instance, 256)
            logits = model(input_ids=torch.tensor([example.input_ids])).logits[0]
            labels = torch.tensor(example.labels[1:])
            keep = labels != -100
            parts.append(F.cross_entropy(logits[:-1][keep], labels[keep], reduction="none"))
        loss = torch.cat(parts).mean()
        losses.append(loss.item())
        for name, gradient in zip(factors, torch.autograd.grad(loss, list(factors.values()))):
            gradients[name].append(gradient.double())
    return {name: torch.stack(g) for name, g in gradients.items()}, losses


def ratio(x_DP):
    return float(x_DP.var(0, unbiased=False).sum() / x_DP.mean(0).square().sum())


def test_equals_plain_autograd_per_domain(tokenizer):
    model, groups = tiny.tiny_peft(dropout=0.3), make_groups()
    gradients, losses = autograd_gradients(model, tokenizer, groups)
    found = held_out_residual(model, tokenizer, groups)
    assert (found.groups, found.skipped_groups, found.cut_texts) == (5, 0, 0)
    assert found.domains == list(DOMAINS)
    assert list(found.losses.values()) == pytest.approx(losses, rel=1e-5)
    everything = torch.cat([g.flatten(1) for g in gradients.values()], 1)
    assert found.overall.gir == pytest.approx(ratio(everything), rel=1e-4)
    assert len(found.adapters) == 8
    weights = []
    for fqn, each in found.adapters.items():
        prefix = f"base_model.model.{fqn}.lora_"
        a, b = (gradients[f"{prefix}{letter}.default.weight"] for letter in "AB")
        both = torch.cat([a.flatten(1), b.flatten(1)], 1)
        assert each.gir == pytest.approx(ratio(both), rel=1e-4)
        assert list(each.cosines) == ["law/drug", "law/code", "drug/code"]
        assert each.cosines["law/code"] == pytest.approx(float(F.cosine_similarity(both[0], both[2], dim=0)), abs=1e-5)
        factors = {letter: model.get_parameter(f"{prefix}{letter}.default.weight").detach().double() for letter in "AB"}
        change = torch.einsum("dor,ri->doi", b, factors["A"]) + torch.einsum("or,dri->doi", factors["B"], a)
        weights.append(change.flatten(1))
        assert each.weight_gir == pytest.approx(ratio(change.flatten(1)), rel=1e-4)
    assert found.overall.weight_gir == pytest.approx(ratio(torch.cat(weights, 1)), rel=1e-4)


def test_the_model_is_left_as_it_was(tokenizer):
    model = tiny.tiny_peft(dropout=0.3)
    model.requires_grad_(False)  # as an adapter is loaded for evaluation
    model.base_model.model.model.layers[0].eval()  # a mode of its own
    modes = [module.training for module in model.modules()]
    before = {name: p.detach().clone() for name, p in model.state_dict().items()}
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    held_out_residual(model, tokenizer, make_groups())
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    assert [module.training for module in model.modules()] == modes
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == hooks


def test_the_noise_share_says_what_few_groups_inflate(tokenizer):
    """Groups that differ at random, domains that do not: all of V is noise, whatever K, and V falls as 1/K."""
    model = tiny.tiny_peft()
    generator = torch.Generator().manual_seed(0)

    def scrambled(count):
        groups = []
        for k in range(count):
            words = [
                ["Ann", "Bob", "Cid", "Dee", "rule", "case", "law", "court"][i]
                for i in torch.randint(8, (24,), generator=generator)
            ]
            texts = [" ".join(words[8 * n : 8 * n + 8]) for n in range(3)]
            groups.append(
                IsomerGroup(f"g{k}", f"s{k}", tuple(Instance(d, t, "", "Ann") for d, t in zip(DOMAINS, texts)))
            )
        return groups

    few, many = (held_out_residual(model, tokenizer, scrambled(count), most_groups=count) for count in (8, 64))
    assert many.overall.gir < few.overall.gir / 3
    assert 0.5 < many.overall.noise_share < 1.6
    single = held_out_residual(model, tokenizer, scrambled(1))
    assert single.overall.noise_share is None  # of one group nobody can tell
    assert single.overall.gir > 0


def test_identical_domains_have_no_residual(tokenizer):
    model, groups = tiny.tiny_peft(), make_groups()
    same = [replace(g, instances=tuple(replace(g.instances[0], domain=d) for d in DOMAINS)) for g in groups]
    found = held_out_residual(model, tokenizer, same)
    assert found.overall.gir == pytest.approx(0, abs=1e-9)
    assert all(
        cosine == pytest.approx(1, abs=1e-6) for each in found.adapters.values() for cosine in each.cosines.values()
    )


def test_groups_are_taken_evenly_and_what_cannot_be_used_is_counted(tokenizer):
    model, groups = tiny.tiny_peft(), make_groups(6)
    groups[2] = replace(groups[2], instances=groups[2].instances[:2])
    found = held_out_residual(model, tokenizer, groups)
    assert (found.groups, found.skipped_groups) == (5, 1)
    picked = held_out_residual(model, tokenizer, groups, most_groups=2)  # groups 0 and 3
    expected, _ = autograd_gradients(model, tokenizer, [groups[0], groups[3]])
    assert picked.overall.gir == pytest.approx(ratio(torch.cat([g.flatten(1) for g in expected.values()], 1)), rel=1e-4)
    model.config.max_position_embeddings = 30  # some texts are cut, some lose their answers
    short = held_out_residual(model, tokenizer, make_groups(8))
    assert short.cut_texts > 0
    assert short.skipped_groups > 0
    assert short.groups + short.skipped_groups == 8
    assert held_out_residual(model, tokenizer, make_groups(3, ("law",))) is None


def test_not_finite_gradients_are_none(tokenizer):
    model = tiny.tiny_peft()
    with torch.no_grad():
        model.get_parameter("base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight").fill_(math.inf)
    found = held_out_residual(model, tokenizer, make_groups(2))
    assert found.overall.gir is None
    assert found.losses["law"] is None


def test_what_has_no_adapter_is_refused(tokenizer):
    with pytest.raises(UserError, match="--gir measures the gradients of an adapter, and this is a plain model"):
        evaluate_model(tiny.tiny_llama(), tokenizer, make_groups(1), gir_groups=4)
    with pytest.raises(UserError, match="float16"):
        check_adapter(tiny.tiny_peft(torch.float16))
    check_adapter(tiny.tiny_peft(torch.bfloat16))


def test_the_result_is_kept_and_told(tokenizer, tmp_path):
    model = tiny.tiny_peft().requires_grad_(False)
    result = evaluate_model(model, tokenizer, make_groups(3), make_groups(2, ("art",)), max_new_tokens=2, gir_groups=3)
    assert result.isomers.ood.gir is None
    write_result(result, tmp_path)
    assert read_result(tmp_path / "evaluation.json").isomers.id.gir == result.isomers.id.gir
    told = gir_remarks(result)
    assert told[0].startswith(f"ID: GIR {result.isomers.id.gir.overall.gir:.3g} over 3 groups, ")
    assert "sampling noise; highest at model.layers." in told[0]
    assert told[-1].startswith("OOD: no GIR")
    assert result.settings["gir_groups"] == 3


def test_command(tokenizer, tmp_path):
    tiny.save_tiny_model_folder(tmp_path / "model")
    model = tiny.tiny_peft()
    model.save_pretrained(tmp_path / "adapter")
    write_groups(tmp_path / "id.jsonl", make_groups(3))
    arguments = ["--id", tmp_path / "id.jsonl", "--device", "cpu", "--max-new-tokens", "2", "--gir", "--layers", "all"]
    plain = CliRunner().invoke(command, [str(a) for a in (tmp_path / "model", *arguments, "--out", tmp_path / "plain")])
    assert isinstance(plain.exception, UserError)
    assert "plain model" in str(plain.exception)
    adapted = (tmp_path / "adapter", "--base", tmp_path / "model", *arguments, "--out", tmp_path / "out")
    outcome = CliRunner().invoke(command, [str(a) for a in adapted])
    assert outcome.exit_code == 0, outcome.output
    assert "ID: GIR " in outcome.output
    found = read_result(tmp_path / "out" / "evaluation.json").isomers.id
    assert len(found.gir.adapters) == 8
    assert [each.layer for each in found.layers] == [0, 1, 2]


def test_rounding_makes_no_residual_negative():
    """Inner products come from float32: those of two equal gradients may differ in the last digit."""
    gram_DD = torch.tensor([[1.0, 1.0 + 1e-7], [1.0 + 1e-7, 1.0]], dtype=torch.float64)
    found = _residual(gram_DD.expand(2, 2, 2), torch.zeros(2, 2, 2, dtype=torch.float64), ["law", "art"])
    assert (found.gir, found.weight_gir, found.noise_share) == (0.0, 0.0, None)
