# ruff: noqa: E741 -- O and I are the shape letters of the project
"""The sampling noise estimated from micro-batches: against its definition, and against noise that is known."""

import pytest
import torch

from igascale.adapters import find_adapters
from igascale.capture import GradientCapture
from igascale.linalg.gram import reconstruction_grams, variance_over_domains
from igascale.noise import MicroBatchGrams, sampling_noise

from tiny import tiny_peft


class Factors:
    """As much of a LoraAdapter as the measurement reads."""

    def __init__(self, A, B):
        self.A, self.B = torch.nn.Parameter(A), torch.nn.Parameter(B)


def measure(parts, weights, A, B):
    """``parts``: per micro-batch the sums ``(a [D, R, I], b [D, O, R])`` of each domain."""
    D = weights.shape[1]
    grams = MicroBatchGrams(D)
    for (a, b), w_D in zip(parts, weights):
        grams.begin(w_D)
        grams.add("m", "b", b, Factors(A, B))
        grams.add("m", "a", a, Factors(A, B))
    total = weights.sum(0)
    a = sum(a for a, _ in parts) / total[:, None, None].float()
    b = sum(b for _, b in parts) / total[:, None, None].float()
    means = reconstruction_grams(a, b, A, B)
    return sampling_noise(grams.grams["m"][None], grams.overlap, grams.counts, total, means[None])[0], (a, b)


def vectors(a, b, A, B):
    """The reconstructions and the factors of each domain, as rows."""
    return (b @ A + B @ a).flatten(1).double(), torch.cat([a.flatten(1), b.flatten(1)], 1).double()


def normal(*shape, g):
    return torch.randn(*shape, generator=g)


@pytest.mark.parametrize("alike", [True, False], ids=["equal shares", "ragged"])
def test_equals_the_weighted_sample_covariance_written_out(alike):
    g = torch.Generator().manual_seed(0)
    O, I, R, D, M = 6, 5, 2, 3, 4
    A, B = normal(R, I, g=g), normal(O, R, g=g)
    weights = torch.randint(1, 9, (M, 1 if alike else D), generator=g).double().expand(M, D).clone()
    if not alike:
        weights[1, 2] = 0  # a domain that a micro-batch holds nothing of
    parts = []
    for w_D in weights.float()[:, :, None, None]:
        parts.append((w_D * normal(D, R, I, g=g), w_D * normal(D, O, R, g=g)))
    got, (mean_a, mean_b) = measure(parts, weights, A, B)
    means, W = vectors(mean_a, mean_b, A, B), weights.sum(0)
    for kind in (0, 1):
        expected = torch.zeros(D, D).double()
        for n in range(D):
            for k in range(D):
                met = [m for m in range(M) if weights[m, n] > 0 and weights[m, k] > 0]
                for m in met:
                    inverse = torch.where(weights[m] > 0, 1 / weights[m], 0.0).float()[:, None, None]
                    x = vectors(parts[m][0] * inverse, parts[m][1] * inverse, A, B)[kind] - means[kind]
                    share = (weights[m, n] * weights[m, k] / (W[n] * W[k])).sqrt()
                    expected[n, k] += share * (x[n] @ x[k]) / (len(met) - 1)
        torch.testing.assert_close(got[kind].diagonal(), expected.diagonal(), rtol=1e-4, atol=0)
        if alike:  # else the cross terms are approximate
            torch.testing.assert_close(got[kind], expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("common", [0.0, 2.0], ids=["independent", "alike"])
@pytest.mark.parametrize("ragged", [False, True])
def test_finds_noise_that_is_known(common, ragged):
    """Noise of a known size per token, part of it common to the domains of a micro-batch as it is to isomers."""
    g = torch.Generator().manual_seed(1)
    O, I, R, D, M = 12, 10, 3, 3, 4
    A, B = normal(R, I, g=g), normal(O, R, g=g)
    weights = torch.tensor([[30.0], [20.0], [24.0], [40.0]]).double().expand(M, D).clone()
    if ragged:
        weights += torch.tensor([[3.0, -2.0, 1.0], [-2.0, 3.0, 2.0], [4.0, -4.0, 0.0], [-5.0, 5.0, 2.0]])
    truth = normal(D, R, I, g=g), normal(D, O, R, g=g)
    estimates, errors = [], []
    for _ in range(400):
        parts = []
        for w_D in weights.float()[:, :, None, None]:
            shapes = ((R, I), (O, R))
            noise = [normal(D, *s, g=g) + common * normal(1, *s, g=g) for s in shapes]
            parts.append(tuple(w_D * t + w_D.sqrt() * e for t, e in zip(truth, noise)))
        estimate, means = measure(parts, weights, A, B)
        estimates.append(estimate)
        wrong = vectors(*(m - t for m, t in zip(means, truth)), A, B)
        errors.append(torch.stack([x @ x.T for x in wrong]))
    estimate, error = torch.stack(estimates).mean(0), torch.stack(errors).mean(0)
    scale = error.diagonal(dim1=1, dim2=2).amax(1)
    assert ((estimate - error).abs().amax((1, 2)) <= 0.06 * scale).all()
    in_variance, expected = variance_over_domains(estimate), variance_over_domains(error)
    torch.testing.assert_close(in_variance, expected, rtol=0.08, atol=0)
    # The classic mistakes: dividing by M; and taking errors that are alike for independent ones.
    assert ((in_variance * (M - 1) / M - expected).abs() > 0.15 * expected).all()
    if common:
        alone = estimate.diagonal(dim1=1, dim2=2).mean(1) * (D - 1) / D
        assert (alone > 3 * expected).all()


def test_one_micro_batch_tells_nothing():
    A, B = torch.ones(1, 2), torch.ones(3, 1)
    got, _ = measure([(torch.ones(2, 1, 2), torch.ones(2, 3, 1))], torch.ones(1, 2).double(), A, B)
    assert got.diagonal(dim1=1, dim2=2).isnan().all()
    assert variance_over_domains(got).isnan().all()


def test_domains_that_never_meet_count_as_independent():
    g = torch.Generator().manual_seed(2)
    A, B = normal(2, 5, g=g), normal(6, 2, g=g)
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]).double()
    parts = [(w * normal(2, 2, 5, g=g), w * normal(2, 6, 2, g=g)) for w in weights.float()[:, :, None, None]]
    got, _ = measure(parts, weights, A, B)
    assert got.isfinite().all()
    assert (got[:, 0, 1] == 0).all()


