"""Flat buckets: what is where, when it is sent, and that nothing is lost in silence."""

import random

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

from igascale.adapters import LoraAdapter, find_adapters
from igascale.capture import GradientCapture
from igascale.engine.buckets import GradientBuckets, plan_buckets
from igascale.errors import UserError
from igascale.model import set_activation_checkpointing

from recording_comm import Recording
from tiny import tiny_peft

D = 3
SHAPES = {f"m{i}": (torch.Size((2, 5 + i)), torch.Size((4 + i % 2, 2))) for i in range(9)}
OWNERS = {fqn: i % 2 for i, fqn in enumerate(SHAPES)}
MB = 2**20


def numel(fqn, shapes=SHAPES):
    return D * sum(s.numel() for s in shapes[fqn])


def buckets(limit, comm=None, shapes=SHAPES, owners=OWNERS):
    plan = plan_buckets(shapes, owners, D, limit * 4 / MB)
    return GradientBuckets(plan, shapes, D, comm or Recording()), plan


def test_plan():
    for limit in (1, 100, 130, 10**6):
        _, plan = buckets(limit)
        assert sorted(fqn for b in plan for fqn in b.fqns) == sorted(SHAPES)
        place = {fqn: i for i, fqn in enumerate(reversed(SHAPES))}
        for b in plan:
            assert {OWNERS[fqn] for fqn in b.fqns} == {b.owner}
            assert b.numel == sum(map(numel, b.fqns))
            assert b.numel <= limit or len(b.fqns) == 1
            assert [place[f] for f in b.fqns] == sorted(place[f] for f in b.fqns)
        last = [place[b.fqns[-1]] for b in plan]
        assert last == sorted(last)
    assert len(plan) == 2
    assert len(buckets(1)[1]) == len(SHAPES)


def test_accumulators_are_views_of_the_bucket():
    comm = Recording()
    sums, plan = buckets(130, comm)
    assert list(sums) == list(SHAPES)
    for i, fqn in enumerate(sums):
        assert sums[fqn].a.shape == (D, *SHAPES[fqn][0])
        assert sums[fqn].b.shape == (D, *SHAPES[fqn][1])
        assert not sums[fqn].a.any()
        assert not sums[fqn].b.any()
        sums[fqn].a.fill_(i + 1)
        sums[fqn].b.fill_(-i - 1)
    sums.send()
    for (owner, flat), b in zip(comm.sent, plan, strict=True):
        assert owner == b.owner
        number = {fqn: float(i + 1) for i, fqn in enumerate(SHAPES)}
        expected = [
            torch.full((D * shape.numel(),), number[fqn] * sign)
            for fqn in b.fqns
            for shape, sign in zip(SHAPES[fqn], (1, -1))
        ]
        assert torch.equal(flat, torch.cat(expected))


def test_sent_in_one_order_whatever_is_complete_first():
    rng = random.Random(0)
    for _ in range(30):
        comm = Recording()
        sums, plan = buckets(130, comm)
        order = list(SHAPES)
        rng.shuffle(order)
        done = set()
        for fqn in order:
            sums.complete(fqn)
            done.add(fqn)
            ready = 0
            while ready < len(plan) and done.issuperset(plan[ready].fqns):
                ready += 1
            assert len(comm.sent) == ready
        assert [owner for owner, _ in comm.sent] == [b.owner for b in plan]
        sums.receive()
        assert len(comm.sent) == len(plan) == comm.waited


def test_what_nobody_used_is_sent_as_zeros():
    comm = Recording()
    sums, plan = buckets(1, comm)
    sums["m8"].a.fill_(1)
    sums.complete("m8")
    assert len(comm.sent) == 1
    owned = sums.receive()
    assert len(comm.sent) == len(plan)
    assert sum(bool(flat.any()) for _, flat in comm.sent) == 1
    assert list(owned) == [fqn for fqn, owner in OWNERS.items() if owner == 0]
    assert float(owned["m8"].a.sum()) == owned["m8"].a.numel()


def test_a_gradient_after_its_bucket_was_sent():
    sums, _ = buckets(1)
    sums.complete("m8")
    sums["m7"].a.add_(1)
    with pytest.raises(UserError, match=r"m8: a gradient arrived after .* engine\.overlap_reduce: false"):
        sums["m8"]
    sums.receive()
    with pytest.raises(UserError, match="m7: "):
        sums["m7"]


def test_memory_is_given_back():
    sums, _ = buckets(130)
    refs = {fqn: StorageWeakRef(sums[fqn].a.untyped_storage()) for fqn in sums}
    owned = sums.receive()
    assert {fqn for fqn, ref in refs.items() if not ref.expired()} == set(owned)
    del owned
    assert all(ref.expired() for ref in refs.values())


def test_memory_is_allocated_when_first_asked_for():
    sums, plan = buckets(1)
    assert not sums._flat
    sums["m3"].a.add_(1)
    assert [plan[number].fqns for number in sums._flat] == [("m3",)]


# With capture.

IDS = torch.arange(3, 35).view(4, 8)
DOMAINS = torch.tensor([0, 1, 1, 0])


