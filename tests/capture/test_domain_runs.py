"""The products of each domain's tokens, against a loop over tokens in float64, for every way domains can lie in a batch."""

import pytest
import torch

from igascale.domain_runs import DomainRuns

D, T, O, F = 3, 5, 4, 6  # noqa: E741

ROWS = {
    "sorted": [0, 0, 1, 1, 2, 2],
    "sorted, unequal": [0, 1, 1, 1, 2, 2],
    "sorted, one missing": [0, 0, 0, 2, 2, 2],
    "in the order of another": [2, 2, 0, 0, 1, 1],
    "by groups": [0, 1, 2, 0, 1, 2],
    "any": [2, 0, 0, 1, 2, 0],
    "one row": [1],
}
TOKENS = {
    "one packed row, equal": [[0, 0, 0, 1, 1, 1, 2, 2, 2]],
    "one packed row": [[0, 0, 1, 1, 1, 1, 2]],
    "packed, not sorted": [[1, 1, 0, 2, 2, 0, 0, 1]],
    "two rows, padded": [[0, 0, 1, -1, -1], [1, 2, 2, 2, -1]],
    "equal, with padding": [[0, 0, -1, -1], [1, 1, 2, 2]],
    "none": [[-1, -1, -1]],
}
CASES = {**ROWS, **TOKENS}


def by_hand(domain, grad, x):
    sums = torch.zeros(D, O, F, dtype=torch.float64)
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            d = int(domain[b] if domain.ndim == 1 else domain[b, t])
            if d >= 0:
                sums[d] += torch.outer(grad[b, t].double(), x[b, t].double())
    return sums


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_against_a_loop(case, dtype):
    domain = torch.tensor(CASES[case])
    shape = (len(domain), T) if domain.ndim == 1 else domain.shape
    grad, x = torch.randn(*shape, O).to(dtype), torch.randn(*shape, F).to(dtype)
    start = torch.randn(D, O, F)
    runs, sums = DomainRuns(domain, D), start.clone()
    assert runs.fits(x.shape)
    runs.add_products(sums, grad, x)
    torch.testing.assert_close(sums.double(), start.double() + by_hand(domain, grad, x), rtol=1e-5, atol=1e-5)
    # Autograd may hand over gradients that are expanded, and inputs that are transposed.
    sums = start.clone()
    grad, x = grad[:, :1].expand(*shape, O), x.transpose(0, 1).contiguous().transpose(0, 1)
    runs.add_products(sums, grad, x)
    torch.testing.assert_close(sums.double(), start.double() + by_hand(domain, grad, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_weights_per_domain(case):
    domain = torch.tensor(CASES[case])
    weight = torch.rand(domain.shape)
    runs = DomainRuns(domain, D)
    expected = [float(weight[domain == d].double().sum()) for d in range(D)]
    assert runs.weigh(weight).tolist() == pytest.approx(expected)
    assert runs.weigh(None).tolist() == [float((domain == d).sum()) for d in range(D)]
    with pytest.raises(ValueError, match="shape of domain"):
        runs.weigh(weight[..., None])


def test_sorted_rows_are_one_product():
    """What the speed rests on: runs as many as domains, never row by row where rows are sorted."""
    assert DomainRuns(torch.tensor(ROWS["sorted"]), D).runs == ((0, 2), (1, 2), (2, 2))
    assert DomainRuns(torch.tensor(ROWS["sorted, unequal"]), D).runs == ((0, 1), (1, 3), (2, 2))
    assert DomainRuns(torch.tensor(ROWS["any"]), D).runs == tuple((d, 1) for d in ROWS["any"])
    assert DomainRuns(torch.tensor(TOKENS["one packed row"]), D).runs == ((0, 2), (1, 4), (2, 1))


def test_what_is_not_a_number_stays_in_its_domain():
    grad, x = torch.ones(6, T, O), torch.ones(6, T, F)
    x[0] = torch.nan
    for case in ("sorted", "sorted, unequal"):
        sums = torch.zeros(D, O, F)
        DomainRuns(torch.tensor(ROWS[case]), D).add_products(sums, grad, x)
        assert sums[0].isnan().all() and sums[1:].isfinite().all()
    padded = torch.tensor([[-1, 0, 1, 2, 2]] + [[0, 0, 1, 1, 2]] * 5)
    grad, x = torch.ones(6, T, O), torch.ones(6, T, F)
    x[0, 0] = torch.nan  # tokens of no domain are not read at all
    sums = torch.zeros(D, O, F)
    DomainRuns(padded, D).add_products(sums, grad, x)
    assert sums.isfinite().all()


def test_other_shapes_do_not_fit():
    rows, tokens = DomainRuns(torch.tensor([0, 1]), D), DomainRuns(torch.tensor([[0, 1]]), D)
    assert (
        rows.fits(torch.Size((2, 9, F))) and not rows.fits(torch.Size((2, F))) and not rows.fits(torch.Size((3, 9, F)))
    )
    assert tokens.fits(torch.Size((1, 2, F))) and not tokens.fits(torch.Size((1, 3, F)))
    assert not tokens.fits(torch.Size((2, F)))
