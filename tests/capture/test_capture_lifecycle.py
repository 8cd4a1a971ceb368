"""What capture leaves behind (nothing), keeps alive (nothing), and refuses."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from igascale.adapters import LoraAdapter, find_adapters
from igascale.capture import GradientCapture
from igascale.model import set_activation_checkpointing

from tiny import tiny_peft

IDS = torch.arange(3, 35).view(4, 8)
DOMAINS = torch.tensor([0, 1, 1, 0])


def forward(model, ids=IDS):
    return model(input_ids=ids).logits.float().square().mean()


def snapshot(model):
    """Everything a module carries, with the members of its dictionaries."""
    return {
        name: {k: (list(v.items()) if isinstance(v, dict) else v) for k, v in vars(module).items()}
        for name, module in model.named_modules()
    }


def test_remove_leaves_the_modules_as_they_were():
    model = tiny_peft()
    forward(model).backward()
    before = snapshot(model)
    with GradientCapture(find_adapters(model), 2) as capture:
        assert snapshot(model) != before
        with capture.rows(DOMAINS):
            forward(model).backward()
    after = snapshot(model)
    assert after.keys() == before.keys()
    for name in before:
        assert after[name].keys() == before[name].keys()
        for key, value in before[name].items():
            assert after[name][key] is value or after[name][key] == value, (name, key)


@pytest.mark.parametrize("checkpointing", ["none", "non-reentrant", "reentrant"])
def test_memory_goes_with_the_capture(checkpointing):
    """Without waiting for the garbage collector: there are no reference cycles."""
    model = tiny_peft()
    set_activation_checkpointing(model, checkpointing)
    gc.collect()
    gc.disable()
    try:
        capture = GradientCapture(find_adapters(model), 2)
        capture.install()
        with capture.rows(DOMAINS):
            forward(model).backward()
        held = [StorageWeakRef(g.a.untyped_storage()) for g in capture.sums().values()]
        gone = weakref.ref(capture)
        assert not any(ref.expired() for ref in held)
        capture.remove()
        del capture
        assert gone() is None
        assert all(ref.expired() for ref in held)
    finally:
        gc.enable()


def test_reset_releases_and_leaves_old_sums_alone():
    model = tiny_peft()
    with GradientCapture(find_adapters(model), 2) as capture:
        with capture.rows(DOMAINS):
            forward(model).backward()
        first = capture.sums()
        copies = {fqn: g.a.clone() for fqn, g in first.items()}
        capture.reset()
        assert all((g.a == 0).all() and (g.b == 0).all() for g in capture.sums().values())
        with capture.rows(DOMAINS):
            forward(model).backward()
        for fqn, grads in capture.sums().items():
            assert torch.equal(first[fqn].a, copies[fqn])
            assert torch.equal(grads.a, copies[fqn])


@pytest.mark.parametrize(("checkpointing", "kept"), [("none", True), ("non-reentrant", False)])
def test_checkpointing_still_frees_activations(checkpointing, kept):
    """The inputs that capture needs are dropped and recomputed with all the others."""
    model = tiny_peft()
    set_activation_checkpointing(model, checkpointing)
    adapters = find_adapters(model)
    inputs = []
    handles = [
        a.lora_B.register_forward_pre_hook(lambda m, x: inputs.append(StorageWeakRef(x[0].untyped_storage())))
        for a in adapters.values()
    ]
    with GradientCapture(adapters, 2) as capture, capture.rows(DOMAINS):
        loss = forward(model)
        assert len(inputs) == len(adapters)
        assert [not ref.expired() for ref in inputs] == [kept] * len(adapters)
        loss.backward()
    del loss
    for handle in handles:
        handle.remove()
    assert all(ref.expired() for ref in inputs)


@pytest.mark.parametrize("checkpointing", ["none", "non-reentrant", "reentrant"])
def test_each_adapter_counts_once_per_backward(checkpointing, monkeypatch):
    model = tiny_peft()
    set_activation_checkpointing(model, checkpointing)
    seen = []
    original = GradientCapture._backward
    monkeypatch.setattr(
        GradientCapture, "_backward", lambda self, site, *rest: (seen.append(str(site)), original(self, site, *rest))
    )
    adapters = find_adapters(model)
    with GradientCapture(adapters, 2) as capture, capture.rows(DOMAINS):
        forward(model).backward()
    assert sorted(seen) == sorted(f"{fqn}.lora_{x}" for fqn in adapters for x in "AB")


def test_backward_outside_rows():
    model = tiny_peft()
    with GradientCapture(find_adapters(model), 2) as capture:
        with capture.rows(DOMAINS):
            loss = forward(model)
        with pytest.raises(RuntimeError, match=r"lora_B: backward outside of capture\.rows"):
            loss.backward()


def test_backward_after_remove():
    model = tiny_peft()
    with GradientCapture(find_adapters(model), 2) as capture, capture.rows(DOMAINS):
        loss = forward(model)
    with pytest.raises(RuntimeError, match="backward outside"):
        loss.backward()


def test_batch_sizes_disagree():
    model = tiny_peft()
    with GradientCapture(find_adapters(model), 2) as capture, capture.rows(DOMAINS[:3]):
        loss = forward(model)
        with pytest.raises(RuntimeError, match=r"input of shape \[4, 8, 4\], but the batch has 3 rows"):
            loss.backward()


def test_domains_of_forward_and_backward_disagree():
    model = tiny_peft()
    with GradientCapture(find_adapters(model), 2) as capture:
        with capture.rows(DOMAINS):
            loss = forward(model)
        with capture.rows(1 - DOMAINS), pytest.raises(RuntimeError, match="not those that the forward pass ran with"):
            loss.backward()


def test_regrouped_tokens_are_refused():
    """``[tokens, features]`` does not say which token is of which row, even where the sizes happen to agree."""
    layer = LoraAdapter("expert", nn.Linear(6, 2, bias=False), nn.Linear(2, 5, bias=False), 1.0)
    with GradientCapture({"expert": layer}, 2) as capture, capture.rows(DOMAINS):
        loss = layer.lora_B(layer.lora_A(torch.randn(4, 6))).sum()
        with pytest.raises(RuntimeError, match="regroup tokens"):
            loss.backward()


def test_frozen_factors():
    """Both frozen is a mistake; one frozen has a gradient of zero, and the other's is what it was."""
    model = tiny_peft()
    adapters = find_adapters(model)
    with GradientCapture(adapters, 2) as capture, capture.rows(DOMAINS):
        forward(model).sum().backward()
    for adapter in adapters.values():
        adapter.A.requires_grad_(False)
    with GradientCapture(adapters, 2, measure_noise=True) as frozen, frozen.rows(DOMAINS):
        forward(model).sum().backward()
    whole, part = capture.sums(), frozen.sums()
    for fqn in adapters:
        assert part[fqn].a.count_nonzero() == 0
        torch.testing.assert_close(part[fqn].b, whole[fqn].b, rtol=1e-5, atol=1e-6)
    assert frozen.noise.grams.keys() == adapters.keys()
    for adapter in adapters.values():
        adapter.B.requires_grad_(False)
    with pytest.raises(RuntimeError, match=r"layers\.0\.self_attn\.q_proj: its LoRA weights are frozen"):
        GradientCapture(adapters, 2).install()


