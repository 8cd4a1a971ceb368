"""Loops around a real ``deepspeed.initialize`` on two ranks, by the deepspeed launcher: each equals one process."""

import pytest
import torch

from igascale import hooks

from by_hand import ByHand, make_batches
from launching import launch
from loop_cases import CASES, LR, MICRO, STEPS, WORLD
from tiny import tiny_peft


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    out = tmp_path_factory.mktemp("attach")
    launch("deepspeed", 2, "../attach/worker_loops.py", str(out))
    return [torch.load(out / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]


def one_process(case, dtype=torch.float32):
    oracle = ByHand(
        tiny_peft(dtype),
        hooks.build(case["hook"], {}),
        LR[case["optimizer"]],
        case["optimizer"],
        case.get("clip", case.get("ds_clip")),
    )
    if case.get("groups"):
        oracle.factor_lr = {name: oracle.lr * (4 if "lora_B" in name else 1) for name in oracle.factors}
    for step in range(STEPS):
        oracle.step(make_batches(WORLD * MICRO, seed=step))
    return oracle


def difference(found, oracle):
    expected = {n: p.detach() for n, p in oracle.model.named_parameters() if p.requires_grad}
    assert found.keys() == expected.keys()
    start = dict(tiny_peft().named_parameters())
    assert max(float((p - start[n]).abs().max()) for n, p in expected.items()) > 1e-3  # it did move
    return max(float((found[n].float() - p.float()).abs().max()) for n, p in expected.items())


@pytest.mark.parametrize("name", [n for n in CASES if not n.startswith("bf16")])
def test_two_ranks_equal_one_process(ranks, name):
    """Losses, and every parameter after four steps: ZeRO 0, 1 and 2, two micro-batches, ragged token counts."""
    case = CASES[name]
    oracle = one_process(case)
    for results in ranks:
        factors, reports = results[name]
        assert [r[0] for r in reports] == [pytest.approx(losses, rel=1e-5) for losses in oracle.losses]
        assert difference(factors, oracle) <= 1e-6
        if "clip" in case:
            assert all(clip < 1 for _, _, clip in reports)
        if "ds_clip" in case:  # DeepSpeed's own, of the combined gradient
            assert all(norm > case["ds_clip"] and clip == 1 for _, norm, clip in reports)


@pytest.mark.parametrize("stage", [1, 2])
def test_bfloat16_within_its_rounding(ranks, stage):
    """Published parameters: 8 bits of them, where the masters have 24; and they moved the same way."""
    case = CASES[f"bf16-{stage}"]
    oracle, start = one_process(case), dict(tiny_peft().named_parameters())
    moved = {n: p.detach() - start[n].detach() for n, p in oracle.model.float().named_parameters() if p.requires_grad}
    found = {n: p.float() - start[n].detach() for n, p in ranks[0][f"bf16-{stage}"][0].items()}
    a, b = (torch.cat([d[n].flatten() for n in moved]) for d in (moved, found))
    assert float((a - b).norm() / a.norm()) < 0.25


def test_without_a_wrapper_igascale_averages_over_ranks(ranks):
    oracle = one_process({"hook": "pcgrad", "optimizer": "sgd"})
    for results in ranks:
        assert difference(results["torch"][0], oracle) <= 1e-6
        assert "seed them alike" in results["different"]


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_mean_is_the_plain_deepspeed_loop(ranks, stage):
    for results in ranks:
        plain, attached = results[f"plain-{stage}"]
        assert max(float((plain[n] - attached[n]).abs().max()) for n in plain) <= 1e-6


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_nan_or_a_missing_domain_skips_the_step_on_every_rank(ranks, stage):
    """Parameters and moments stay, the scheduler waits, accumulation stays in phase; said once, by the first rank."""
    for rank, results in enumerate(ranks):
        seen = results[f"unlucky-{stage}"]
        skipped, same, kept, lr = zip(*seen["seen"])
        assert skipped == (False, True, True, False)
        assert same == skipped
        assert kept == skipped
        assert lr == (0.5, 0.5, 0.5, 0.333)
        assert seen["counts"] == (STEPS, 2, STEPS * MICRO, STEPS - 2)
        assert seen["finite"]
        assert len(seen["said"]) == (1 if rank == 0 else 0)


def test_a_resumed_run_is_the_undisturbed_one_to_the_bit(ranks):
    for results in ranks:
        resumed = results["resumed"]
        assert resumed["equal"]
        assert resumed["calls"] == 2
        assert resumed["alike"]
        assert all(resumed["alike"].values())
        assert "load first, then attach" in resumed["late"]


def test_a_step_before_the_surgery_is_refused(ranks):
    assert all("call surgery.step() in its place" in results["misuse"] for results in ranks)