def capturing(adapters, limit=1):
    comm = Recording()
    shapes = {fqn: (a.A.shape, a.B.shape) for fqn, a in adapters.items()}
    owners = {fqn: i % 2 for i, fqn in enumerate(adapters)}
    sums, plan = buckets(limit, comm, shapes, owners)
    capture = GradientCapture(adapters, D)
    capture.reset({"main": sums})
    return capture, sums, comm, plan


@pytest.mark.parametrize("checkpointing", ["none", "non-reentrant", "reentrant"])
def test_buckets_leave_while_the_backward_pass_runs(checkpointing):
    model = tiny_peft()
    set_activation_checkpointing(model, checkpointing)
    adapters = find_adapters(model)
    with GradientCapture(adapters, D) as plain, plain.rows(DOMAINS):
        model(input_ids=IDS).logits.square().sum().backward()
    capture, sums, comm, plan = capturing(adapters)
    told, sent = [], []

    def complete(fqn):
        told.append(fqn)
        sums.complete(fqn)
        sent.append(len(comm.sent))

    with capture:
        for last in (False, True):  # the first micro-batch sends nothing
            with capture.rows(DOMAINS, on_complete=complete if last else None):
                model(input_ids=IDS).logits.square().sum().backward()
                assert bool(comm.sent) == last
    assert sorted(told) == sorted(adapters)
    assert [fqn.split(".")[2] for fqn in told] == ["1"] * 4 + ["0"] * 4
    assert sent[3] >= 3  # the last layer's are gone before the first layer's are there
    owned = sums.receive()
    assert owned.keys() == {fqn for i, fqn in enumerate(adapters) if i % 2 == 0}
    flats = {b.fqns[0]: flat for b, (_, flat) in zip(plan, comm.sent)}
    for fqn, expected in plain.sums().items():
        both = torch.cat([expected.a.flatten(), expected.b.flatten()])
        torch.testing.assert_close(flats[fqn], 2 * both, rtol=1e-5, atol=1e-6)


class Twice(nn.Module):
    """One LoRA layer that a pass uses twice, under a checkpoint each time or not."""

    def __init__(self, kind):
        super().__init__()
        self.A, self.B, self.kind = nn.Linear(6, 2, bias=False), nn.Linear(2, 6, bias=False), kind

    def layer(self, x):
        return self.B(self.A(x)).tanh()

    def forward(self, x):
        for _ in range(2):
            x = (
                self.layer(x)
                if self.kind == "none"
                else checkpoint(self.layer, x, use_reentrant=self.kind == "reentrant")
            )
        return x


@pytest.mark.parametrize("kind", ["none", "non-reentrant", "reentrant"])
def test_a_module_that_runs_twice_is_complete_after_both(kind):
    model = Twice(kind)
    adapters = {"m": LoraAdapter("m", model.A, model.B, 1.0)}
    capture, sums, comm, _ = capturing(adapters)
    told = []
    x = torch.randn(4, 3, 6, requires_grad=True)
    with capture, capture.rows(DOMAINS, on_complete=lambda fqn: (told.append(fqn), sums.complete(fqn))):
        model(x).square().sum().backward()
    assert told == ["m"]
    a, b = comm.sent[0][1].split([adapters["m"].A.numel() * D, adapters["m"].B.numel() * D])
    torch.testing.assert_close(a.view(D, -1).sum(0), model.A.weight.grad.flatten())
    torch.testing.assert_close(b.view(D, -1).sum(0), model.B.weight.grad.flatten())


def test_a_second_pass_that_comes_too_late_is_refused():
    model = Twice("none")
    capture, sums, _, _ = capturing({"m": LoraAdapter("m", model.A, model.B, 1.0)})
    x = torch.randn(4, 3, 6)
    with capture, capture.rows(DOMAINS, on_complete=sums.complete):
        model(x).sum().backward()
        loss = model(x).sum()
        with pytest.raises(UserError, match="m: a gradient arrived after"):
            loss.backward()


def test_an_output_that_the_loss_does_not_use():
    """Its adapter waits for a gradient that never comes; it goes at the end, with what it has."""
    model = Twice("none")
    capture, sums, comm, _ = capturing({"m": LoraAdapter("m", model.A, model.B, 1.0)})
    x = torch.randn(4, 3, 6)
    with capture, capture.rows(DOMAINS, on_complete=sums.complete):
        model.layer(x)
        model.layer(x).sum().backward()
    assert not comm.sent
    sums.send()
    torch.testing.assert_close(comm.sent[0][1][: 12 * D].view(D, -1).sum(0), model.A.weight.grad.flatten())


def test_a_frozen_factor_is_not_waited_for():
    model = Twice("none")
    model.A.weight.requires_grad_(False)
    capture, sums, comm, _ = capturing({"m": LoraAdapter("m", model.A, model.B, 1.0)})
    with capture, capture.rows(DOMAINS, on_complete=sums.complete):
        model(torch.randn(4, 3, 6)).sum().backward()
    assert len(comm.sent) == 1
