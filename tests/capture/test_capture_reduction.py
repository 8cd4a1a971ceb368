"""Token and instance means over several micro-batches, against the definition computed row by row."""

import pytest
import torch

from igascale.adapters import find_adapters
from igascale.capture import GradientCapture
from igascale.isomers.batches import collate, domain_denominators, micro_batches
from igascale.isomers.encode import encode_groups
from igascale.isomers.schema import Instance, IsomerGroup
from igascale.loss import domain_token_losses

from tiny import tiny_peft, tiny_tokenizer

NAMES = ("math", "law")


def examples():
    """Three groups of two domains with completions of 4 to 20 tokens."""
    words = ["red", "blue", "yes", "no", "Ann", "so"]

    def text(length, start):
        return " ".join(words[(start + i) % len(words)] for i in range(length))

    groups = [
        IsomerGroup(
            f"g{k}",
            f"s{k}",
            tuple(
                Instance(name, text(3 + k + 4 * d, k), text(1 + 3 * k + 2 * d, d), words[k])
                for d, name in enumerate(NAMES)
            ),
        )
        for k in range(3)
    ]
    return [e for g in encode_groups(groups, tiny_tokenizer(), NAMES, 64, "test") for e in g]


def rows_of_definition(model, reduction):
    """The mean of METHOD step 1, one row at a time, no padding, no batches: ``{parameter: [D, ...]}`` and losses."""
    result, means = {}, []
    for domain in range(2):
        rows, tokens = [], 0
        for example in examples():
            if example.domain != domain:
                continue
            ids = torch.tensor([example.input_ids])
            scores = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].log_softmax(-1)
            row = [-scores[t - 1, y] for t, y in enumerate(example.labels) if y != -100]
            tokens += len(row)
            rows.append(sum(row) / len(row) if reduction == "instance" else sum(row))
        mean = sum(rows) / (len(rows) if reduction == "instance" else tokens)
        means.append(mean.item())
        model.zero_grad()
        mean.backward()
        for name, p in model.named_parameters():
            if p.requires_grad:
                result.setdefault(name, []).append(p.grad.clone())
    return {name: torch.stack(g) for name, g in result.items()}, means


def in_micro_batches(model, reduction, size):
    rows = examples()
    loss_D = torch.zeros(2)
    with GradientCapture(find_adapters(model), 2) as capture:
        for part in micro_batches(rows, size):
            batch = collate(part, 0, reduction)
            with capture.rows(batch.domain):
                logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
                losses_D = domain_token_losses(logits, batch.labels, batch.weights, batch.domain, 2)
                losses_D.sum().backward()
            loss_D += losses_D.detach()
    denominator_D = domain_denominators(rows, 2, reduction).float()
    named = {}
    for fqn, grads in capture.sums().items():
        prefix = f"base_model.model.{fqn}.lora_"
        named[f"{prefix}A.default.weight"] = grads.a / denominator_D[:, None, None]
        named[f"{prefix}B.default.weight"] = grads.b / denominator_D[:, None, None]
    return named, (loss_D / denominator_D).tolist()


@pytest.mark.parametrize("reduction", ["token", "instance"])
@pytest.mark.parametrize("size", [1, 2, 4, 5, 6])  # 5 and 1 split groups
def test_accumulated_gradients_are_the_defined_mean(reduction, size):
    model = tiny_peft()
    expected, expected_losses = rows_of_definition(model, reduction)
    got, losses = in_micro_batches(model, reduction, size)
    assert losses == pytest.approx(expected_losses, rel=1e-5)
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        for d in range(2):
            assert (got[name][d] - gradient[d]).norm() <= 3e-6 * gradient[d].norm(), (name, d)


def test_the_two_reductions_differ():
    """Token counts are unequal, or the test above could not tell the reductions apart."""
    token, _ = rows_of_definition(tiny_peft(), "token")
    instance, _ = rows_of_definition(tiny_peft(), "instance")
    name = next(n for n in token if "lora_B" in n)
    assert (token[name] - instance[name]).norm() > 1e-2 * token[name].norm()


def test_accumulators_add_in_float32():
    """Many small bf16 micro-batches do not lose what bf16 addition would."""
    model = tiny_peft(torch.bfloat16)
    rows = examples()
    batch = collate(rows, 0, "token")

    def once(capture):
        with capture.rows(batch.domain):
            logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
            domain_token_losses(logits, batch.labels, batch.weights, batch.domain, 2).sum().backward()

    with GradientCapture(find_adapters(model), 2) as capture:
        once(capture)
        single = {fqn: g.b for fqn, g in capture.sums().items()}
        capture.reset()
        for _ in range(20):
            once(capture)
    for fqn, grads in capture.sums().items():
        torch.testing.assert_close(grads.b, 20 * single[fqn], rtol=1e-5, atol=1e-7)
