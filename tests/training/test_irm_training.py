"""IRMv1 through the real trainer: accumulation does not change the objective, which is that of an explicit dummy scale."""

import pytest
import torch
from torch.nn import functional as F

from igascale import assemble
from igascale.isomers.batches import collate
from igascale.loss import supervised_logits

import runs

CPU = torch.device("cpu")
PENALTY = 50.0
COMMON = (
    "hook.name=irm",
    "hook.anneal_steps=0",
    f"hook.penalty={PENALTY}",
    "train.max_steps=1",
    "eval.every=null",
    "optimizer.max_grad_norm=null",
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return runs.prepare(tmp_path_factory.mktemp("irm"))


def first_gradient(path, out, *overrides):
    return runs.run(runs.load(path, f"output_dir={out}", *COMMON, *overrides), CPU).first


def explicit(path, reduction, rows_at_once=None, derivative_of_each=False):
    """The gradient of (mean_n L_n + penalty mean_n D_n^2) / penalty over the step's batch, by a second derivative.

    Args:
        path: of the configuration.
        reduction: of the loss: ``token`` or ``instance``.
        rows_at_once: cut each domain's batch into pieces.
        derivative_of_each: square each piece's derivative: the mistake.
    """
    config = runs.load(path, *COMMON)
    student = assemble.build_student(config, CPU)
    generator = torch.Generator().manual_seed(99)  # as runs.run starts
    for adapter in student.adapters.values():
        adapter.B.data.copy_(0.02 * torch.randn(adapter.B.shape, generator=generator))
    data = assemble.load_data(config, student.tokenizer)
    rows = [e for g in data.schedule.groups_of_step(0) for e in data.train.groups[g]]
    total = torch.zeros(())
    for n in range(len(data.train.domains)):
        mine = [e for e in rows if e.domain == n]
        size = rows_at_once or len(mine)
        pieces = [mine[i : i + size] for i in range(0, len(mine), size)]
        loss, penalty, derivatives = torch.zeros(()), torch.zeros(()), []
        for piece in pieces:
            batch = collate(piece, student.tokenizer.pad_token_id, reduction)
            logits = student.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
            logits_NV, labels_N, _ = supervised_logits(logits, batch.labels)
            weights_N = batch.weights[batch.labels != -100]
            w = torch.ones((), requires_grad=True)
            tokens_N = F.cross_entropy(w * logits_NV, labels_N, reduction="none")
            mean = (tokens_N * weights_N).sum() / weights_N.sum()
            derivatives.append(torch.autograd.grad(mean, w, create_graph=True)[0])
            loss = loss + mean / len(pieces)
        penalty = (
            sum(d**2 for d in derivatives) / len(pieces)
            if derivative_of_each
            else (sum(derivatives) / len(pieces)) ** 2
        )
        total = total + (loss + PENALTY * penalty) / len(data.train.domains)
    (total / PENALTY).backward()
    return {f"{k}.{n}": getattr(a, n.upper()).grad for k, a in student.adapters.items() for n in ("a", "b")}


@pytest.mark.parametrize("reduction", ["token", "instance"])
def test_accumulation_changes_nothing_and_the_objective_is_the_published_one(path, tmp_path, reduction):
    sizes = ["null", "32", "5", "1"]
    loss = f"train.loss_reduction={reduction}"
    found = [first_gradient(path, tmp_path / s, loss, f"train.micro_batch_size={s}") for s in sizes]
    for other in found[1:]:
        assert runs.relative(other, found[0]) < 1e-5
    assert runs.relative(found[0], explicit(path, reduction)) < 1e-4
    mean_only = first_gradient(path, tmp_path / "mean", loss, "hook.penalty=0.0")
    assert runs.relative({k: g / PENALTY for k, g in mean_only.items()}, found[0]) > 0.1  # the penalty tells


def test_squaring_per_micro_batch_would_be_another_objective(path, tmp_path):
    """With instance weights, so that the mean of the pieces' means is the mean."""
    found = first_gradient(path, tmp_path / "run", "train.loss_reduction=instance")
    assert runs.relative(explicit(path, "instance", rows_at_once=1), found) < 1e-4
    assert runs.relative(explicit(path, "instance", rows_at_once=1, derivative_of_each=True), found) > 0.05
