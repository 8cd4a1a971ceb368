"""One optimizer step: accumulation, clipping, the reference gradient, the auxiliary set, what a hook may not return."""

import itertools
import json

import pytest
import torch

from igascale import assemble, hooks, runfolder
from igascale.errors import UserError
from igascale.hooks import FactorGrads, GradientHook, HookContext
from igascale.isomers.batches import collate
from igascale.loss import domain_token_losses, supervised_logits
from igascale.schedule import learning_rate
from igascale.step import check_result
from igascale.trainer import Trainer
from igascale.validation import validation_losses

import runs

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return runs.prepare(tmp_path_factory.mktemp("step"))


def parts(path, tmp_path, *overrides, b_scale=0.02):
    config = runs.load(path, f"output_dir={tmp_path / 'run'}", *overrides)
    student = assemble.build_student(config, CPU)
    for i, adapter in enumerate(student.adapters.values()):
        torch.manual_seed(i)
        adapter.B.data.normal_(std=b_scale)
    return config, student, assemble.load_data(config, student.tokenizer)


def record_hook(path, tmp_path, *overrides):
    """Run one step; return what the hook was given and what the engine was handed."""
    config, student, data = parts(path, tmp_path, "train.max_steps=1", "eval.every=null", *overrides)
    hook = assemble.build_hook(config)
    engine = assemble.build_engine(config, student, hook, CPU)
    seen = {}
    combine, apply = hook.combine, engine.apply

    def watched_combine(grads, adapters, ctx):
        seen["grads"], seen["ctx"] = grads, ctx
        seen["result"] = combine(grads, adapters, ctx)
        return seen["result"]

    def watched_apply(grads):
        seen["applied"] = grads
        apply(grads)

    hook.combine, engine.apply = watched_combine, watched_apply
    trainer = Trainer(config, data, student, hook, engine)
    trainer.train(runfolder.open_run(config, None, engine.comm))
    return seen, config, student, data


@pytest.mark.parametrize("reduction", ["token", "instance"])
def test_micro_batches_of_any_size_give_the_same_domain_gradients(path, tmp_path, reduction):
    results = []
    for size in ("null", "64", "5", "1"):
        overrides = [f"train.loss_reduction={reduction}", f"train.micro_batch_size={size}"]
        results.append(record_hook(path, tmp_path / size, *overrides)[0])
    for other in results[1:]:
        torch.testing.assert_close(other["ctx"].losses, results[0]["ctx"].losses, rtol=1e-5, atol=1e-6)
        for name, grad in results[0]["grads"].items():
            for got, want in ((other["grads"][name].a, grad.a), (other["grads"][name].b, grad.b)):
                assert (got - want).norm() <= 1e-5 * want.norm()


def test_domain_gradients_are_those_of_autograd(path, tmp_path):
    """Through the trainer's whole path: the mean token loss of each domain over all 8 groups of the step."""
    seen, config, student, data = record_hook(path, tmp_path)
    config, student, data = parts(path, tmp_path / "again")
    examples = [e for g in data.schedule.groups_of_step(0) for e in data.train.groups[g]]
    for n, domain in enumerate(data.train.domains):
        rows = [e for e in examples if e.domain == n]
        batch = collate(rows, student.tokenizer.pad_token_id, "token")
        logits = student.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        logits_NV, labels_N, _ = supervised_logits(logits, batch.labels)
        loss = torch.nn.functional.cross_entropy(logits_NV, labels_N)
        assert abs(float(loss) - float(seen["ctx"].losses[n])) < 1e-5, domain
        student.model.zero_grad()
        loss.backward()
        for fqn, adapter in student.adapters.items():
            assert (seen["grads"][fqn].a[n] - adapter.A.grad).norm() <= 1e-5 * adapter.A.grad.norm()
            assert (seen["grads"][fqn].b[n] - adapter.B.grad).norm() <= 1e-5 * adapter.B.grad.norm()


def test_clipping_scales_gradient_and_reference_alike(path, tmp_path):
    seen, *_ = record_hook(path, tmp_path, "hook.name=iga", "optimizer.max_grad_norm=0.001")
    result, applied = seen["result"], seen["applied"]
    norm = torch.stack([t.norm() for g in result.values() for t in (g.a, g.b)]).norm()
    assert norm > 0.001
    for fqn, grad in result.items():
        for part in ("a", "b", "reference_a", "reference_b"):
            torch.testing.assert_close(getattr(applied[fqn], part), getattr(grad, part) * (0.001 / norm))
    clipped = torch.stack([t.norm() for g in applied.values() for t in (g.a, g.b)]).norm()
    torch.testing.assert_close(float(clipped), 0.001, rtol=1e-5, atol=0)


