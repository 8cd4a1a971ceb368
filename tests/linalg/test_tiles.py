# ruff: noqa: E741 -- O and I are the shape letters of the project
"""Tiles of the masked mean and the memory plan, against dense masks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from igascale.linalg.contrasts import build_contrasts
from igascale.linalg.tile_masks import ExpMask, ShuffledMask, SignMask
from igascale.linalg.tiles import MaskedMean, Workspace, plan_tiles

from dense_oracle import mask, random_adapter, reconstruct, sign_mask

CPU = torch.device("cpu")


def source_of(adapters, tau, norm, rows):
    contrasts = build_contrasts(*(torch.stack(x) for x in zip(*adapters)))
    return MaskedMean(contrasts, ExpMask(contrasts, tau, norm), rows)


def gather(tiles, like):
    dense = torch.full(like.shape, float("nan"), dtype=like.dtype)
    for i, j, tile in tiles:
        dense[:, i:j] = tile
    return dense


@settings(max_examples=30, deadline=None)
@given(
    O=st.integers(1, 17),
    I=st.integers(1, 17),
    D=st.integers(1, 5),
    rows=st.integers(1, 20),
    norm=st.sampled_from(["none", "mean", "relative", "smoothed", "fraction"]),
    tau=st.sampled_from([0.0, 0.1, 0.5, 5.0]),
    scale=st.sampled_from([1e-4, 1.0]),
)
def test_tiles_and_statistics_match_dense_masks(O, I, D, rows, norm, tau, scale):
    adapters = [random_adapter(O, I, 2, D, seed=k, scale=scale) for k in range(2)]
    source = source_of(adapters, tau, norm, rows)
    ghat = torch.stack([reconstruct(*x) for x in adapters])
    mean = ghat.mean(1)
    M = torch.ones_like(mean) if D == 1 else torch.stack([mask(g, tau, norm) for g in ghat])
    unit = source.contrasts.scale_N[:, None, None]
    close = {"rtol": 1e-9, "atol": 1e-12 * scale}
    torch.testing.assert_close(unit * gather(source.tiles(), mean), mean * M, **close)
    torch.testing.assert_close(source.mask_mean_N, M.mean((1, 2)), rtol=1e-9, atol=1e-9)
    square = unit[:, 0, 0] ** 2
    torch.testing.assert_close(source.masked_sq_N * square, (mean * M).square().sum((1, 2)), rtol=1e-9, atol=0)
    change_sq = (mean * M - mean).square().sum((1, 2))
    torch.testing.assert_close(source.change_sq_N * square, change_sq, rtol=1e-7, atol=1e-20 * scale**2)
    torch.testing.assert_close(unit * gather(source.change_tiles(), mean), mean * M - mean, **close)


@pytest.mark.parametrize("norm", ["none", "mean", "relative", "smoothed", "fraction"])
def test_float32_tiles_are_as_good_as_dense_float32(norm):
    exact = [random_adapter(70, 50, 4, 4, scale=0.3)]
    single = [tuple(x.float() for x in exact[0])]
    ghat = reconstruct(*(x.double() for x in single[0]))
    truth = ghat.mean(0) * mask(ghat, 0.5, norm)
    source = source_of(single, 0.5, norm, 16)
    got = source.contrasts.scale_N[0] * gather(source.tiles(), truth.float()[None])[0]
    assert (got - truth).norm() <= 3e-6 * truth.norm()


def test_no_mask_changes_nothing_to_the_last_bit():
    source = source_of([random_adapter(20, 30, 3, 4, dtype=torch.float32)], 0.0, "relative", 7)
    assert all(tile.count_nonzero() == 0 for _, _, tile in source.change_tiles())
    assert source.mask_mean_N.item() == 1
    assert source.change_sq_N.item() == 0


@pytest.mark.parametrize("norm", ["none", "mean", "relative", "smoothed", "fraction"])
@pytest.mark.parametrize("tau", [0.0, 0.5])
def test_zero_gradients_stay_zero(norm, tau):
    a, b, A, B = random_adapter(8, 6, 2, 3, dtype=torch.float32)
    source = source_of([(a * 0, b * 0, A, B)], tau, norm, 3)
    assert all(torch.equal(tile, torch.zeros_like(tile)) for _, _, tile in source.tiles())
    assert source.mask_mean_N.item() == 1


def test_negligible_masks_do_not_slow_a_cpu_down_with_tiny_numbers():
    """Numbers below the normal range take a hundred times as long to multiply."""
    source = source_of([random_adapter(40, 30, 2, 4, dtype=torch.float32)], 1e3, "relative", 16)
    tiny = torch.finfo(torch.float32).tiny
    assert all(((tile == 0) | (tile.abs() > tiny)).all() for _, _, tile in source.tiles())


def test_tiles_can_be_written_to_a_matrix_and_generated_again():
    source = source_of([random_adapter(20, 30, 3, 4, seed=k) for k in range(2)], 0.5, "relative", 6)
    into = torch.empty(2, 20, 30, dtype=torch.float64)
    assert [(i, j) for i, j, _ in source.tiles(into=into)] == [(0, 6), (6, 12), (12, 18), (18, 20)]
    assert torch.equal(gather(source.tiles(), into), into)


@settings(max_examples=100, deadline=None)
@given(
    n=st.integers(1, 40),
    O=st.integers(1, 6000),
    I=st.integers(1, 6000),
    megabytes=st.sampled_from([0.3, 2, 20, 300]),
    keep=st.booleans(),
    held=st.sampled_from([0, 1000, 100_000]),
    device=st.sampled_from(["cpu", "cuda"]),
)
def test_plans_stay_within_the_budget(n, O, I, megabytes, keep, held, device):
    budget = megabytes * 2**20
    plan = plan_tiles(n, (O, I), torch.float32, torch.device(device), budget, keep, 1, lambda batch: batch * held)
    assert 1 <= plan.rows <= O
    assert 1 <= plan.batch <= n
    assert device == "cuda" or plan.batch == 1 or plan.rows == O
    assert keep or not plan.cached
    buffers = 3 * plan.batch * plan.rows * I * 4
    assert buffers + plan.cached * plan.batch * O * I * 4 <= plan.bytes
    assert plan.bytes + plan.batch * held <= plan.total_bytes <= budget


def test_plan_caches_when_it_can_and_batches_small_adapters():
    assert plan_tiles(1, (4096, 4096), torch.float32, CPU, 2**27).cached
    assert not plan_tiles(1, (4096, 4096), torch.float32, CPU, 2**26).cached
    assert not plan_tiles(1, (4096, 4096), torch.float32, CPU, 2**27, keep=False).cached
    assert plan_tiles(16, (128, 128), torch.float32, CPU, 2**28).batch == 16


def test_an_accelerator_takes_several_large_adapters_together_and_a_cpu_one():
    gpu = torch.device("cuda")
    together = plan_tiles(128, (4096, 4096), torch.float32, gpu, 2**31)
    assert together.cached
    assert 16 <= together.batch < 32  # 64 MiB each
    assert together.rows < 4096
    # What else an adapter holds counts too.
    assert plan_tiles(128, (4096, 4096), torch.float32, gpu, 2**31, True, 1, lambda batch: batch * 2**26).batch < 16
    tight = plan_tiles(128, (4096, 4096), torch.float32, gpu, 2**25)
    assert tight.batch > 1
    assert not tight.cached
    alone = plan_tiles(128, (4096, 4096), torch.float32, CPU, 2**31)
    assert (alone.batch, alone.rows) == (1, 64)


@pytest.mark.parametrize("held", [0, 123_456])
def test_a_budget_below_one_row_is_refused_with_one_that_works(held):
    def plan(megabytes):
        return plan_tiles(
            1, (64, 4096), torch.float32, CPU, megabytes * 2**20, working_bytes=lambda batch: batch * held
        )

    with pytest.raises(ValueError, match=r"memory_mb=0\.01 is too small: one 64x4096 adapter needs") as refused:
        plan(0.01)
    smallest = float(str(refused.value).split("set memory_mb=")[1].split()[0])
    assert plan(smallest).rows == 1
    with pytest.raises(ValueError, match="too small"):
        plan(smallest - 0.002)


def test_workspace_hands_out_disjoint_memory_within_its_size():
    plan = plan_tiles(1, (10, 7), torch.float32, CPU, 2**20)
    workspace = Workspace([plan], CPU)
    for _ in range(2):
        buffers = [workspace.take((10, 7), torch.float32).fill_(k) for k in range(3)]
        assert [b.unique().tolist() for b in buffers] == [[0.0], [1.0], [2.0]]
        workspace.reset()


def sign_source(adapters, kind, threshold, norm, rows):
    a, b, A, B = (torch.stack(x) for x in zip(*adapters))
    contrasts = build_contrasts(a, b, A, B)
    D = a.shape[1]
    left = torch.cat([b, B[:, None].expand(-1, D, -1, -1)], 3)
    right = torch.cat([A[:, None].expand(-1, D, -1, -1), a], 2)
    return MaskedMean(contrasts, SignMask(contrasts, left, right, kind, threshold, 10.0, norm), rows)


@settings(max_examples=60, deadline=None)
@given(
    O=st.integers(1, 12),
    I=st.integers(1, 12),
    D=st.integers(2, 6),
    rows=st.integers(1, 13),
    kind=st.sampled_from(["and", "sand"]),
    threshold=st.sampled_from([0.0, 1 / 3, 0.5, 2 / 3, 1.0]),
    norm=st.sampled_from(["none", "relative"]),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_sign_masks_match_the_formulas(O, I, D, rows, kind, threshold, norm, scale):
    adapters = [random_adapter(O, I, 2, D, seed=k, scale=scale) for k in range(2)]
    source = sign_source(adapters, kind, threshold, norm, rows)
    ghat = torch.stack([reconstruct(*x) for x in adapters])
    M = torch.stack([sign_mask(g, kind, threshold, norm=norm) for g in ghat])
    unit = source.contrasts.scale_N[:, None, None]
    expected = ghat.mean(1) * M
    torch.testing.assert_close(unit * gather(source.tiles(), expected), expected, rtol=1e-6, atol=1e-9 * scale)
    torch.testing.assert_close(source.mask_mean_N, M.mean((1, 2)), rtol=1e-6, atol=1e-9)


def test_sand_with_the_other_variance_is_another_mask():
    adapter = random_adapter(10, 8, 2, 3, scale=3.0)
    ghat = reconstruct(*adapter)
    source = sign_source([adapter], "sand", 0.5, "none", 4)
    list(source.tiles())
    population = torch.tanh(10 / ghat.var(0, correction=0) * (ghat.sign().mean(0).abs() - 0.5)).clamp_min(0)
    assert abs(source.mask_mean_N.item() - population.mean().item()) > 1e-3


def test_a_zero_gradient_has_no_sign():
    a, b, A, B = random_adapter(6, 5, 2, 2)
    a, b = a.clone(), b.clone()
    a[1], b[1] = 0, 0  # the second domain has no opinion anywhere: nothing is unanimous
    source = sign_source([(a, b, A, B)], "and", 1.0, "none", 6)
    assert all(tile.count_nonzero() == 0 for _, _, tile in source.tiles())


@pytest.mark.parametrize("rows", [3, 20])
def test_a_shuffled_mask_keeps_its_values_and_leaves_their_places(rows):
    adapters = [random_adapter(20, 15, 2, 3, seed=k) for k in range(2)]
    contrasts = build_contrasts(*(torch.stack(x) for x in zip(*adapters)))
    inner = ExpMask(contrasts, 0.5, "relative")

    def dense(mask):
        out = torch.empty(2, 20, 15, dtype=torch.float64)
        gbar = contrasts.tile(0, 0, 20, torch.empty(2, 20, 15, dtype=torch.float64))
        return mask.minus_one(0, 20, gbar, out, [torch.empty_like(out)])

    generators = [torch.Generator().manual_seed(k) for k in (5, 6)]
    plain, shuffled = dense(inner), dense(ShuffledMask(contrasts, inner, generators, rows))
    torch.testing.assert_close(
        shuffled.flatten(1).sort().values, plain.flatten(1).sort().values, rtol=1e-12, atol=1e-15
    )
    assert (shuffled != plain).double().mean() > 0.9


def test_noise_that_is_taken_out_weakens_the_mask():
    adapter = random_adapter(20, 15, 2, 3)
    contrasts = build_contrasts(*(x[None] for x in adapter))
    ghat = reconstruct(*adapter)
    for norm in ("none", "relative", "smoothed", "fraction"):
        source = MaskedMean(contrasts, ExpMask(contrasts, 0.5, norm, torch.tensor([0.25])), 7)
        list(source.tiles())
        quiet = ghat.mean(0) + 0.5 * (ghat - ghat.mean(0))  # a quarter of the variance
        torch.testing.assert_close(source.mask_mean_N.item(), mask(quiet, 0.5, norm).mean().item(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("norm", ["none", "mean", "relative", "smoothed", "fraction"])
def test_variance_that_is_all_noise_masks_nothing_where_the_mean_vanishes(norm):
    """Opposite gradients of two domains: V large where the mean is exactly 0."""
    a, b, A, B = random_adapter(24, 32, 4, 2, dtype=torch.float32)
    a[1], b[1] = -a[0], -b[0]
    contrasts = build_contrasts(a[None], b[None], A[None], B[None])
    all_noise = torch.zeros(1, dtype=torch.float64)
    source = MaskedMean(contrasts, ExpMask(contrasts, 0.5, norm, all_noise), 8)
    if norm != "mean":  # where the share cancels
        assert all(torch.equal(tile, torch.zeros_like(tile)) for _, _, tile in source.change_tiles())
    assert all(torch.equal(tile, torch.zeros_like(tile)) for _, _, tile in source.tiles())