def test_evaluation_passes_through():
    model = tiny_peft()
    with GradientCapture(find_adapters(model), 2) as capture:
        with torch.no_grad():
            plain = forward(model)
        with capture.rows(DOMAINS), torch.no_grad():
            assert torch.equal(forward(model), plain)
        assert all((g.a == 0).all() for g in capture.sums().values())


def test_rows_needs_installed_hooks():
    capture = GradientCapture(find_adapters(tiny_peft()), 2)
    with pytest.raises(RuntimeError, match="not installed"), capture.rows(DOMAINS):
        pass


def test_installing_twice():
    with (
        GradientCapture(find_adapters(tiny_peft()), 2) as capture,
        pytest.raises(RuntimeError, match="installed already"),
    ):
        capture.install()


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        (torch.tensor([0, 2]), "domain 2 is not in 0 .. 1"),
        (torch.tensor([-1, 0]), "domain -1 is not in"),
        (torch.tensor([0.0, 1.0]), "vector of integers"),
        (torch.tensor([[[0, 1]]]), "vector of integers"),
        (torch.tensor([[0, 2]]), "domain 2 is not in"),
        (torch.tensor([[-2, 1]]), "domain -2 is not in"),
    ],
)
def test_bad_domain_vectors(domain, message):
    with (
        GradientCapture(find_adapters(tiny_peft()), 2) as capture,
        pytest.raises(ValueError, match=message),
        capture.rows(domain),
    ):
        pass


def test_unknown_set():
    with GradientCapture(find_adapters(tiny_peft()), 2) as capture:
        with pytest.raises(ValueError, match="unknown set 'auxiliary'"), capture.rows(DOMAINS, into="auxiliary"):
            pass
        with pytest.raises(ValueError, match="unknown set"):
            capture.sums("other")


def test_an_error_inside_rows_ends_them():
    model = tiny_peft()
    with GradientCapture(find_adapters(model), 2) as capture:
        with pytest.raises(KeyError), capture.rows(DOMAINS):
            raise KeyError
        with pytest.raises(RuntimeError, match="backward outside"):
            forward(model).backward()
