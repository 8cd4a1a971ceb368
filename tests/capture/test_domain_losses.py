"""The per-domain loss against a sum written out by hand."""

import math

import torch

from igascale.loss import domain_token_losses, supervised_logits

LABELS = torch.tensor([[-100, 1, 2, -100], [-100, -100, 3, 0], [2, -100, -100, -100]])
WEIGHTS = torch.tensor([[0.0, 0.5, 0.5, 0.0], [0.0, 0.0, 1.0, 2.0], [1.0, 0.0, 0.0, 0.0]])
DOMAINS = torch.tensor([1, 0, 1])


def test_against_a_loop():
    logits = torch.randn(3, 4, 5)
    expected = [0.0, 0.0, 0.0]
    for row in range(3):
        for t in range(1, 4):
            if LABELS[row, t] != -100:
                nll = -logits[row, t - 1].double().log_softmax(-1)[LABELS[row, t]].item()
                expected[DOMAINS[row]] += WEIGHTS[row, t].item() * nll
    got = domain_token_losses(logits, LABELS, WEIGHTS, DOMAINS, 3)
    torch.testing.assert_close(got, torch.tensor(expected))
    assert got[2] == 0


def test_domains_by_token():
    """The same as by row where a row's tokens share its domain; else each token counts in its own, or in none."""
    logits = torch.randn(3, 4, 5)
    by_row = domain_token_losses(logits, LABELS, WEIGHTS, DOMAINS, 3)
    by_token = domain_token_losses(logits, LABELS, WEIGHTS, DOMAINS[:, None].expand(3, 4), 3)
    assert torch.equal(by_token, by_row)
    tokens = torch.tensor([[0, 0, 2, 2], [1, 1, -1, 1], [0, 0, 0, 0]])
    found = domain_token_losses(logits, LABELS, WEIGHTS, tokens, 3)
    nll = {(b, t): -logits[b, t - 1].log_softmax(-1)[LABELS[b, t]] for b, t in ((0, 1), (0, 2), (1, 3))}
    torch.testing.assert_close(found, torch.stack([0.5 * nll[0, 1], 2.0 * nll[1, 3], 0.5 * nll[0, 2]]))


def test_a_label_in_first_place_is_never_supervised():
    logits_NV, labels_N, row_N = supervised_logits(torch.randn(3, 4, 5), LABELS)
    assert labels_N.tolist() == [1, 2, 3, 0]
    assert row_N.tolist() == [0, 0, 1, 1]
    assert logits_NV.shape == (4, 5)


def test_float32_from_bf16_logits():
    logits = torch.zeros(3, 4, 5, dtype=torch.bfloat16, requires_grad=True)
    got = domain_token_losses(logits, LABELS, WEIGHTS, DOMAINS, 2)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, torch.tensor([3.0, 1.0]) * math.log(5))
    got.sum().backward()
    assert logits.grad.dtype == torch.bfloat16 and logits.grad.abs().sum() > 0


def test_nothing_supervised_is_zero_with_a_gradient():
    logits = torch.randn(3, 4, 5, requires_grad=True)
    got = domain_token_losses(logits, torch.full((3, 4), -100), torch.zeros(3, 4), DOMAINS, 2)
    assert got.tolist() == [0, 0]
    got.sum().backward()
    assert (logits.grad == 0).all()


def test_a_nan_stays_in_its_domain():
    logits = torch.randn(3, 4, 5)
    logits[1] = math.nan
    got = domain_token_losses(logits, LABELS, WEIGHTS, DOMAINS, 2)
    assert got[0].isnan() and got[1].isfinite()
