# ruff: noqa: E741 -- O and I are the shape letters of the project
"""The sampling noise estimated from micro-batches: against its definition, and against noise that is known."""

import pytest
import torch

from igascale.adapters import find_adapters
from igascale.capture import GradientCapture
from igascale.noise import MicroBatchSquares, sampling_noise, squared_norms

from tiny import tiny_peft


class Factors:
    """As much of a LoraAdapter as the measurement reads."""

    def __init__(self, A, B):
        self.A, self.B = torch.nn.Parameter(A), torch.nn.Parameter(B)


def measure(parts, weights, A, B):
    """``parts``: per micro-batch the sums ``(a [D, R, I], b [D, O, R])`` of each domain."""
    D = weights.shape[1]
    squares = MicroBatchSquares(D)
    for (a, b), w_D in zip(parts, weights):
        squares.begin(w_D)
        squares.add("m", "b", b, Factors(A, B))
        squares.add("m", "a", a, Factors(A, B))
    total = weights.sum(0)
    a = sum(a for a, _ in parts) / total[:, None, None].float()
    b = sum(b for _, b in parts) / total[:, None, None].float()
    mean_sq = squared_norms(a, b, A, B)
    return sampling_noise(squares.squares["m"][None], squares.counts, total, mean_sq[None])[0], (a, b)


def test_equals_the_weighted_sample_variance_written_out():
    g = torch.Generator().manual_seed(0)
    O, I, R, D, M = 6, 5, 2, 3, 4
    A, B = torch.randn(R, I, generator=g), torch.randn(O, R, generator=g)
    weights = torch.randint(1, 9, (M, D), generator=g).double()
    weights[1, 2] = 0  # a domain that a micro-batch holds nothing of
    parts = []
    for m in range(M):
        a, b = torch.randn(D, R, I, generator=g), torch.randn(D, O, R, generator=g)
        parts.append(tuple(x * weights[m, :, None, None].float() for x in (a, b)))
    got, (mean_a, mean_b) = measure(parts, weights, A, B)
    for n in range(D):
        present = [m for m in range(M) if weights[m, n] > 0]
        W = weights[:, n].sum()
        expected = torch.zeros(2, dtype=torch.float64)
        for m in present:
            a, b = (x[n] / weights[m, n] - mean[n] for x, mean in zip(parts[m], (mean_a, mean_b)))
            expected[0] += weights[m, n] * (b @ A + B @ a).square().sum()
            expected[1] += weights[m, n] * (a.square().sum() + b.square().sum())
        torch.testing.assert_close(got[:, n], expected / W / (len(present) - 1), rtol=1e-4, atol=0)


def test_finds_noise_that_is_known():
    """Per-token noise of a known size, unequal micro-batches: right on average; dividing by M, not M - 1, is not."""
    g = torch.Generator().manual_seed(1)
    O, I, R, D, M = 12, 10, 3, 2, 4
    A, B = torch.randn(R, I, generator=g), torch.randn(O, R, generator=g)
    weights = torch.tensor([[3.0, 1.0], [1.0, 4.0], [2.0, 2.0], [5.0, 1.0]]).double()
    truth_a, truth_b = torch.randn(D, R, I, generator=g), torch.randn(D, O, R, generator=g)
    estimates, errors = [], []
    for _ in range(300):
        parts = []
        for w_D in weights.float()[:, :, None, None]:
            noise_a, noise_b = torch.randn(D, R, I, generator=g), torch.randn(D, O, R, generator=g)
            parts.append((w_D * truth_a + w_D.sqrt() * noise_a, w_D * truth_b + w_D.sqrt() * noise_b))
        estimate, (a, b) = measure(parts, weights, A, B)
        estimates.append(estimate)
        da, db = a - truth_a, b - truth_b
        hat = torch.stack([(y @ A + B @ x).square().sum() for x, y in zip(da, db)])
        errors.append(torch.stack([hat, da.square().sum((1, 2)) + db.square().sum((1, 2))]).double())
    estimate, error = torch.stack(estimates).mean(0), torch.stack(errors).mean(0)
    torch.testing.assert_close(estimate, error, rtol=0.06, atol=0)
    assert ((estimate * (M - 1) / M - error).abs() > 0.15 * error).all()


def test_one_micro_batch_tells_nothing():
    A, B = torch.ones(1, 2), torch.ones(3, 1)
    got, _ = measure([(torch.ones(2, 1, 2), torch.ones(2, 3, 1))], torch.ones(1, 2).double(), A, B)
    assert got.isnan().all()


def test_a_module_that_runs_twice_is_unknown():
    A, B = torch.ones(1, 2), torch.ones(3, 1)
    squares = MicroBatchSquares(2)
    squares.begin(torch.ones(2))
    for _ in range(2):
        squares.add("m", "b", torch.ones(2, 3, 1), Factors(A, B))
        squares.add("m", "a", torch.ones(2, 1, 2), Factors(A, B))
    assert squares.squares["m"].isnan().all()


def test_capture_measures_each_micro_batch():
    """Through a real model: the same squares as from captures of each micro-batch alone; and it changes no gradient."""
    model = tiny_peft()
    adapters = find_adapters(model)
    ids = torch.randint(3, 100, (3, 4, 7), generator=torch.Generator().manual_seed(2))
    domains, weights = torch.tensor([0, 1, 1, 0]), torch.tensor([3.0, 1.0, 2.0, 5.0])
    with GradientCapture(adapters, 2, measure_noise=True) as capture, GradientCapture(adapters, 2) as plain:
        expected = {fqn: torch.zeros(2, 2, dtype=torch.float64) for fqn in adapters}
        for batch in ids:
            before = {fqn: (s.a.clone(), s.b.clone()) for fqn, s in plain.sums().items()}
            with capture.rows(domains, weight_B=weights), plain.rows(domains):
                model(input_ids=batch).logits.square().sum().backward()
            for fqn, s in plain.sums().items():
                a, b = s.a - before[fqn][0], s.b - before[fqn][1]
                A, B = adapters[fqn].A.detach(), adapters[fqn].B.detach()
                per_domain = torch.tensor([8.0, 3.0])
                hat = (b @ A + B @ a).double().square().sum((1, 2)) / per_domain
                expected[fqn] += torch.stack([hat, (a.square().sum((1, 2)) + b.square().sum((1, 2))) / per_domain])
        assert capture.noise.counts.tolist() == [3, 3]
        for fqn in adapters:
            torch.testing.assert_close(capture.noise.squares[fqn], expected[fqn], rtol=1e-3, atol=0)
            torch.testing.assert_close(capture.sums()[fqn].a, plain.sums()[fqn].a, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(capture.sums()[fqn].b, plain.sums()[fqn].b, rtol=1e-5, atol=1e-5)
        capture.reset()
        assert capture.noise.squares == {}


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_scales(scale):
    A, B = torch.randn(2, 5), torch.randn(6, 2)
    parts = [(scale * torch.randn(2, 2, 5), scale * torch.randn(2, 6, 2)) for _ in range(3)]
    got, _ = measure(parts, torch.ones(3, 2).double(), A, B)
    assert got.isfinite().all()
    assert (got > 0).all()
