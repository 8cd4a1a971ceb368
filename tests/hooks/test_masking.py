# ruff: noqa: E741 -- O and I are the shape letters of the project
"""The masking hooks against their formulas in numpy, their controls, figures and alarms, and the classic mistakes."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from igascale import hooks
from igascale.errors import UserError
from igascale.hooks import AdapterFactors, DomainFactorGrads, HookContext
from igascale.hooks._masking import LARGEST_RATIO, FactorMaskHook, ratio
from igascale.hooks.and_mask import AndMask
from igascale.hooks.gate import Gate
from igascale.hooks.mean import Mean
from igascale.hooks.sand_mask import SandMask

from dense_oracle import random_adapter, reconstruct

CONTEXT = HookContext(step=3, seed=7)


def only(hook, grads, factors=None, ctx=CONTEXT):
    return hook.combine({"q": grads}, {} if factors is None else {"q": factors}, ctx)["q"]


def adapter(seed=0, O=9, I=7, R=3, D=4, dtype=torch.float64, noise=None, **kwargs):
    a, b, A, B = random_adapter(O, I, R, D, seed=seed, dtype=dtype, **kwargs)
    return DomainFactorGrads(a, b, noise), AdapterFactors(A, B, 2.0)


@st.composite
def jacobians(draw):
    """The two factors' gradients of 2 to 6 domains at scales 1e-12 to 1e12, with zeros among them."""
    D, scale = draw(st.integers(2, 6)), 10.0 ** draw(st.integers(-12, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))

    def factor(*shape):
        x = rng.normal(size=(D, *shape)) + rng.normal(size=shape)
        x[rng.random(x.shape) < 0.1] = 0
        x[:, 0] = x[0, 0]
        return torch.tensor(scale * x, dtype=dtype)

    return DomainFactorGrads(factor(3, 5), factor(6, 3)), scale


def np_mask(x, kind, threshold, k=1.0, relative=False):
    agreement = np.abs(np.sign(x).sum(axis=0))
    excess = np.array([float(Fraction(int(v), len(x)) - threshold) for v in agreement.ravel()]).reshape(agreement.shape)
    if kind == "and":
        return (excess >= 0).astype(float)
    equal, mean_sq = (x == x[:1]).all(axis=0), x.mean(axis=0) ** 2
    variance = np.where(equal, 1.0, x.var(axis=0, ddof=1))
    return np.where(equal, excess > 0, np.maximum(0, np.tanh(k * (mean_sq if relative else 1.0) / variance * excess)))


def _mean_of_live(masks, tensors):
    """Over the elements where some domain has a gradient: of the others there is nothing to keep."""
    live = np.concatenate([(x != 0).any(0).numpy().ravel() for x in tensors])
    return np.concatenate([m.ravel() for m in masks])[live].mean()


def assert_is(out, grads, masks, rescale):
    """The published update: the masked mean over the mean of the mask, tensor by tensor; and what is told of it."""
    results = []
    for x, mask, mine in zip((grads.a, grads.b), masks, (out.a, out.b)):
        mean = x.double().numpy().mean(axis=0)
        expected = mask * mean / ((1e-10 + mask.mean()) if rescale == "inverse-sparsity" else 1.0)
        results.append(expected)
        tolerance = 1e-5 if x.dtype == torch.float32 else 1e-9
        np.testing.assert_allclose(mine.double().numpy(), expected, rtol=tolerance, atol=tolerance * np.abs(mean).max())
    mean = np.concatenate([x.double().numpy().mean(axis=0).ravel() for x in (grads.a, grads.b)])
    V = np.concatenate([x.double().numpy().var(axis=0).ravel() for x in (grads.a, grads.b)])
    result, norm = np.concatenate([r.ravel() for r in results]), np.linalg.norm
    cosine = mean @ result / (norm(mean) * norm(result)) if norm(result) else 0.0
    expected = {
        "mean_mask": _mean_of_live(masks, (grads.a, grads.b)),
        "relative_change": norm(result - mean) / norm(mean),
        "gir": V.sum() / (mean**2).sum(),
        "grad_cosine": cosine,
    }
    for name, value in expected.items():
        assert float(out.stats[name]) == pytest.approx(value, rel=1e-4, abs=1e-4), name
    assert math.isnan(out.stats["noise_share"])