def test_no_clipping_below_the_limit(path, tmp_path):
    seen, *_ = record_hook(path, tmp_path, "optimizer.max_grad_norm=1e6")
    assert all(torch.equal(seen["applied"][k].a, g.a) for k, g in seen["result"].items())


def test_what_is_logged_of_how_domains_differ(path, tmp_path):
    """Cosines and the residual from dense vectors, in metrics.jsonl and per adapter; the mean rule has them too."""
    seen, config, _, data = record_hook(path, tmp_path, "train.micro_batch_size=8")
    record = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    per_adapter = json.loads((tmp_path / "run" / "adapter_metrics.jsonl").read_text().splitlines()[0])
    assert per_adapter["domains"] == list(data.train.domains)
    vectors = {k: torch.cat([g.a.flatten(1), g.b.flatten(1)], 1).double() for k, g in seen["grads"].items()}
    everything = torch.cat(list(vectors.values()), 1)
    mean = everything.mean(0)
    assert record["gir"] == pytest.approx(float(everything.var(0, correction=0).sum() / mean.square().sum()), rel=1e-3)
    for (m, first), (n, second) in itertools.combinations(enumerate(data.train.domains), 2):
        cosine = torch.cosine_similarity(everything[m], everything[n], dim=0)
        assert record["cosines"][f"{first}/{second}"] == pytest.approx(float(cosine), abs=1e-5)
    for fqn, x in vectors.items():
        expected = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(x).T
        torch.testing.assert_close(torch.tensor(per_adapter["adapters"][fqn]["cosines"]), expected.float())


def test_noise_share_is_that_of_whole_groups_however_they_are_cut(path, tmp_path):
    """Two groups to a micro-batch, or passes that end anywhere: the figure is the same."""
    shares = []
    for size in ("8", "3", "1"):
        seen, *_ = record_hook(path, tmp_path / size, "hook.name=iga", f"train.micro_batch_size={size}")
        shares.append(torch.stack([g.stats["noise_share"] for g in seen["result"].values()]))
    # 24 rows of 3 are 3 x 8 of them: whole groups every 12 rows, every 4 with passes of one row.
    assert all(s.isfinite().all() for s in shares)
    each, *_ = record_hook(path, tmp_path / "4", "hook.name=iga", "train.micro_batch_size=4")
    single = torch.stack([g.stats["noise_share"] for g in each["result"].values()])
    torch.testing.assert_close(shares[2], single, rtol=1e-2, atol=1e-2)


def test_noise_share_needs_two_micro_batches_and_equals_the_spread_of_groups(path, tmp_path):
    whole, *_ = record_hook(path, tmp_path / "whole", "hook.name=iga", "train.micro_batch_size=64")
    assert all(g.stats["noise_share"].isnan() for g in whole["result"].values())
    assert json.loads((tmp_path / "whole/run/metrics.jsonl").read_text().splitlines()[0])["hook"]["noise_share"] is None
    # One group, four domains, in each micro-batch: the spread of the groups' own gradients, token-weighted.
    seen, _, _, data = record_hook(path, tmp_path / "each", "hook.name=iga", "train.micro_batch_size=4")
    config, student, data = parts(path, tmp_path / "again")
    fqn, adapter = next(iter(student.adapters.items()))
    groups = [data.train.groups[g] for g in data.schedule.groups_of_step(0)]
    A, B = adapter.A.detach().double(), adapter.B.detach().double()
    for n in range(4):
        hats, weights = [], []
        for group in groups:
            batch = collate([e for e in group if e.domain == n], 0, "token")
            logits = student.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
            logits_NV, labels_N, _ = supervised_logits(logits, batch.labels)
            student.model.zero_grad()
            torch.nn.functional.cross_entropy(logits_NV, labels_N).backward()
            hats.append(adapter.B.grad.double() @ A + B @ adapter.A.grad.double())
            weights.append(len(labels_N))
        w = torch.tensor(weights).double()[:, None, None]
        x = torch.stack(hats)
        mean = (w * x).sum(0) / w.sum()
        expected = (w * (x - mean).square()).sum() / (w.sum() * (len(groups) - 1))
        assert float(seen["grads"][fqn].noise[0, n, n]) == pytest.approx(float(expected), rel=1e-3)


class DummyScale(GradientHook):
    """IRMv1's statistic, E_p[z] - z_y, backpropagated beside the loss; the combination itself is the mean."""

    @staticmethod
    def auxiliary(logits_TV, labels_T):
        expected = (logits_TV.softmax(-1) * logits_TV).sum(-1)
        return expected - logits_TV.gather(-1, labels_T[:, None])[:, 0]

    def combine(self, grads, adapters, ctx):
        self.seen = ctx
        return {k: FactorGrads(g.a.mean(0), g.b.mean(0)) for k, g in grads.items()}


