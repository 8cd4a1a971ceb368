"""A plain torch loop with a hook attached takes the steps that first principles give."""

import copy
import warnings

import pytest
import torch
from torch.nn import functional as F

import igascale
from igascale import hooks
from igascale.capture import GradientCapture
from igascale.engine.adamw import AdamW
from igascale.hooks import FactorGrads, GradientHook

from by_hand import DOMAINS, ByHand, D, make_batches, token_losses, worst
from tiny import tiny_peft

LR = {"sgd": 0.3, "adamw": 1e-3, "adamw-reference": 1e-3}


def factors(model):
    return [p for p in model.parameters() if p.requires_grad]


def make_optimizer(kind, model):
    if kind == "sgd":
        return torch.optim.SGD(factors(model), lr=LR[kind])
    if kind == "adamw":
        return torch.optim.AdamW(factors(model), lr=LR[kind], weight_decay=0.01)
    return igascale.AdamW(factors(model), lr=LR[kind], use_reference=True)


def micro_batch(surgery, model, batch, factor=1.0):
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
    with surgery.rows(batch["domain"]):
        loss = surgery.loss(model(**inputs).logits, batch["labels"])
        (factor * loss).backward()
    return loss.detach()


def run_loop(model, optimizer, per_step, **options):
    """``per_step``: lists of micro-batches."""
    with igascale.attach(model, optimizer, domains=DOMAINS, **options) as surgery:
        reports = []
        for batches in per_step:
            for batch in batches:
                micro_batch(surgery, model, batch)
            reports.append(surgery.step())
    return reports


@pytest.mark.parametrize(
    ("hook", "kind", "reduction", "clip"),
    [
        ("mean", "sgd", "token", None),
        ("mean", "adamw", "instance", None),
        ("pcgrad", "sgd", "instance", None),
        ("pcgrad", "adamw", "token", 0.05),
        ("iga", "adamw-reference", "token", None),
        ("iga", "adamw-reference", "token", 0.05),
        ("irm", "sgd", "token", None),
        ("irm", "adamw", "instance", None),
    ],
)
def test_equals_a_backward_pass_per_domain(hook, kind, reduction, clip):
    model, per_step = tiny_peft(), [make_batches(3, seed=s) for s in range(3)]
    oracle = ByHand(tiny_peft(), hooks.build(hook, {}), LR[kind], kind, clip, reduction)
    reports = run_loop(
        model, make_optimizer(kind, model), per_step, hook=hook, loss_reduction=reduction, max_grad_norm=clip
    )
    for batches, report in zip(per_step, reports):
        oracle.step(batches)
        assert report.losses == pytest.approx(oracle.losses[-1], rel=1e-5)
        assert (report.clip < 1) == (clip is not None)
    # Adam divides by the gradient's size: where that is hardly above rounding, so is the step, up to half a percent of it.
    assert worst(model, oracle.model) <= (1e-6 if kind == "sgd" else 5e-3 * LR[kind])
    assert worst(model, tiny_peft()) > 1e-3  # it did move


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_the_mean_is_the_ordinary_loop(kind):
    """With all domains in one batch, the mean of the domains' mean losses, by one ordinary backward pass."""
    model, plain = tiny_peft(), tiny_peft()
    per_step = [make_batches(1, seed=s) for s in range(4)]
    run_loop(model, make_optimizer(kind, model), per_step, hook="mean")
    optimizer = make_optimizer(kind, plain)
    for (batch,) in per_step:
        losses, learnt = token_losses(plain, batch)
        means = [losses[(batch["domain"] == d)[:, None] & learnt].mean() for d in range(D)]
        optimizer.zero_grad()
        (sum(means) / D).backward()
        optimizer.step()
    assert worst(model, plain) <= 1e-6


def test_cutting_a_step_into_micro_batches_changes_nothing():
    batches = make_batches(4, rows=3)
    whole = {k: torch.cat([b[k] for b in batches]) for k in batches[0]}
    models = [tiny_peft(), tiny_peft()]
    for model, per_step in zip(models, ([batches], [[whole]])):
        run_loop(model, make_optimizer("sgd", model), per_step, hook="pcgrad")
    assert worst(*models) <= 1e-7