@settings(max_examples=200, deadline=None)
@given(
    made=jacobians(),
    threshold=st.sampled_from([Fraction(0), Fraction(1, 3), Fraction(1, 2), Fraction(3, 5), Fraction(1)]),
    rescale=st.sampled_from(["none", "inverse-sparsity"]),
)
def test_and_mask_is_the_published_update(made, threshold, rescale):
    grads, _ = made
    out = only(AndMask(threshold=float(threshold), rescale=rescale), grads)
    assert_is(out, grads, [np_mask(x.double().numpy(), "and", threshold) for x in (grads.a, grads.b)], rescale)


@settings(max_examples=200, deadline=None)
@given(
    made=jacobians(),
    threshold=st.sampled_from([Fraction(0), Fraction(1, 3), Fraction(1, 2), Fraction(4, 5)]),
    k=st.sampled_from([0.1, 1.0, 10.0]),
    rescale=st.sampled_from(["none", "inverse-sparsity"]),
    norm=st.sampled_from(["none", "relative"]),
)
def test_sand_mask_is_the_published_update(made, threshold, k, rescale, norm):
    grads, scale = made
    k = k * scale**2 if norm == "none" else k
    hook = SandMask(threshold=float(threshold), sharpness=k, rescale=rescale, variance_norm=norm)
    masks = [np_mask(x.double().numpy(), "sand", threshold, k, norm == "relative") for x in (grads.a, grads.b)]
    assert_is(only(hook, grads), grads, masks, rescale)


def test_hand_computed_table():
    a = torch.tensor([[[1.0, 2.0, -1.0]], [[3.0, -2.0, -1.0]]])  # mean 2 0 -1, unbiased variance 2 8 0
    grads = DomainFactorGrads(a, torch.tensor([[[1.0]], [[-3.0]]]))  # b: mean -1, no agreement
    out = only(AndMask(), grads)
    torch.testing.assert_close(out.a, torch.tensor([[3.0, 0.0, -1.5]]))  # two of three kept: times 3/2
    assert out.b.item() == 0
    assert float(out.stats["mean_mask"]) == 0.5
    out = only(SandMask(sharpness=2.0), grads)
    mean_mask = (math.tanh(0.5) + 1) / 3
    torch.testing.assert_close(out.a, torch.tensor([[2 * math.tanh(0.5), 0.0, -1.0]]) / mean_mask)
    out = only(Gate(tau=0.5), grads)  # V: 1 4 0 and 4; mean^2: 4 0 1 and 1
    w = math.exp(-0.5 * 9 / 6)
    torch.testing.assert_close(out.a, w * torch.tensor([[2.0, 0.0, -1.0]]))
    torch.testing.assert_close(out.b, torch.tensor([[-w]]))
    expected = {"mean_mask": w, "relative_change": 1 - w, "gir": 1.5, "noise_share": math.nan, "grad_cosine": 1.0}
    assert {n: float(v) for n, v in out.stats.items()} == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    "hook",
    [
        AndMask(threshold=0.0, rescale="none", second_moment="max"),
        AndMask(threshold=0.0, second_moment="max"),
        Gate(tau=0.0),
        Gate(tau=0.0, space="weight", remove_noise=True),
        Gate(tau=0.0, shuffled=True),
    ],
    ids=["and", "and-rescaled", "gate", "gate-weight", "gate-shuffled"],
)
def test_exactly_the_mean_without_a_mask(hook):
    grads, factors = adapter(dtype=torch.float32, D=3, scale=1e-5)
    out, plain = only(hook, grads, factors), only(Mean(), grads)
    for mine, reference, expected in [(out.a, out.reference_a, plain.a), (out.b, out.reference_b, plain.b)]:
        assert torch.equal(mine, expected)
        assert torch.equal(reference, expected)
    assert hook.warnings() == (["shuffled=True: a control, the mask's values are in random places."] * hook.shuffled)
    assert "inactive mask" not in hook.alarms(out.stats)


@pytest.mark.parametrize("make", [AndMask, SandMask, Gate])
def test_the_reference_is_the_plain_mean(make):
    grads, factors = adapter(dtype=torch.float32)
    out, plain = only(make(second_moment="max"), grads, factors), only(Mean(), grads)
    assert torch.equal(out.reference_a, plain.a)
    assert torch.equal(out.reference_b, plain.b)
    assert not torch.equal(out.a, plain.a)
    bare = make(second_moment="adam")
    out = only(bare, grads, factors)
    assert out.reference_a is None
    assert out.reference_b is None
    assert not bare.uses_reference
    assert any("second_moment='adam'" in line for line in bare.warnings())