def test_auxiliary_set_reaches_the_hook(path, tmp_path):
    config, student, data = parts(path, tmp_path, "train.max_steps=1", "train.micro_batch_size=6", "eval.every=null")
    hook = DummyScale()
    engine = assemble.build_engine(config, student, hook, CPU)
    Trainer(config, data, student, hook, engine).train(runfolder.open_run(config, None, engine.comm))
    config, student, data = parts(path, tmp_path / "again")
    examples = [e for g in data.schedule.groups_of_step(0) for e in data.train.groups[g]]
    for n in range(len(data.train.domains)):
        batch = collate([e for e in examples if e.domain == n], 0, "token")
        logits = student.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        statistic = DummyScale.auxiliary(*supervised_logits(logits, batch.labels)[:2]).mean()
        assert abs(float(statistic) - float(hook.seen.aux_values[n])) < 1e-5
        student.model.zero_grad()
        statistic.backward()
        for fqn, adapter in student.adapters.items():
            assert (hook.seen.aux[fqn].a[n] - adapter.A.grad).norm() <= 1e-4 * adapter.A.grad.norm()
            assert (hook.seen.aux[fqn].b[n] - adapter.B.grad).norm() <= 1e-4 * adapter.B.grad.norm()


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda r: r.popitem() and r, "exactly the adapters"),
        (lambda r: {k: FactorGrads(g.a.T, g.b) for k, g in r.items()}, r"\.a must be"),
        (lambda r: {k: FactorGrads(g.a, g.b.double()) for k, g in r.items()}, r"\.b must be .*float32"),
        (lambda r: {k: FactorGrads(g.a, g.b, stats={"x": torch.ones(())}) for k, g in r.items()}, "stats"),
    ],
)
def test_a_hook_that_breaks_its_contract_is_stopped(spoil, expected):
    grads = {"q": hooks.DomainFactorGrads(torch.ones(2, 3, 5), torch.ones(2, 4, 3))}
    mean = hooks.build("mean", {})
    result = mean.combine(grads, {}, HookContext(domains=("x", "y")))
    check_result(result, grads, mean)
    with pytest.raises(UserError, match=expected):
        check_result(spoil(result), grads, mean)


@pytest.mark.parametrize("part", ["a", "reference_b"])
def test_a_hook_that_returns_nan_skips_the_step(path, tmp_path, part):
    config, student, data = parts(path, tmp_path, "hook.name=iga", "train.max_steps=3", "eval.every=null")
    hook = assemble.build_hook(config)
    engine = assemble.build_engine(config, student, hook, CPU)
    combine = hook.combine

    def spoiled(grads, adapters, ctx):
        result = combine(grads, adapters, ctx)
        if ctx.step == 1:
            getattr(next(iter(result.values())), part)[0, 0] = float("nan")
        return result

    hook.combine = spoiled
    trainer = Trainer(config, data, student, hook, engine)
    trainer.train(runfolder.open_run(config, None, engine.comm))
    assert trainer.counters["skipped_steps"] == 1
    assert engine.get_state().steps == 2
    assert all(torch.isfinite(t).all() for t in engine.get_state().tensors.values())


def test_more_ranks_than_groups(path, tmp_path):
    class Nine:
        rank, world_size = 0, 9

    config = runs.load(path, f"output_dir={tmp_path / 'run'}")
    with pytest.raises(UserError, match="9 processes but only 8 isomer groups"):
        runfolder.open_run(config, None, Nine())
    assert not (tmp_path / "run").exists()


def test_validation_losses_are_plain_means(path, tmp_path):
    config, student, data = parts(path, tmp_path, "lora.dropout=0.5")
    engine = assemble.build_engine(config, student, hooks.build("mean", {}), CPU)
    found = validation_losses(engine, data.ood, max_groups=3, micro_batch_size=4, pad_token_id=0, pulse=print)
    assert student.model.training
    student.model.eval()
    for n, domain in enumerate(data.ood.domains):
        batch = collate([g[n] for g in data.ood.groups[:3]], 0, "token")
        logits = student.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        losses = domain_token_losses(logits, batch.labels, batch.weights, batch.domain, 2)
        assert abs(found[domain] - float(losses[n] / (batch.labels != -100).sum())) < 1e-5


def test_learning_rate():
    rates = [learning_rate(t, 100, 2.0, 0.03) for t in range(100)]
    assert rates[:4] == [pytest.approx(2 / 3), pytest.approx(4 / 3), 2.0, 2.0]
    assert all(a > b for a, b in zip(rates[3:], rates[4:]))
    assert 0 < rates[-1] < 0.01
    assert learning_rate(0, 1, 2.0, 0.03) == 2.0
    assert learning_rate(50, 100, 1.0, 0.0) == pytest.approx(0.5)
