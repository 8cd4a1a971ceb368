"""What capture costs the forward and backward pass: no multiplication, no memory, and nothing is left different."""

import contextlib
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from igascale.adapters import find_adapters
from igascale.capture import GradientCapture
from igascale.model import set_activation_checkpointing

from live_memory import LiveMemory
from tiny import tiny_peft

IDS = torch.arange(3, 115).repeat(5)[:512].view(8, 64)
SORTED = torch.arange(8) // 2
CHECKPOINTING = ("none", "non-reentrant", "reentrant")
PRECISIONS = {"fp32": (torch.float32, False), "bf16": (torch.bfloat16, False), "autocast": (torch.float32, True)}


def make(precision="fp32", checkpointing="none", dropout=0.0):
    model = tiny_peft(PRECISIONS[precision][0], dropout=dropout)
    set_activation_checkpointing(model, checkpointing)
    return model


def forward(model, precision="fp32", **inputs):
    torch.manual_seed(5)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=PRECISIONS[precision][1]):
        return model(**(inputs or {"input_ids": IDS})).logits.float()


def loss(model, precision="fp32"):
    return forward(model, precision).logsumexp(-1).sum()


def rows(capture, domain=SORTED):
    return contextlib.nullcontext() if capture is None else capture.rows(domain)


def installed(model, **options):
    """A capture whose accumulators are there already: they are no activations."""
    capture = GradientCapture(find_adapters(model), 4, **options)
    capture.install()
    capture.sums()
    return capture


def trained(model):
    return [p for n, p in model.named_parameters() if "lora_" in n]


@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_extra_memory(precision, checkpointing):
    """The peak of everything alive during forward and backward pass is plain PEFT's, or lower; a copy of the inputs is not."""

    def peak(capture_options):
        model = make(precision, checkpointing, dropout=0.1)
        capture = None if capture_options is None else installed(model, **capture_options)
        held = [t for g in capture.sums().values() for t in (g.a, g.b)] if capture else []
        with rows(capture), LiveMemory(*model.parameters(), *model.buffers(), *held) as memory:
            loss(model, precision).backward()
        return memory.peak

    plain = peak(None)
    assert peak({"ordinary_gradients": False}) <= plain
    if precision == "autocast":  # where x is copied to bfloat16, by the layer and by the capture: the count can tell
        assert peak({"ordinary_gradients": True}) > 1.05 * plain


def flops(model, capture, domain=SORTED, precision="fp32"):
    in_place = dict.fromkeys((torch.ops.aten.baddbmm_, torch.ops.aten.addmm_), added_product)
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter, rows(capture, domain):
        loss(model, precision).backward()
    return counter.get_total_flops()


def added_product(sum_shape, left_shape, right_shape, **_):
    """PyTorch's counter leaves the in-place products out."""
    return 2 * math.prod(left_shape) * right_shape[-1]


@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_extra_multiplication(precision, checkpointing):
    plain = flops(make(precision, checkpointing), None, precision=precision)
    model = make(precision, checkpointing)
    assert flops(model, installed(model, ordinary_gradients=False), precision=precision) <= plain
    model = make(precision, checkpointing)
    twice = flops(model, installed(model), precision=precision)
    factors = sum(2 * IDS.numel() * p.numel() for p in trained(model))
    assert twice == plain + factors  # with ordinary gradients the factors' products are formed twice


@pytest.mark.parametrize("kind", ["rows in any order", "unequal"])
def test_other_orders_cost_little(kind):
    domain = {"rows in any order": SORTED.view(4, 2).T.reshape(-1), "unequal": torch.tensor([0, 0, 0, 1, 2, 2, 3, 3])}
    plain, model = flops(make(), None), make()
    capture = installed(model, ordinary_gradients=False)
    assert flops(model, capture, domain[kind]) <= 1.002 * plain


def everything(precision, checkpointing, capture_options):
    """Logits, the gradient of the embeddings, and what was captured."""
    model = make(precision, checkpointing, dropout=0.1)
    capture = None if capture_options is None else installed(model, **capture_options)
    embeddings = model.get_input_embeddings()(IDS).detach().requires_grad_()
    with rows(capture):
        logits = forward(model, precision, inputs_embeds=embeddings)
        logits.logsumexp(-1).sum().backward()
    return model, logits.detach(), embeddings.grad, capture and capture.sums()


