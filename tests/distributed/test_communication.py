"""What one step communicates, counted operation by operation on real ranks, and that it runs beside the backward pass."""

import json
import math

import pytest
import torch

import runs
from launching import launch

D, MICRO_STEPS = 4, 2
#: Buckets so small that every adapter has one to itself.
SHARED = ["eval.every=null", "checkpoint.every=null", "train.max_steps=3", "engine.reduce_bucket_mb=0.01"]
OFF = ["engine.overlap_reduce=false"]
IGA = ["hook.name=iga", "hook.tau=20"]
COUNTED = {
    "mean": ["hook.name=mean"],
    "iga": IGA,
    "iga-adam": [*IGA, "hook.second_moment=adam"],
    "pcgrad": ["hook.name=pcgrad"],
    "irm": ["hook.name=irm"],
}
CHECKPOINTED = {kind: [*IGA, f"model.activation_checkpointing={kind}"] for kind in ("non-reentrant", "reentrant")}
CASES = {
    **COUNTED,
    **CHECKPOINTED,
    **{f"{name}-off": [*overrides, *OFF] for name, overrides in CHECKPOINTED.items()},
    "iga-off": [*IGA, *OFF],
    "iga-one-bucket": [*IGA, "engine.reduce_bucket_mb=32"],
    "irm-off": ["hook.name=irm", *OFF],
    "unused": ["hook.name=mean"],
    "unused-off": ["hook.name=mean", *OFF],
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    sizes = {"max_steps": 3, "groups_per_batch": 4, "gradient_accumulation_steps": MICRO_STEPS}
    return runs.prepare(tmp_path_factory.mktemp("communication"), train=sizes)


def run_ranks(prepared, ranks, cases):
    out = prepared.parent / f"ranks-{ranks}-{len(cases)}"
    out.mkdir()
    (out / "cases.json").write_text(json.dumps({name: [*SHARED, *cases[name]] for name in cases}))
    launch("torchrun", ranks, "worker_communication.py", str(prepared.parent), str(out), timeout=1200)
    return [torch.load(out / f"rank{rank}.pt") for rank in range(ranks)]


@pytest.fixture(scope="module")
def two(prepared):
    return run_ranks(prepared, 2, CASES)


@pytest.fixture(scope="module")
def three(prepared):
    few = [*IGA, "lora.target_modules=[q_proj]"]
    return run_ranks(prepared, 3, {**{name: CASES[name] for name in ("iga", "iga-off")}, "iga-few": few})


def sizes(found):
    """Parameters of each adapter."""
    return {fqn: math.prod(A) + math.prod(B) for fqn, (A, B) in found["shapes"].items()}


def expected_operations(case, found, world):
    """Kind -> the sizes of igascale's operations in one step, by the docstring of engine/base.py."""
    P = sizes(found)
    N, sets = len(P), 2 if case == "irm" else 1
    figures = D * D + 3 + found["statistics"] + (21 if case.startswith("iga") else 0)  # every step is recorded here
    shares = [0] * world
    for fqn, owner in found["owners"].items():
        shares[owner] += P[fqn] * (2 if case == "iga" else 1) + 2 * figures
    small = {"irm": 3 * D + 4}.get(case, 2 * D + 4) + world + (2 * D * D * (N + 1) if case.startswith("iga") else 0)
    return {
        "reduce": [D * n for _ in range(sets) for n in P.values()],
        "all_reduce": [small, 1, *([D * D] if case == "pcgrad" else [])],
        "all_gather": [max(shares)],
    }


def check_counts(case, ranks):
    for found in ranks:
        P, world = sum(sizes(found).values()), len(ranks)
        ours = expected_operations(case, found, world)
        reduced = sum(ours["reduce"])
        assert reduced == D * P * (2 if case == "irm" else 1)
        gathered, doubles = world * sum(ours["all_gather"]), sum(ours["all_reduce"])
        assert found["traffic"] == {
            "reduce": (len(ours["reduce"]), reduced, 4 * reduced),
            "all_gather": (1, gathered, 4 * gathered),
            "all_reduce": (len(ours["all_reduce"]), doubles, 8 * doubles - 4),  # the flag is a float32
        }
        # DeepSpeed: one number that says whether to step, and each rank's partition of the updated parameters.
        everything = ours | {
            "all_reduce": [*ours["all_reduce"], 1],
            "all_gather": [*ours["all_gather"], math.ceil(P / world)],
        }
        seen = {kind: [n for name, n in found["profiled"] if name == f"gloo:{kind}"] for kind in everything}
        assert len(found["profiled"]) == sum(map(len, seen.values())), found["profiled"]
        for kind, expected in everything.items():
            if kind == "all_gather":  # DeepSpeed pads its partitions
                assert seen[kind][0] == expected[0]
                assert expected[1] <= seen[kind][1] <= expected[1] + 8
                assert len(seen[kind]) == 2
            else:
                assert sorted(seen[kind]) == sorted(expected), kind


@pytest.mark.parametrize("case", COUNTED)
def test_counts(two, case):
    check_counts(case, [rank[case] for rank in two])


def test_counts_at_three_ranks(three):
    ranks = [rank["iga"] for rank in three]
    check_counts("iga", ranks)
    assert len(set(ranks[0]["owners"].values())) == 3


def test_more_ranks_than_adapters(three):
    ranks = [rank["iga-few"] for rank in three]
    check_counts("iga", ranks)
    assert sorted(ranks[0]["owners"].values()) == [0, 1]
    assert all(torch.equal(t, ranks[2]["masters"][k]) for k, t in ranks[0]["masters"].items())


def test_what_the_totals_are(two):
    """D x P reduced, P gathered (2 P with a reference): the ranks' shares are equal here, so nothing is padded."""
    for case, copies in (("mean", 1), ("iga-adam", 1), ("iga", 2)):
        found = two[0][case]
        P, N = sum(sizes(found).values()), len(found["shapes"])
        assert found["traffic"]["reduce"][1] == D * P
        histogram = 0 if case == "mean" else 21
        assert found["traffic"]["all_gather"][1] == copies * P + 2 * N * (D * D + 3 + found["statistics"] + histogram)


def test_the_line_at_the_start(two):
    line = two[0]["iga"]["line"]
    assert line == (
        "8 adapters over 2 ranks: 4 each, heaviest rank 1.00x the mean; a step reduces 0.057 MB in 8 buckets and gathers 0.029 MB"
    )


@pytest.mark.parametrize("case", ["mean", "iga", "irm", *CHECKPOINTED])
def test_buckets_leave_before_the_backward_pass_ends(two, case):
    for rank in two:
        order = rank[case]["order"]
        names = list(rank[case]["shapes"])
        passes = [i for i, event in enumerate(order) if event == "backward"]
        last = passes[-2 if case == "irm" else -1]
        end = order.index("backward ends", last)
        sent = [i for i, event in enumerate(order) if event == "send"]
        assert sent[0] > last  # not before the last micro-batch
        assert all(sent[0] < order.index(fqn) for fqn in names if ".layers.0." in fqn)
        assert sum(i < end for i in sent) == len(names)
        assert all(i < order.index("leaving") for i in sent)


def test_without_overlap_nothing_leaves_before_it_ends(two):
    for case in ("iga-off", "irm-off", "reentrant-off"):
        order = two[0][case]["order"]
        assert order.index("send") > max(i for i, event in enumerate(order) if event == "backward ends")


@pytest.mark.parametrize(
    ("left", "right"),
    [("iga", "iga-off"), ("irm", "irm-off"), ("unused", "unused-off"), ("iga", "iga-one-bucket")]
    + [(kind, f"{kind}-off") for kind in CHECKPOINTED],
)
def test_overlap_changes_no_bit(two, left, right):
    for rank in two:
        assert rank[left]["losses"] == rank[right]["losses"]
        for part in ("first", "masters"):
            a, b = rank[left][part], rank[right][part]
            assert a.keys() == b.keys()
            assert all(torch.equal(a[k], b[k]) for k in a)


def test_overlap_changes_no_bit_at_three_ranks(three):
    for rank in three:
        assert all(torch.equal(t, rank["iga-off"]["masters"][k]) for k, t in rank["iga"]["masters"].items())


def test_many_buckets_and_ranks_are_one_process(two, three, prepared, tmp_path):
    config = runs.load(prepared, f"output_dir={tmp_path / 'run'}", *SHARED, *IGA, "train.micro_batch_size=8")
    expected = runs.run(config).to_dict()
    assert runs.relative(two[0]["iga"]["first"], expected["first"]) <= 1e-5
    assert runs.relative(three[0]["iga"]["first"], expected["first"]) <= 1e-5
    for found in (two[0]["iga"], three[0]["iga"]):
        losses = torch.tensor(found["losses"]), torch.tensor(expected["losses"])
        torch.testing.assert_close(*losses, rtol=1e-5, atol=0)


def test_an_adapter_that_one_rank_does_not_use(two):
    """Its bucket would be the first: rank 1 sends nothing before the end, rank 0 everything; and they do not hang."""
    orders = [rank["unused"]["order"] for rank in two]
    ends = [max(i for i, event in enumerate(order) if event == "backward ends") for order in orders]
    early = [sum(event == "send" for event in order[:end]) for order, end in zip(orders, ends)]
    assert early == [8, 0]
    for part in ("first", "masters"):
        assert all(torch.equal(t, two[1]["unused"][part][k]) for k, t in two[0]["unused"][part].items())
    assert any(not torch.equal(t, two[0]["mean"]["masters"][k]) for k, t in two[0]["unused"]["masters"].items())


def test_a_rank_that_fails_while_buckets_are_under_way(prepared):
    """It communicates no more, and the launcher ends the other: an error, and no hang."""
    with pytest.raises(AssertionError, match="rank 1 fails in the backward pass"):
        run_ranks(prepared, 2, {"fail": [*IGA]})  # a hang would end by its time limit, which is no AssertionError
