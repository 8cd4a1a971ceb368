"""Masks against their formulas in numpy, float64, on what float32 can hold."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from igascale.linalg.masks import and_mask, domain_mean, domain_variance, exp_mask, sand_mask

NORMS = ["none", "mean", "relative", "smoothed", "fraction"]
SCALE_FREE = NORMS[1:]
THRESHOLDS = [Fraction(n, d) for n, d in [(0, 1), (1, 5), (1, 3), (37, 100), (1, 2), (3, 5), (2, 3), (5, 6), (1, 1)]]
TABLE = torch.tensor([[1.0, 2.0, -1.0], [3.0, -2.0, -1.0]])  # mean 2 0 -1, V 1 4 0, unbiased variance 2 8 0


def np_exp(x, tau, norm):
    equal = (x == x[:1]).all(axis=0)  # where numpy's own rounded mean would leave a variance
    V, mean_sq = np.where(equal, 0.0, x.var(axis=0)), x.mean(axis=0) ** 2
    below = {
        "none": 1.0,
        "mean": V.mean(),
        "relative": mean_sq + 1e-12 * V.mean(),
        "smoothed": mean_sq + V.mean(),
        "fraction": mean_sq + V,
    }[norm]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.exp(-tau * np.where(V == 0, 0.0, V / below))


def np_agreement(x):
    return [Fraction(int(v), len(x)) for v in np.abs(np.sign(x).sum(axis=0)).ravel()]


def np_and(x, threshold):
    return np.array([float(s >= threshold) for s in np_agreement(x)]).reshape(x.shape[1:])


def np_sand(x, threshold, k, norm, ddof=1):
    variance, mean_sq = x.var(axis=0, ddof=ddof), x.mean(axis=0) ** 2
    excess = np.array([float(s - threshold) for s in np_agreement(x)]).reshape(x.shape[1:])
    with np.errstate(invalid="ignore", divide="ignore"):
        lam = (mean_sq if norm == "relative" else 1.0) / variance
        smooth = np.maximum(0, np.tanh(k * lam * excess))
    return np.where((x == x[:1]).all(axis=0), (excess > 0).astype(float), smooth)


@st.composite
def jacobians(draw):
    """Per-domain gradients at scales 1e-12 to 1e12, some of them zero, some the same in every domain."""
    D, scale = draw(st.integers(2, 6)), 10.0 ** draw(st.integers(-12, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    x = rng.normal(size=(D, 4, 7)) + draw(st.sampled_from([0.0, 1.0])) * rng.normal(size=(4, 7))
    x[rng.random(x.shape) < draw(st.sampled_from([0.0, 0.3]))] = 0
    x[:, 0] = x[0, 0]
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    return torch.tensor(scale * x, dtype=dtype), scale


def assert_mask(mask, expected, x):
    assert mask.dtype == x.dtype
    assert mask.shape == x.shape[1:]
    tolerance = 1e-6 if x.dtype == torch.float32 else 1e-11
    np.testing.assert_allclose(mask.double().numpy(), expected, rtol=tolerance, atol=tolerance)


@settings(max_examples=250, deadline=None)
@given(made=jacobians(), tau=st.sampled_from([0.0, 0.1, 0.5, 2.0]), norm=st.sampled_from(NORMS), fitting=st.booleans())
def test_exp_mask_is_the_formula(made, tau, norm, fitting):
    x, scale = made
    tau = tau / scale**2 if norm == "none" and fitting else tau
    assert_mask(exp_mask(x, tau, norm), np_exp(x.double().numpy(), tau, norm), x)


@settings(max_examples=250, deadline=None)
@given(made=jacobians(), threshold=st.sampled_from(THRESHOLDS))
def test_and_mask_is_the_formula(made, threshold):
    x, _ = made
    expected = np_and(x.double().numpy(), threshold)
    for written in (float(threshold), round(float(threshold), 5)):  # as a person writes a third
        assert_mask(and_mask(x, written), expected, x)


@settings(max_examples=250, deadline=None)
@given(
    made=jacobians(),
    threshold=st.sampled_from(THRESHOLDS),
    k=st.sampled_from([1e-3, 1.0, 10.0, 1e5]),
    norm=st.sampled_from(["none", "relative"]),
    fitting=st.booleans(),
)
def test_sand_mask_is_the_formula(made, threshold, k, norm, fitting):
    x, scale = made
    k = k * scale**2 if norm == "none" and fitting else k
    assert_mask(sand_mask(x, float(threshold), k, norm), np_sand(x.double().numpy(), threshold, k, norm), x)


def test_hand_computed_table():
    e = np.exp
    expected = {
        "none": [e(-0.5), e(-2.0), 1.0],
        "mean": [e(-0.3), e(-1.2), 1.0],
        "relative": [e(-0.125), 0.0, 1.0],
        "smoothed": [e(-1.5 / 17), e(-1.2), 1.0],
        "fraction": [e(-0.1), e(-0.5), 1.0],
    }
    for norm, values in expected.items():
        assert_mask(exp_mask(TABLE, 0.5, norm), values, TABLE)
    assert_mask(and_mask(TABLE, 1.0), [1, 0, 1], TABLE)
    assert_mask(and_mask(TABLE, 0.0), [1, 1, 1], TABLE)
    assert_mask(sand_mask(TABLE, 0.5, 2.0), [np.tanh(0.5), 0, 1], TABLE)
    assert_mask(sand_mask(TABLE, 0.5, 2.0, "relative"), [np.tanh(2.0), 0, 1], TABLE)
    assert_mask(exp_mask(TABLE, 0.5, "none", keep=torch.tensor(0.5)), [e(-0.25), e(-1.0), 1.0], TABLE)


@pytest.mark.parametrize("threshold", [1 / 3, 0.3333, 0.33333, 0.333333333])
def test_a_third_of_three_domains_is_one_vote(threshold):
    x = torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 0.0], [-3.0, 3.0, 0.0]])  # two against one, all, one and two zeros
    assert and_mask(x, threshold).tolist() == [1, 1, 1]
    assert and_mask(x, 0.34).tolist() == [0, 1, 0]
    sand = sand_mask(x, threshold, 1e9)
    assert sand.tolist() == [0, 1, 0]  # to agree by exactly the threshold is not enough


def masks_of(x, tau=0.5):
    yield from ((norm, exp_mask(x, tau, norm)) for norm in SCALE_FREE)
    yield "and", and_mask(x, 0.5)
    yield "sand", sand_mask(x, 0.5, 0.3, "relative")


@pytest.mark.parametrize("exponent", [-100, -60, -1, 1, 40, 60, 100])
def test_scale_free_masks_are_so_to_the_last_bit(exponent):
    """Squares of 2^100 or 2^-100 leave the range of float32."""
    x = torch.randn(4, 30, 20) + torch.randn(30, 20)
    for (name, mask), (_, scaled) in zip(masks_of(x), masks_of(x * 2.0**exponent)):
        assert torch.equal(mask, scaled), name
        assert 0.01 < mask.mean() < 0.99, name


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e18, 1e30])
def test_huge_and_tiny_gradients(scale):
    x = torch.randn(4, 30, 20) * scale
    for norm in NORMS:
        for tau in (0.0, 0.5):
            assert_mask(exp_mask(x, tau, norm), np_exp(x.double().numpy(), tau, norm), x)
    assert_mask(sand_mask(x, 0.5, 10.0), np_sand(x.double().numpy(), Fraction(1, 2), 10.0, "none"), x)
    assert (exp_mask(x, 0.5, "none") == (0.0 if scale > 1 else 1.0)).all()


def test_domains_that_are_equal_are_not_masked_at_all():
    one = torch.randn(500)
    x = one.expand(3, 500).clone()
    assert (domain_variance(x) == 0).all()
    naive = (x.double() - domain_mean(x).double()).square().mean(0)
    assert (naive > 0).any()  # thirds are rounded: deviations from the mean would make a variance of equal numbers
    for norm in NORMS:
        assert torch.equal(exp_mask(x, 1e12, norm), torch.ones(500)), norm
    for norm in ("none", "relative"):
        assert torch.equal(sand_mask(x, 0.5, 1e-9, norm), torch.ones(500))
        assert torch.equal(sand_mask(torch.zeros(3, 500), 0.5, 1e9, norm), torch.zeros(500))
    for norm in NORMS:
        assert torch.equal(exp_mask(torch.zeros(3, 500), 1e12, norm), torch.ones(500)), norm


@settings(max_examples=100, deadline=None)
@given(made=jacobians())
def test_domain_variance_is_the_population_variance(made):
    x, scale = made
    before = x.clone()
    np.testing.assert_allclose(
        domain_variance(x).numpy(), x.double().numpy().var(axis=0), rtol=1e-9, atol=1e-15 * scale**2
    )
    assert torch.equal(x, before)


def test_a_nan_is_never_hidden():
    x = torch.ones(3, 4)
    x[1, 2] = torch.nan
    masks = [*masks_of(x), ("none", exp_mask(x, 0.5, "none")), ("tau 0", exp_mask(x, 0.0, "none"))]
    masks += [("and 0", and_mask(x, 0.0)), ("dead", sand_mask(x, 1.0, 1.0)), ("steep", sand_mask(x, 0.5, 1e30))]
    for name, mask in masks:
        assert mask[2].isnan(), name


def test_one_domain_agrees_with_itself():
    x = torch.randn(1, 50)
    for name, mask in [*masks_of(x), ("sand", sand_mask(x, 0.5, 10.0))]:
        assert torch.equal(mask, torch.ones(50)), name


def test_order_of_domains_does_not_matter():
    x = torch.randn(5, 200, dtype=torch.float64)
    shuffled = x[torch.tensor([3, 0, 4, 1, 2])]
    for (name, mask), (_, other) in zip(masks_of(x), masks_of(shuffled)):
        torch.testing.assert_close(mask, other, rtol=1e-10, atol=1e-12, msg=name)


def test_wrong_population_of_the_variance_is_noticed():
    """SAND-mask takes the unbiased variance, IGA's mask the population variance; each with the other's is wrong."""
    x = np.random.default_rng(0).normal(size=(3, 400)) + 1
    right, wrong = (np_sand(x, Fraction(1, 2), 0.5, "none", ddof) for ddof in (1, 0))
    mine = sand_mask(torch.tensor(x), 0.5, 0.5).numpy()
    np.testing.assert_allclose(mine, right, atol=1e-12)
    assert np.abs(mine - wrong).max() > 0.1
    assert np.abs(exp_mask(torch.tensor(x), 1.0, "none").numpy() - np.exp(-x.var(axis=0, ddof=1))).max() > 0.1


def test_the_published_default_threshold_of_sand_mask_is_dead():
    x = torch.randn(4, 100)
    assert (sand_mask(x, 1.0, 10.0) == 0).all()
    assert (sand_mask(x.abs(), 1.0, 1e6, "relative") == 0).all()
    assert sand_mask(x, 0.5, 10.0).mean() > 0.05


def test_raw_variance_has_units_and_relative_has_not():
    """At 1e-4 per element the published SAND-mask is a step; the relative one has values in between, at sharpness 1."""
    x = 1e-4 * (torch.randn(4, 2000) + torch.randn(2000))
    masks = {"published": sand_mask(x, 0.5, 10.0), "relative": sand_mask(x, 0.5, 1.0, "relative")}
    between = {name: ((m > 0.01) & (m < 0.99)).sum() / (m > 0).sum() for name, m in masks.items()}
    assert between["published"] == 0
    assert between["relative"] > 0.5


def test_what_unanimous_domains_keep_of_the_relative_sand_mask():
    r"""Equal signs alone make :math:`\bar x^2 \ge \sigma^2 / D`: a large sharpness leaves a step here too."""
    x = torch.rand(4, 5000).pow(8)
    assert sand_mask(x, 0.5, 10.0, "relative").min() >= np.tanh(10 * 0.5 / 4) - 1e-6
