"""Captured gradients against D plain-autograd passes over the whole batch, each with one domain's loss."""

import contextlib
import copy

import pytest
import torch

from igascale.adapters import find_adapters
from igascale.capture import GradientCapture
from igascale.loss import domain_token_losses
from igascale.model import set_activation_checkpointing

from tiny import tiny_llama, tiny_peft

DOMAINS = torch.tensor([0, 1, 0, 2, 1, 2, 2])
NUM_DOMAINS = 3
CHECKPOINTING = ("none", "non-reentrant", "reentrant")
BF16 = ("bf16", torch.bfloat16, False)
AUTOCAST = ("autocast", torch.float32, True)
FP32 = ("fp32", torch.float32, False)


def batch():
    """Right-padded rows of unequal length; only the last part of each is supervised."""
    generator = torch.Generator().manual_seed(3)
    lengths, prompts = [16, 12, 9, 16, 7, 14, 10], [5, 3, 6, 2, 4, 9, 1]
    ids = torch.randint(3, 120, (7, 16), generator=generator)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for row, (length, prompt) in enumerate(zip(lengths, prompts)):
        mask[row, :length] = 1
        ids[row, length:] = 0
        labels[row, prompt:length] = ids[row, prompt:length]
    return ids, mask, labels, (labels != -100).float()


def losses(model, autocast=False, seed=11):
    ids, mask, labels, weights = batch()
    torch.manual_seed(seed)
    cast = torch.autocast("cpu", dtype=torch.bfloat16) if autocast else contextlib.nullcontext()
    with cast:
        logits = model(input_ids=ids, attention_mask=mask).logits
    return domain_token_losses(logits, labels, weights, DOMAINS, NUM_DOMAINS)


def one_pass(model, domain, autocast=False, seed=11):
    """Plain gradients of one domain's summed loss; written without the code under test."""
    ids, mask, labels, _ = batch()
    torch.manual_seed(seed)
    cast = torch.autocast("cpu", dtype=torch.bfloat16) if autocast else contextlib.nullcontext()
    with cast:
        logits = model(input_ids=ids, attention_mask=mask).logits
    total = torch.zeros((), dtype=torch.float64 if logits.dtype == torch.float64 else torch.float32)
    for row in range(7):
        if DOMAINS[row] == domain:
            scores = logits[row, :-1].to(total.dtype).log_softmax(-1)
            for position in range(15):
                if (label := labels[row, position + 1]) != -100:
                    total = total - scores[position, label]
    model.zero_grad()
    total.backward()
    return {n: p.grad.double().clone() for n, p in model.named_parameters() if p.requires_grad}


def separate_passes(model, autocast=False, seed=11):
    """name of the parameter -> ``[D, ...]``."""
    passes = [one_pass(model, d, autocast, seed) for d in range(NUM_DOMAINS)]
    return {name: torch.stack([p[name] for p in passes]) for name in passes[0]}


def captured(model, autocast=False, seed=11):
    adapters = find_adapters(model)
    with GradientCapture(adapters, NUM_DOMAINS) as capture, capture.rows(DOMAINS):
        losses(model, autocast, seed).sum().backward()
    return by_parameter(capture.sums())


def by_parameter(sums):
    named = {}
    for fqn, grads in sums.items():
        named[f"base_model.model.{fqn}.lora_A.default.weight"] = grads.a.double()
        named[f"base_model.model.{fqn}.lora_B.default.weight"] = grads.b.double()
    return named


def relative_errors(got, reference):
    """Of every parameter and domain."""
    assert got.keys() == reference.keys()
    return {
        (name, d): ((got[name][d] - reference[name][d]).norm() / reference[name][d].norm()).item()
        for name in reference
        for d in range(NUM_DOMAINS)
    }


def total_error(got, reference):
    """Over all parameters together, worst domain."""
    flat = [torch.cat([x[name].flatten(1) for name in reference], 1) for x in (got, reference)]
    return ((flat[0] - flat[1]).norm(dim=1) / flat[1].norm(dim=1)).max().item()