def test_dividing_the_loss_changes_nothing_and_is_said_once():
    models = [tiny_peft(), tiny_peft()]
    for model, factor in zip(models, (1.0, 0.25)):
        surgery = igascale.attach(model, make_optimizer("sgd", model), hook="pcgrad", domains=DOMAINS)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for batch in make_batches(4):
                micro_batch(surgery, model, batch, factor)
        assert sum("multiplied by 0.25" in str(w.message) for w in said) == (factor != 1.0)
        surgery.step()
    assert worst(*models) == 0.0


def test_the_loss_shown_is_the_mean_of_the_domains_means():
    model, (batch,) = tiny_peft(), make_batches(1)
    surgery = igascale.attach(model, make_optimizer("sgd", model), hook="mean", domains=DOMAINS)
    shown = micro_batch(surgery, model, batch)
    losses, learnt = token_losses(model, batch)
    means = [losses[(batch["domain"] == d)[:, None] & learnt].mean() for d in range(D)]
    assert float(shown) == pytest.approx(float(sum(means)) / D, rel=1e-6)


def test_loss_from_is_the_same_rule_for_any_loss():
    """Cross-entropy through ``loss_from``, per token and per row, equals ``loss``; names of domains serve as numbers."""
    for reduction in ("token", "instance"):
        models = [tiny_peft(), tiny_peft()]
        batches = make_batches(3)
        run_loop(models[0], make_optimizer("sgd", models[0]), [batches], hook="pcgrad", loss_reduction=reduction)
        surgery = igascale.attach(models[1], make_optimizer("sgd", models[1]), hook="pcgrad", domains=DOMAINS)
        for batch in batches:
            with surgery.rows([DOMAINS[d] for d in batch["domain"]]):
                losses, learnt = token_losses(models[1], batch)
                if reduction == "token":
                    loss = surgery.loss_from(losses, learnt.float())
                else:
                    loss = surgery.loss_from((losses * learnt).sum(1) / learnt.sum(1))
                loss.backward()
        surgery.step()
        assert worst(*models) <= 1e-7, reduction


def test_loss_from_with_entries_that_are_not_rows():
    """Pairs of rows, as in preference learning, and an entry without weight whose loss is not a number."""
    model, plain = tiny_peft(), tiny_peft()
    ids = make_batches(1, rows=8, ragged=False)[0]["input_ids"]
    pair_domain = torch.tensor([0, 1, 2, 0])

    def pair_losses(m):
        chance = F.log_softmax(m(input_ids=ids).logits[:, :-1], -1).gather(-1, ids[:, 1:, None]).sum((1, 2))
        return -F.logsigmoid(0.1 * (chance[:4] - chance[4:]))

    surgery = igascale.attach(model, torch.optim.SGD(factors(model), lr=1.0), hook="mean", domains=DOMAINS)
    with surgery.rows(torch.cat([pair_domain, pair_domain])):
        losses = pair_losses(model) + torch.tensor([0.0, 0.0, 0.0, torch.nan])
        surgery.loss_from(losses, torch.tensor([2.0, 1.0, 3.0, 0.0]), domain=pair_domain).backward()
    report = surgery.step()
    losses = pair_losses(plain)
    assert report.losses == pytest.approx(losses[:3].tolist())
    torch.optim.SGD(factors(plain), lr=1.0).step(lambda: losses[:3].mean().backward())
    assert worst(model, plain) <= 1e-6
    assert worst(model, tiny_peft()) > 1e-3


def test_the_loop_keeps_its_scheduler_and_its_evaluation():
    model = tiny_peft()
    optimizer = make_optimizer("sgd", model)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: [0.0, 2.0][t])
    surgery = igascale.attach(model, optimizer, hook="mean", domains=DOMAINS)
    batch = make_batches(1)[0]
    for moves in (False, True):
        before = copy.deepcopy(model)
        micro_batch(surgery, model, batch)
        with torch.no_grad():  # an evaluation in the middle, and one that looks at the loss
            model(input_ids=batch["input_ids"])
        surgery.step()
        with torch.no_grad(), surgery.rows(batch["domain"]):
            surgery.loss(model(input_ids=batch["input_ids"]).logits, batch["labels"])
        scheduler.step() if not moves else None
        assert (worst(model, before) > 0) == moves
    assert surgery.state_dict()["steps"] == 2
    assert all(p.grad is None for p in factors(model))