def test_a_module_that_runs_twice_is_unknown():
    A, B = torch.ones(1, 2), torch.ones(3, 1)
    grams = MicroBatchGrams(2)
    grams.begin(torch.ones(2))
    for _ in range(2):
        grams.add("m", "b", torch.ones(2, 3, 1), Factors(A, B))
        grams.add("m", "a", torch.ones(2, 1, 2), Factors(A, B))
    assert grams.grams["m"].isnan().all()


def test_capture_measures_each_micro_batch():
    """Through a real model: what captures of each micro-batch alone give; and it changes no gradient."""
    model = tiny_peft()
    adapters = find_adapters(model)
    ids = torch.randint(3, 100, (3, 4, 7), generator=torch.Generator().manual_seed(2))
    domains, weights = torch.tensor([0, 1, 1, 0]), torch.tensor([3.0, 1.0, 2.0, 5.0])
    root = torch.tensor([8.0, 3.0]).sqrt()  # of what each domain weighs in a micro-batch
    with GradientCapture(adapters, 2, measure_noise=True) as capture, GradientCapture(adapters, 2) as plain:
        expected = {fqn: torch.zeros(2, 2, 2, dtype=torch.float64) for fqn in adapters}
        for batch in ids:
            before = {fqn: (s.a.clone(), s.b.clone()) for fqn, s in plain.sums().items()}
            with capture.rows(domains, weight=weights), plain.rows(domains):
                model(input_ids=batch).logits.square().sum().backward()
            for fqn, s in plain.sums().items():
                a, b = s.a - before[fqn][0], s.b - before[fqn][1]
                rows = vectors(a, b, adapters[fqn].A.detach(), adapters[fqn].B.detach())
                expected[fqn] += torch.stack([x @ x.T for x in rows]) / torch.outer(root, root)
        assert capture.noise.counts.tolist() == [[3, 3], [3, 3]]
        torch.testing.assert_close(capture.noise.overlap, 3 * torch.outer(root, root).double())
        for fqn in adapters:
            size = float(expected[fqn].abs().max())
            torch.testing.assert_close(capture.noise.grams[fqn], expected[fqn], rtol=1e-3, atol=1e-4 * size)
            torch.testing.assert_close(capture.sums()[fqn].a, plain.sums()[fqn].a, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(capture.sums()[fqn].b, plain.sums()[fqn].b, rtol=1e-5, atol=1e-5)
        capture.reset()
        assert capture.noise.grams == {}


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_scales(scale):
    A, B = torch.randn(2, 5), torch.randn(6, 2)
    parts = [(scale * torch.randn(2, 2, 5), scale * torch.randn(2, 6, 2)) for _ in range(3)]
    got, _ = measure(parts, torch.ones(3, 2).double(), A, B)
    assert got.isfinite().all()
    assert (got.diagonal(dim1=1, dim2=2) > 0).all()


def test_a_group_cut_by_a_forward_pass_counts_once():
    """Rows of two groups in passes of any size measure what passes of whole groups do; counted apart they do not."""
    model = tiny_peft()
    adapters = find_adapters(model)
    ids = torch.randint(3, 100, (8, 7), generator=torch.Generator().manual_seed(3))
    domains, weights = torch.tensor([0, 1] * 4), torch.arange(1.0, 9.0)

    def grams(cuts, told=True):
        with GradientCapture(adapters, 2, measure_noise=True) as capture:
            for i, j in zip((0, *cuts), (*cuts, 8)):
                whole = j % 4 == 0 or not told
                with capture.rows(domains[i:j], weight=weights[i:j], whole_groups=whole):
                    model(input_ids=ids[i:j]).logits.square().sum().backward()
            return capture.noise

    whole, cut, wrong = grams((4,)), grams((1, 4, 6)), grams((1, 4, 6), told=False)
    torch.testing.assert_close(cut.overlap, whole.overlap)
    assert torch.equal(cut.counts, whole.counts)
    for fqn in adapters:
        size = float(whole.grams[fqn].abs().max())
        torch.testing.assert_close(cut.grams[fqn], whole.grams[fqn], rtol=1e-3, atol=1e-4 * size)
        assert float((wrong.grams[fqn] - whole.grams[fqn]).abs().max()) > 0.01 * size