@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_fp32_equals_separate_passes(checkpointing, dropout):
    model = tiny_peft(dropout=dropout)
    reference = separate_passes(model)
    set_activation_checkpointing(model, checkpointing)
    errors = relative_errors(captured(model), reference)
    assert len(errors) == 2 * 4 * 2 * NUM_DOMAINS
    assert max(errors.values()) <= 1e-6


@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("precision", [FP32, BF16, AUTOCAST], ids=lambda p: p[0])
def test_no_less_exact_than_separate_passes(precision, dropout, checkpointing):
    """Against float64 on the same weights, at most twice the error of the separate passes."""
    _, dtype, autocast = precision
    model = tiny_peft(dtype, dropout=dropout)
    exact = separate_passes(copy.deepcopy(model).double())
    separate = separate_passes(model, autocast)
    set_activation_checkpointing(model, checkpointing)
    got = captured(model, autocast)
    assert total_error(got, exact) <= 2 * total_error(separate, exact)
    assert max(relative_errors(got, exact).values()) <= 2 * max(relative_errors(separate, exact).values())


def test_dropout_changes_the_gradients():
    """Otherwise the tests with dropout above would say nothing."""
    model = tiny_peft(dropout=0.2)
    assert total_error(captured(model, seed=12), separate_passes(model, seed=11)) > 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
def test_outputs_and_ordinary_gradients_are_unaltered(dtype, checkpointing):
    model = tiny_peft(dtype, dropout=0.2)
    set_activation_checkpointing(model, checkpointing)
    plain = losses(model)
    plain.sum().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    with GradientCapture(find_adapters(model), NUM_DOMAINS) as capture, capture.rows(DOMAINS):
        tapped = losses(model)
        tapped.sum().backward()
    assert torch.equal(plain, tapped)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(parameter.grad, gradients[name]), name