@pytest.mark.parametrize("make", [AndMask, SandMask, Gate, lambda: Gate(space="weight")])
def test_a_nan_comes_out_as_one(make):
    for part in ("a", "b"):
        grads, factors = adapter(dtype=torch.float32)
        getattr(grads, part)[1, 2, 1] = torch.nan
        assert getattr(only(make(), grads, factors), part).isnan().any()


@pytest.mark.parametrize("space", ["factor", "weight"])
def test_a_nan_of_the_gate_is_one_of_the_whole_adapter(space):
    """Its scalar is made from all of it; in weight space from A and B too."""
    grads, factors = adapter(dtype=torch.float32)
    grads.a[1, 2, 1] = torch.nan
    broken = [(grads, factors)]
    if space == "weight":
        grads, factors = adapter(dtype=torch.float32)
        factors.B[0, 0] = torch.nan
        broken.append((grads, factors))
    for g, f in broken:
        out = only(Gate(space=space), g, f)
        assert out.b.isnan().all()
        assert out.stats["gir"].isnan()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize(
    "make", [AndMask, lambda: SandMask(variance_norm="relative"), Gate, lambda: Gate(space="weight")]
)
def test_scale_of_the_gradients_does_not_matter(make, scale):
    grads, factors = adapter(dtype=torch.float32)
    large = DomainFactorGrads(grads.a * scale, grads.b * scale)
    out, scaled = only(make(), grads, factors), only(make(), large, factors)
    torch.testing.assert_close(scaled.a, out.a * scale, rtol=1e-4, atol=0)
    for name in ("mean_mask", "relative_change", "gir", "grad_cosine"):
        torch.testing.assert_close(scaled.stats[name], out.stats[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", [AndMask, SandMask, Gate, lambda: Gate(space="weight")])
def test_order_of_domains_does_not_matter(make):
    grads, factors = adapter(D=5)
    order = torch.tensor([3, 0, 4, 1, 2])
    out, other = only(make(), grads, factors), only(make(), DomainFactorGrads(grads.a[order], grads.b[order]), factors)
    torch.testing.assert_close(out.a, other.a, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(out.b, other.b, rtol=1e-9, atol=1e-12)


def test_the_dead_default_of_sand_mask_is_said_aloud():
    """DomainBed's tau = 1: nothing is ever updated, rescaled or not."""
    grads, _ = adapter(dtype=torch.float32)
    for rescale in ("none", "inverse-sparsity"):
        dead = SandMask(threshold=1.0, rescale=rescale)
        out = only(dead, grads)
        assert (out.a == 0).all()
        assert (out.b == 0).all()
        assert "ZERO EVERYWHERE" in dead.warnings()[0]
        assert "Lower threshold" in dead.alarms(out.stats)["starving mask"]
    alive = SandMask()
    assert only(alive, grads).a.abs().sum() > 0
    assert not any("ZERO" in line for line in alive.warnings())
    told = SandMask(variance_norm="relative", sharpness=1.0, second_moment="max").warnings()
    assert told == []
    assert "sharpness=10" in SandMask(variance_norm="relative", second_moment="max").warnings()[0]


@pytest.mark.parametrize("make", [AndMask, lambda: SandMask(variance_norm="relative"), Gate])
def test_masking_on_each_rank_and_averaging_is_another_rule(make):
    """Why the trainer averages over ranks before it calls a hook."""
    ranks = [adapter(seed=s)[0] for s in (1, 2)]
    together = DomainFactorGrads(*((getattr(ranks[0], n) + getattr(ranks[1], n)) / 2 for n in "ab"))
    right = only(make(), together).a
    wrong = (only(make(), ranks[0]).a + only(make(), ranks[1]).a) / 2
    assert (right - wrong).norm() > 0.03 * right.norm()


class Marked(FactorMaskHook):
    """A mask whose values say where they belong."""

    def __init__(self, shuffled: bool = True) -> None:
        super().__init__("adam", shuffled)

    def mask(self, x_DXX):
        return torch.arange(1.0, 1 + x_DXX[0].numel()).view_as(x_DXX[0])


def test_shuffled_moves_the_values_within_the_tensor():
    grads = {fqn: DomainFactorGrads(torch.ones(2, 4, 30), torch.ones(2, 20, 4)) for fqn in ("q", "k")}

    def run(step=3, seed=7, shuffled=True, names=("q", "k")):
        ctx = HookContext(step=step, seed=seed)
        return Marked(shuffled).combine({n: grads[n] for n in names}, {}, ctx)

    plain, first = run(shuffled=False), run()
    for fqn in grads:
        for part in ("a", "b"):
            mine, placed = getattr(first[fqn], part), getattr(plain[fqn], part)
            assert not torch.equal(mine, placed)
            assert torch.equal(mine.flatten().sort().values, placed.flatten().sort().values)
    assert float(first["q"].stats["mean_mask"]) == float(plain["q"].stats["mean_mask"])
    assert torch.equal(first["q"].a, run()["q"].a)
    assert torch.equal(first["q"].a, run(names=("q",))["q"].a)  # whatever else this rank owns
    for other in (run(step=4)["q"].a, run(seed=8)["q"].a, first["k"].a):
        assert not torch.equal(first["q"].a, other)


@pytest.mark.parametrize("make", [AndMask, SandMask])
def test_shuffled_keeps_how_much_is_masked(make):
    grads, _ = adapter(dtype=torch.float32)
    plain, moved = only(make(), grads), only(make(shuffled=True), grads)
    assert float(moved.stats["mean_mask"]) == pytest.approx(float(plain.stats["mean_mask"]), rel=1e-6)
    assert not torch.equal(plain.a, moved.a)
    assert any("a control" in line for line in make(shuffled=True).warnings())


def dense_gir(g, f, space):
    parts = [reconstruct(g.a, g.b, f.A, f.B)] if space == "weight" else [g.a, g.b]
    return sum(x.var(0, correction=0).sum() for x in parts) / sum(x.mean(0).square().sum() for x in parts)


@pytest.mark.parametrize("scale", [1e-12, 1e-5, 1.0, 1e12])
@pytest.mark.parametrize("space", ["factor", "weight"])
def test_gate_is_the_dense_formula(space, scale):
    for seed in range(20):
        g, f = adapter(seed=seed, D=2 + seed % 5, O=5 + seed, scale=scale, b_size=[0.0, 0.01, 1.0][seed % 3])
        out = only(Gate(tau=0.3, space=space), g, f)
        gir = dense_gir(g, f, space)
        torch.testing.assert_close(out.stats["gir"], gir, rtol=1e-10, atol=0)
        torch.testing.assert_close(out.a, torch.exp(-0.3 * gir) * g.a.mean(0), rtol=1e-10, atol=1e-14 * scale)
        torch.testing.assert_close(out.b, torch.exp(-0.3 * gir) * g.b.mean(0), rtol=1e-10, atol=1e-14 * scale)


@pytest.mark.parametrize("space", ["factor", "weight"])
def test_gate_in_the_limits(space):
    g, f = adapter(D=3, dtype=torch.float32)
    same = DomainFactorGrads(g.a[:1].expand(3, -1, -1), g.b[:1].expand(3, -1, -1))
    hook = Gate(tau=1e9, space=space)
    assert torch.equal(only(hook, same, f).a, only(Mean(), same).a)  # no variance: exactly the mean, whatever tau
    opposed = DomainFactorGrads(torch.stack([g.a[0], -g.a[0]]), torch.stack([g.b[0], -g.b[0]]))
    out = only(Gate(space=space), opposed, f)
    assert float(out.stats["gir"]) == LARGEST_RATIO
    assert (out.a == 0).all()
    nothing = DomainFactorGrads(torch.zeros_like(g.a), torch.zeros_like(g.b))
    out = only(hook, nothing, f)
    assert (out.a == 0).all()
    assert float(out.stats["mean_mask"]) == 1
    assert not any(v.isinf() for v in out.stats.values())


@pytest.mark.parametrize(("space", "row"), [("weight", 0), ("factor", 1)])
def test_gate_without_the_noise(space, row):
    g, f = adapter(D=4)
    gir = float(dense_gir(g, f, space))
    parts = [reconstruct(g.a, g.b, f.A, f.B)] if space == "weight" else [g.a, g.b]
    V = sum(x.var(0, correction=0).sum() for x in parts)
    for share in (0.0, 0.4, 1.0, 1.7):
        noise = torch.full((2, 4, 4), 1e30, dtype=torch.float64)
        alone = share * V * 4 / 3 * torch.tensor([0.5, 1.5, 0.0, 2.0], dtype=torch.float64).diag()  # of mean 1
        noise[row] = alone + 7.0 * V  # what all domains err by alike cancels
        noisy = DomainFactorGrads(g.a, g.b, noise)
        out, kept = only(Gate(space=space, remove_noise=True), noisy, f), only(Gate(space=space), noisy, f)
        assert float(out.stats["mean_mask"]) == pytest.approx(math.exp(-0.5 * gir * max(0.0, 1 - share)), rel=1e-10)
        assert float(kept.stats["mean_mask"]) == pytest.approx(math.exp(-0.5 * gir), rel=1e-10)
        for stats in (out.stats, kept.stats):
            assert float(stats["noise_share"]) == pytest.approx(share, rel=1e-10)
            assert float(stats["gir"]) == pytest.approx(gir, rel=1e-10)
    for unknown in (None, torch.full((2, 4, 4), torch.nan, dtype=torch.float64)):
        out = only(Gate(space=space, remove_noise=True), DomainFactorGrads(g.a, g.b, unknown), f)
        assert float(out.stats["mean_mask"]) == pytest.approx(math.exp(-0.5 * gir), rel=1e-10)
        assert math.isnan(out.stats["noise_share"])


def test_noise_share_of_domains_that_differ_by_noise_alone_is_one():
    """Also with unequal noise: E sum V is (D - 1)/D of the mean squared error of the domains."""
    sigma, O, I, R = torch.tensor([0.5, 1.0, 3.0]).view(3, 1, 1), 60, 80, 20
    shares = []
    for _ in range(20):
        a = torch.randn(R, I) + sigma * torch.randn(3, R, I)
        b = torch.randn(O, R) + sigma * torch.randn(3, O, R)
        noise = (sigma.flatten() ** 2 * R * (I + O)).double().diag().expand(2, 3, 3)
        shares.append(float(only(AndMask(), DomainFactorGrads(a, b, noise)).stats["noise_share"]))
    assert np.mean(shares) == pytest.approx(1.0, abs=0.02)


SHAPES = {"a": (6, 5, 2), "b": (6, 5, 2), "c": (4, 4, 2), "d": (6, 5, 2), "e": (4, 4, 2), "alone": (3, 3, 2)} | {
    f"m{k}": (6, 5, 2) for k in range(6)
}


def many():
    made = {f: adapter(seed=k, O=O, I=I, R=R) for k, (f, (O, I, R)) in enumerate(SHAPES.items())}
    return {f: g for f, (g, _) in made.items()}


def gates(result):
    return {f: float(out.stats["mean_mask"]) for f, out in result.items()}


def test_shuffled_gate_permutes_the_scalars_of_one_shape():
    grads, hook = many(), Gate(shuffled=True)
    plain = gates(Gate().combine(grads, {}, CONTEXT))
    moved = gates(hook.combine(grads, {}, CONTEXT))
    for shape in set(SHAPES.values()):
        names = [f for f in SHAPES if SHAPES[f] == shape]
        assert sorted(moved[f] for f in names) == sorted(plain[f] for f in names)
    assert moved["alone"] == plain["alone"]
    assert moved != plain
    assert moved == gates(hook.combine(grads, {}, CONTEXT))
    assert moved != gates(hook.combine(grads, {}, HookContext(step=4, seed=7)))
    assert moved != gates(hook.combine(grads, {}, HookContext(step=3, seed=8)))


def test_shuffled_gate_is_the_same_over_three_ranks_one_of_them_idle():
    grads, hook = many(), Gate(shuffled=True)
    whole = hook.combine(grads, {}, HookContext(step=3, seed=7, shapes=SHAPES))
    shards = [{f: grads[f] for f in list(SHAPES)[::2]}, {f: grads[f] for f in list(SHAPES)[1::2]}, {}]
    shares = []

    def run(shard, sum_over_shards):
        ctx = HookContext(step=3, seed=7, shapes=SHAPES, sum_over_shards=sum_over_shards)
        return hook.combine(shard, {}, ctx)

    for shard in shards:  # first only to learn what each rank would send
        run(shard, lambda tensor: shares.append(tensor.clone()) or tensor)
    assert len(shares) == 3  # each rank exactly once, also the idle one: the others wait for it
    total = torch.stack(shares).sum(0)
    results = [run(shard, lambda tensor: total.clone()) for shard in shards]
    assert results[2] == {}
    merged = results[0] | results[1]
    assert gates(merged) == gates(whole)
    for fqn in SHAPES:
        assert torch.equal(merged[fqn].a, whole[fqn].a)
    alone = results[0] | {}
    local = hook.combine(shards[0], {}, CONTEXT)  # permuting within one rank would be another control
    assert gates(alone) != gates(local)


def test_alarms():
    hook = Gate()
    fine = {"mean_mask": 0.7, "relative_change": 0.3, "gir": 1.0, "noise_share": 0.5, "grad_cosine": 0.9}
    assert hook.alarms(fine) == {}
    assert hook.alarms({}) == {}
    assert hook.alarms(dict.fromkeys(fine, math.nan)) == {}
    cases = [
        ({"relative_change": 0.005}, "inactive mask", "Raise tau"),
        ({"relative_change": 0.97}, "starving mask", "Lower tau"),
        ({"mean_mask": 0.05}, "starving mask", "Lower tau"),
        ({"noise_share": 0.9}, "noise-dominated", "more groups"),
        ({"grad_cosine": -0.1}, "not a descent direction", "-0.10"),
    ]
    for change, name, remedy in cases:
        told = hook.alarms(fine | change)
        assert list(told) == [name]
        assert remedy in told[name]
    assert AndMask().alarms(fine | {"relative_change": 2.5}) == {}  # scaled up again: not starving
    assert "Raise threshold" in AndMask().alarms(fine | {"relative_change": 0.0})["inactive mask"]


def test_ratio():
    n, inf, nan = (lambda x: torch.tensor(x, dtype=torch.float64)), math.inf, math.nan
    cases = [(1, 2, 0.5), (0, 0, 0), (0, 3, 0), (1, 0, LARGEST_RATIO), (1, 1e-30, LARGEST_RATIO)]
    for top, bottom, expected in cases:
        assert float(ratio(n(float(top)), n(float(bottom)))) == expected
    for top, bottom in [(nan, 1.0), (0.0, nan), (nan, 0.0), (inf, inf)]:
        assert math.isnan(ratio(n(top), n(bottom)))


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("and_mask", {"threshold": 1.5}, "threshold=1.5: must be a finite number >= 0 and <= 1"),
        ("and_mask", {"rescale": "both"}, "'hook.rescale': expected inverse-sparsity | none"),
        ("sand_mask", {"threshold": -0.1}, "threshold=-0.1"),
        ("sand_mask", {"sharpness": 0.0}, "sharpness=0.0: must be a finite number > 0"),
        ("sand_mask", {"variance_norm": "mean"}, "'hook.variance_norm': expected none | relative"),
        ("sand_mask", {"tau": 1.0}, "unknown key 'hook.tau'"),
        ("gate", {"tau": math.nan}, "tau=nan"),
        ("gate", {"space": "dense"}, "'hook.space': expected factor | weight"),
        ("gate", {"shuffled": 1}, "'hook.shuffled': expected bool"),
        ("gate", {"second_moment": "mean"}, "'hook.second_moment': expected adam | max"),
    ],
)
def test_bad_options_are_named(name, given, message):
    with pytest.raises(UserError) as caught:
        hooks.build(name, given)
    assert message in str(caught.value)


def test_published_baselines_and_their_defaults():
    for make in (AndMask, SandMask):
        assert make().second_moment == "adam"
        assert make().rescale == "inverse-sparsity"
    assert Gate().second_moment == "max"
    assert {h.min_domains for h in (AndMask(), SandMask(), Gate())} == {2}


@pytest.mark.parametrize("hook", [AndMask(threshold=0.5), SandMask()], ids=["and", "sand"])
def test_mean_mask_is_of_what_there_is_to_mask(hook):
    """At B = 0, and with A frozen, every gradient of A is zero: half of the mask would be about nothing."""
    g, _ = adapter(R=8, O=40, I=40)
    whole = only(hook, DomainFactorGrads(torch.zeros_like(g.a), g.b))
    b = DomainFactorGrads(g.b.mT.contiguous(), torch.zeros_like(g.a.mT))
    assert float(whole.stats["mean_mask"]) == pytest.approx(float(only(hook, b).stats["mean_mask"]))
    mask = whole.b / g.b.mean(0)
    if isinstance(hook, AndMask):
        kept = (mask != 0).double().mean()
        assert float(whole.stats["mean_mask"]) == pytest.approx(float(kept))


def test_noise_of_the_factors_is_the_factors():
    """Row 1 of the noise; row 0 speaks of the reconstruction."""
    g, _ = adapter(D=3)
    noise = torch.stack([torch.eye(3) * 1e30, torch.eye(3)]).double()
    V = sum(x.var(0, correction=0).sum() for x in (g.a, g.b))
    stats = only(AndMask(), DomainFactorGrads(g.a, g.b, noise)).stats
    assert float(stats["noise_share"]) == pytest.approx(float(2 / 3 / V))