@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_nothing_else_changes_by_a_bit(precision, checkpointing):
    _, logits, gradient, _ = everything(precision, checkpointing, None)
    twice, logits_twice, gradient_twice, sums_twice = everything(precision, checkpointing, {})
    once, logits_once, gradient_once, sums_once = everything(precision, checkpointing, {"ordinary_gradients": False})
    assert torch.equal(logits_once, logits) and torch.equal(logits_twice, logits)
    assert torch.equal(gradient_once, gradient) and torch.equal(gradient_twice, gradient)
    for fqn, grads in sums_twice.items():
        assert torch.equal(sums_once[fqn].a, grads.a) and torch.equal(sums_once[fqn].b, grads.b)
        assert grads.a.any() and grads.b.any()
    assert all(p.grad is None and p.requires_grad for p in trained(once))
    assert all(p.grad is not None and p.requires_grad for p in trained(twice))


@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
def test_the_first_block_is_captured(checkpointing):
    """Nothing before its A factors trains, so that no gradient would be asked for there."""
    model = make(checkpointing=checkpointing)
    with installed_for(model) as capture, capture.rows(SORTED):
        loss(model).backward()
    assert all(g.a.any() for fqn, g in capture.sums().items() if "layers.0." in fqn)


@contextlib.contextmanager
def installed_for(model):
    capture = installed(model, ordinary_gradients=False)
    try:
        yield capture
    finally:
        capture.remove()


def test_evaluation_is_untouched():
    model = make()
    with torch.no_grad():
        expected = loss(model)
    seen = []
    with installed_for(model) as capture:
        for adapter in find_adapters(model).values():
            adapter.lora_A.register_forward_pre_hook(lambda m, x: seen.append(m.weight.requires_grad))
        with torch.no_grad():
            assert torch.equal(loss(model), expected)
        with torch.inference_mode():
            assert torch.equal(loss(model), expected)
        assert all(seen) and len(seen) == 16
        seen.clear()
        with capture.rows(SORTED):
            loss(model)
        assert len(seen) == 8 and not any(seen)  # in a forward pass that trains the layers are frozen while they run


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["before", "inside", "after"])
def test_an_exception_leaves_nothing_frozen(error, place, monkeypatch):
    model = make()
    layer = find_adapters(model)["model.layers.1.self_attn.v_proj"].lora_A

    def fail(*_):
        raise error

    with installed_for(model) as capture:
        if place == "before":
            handle = layer.register_forward_pre_hook(fail)
        elif place == "after":
            handle = layer.register_forward_hook(fail)
        else:
            monkeypatch.setattr(layer, "forward", fail)
        with pytest.raises(error), capture.rows(SORTED):
            loss(model)
        assert all(p.requires_grad for p in trained(model))
        monkeypatch.undo()
        if place != "inside":
            handle.remove()
        capture.reset()
        with capture.rows(SORTED):
            loss(model).backward()
        found = capture.sums()
    model = make()
    with installed_for(model) as fresh, fresh.rows(SORTED):
        loss(model).backward()
    for fqn, grads in fresh.sums().items():
        assert torch.equal(found[fqn].a, grads.a) and torch.equal(found[fqn].b, grads.b)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_outside_of_rows_too(error, monkeypatch):
    """At once, by the hook; after an exception that hooks do not see, when the capture is removed."""
    model = make()
    layer = find_adapters(model)["model.layers.0.self_attn.v_proj"].lora_B

    def fail(*_):
        raise error

    with installed_for(model):
        monkeypatch.setattr(layer, "forward", fail)
        with pytest.raises(error):
            loss(model)
        assert layer.weight.requires_grad == (error is ValueError)
    assert layer.weight.requires_grad


def test_a_checkpoint_that_stops_early_leaves_nothing_frozen():
    """Recomputation ends by an exception, here in the hook of the block's last layer."""
    model = tiny_peft(targets=("down_proj",))
    set_activation_checkpointing(model, "non-reentrant")
    with installed_for(model) as capture, capture.rows(SORTED):
        loss(model).backward()
        assert all(p.requires_grad for p in trained(model))
        assert not capture._frozen


def test_a_factor_frozen_later_stays_frozen():
    model = make()
    adapters = find_adapters(model)
    with installed_for(model) as capture, capture.rows(SORTED):
        for adapter in adapters.values():
            adapter.B.requires_grad_(False)
        loss(model).backward()
        assert not any(a.B.requires_grad for a in adapters.values())


def test_a_frozen_factor_stays_frozen():
    model = make()
    adapters = find_adapters(model)
    for adapter in adapters.values():
        adapter.A.requires_grad_(False)
    with GradientCapture(adapters, 4, ordinary_gradients=False) as capture, capture.rows(SORTED):
        loss(model).backward()
    assert not any(a.A.requires_grad for a in adapters.values())
    assert all(g.b.any() and not g.a.any() for g in capture.sums().values())
