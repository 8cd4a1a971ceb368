"""The optimizer against torch.optim.AdamW and against the formula."""

import pytest
import torch

from igascale.engine.adamw import AdamW


def _pair(seed: int) -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
    start = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
    return torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())


def test_without_reference_is_torch_adamw_to_the_bit():
    ours, theirs = _pair(0)
    a = AdamW([ours], lr=1e-2, weight_decay=0.1)
    a.allocate_states(a.step)
    b = torch.optim.AdamW([theirs], lr=1e-2, weight_decay=0.1, foreach=False)
    generator = torch.Generator().manual_seed(1)
    for _ in range(10):
        ours.grad = torch.randn(5, 3, generator=generator)
        theirs.grad = ours.grad.clone()
        a.step()
        b.step()
        assert torch.equal(ours, theirs)


def test_reference_enters_the_second_moment_only():
    p, _ = _pair(0)
    optimizer = AdamW([p], lr=1e-2, betas=(0.9, 0.99), weight_decay=0.0, use_reference=True)
    optimizer.allocate_states(optimizer.step)
    expected, m, v = p.detach().double(), 0.0, 0.0
    generator = torch.Generator().manual_seed(2)
    for t in range(1, 6):
        grad, reference = torch.randn(2, 5, 3, generator=generator)
        p.grad = grad
        optimizer.state[p]["reference_grad"].copy_(reference)
        optimizer.step()
        m = 0.9 * m + 0.1 * grad.double()
        v = 0.99 * v + 0.01 * torch.maximum(grad.double() ** 2, reference.double() ** 2)
        expected = expected - 1e-2 * (m / (1 - 0.9**t)) / ((v / (1 - 0.99**t)).sqrt() + 1e-8)
        torch.testing.assert_close(p.detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_equal_reference_is_plain_adam():
    ours, theirs = _pair(3)
    a = AdamW([ours], lr=1e-2, use_reference=True)
    a.allocate_states(a.step)
    b = AdamW([theirs], lr=1e-2)
    b.allocate_states(b.step)
    for seed in range(4):
        grad = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
        ours.grad, theirs.grad = grad, grad.clone()
        a.state[ours]["reference_grad"].copy_(grad)
        a.step()
        b.step()
    assert torch.equal(ours, theirs)


def test_allocating_states_changes_nothing_and_counts_no_step():
    p, _ = _pair(0)
    before = p.detach().clone()
    optimizer = AdamW([p], lr=1.0, use_reference=True)
    p.grad = torch.ones_like(p)
    optimizer.allocate_states(optimizer.step)
    assert torch.equal(p, before)
    assert optimizer.steps == 0
    assert set(optimizer.state[p]) == {"exp_avg", "exp_avg_sq", "reference_grad"}


def test_adam_undoes_a_lasting_mask_and_the_reference_keeps_it():
    """What `second_moment: max` is for, measured: a coordinate masked to a quarter moves as if there were no mask."""
    moved = {}
    for kind in ("unmasked", "adam", "max"):
        p = torch.nn.Parameter(torch.zeros(1000))
        optimizer = AdamW([p], lr=1e-3, weight_decay=0.0, use_reference=kind == "max")
        optimizer.allocate_states(optimizer.step)
        g = torch.Generator().manual_seed(0)
        for _ in range(400):
            mean = 1.0 + 0.5 * torch.randn(1000, generator=g)
            p.grad = mean if kind == "unmasked" else 0.25 * mean
            if kind == "max":
                optimizer.state[p]["reference_grad"].copy_(mean)
            optimizer.step()
        moved[kind] = p.detach().abs().mean().item()
    assert moved["adam"] / moved["unmasked"] == pytest.approx(1.0, abs=1e-3)
    assert moved["max"] / moved["unmasked"] == pytest.approx(0.25, abs=1e-3)