def test_detach_leaves_the_loop_as_it_was():
    model, plain = tiny_peft(), tiny_peft()
    optimizer = make_optimizer("sgd", model)
    surgery = igascale.attach(model, optimizer, hook="mean", domains=DOMAINS)
    micro_batch(surgery, model, make_batches(1)[0])
    surgery.detach()
    assert not any(m._forward_hooks for m in model.modules())
    optimizer.zero_grad()
    ids = make_batches(1)[0]["input_ids"]
    for m, o in ((model, optimizer), (plain, make_optimizer("sgd", plain))):
        m(input_ids=ids, labels=ids).loss.backward()
        o.step()
    assert worst(model, plain) == 0.0
    igascale.attach(model, optimizer, hook="mean", domains=DOMAINS).detach()  # and again


class Recorder(GradientHook):
    uses_noise = True

    def combine(self, grads, adapters, ctx):
        self.noise = {fqn: g.noise for fqn, g in grads.items()}
        return {fqn: FactorGrads(g.a.mean(0), g.b.mean(0)) for fqn, g in grads.items()}


def test_noise_is_measured_with_the_weights_of_the_loss():
    """As the capture measures it where the weights are known beforehand, and another figure than with equal ones."""
    from igascale.adapters import find_adapters
    from igascale.linalg.gram import reconstruction_grams
    from igascale.noise import sampling_noise

    model, batches, hook = tiny_peft(), make_batches(3), Recorder()
    run_loop(model, torch.optim.SGD(factors(model), lr=0.0), [batches], hook=hook)
    for weigh, agree in ((lambda b: (b["labels"][:, 1:] != -100).sum(1), True), (lambda b: None, False)):
        adapters, weight_D = find_adapters(model), torch.zeros(D).double()
        with GradientCapture(adapters, D, measure_noise=True) as capture:
            for batch in batches:
                with capture.rows(batch["domain"], weight=weigh(batch)):
                    losses, learnt = token_losses(model, batch)
                    (losses * learnt).sum().backward()
                weight_D.index_add_(0, batch["domain"], learnt.sum(1).double())
            sums, noise = capture.sums(), capture.noise
        for fqn, adapter in adapters.items():
            a, b = (t / weight_D[:, None, None].float() for t in (sums[fqn].a, sums[fqn].b))
            means = reconstruction_grams(a, b, adapter.A.detach(), adapter.B.detach())
            expected = sampling_noise(noise.grams[fqn], noise.overlap, noise.counts, weight_D, means)
            assert bool(expected.isfinite().all())
            assert torch.allclose(hook.noise[fqn], expected, rtol=1e-3) == agree


def test_adamw_alone_is_torch_adamw_and_its_state_dict_is_whole():
    """Public as ``igascale.AdamW``: with groups, without a surgery, saved and loaded as any optimizer."""
    ours, theirs = ([torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.ones(3))] for _ in range(2))
    optimizers = [
        make([{"params": ps[:1], "lr": 1e-2}, {"params": ps[1:], "lr": 1e-3}], lr=1e-2)
        for make, ps in ((AdamW, ours), (torch.optim.AdamW, theirs))
    ]
    for t in range(6):
        if t == 3:
            saved = optimizers[0].state_dict()
            optimizers[0] = AdamW([{"params": ours[:1]}, {"params": ours[1:]}], lr=1.0)
            optimizers[0].load_state_dict(saved)
        for ps, optimizer in zip((ours, theirs), optimizers):
            for i, p in enumerate(ps):
                p.grad = torch.full_like(p, 1.0 + t + i)
            optimizer.step()
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(ours, theirs))