@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
def test_sum_over_domains_is_the_ordinary_gradient(checkpointing):
    model = tiny_peft()
    set_activation_checkpointing(model, checkpointing)
    sums = captured(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(sums[name].sum(0).float(), parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("use_rslora", [False, True])
def test_factor_gradients_agree_on_the_product(use_rslora):
    """``a A^T = B^T b`` in every domain: both are ``s B^T G A^T``."""
    model = tiny_peft(r=5, alpha=7, use_rslora=use_rslora)
    adapters = find_adapters(model)
    with GradientCapture(adapters, NUM_DOMAINS) as capture, capture.rows(DOMAINS):
        losses(model).sum().backward()
    for fqn, grads in capture.sums().items():
        left = grads.a.double() @ adapters[fqn].A.double().T
        right = adapters[fqn].B.double().T @ grads.b.double()
        assert (left - right).norm() <= 1e-5 * left.norm(), fqn


def test_grouped_query_shapes():
    model = tiny_peft(r=3)
    with GradientCapture(find_adapters(model), NUM_DOMAINS) as capture, capture.rows(DOMAINS):
        losses(model).sum().backward()
    sums = capture.sums()
    assert len(sums) == 8
    for fqn, out_features in {"q_proj": 64, "k_proj": 32, "v_proj": 32, "o_proj": 64}.items():
        grads = sums[f"model.layers.1.self_attn.{fqn}"]
        assert grads.a.shape == (NUM_DOMAINS, 3, 64)
        assert grads.b.shape == (NUM_DOMAINS, out_features, 3)
        assert grads.a.dtype == grads.b.dtype == torch.float32
        assert grads.a.abs().sum() > 0 < grads.b.abs().sum()


def test_mlp_targets():
    model = tiny_peft(targets=("gate_proj", "up_proj", "down_proj"))
    assert max(relative_errors(captured(model), separate_passes(model)).values()) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zero_b_gives_zero_a_gradient(dtype):
    """At the usual start only B has a gradient."""
    sums = captured(tiny_peft(dtype, b_scale=0.0))
    for name, gradient in sums.items():
        assert (gradient.abs().sum() == 0) == ("lora_A" in name), name


@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
def test_auxiliary_set_is_a_second_gradient(checkpointing):
    """A second scalar through the same graph goes to its own set, and neither disturbs the other."""
    model = tiny_peft(dropout=0.2)
    weights = [p for p in model.parameters() if p.requires_grad]
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    reference = separate_passes(model)
    scale_D = torch.tensor([2.0, -1.0, 0.5])
    expected = [torch.autograd.grad((scale_D[d] * losses(model)[d] ** 2), weights) for d in range(NUM_DOMAINS)]
    set_activation_checkpointing(model, checkpointing)
    with GradientCapture(find_adapters(model), NUM_DOMAINS) as capture:
        with capture.rows(DOMAINS):
            losses_D = losses(model)
            losses_D.sum().backward(retain_graph=True)
        with capture.rows(DOMAINS, into="aux"):
            (scale_D * losses_D**2).sum().backward()
        main, aux = by_parameter(capture.sums()), by_parameter(capture.sums("aux"))
    assert max(relative_errors(main, reference).values()) <= 1e-6
    stacked = {name: torch.stack([e[i] for e in expected]).double() for i, name in enumerate(names)}
    assert max(relative_errors(aux, stacked).values()) <= 1e-6


def test_rows_in_any_order():
    """Permuting the rows permutes nothing in the result."""
    model = tiny_peft()
    ids, mask, labels, weights = batch()
    results = []
    for order in (torch.arange(7), torch.tensor([6, 2, 4, 0, 5, 1, 3])):
        with GradientCapture(find_adapters(model), NUM_DOMAINS) as capture, capture.rows(DOMAINS[order]):
            logits = model(input_ids=ids[order], attention_mask=mask[order]).logits
            domain_token_losses(logits, labels[order], weights[order], DOMAINS[order], NUM_DOMAINS).sum().backward()
        results.append(by_parameter(capture.sums()))
    assert total_error(*results) <= 1e-6


def test_padding_does_not_matter():
    """More padding, filled with other ids, changes nothing."""
    model = tiny_peft()
    ids, mask, labels, weights = batch()
    padded = [
        torch.cat([x, torch.full((7, 9), fill, dtype=x.dtype)], 1)
        for x, fill in ((ids, 77), (mask, 0), (labels, -100), (weights, 0.0))
    ]
    with GradientCapture(find_adapters(model), NUM_DOMAINS) as capture, capture.rows(DOMAINS):
        logits = model(input_ids=padded[0], attention_mask=padded[1]).logits
        domain_token_losses(logits, padded[2], padded[3], DOMAINS, NUM_DOMAINS).sum().backward()
    assert max(relative_errors(by_parameter(capture.sums()), separate_passes(model)).values()) <= 1e-6


def test_a_domain_without_rows_is_zero():
    model = tiny_peft()
    ids, mask, labels, weights = batch()
    with GradientCapture(find_adapters(model), 5) as capture, capture.rows(DOMAINS):
        domain_token_losses(
            model(input_ids=ids, attention_mask=mask).logits, labels, weights, DOMAINS, 5
        ).sum().backward()
    for grads in capture.sums().values():
        assert grads.a.shape[0] == 5
        assert (grads.a[3:] == 0).all() and (grads.b[3:] == 0).all()
        assert (grads.a[:3].abs().sum((1, 2)) > 0).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
def test_bf16_on_a_gpu_equals_the_float64_oracle(checkpointing):
    model = tiny_peft(torch.bfloat16)
    exact = separate_passes(copy.deepcopy(model).double())
    separate = separate_passes(model)
    set_activation_checkpointing(model, checkpointing)
    model.cuda()
    ids, mask, labels, weights = (x.cuda() for x in batch())
    with GradientCapture(find_adapters(model), NUM_DOMAINS) as capture, capture.rows(DOMAINS.cuda()):
        logits = model(input_ids=ids, attention_mask=mask).logits
        domain_token_losses(logits, labels, weights, DOMAINS.cuda(), NUM_DOMAINS).sum().backward()
    got = {name: g.cpu() for name, g in by_parameter(capture.sums()).items()}
    assert total_error(got, exact) <= 2 * total_error(separate, exact)


def test_the_oracle_model_has_grouped_query_attention():
    config = tiny_llama().config
    assert config.num_key_value_heads < config.num_attention_heads
