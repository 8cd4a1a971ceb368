"""LCS against dense numpy, one sequence at a time and without padding; its extremes; its parts merged."""

import json

import numpy as np
import pytest
import torch

from igascale.errors import UserError
from igascale.evaluation.consistency import (
    ALIKE,
    NOT_FINITE,
    ZERO,
    ConsistencyAccumulator,
    GroupTexts,
    consistency,
    group_texts,
    remarks,
)
from igascale.evaluation.layer_names import shown_layer
from igascale.evaluation.layers import penultimate_layer
from igascale.isomers.schema import Instance, IsomerGroup

import tiny

DOMAINS = ("law", "medicine", "code", "art")


def random_groups(count=7, size=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        GroupTexts(
            [
                torch.randint(
                    6, 128, (int(torch.randint(3, 25, (), generator=generator)),), generator=generator
                ).tolist()
                for _ in range(size)
            ],
            DOMAINS[:size],
        )
        for _ in range(count)
    ]


def states(model, groups, layer):
    """``[K, N, H]`` numpy, by one forward per sequence, with the hidden states that transformers hands out."""
    with torch.no_grad():
        return np.array(
            [
                [
                    model(input_ids=torch.tensor([ids]), output_hidden_states=True)
                    .hidden_states[layer][0]
                    .double()
                    .mean(0)
                    .numpy()
                    for ids in group.ids
                ]
                for group in groups
            ]
        )


def dense(states_KNH):
    lcs = np.mean([np.trace(np.cov(group, rowvar=False, ddof=1)) for group in states_KNH])
    norm = (states_KNH**2).sum(-1).mean()
    return lcs, norm, np.trace(np.cov(states_KNH.mean(1), rowvar=False, ddof=1)) / norm


def one(model, groups, **how):
    """At one layer."""
    (found,) = consistency(model, groups, **how).results()
    return found


def test_equals_dense_numpy_at_every_layer_in_one_pass():
    model, groups = tiny.tiny_llama(num_hidden_layers=3).eval(), random_groups()
    assert penultimate_layer(model) == 2
    calls = []
    model.model.register_forward_hook(lambda *_: calls.append(1))
    found = consistency(model, groups, layers=range(4), batch_size=4).results()
    assert len(calls) == 6  # 21 texts, four at a time: one pass each, whatever the number of layers
    assert [each.layer for each in found] == [0, 1, 2, 3]
    for each in found:
        states_KNH = states(model, groups, each.layer)
        lcs, norm, between = dense(states_KNH)
        assert each.groups == 7
        assert each.lcs == pytest.approx(lcs, rel=1e-6)
        assert each.times_100 == pytest.approx(100 * lcs, rel=1e-6)
        assert each.relative == pytest.approx(lcs / norm, rel=1e-6)
        assert each.mean_squared_norm == pytest.approx(norm, rel=1e-6)
        assert each.between_groups == pytest.approx(between, rel=1e-6)
        traces = [np.trace(np.cov(group, rowvar=False, ddof=1)) for group in states_KNH]
        assert each.standard_error == pytest.approx(np.std(traces, ddof=1) / 7**0.5, rel=1e-6)
        assert not each.collapsed and not each.alarm
    assert one(model, groups).layer == 2


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_side_and_batch_size_do_not_matter(batch_size, side):
    model, groups = tiny.tiny_peft().eval(), random_groups()
    found = consistency(model, groups, layers=range(3), batch_size=batch_size, padding_side=side).results()
    for each in found:
        lcs, norm, _ = dense(states(model, groups, each.layer))
        assert each.lcs == pytest.approx(lcs, rel=1e-6)
        assert each.relative == pytest.approx(lcs / norm, rel=1e-6)


@pytest.mark.parametrize("shares", [1, 2, 3, 5])
def test_shares_of_groups_merge_to_the_whole(shares):
    """As ranks would: each its groups, their states through JSON; more shares than groups of a kind included."""
    model, groups = tiny.tiny_llama().eval(), [*random_groups(9), GroupTexts([[7, 8]], ("law",), cut=1)]
    whole = consistency(model, groups, layers=[0, 1, 2]).results()
    merged = ConsistencyAccumulator([0, 1, 2])
    for rank in range(shares):
        share = consistency(model, groups[rank::shares], layers=[0, 1, 2], batch_size=3)
        merged.merge(ConsistencyAccumulator.from_state(json.loads(json.dumps(share.state()))))
    for each, expected in zip(merged.results(), whole, strict=True):
        for name in ("lcs", "relative", "mean_squared_norm", "between_groups", "standard_error"):
            assert getattr(each, name) == pytest.approx(getattr(expected, name), rel=1e-6), name
        assert each.pairs == pytest.approx(expected.pairs, rel=1e-6)
        assert (each.groups, each.skipped_groups, each.layer) == (9, 1, expected.layer)


def test_an_empty_share_changes_nothing():
    full = consistency(tiny.tiny_llama().eval(), random_groups(2))
    before = full.results()
    full.merge(ConsistencyAccumulator((1,)))
    assert full.results() == before
    empty = ConsistencyAccumulator((1,))
    assert empty.results() == []
    empty.merge(full)
    assert empty.results() == before
    with pytest.raises(ValueError, match="cannot be merged"):
        full.merge(ConsistencyAccumulator((2,)))
    with pytest.raises(ValueError, match="cannot be merged"):
        full.merge(ConsistencyAccumulator((1,), "full"))


def test_the_mean_over_pairs_is_the_score():
    """tr Cov with 1/(N-1) is the mean over pairs of half the squared distance; so also for the means over groups."""
    rng = np.random.default_rng(3)
    data = rng.normal(size=(20, 4, 1, 8)) * np.arange(1, 5)[:, None, None]
    found = ConsistencyAccumulator([0])
    for group in data:
        found.add(torch.from_numpy(group).transpose(0, 1), DOMAINS)
    (result,) = found.results()
    assert list(result.pairs) == ["art/code", "art/law", "art/medicine", "code/law", "code/medicine", "law/medicine"]
    assert np.mean(list(result.pairs.values())) == pytest.approx(result.lcs, rel=1e-12)
    for pair, value in result.pairs.items():
        m, n = (DOMAINS.index(domain) for domain in pair.split("/"))
        assert value == pytest.approx((((data[:, m] - data[:, n]) ** 2).sum(-1) / 2).mean(), rel=1e-12)


def test_a_pair_counts_the_groups_that_have_it():
    found = ConsistencyAccumulator([0])
    found.add(torch.tensor([[[0.0], [2.0]]]), ("law", "code"))
    found.add(torch.tensor([[[4.0], [0.0]]]), ("code", "law"))
    found.add(torch.tensor([[[1.0], [1.0]]]), ("art", "law"))
    (result,) = found.results()
    assert result.pairs == {"art/law": 0.0, "code/law": 5.0}


def test_groups_of_different_sizes():
    model = tiny.tiny_llama().eval()
    groups = random_groups(3, 2) + random_groups(2, 4, seed=1) + random_groups(1, 3, seed=2)
    parts = [dense(states(model, [group] * 2, 1))[0] for group in groups]
    assert one(model, groups, batch_size=3).lcs == pytest.approx(np.mean(parts), rel=1e-6)


def test_bfloat16_states_are_averaged_in_higher_precision():
    """A thousand tokens: added up in bfloat16 the sum would stop growing long before the end."""
    model = tiny.tiny_llama(torch.bfloat16, max_position_embeddings=1024).eval()
    generator = torch.Generator().manual_seed(0)
    groups = [GroupTexts(torch.randint(6, 128, (2, 900), generator=generator).tolist()) for _ in range(3)]
    lcs, norm, _ = dense(states(model, groups, 1))
    found = one(model, groups, batch_size=1)
    assert found.mean_squared_norm == pytest.approx(norm, rel=1e-6)
    assert found.lcs == pytest.approx(lcs, rel=1e-6)


def test_identical_instances_have_no_spread():
    model = tiny.tiny_llama().eval()
    groups = [GroupTexts([group.ids[0]] * 3, group.domains) for group in random_groups()]
    found = one(model, groups, batch_size=4)
    assert found.lcs == pytest.approx(0.0, abs=1e-12 * found.mean_squared_norm)
    assert max(found.pairs.values()) <= 1e-12 * found.mean_squared_norm
    assert not found.collapsed  # different problems still differ
    assert found.between_groups > 1e-3


def test_random_states_have_the_expected_value():
    """H independent unit variances: LCS is H, whatever N; the standard error says how near to expect it."""
    rng = np.random.default_rng(5)
    found = ConsistencyAccumulator([0])
    for _ in range(400):
        found.add(torch.from_numpy(rng.normal(size=(1, 3, 32))))
    (result,) = found.results()
    # tr Cov is 32 chi-squares of 2 degrees of freedom, halved: variance 32.
    assert result.standard_error == pytest.approx((32 / 400) ** 0.5, rel=0.15)
    assert abs(result.lcs - 32) < 4 * result.standard_error
    assert result.relative == pytest.approx(1, rel=0.05)
    assert result.between_groups == pytest.approx(1 / 3, rel=0.1)  # of pure noise: that of a mean of three


def test_collapsed_model_is_flagged_at_every_layer():
    """One state for every token: the best possible LCS, and no reason for joy."""
    model = tiny.tiny_llama().eval()
    with torch.no_grad():
        model.model.embed_tokens.weight[:] = model.model.embed_tokens.weight[5].clone()
    found = consistency(model, random_groups(), layers=[0, 1, 2]).results()
    assert all(each.relative < 1e-10 and each.collapsed and each.alarm == ALIKE for each in found)
    assert remarks(found, "ID") == [f"ID: LCS means nothing at layer 0, 1, 2: {ALIKE} (collapse)"]


def test_collapse_of_one_layer_is_told_of_that_layer():
    model = tiny.tiny_llama().eval()
    with torch.no_grad():
        model.model.norm.weight.zero_()
    found = consistency(model, random_groups(), layers=[0, 1, 2]).results()
    assert [each.alarm for each in found] == ["", "", ZERO]


def test_dead_and_broken_models_are_flagged():
    model = tiny.tiny_llama().eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.zero_()
    dead = one(model, random_groups())
    assert (dead.lcs, dead.relative, dead.collapsed, dead.alarm) == (0.0, 0.0, True, ZERO)
    with torch.no_grad():
        model.model.embed_tokens.weight.fill_(torch.nan)
    broken = one(model, random_groups())
    assert (broken.lcs, broken.relative, broken.collapsed, broken.alarm) == (None, None, True, NOT_FINITE)
    assert broken.pairs == {}
    assert broken.times_100 is None


def test_accumulator_is_stable_far_from_the_origin():
    rng = np.random.default_rng(0)
    data = 1e4 + rng.normal(size=(50, 4, 16))
    found = ConsistencyAccumulator([0])
    for group in data:
        found.add(torch.from_numpy(group)[None])
    (result,) = found.results()
    lcs, norm, between = dense(data)
    assert result.lcs == pytest.approx(lcs, rel=1e-9)
    assert result.between_groups == pytest.approx(between, rel=1e-9)
    assert result.mean_squared_norm == pytest.approx(norm, rel=1e-9)
    assert lcs == pytest.approx(16, rel=0.1)


def test_one_instance_has_no_covariance():
    with pytest.raises(ValueError, match="at least two"):
        ConsistencyAccumulator([0]).add(torch.ones(1, 1, 4))
    model, single = tiny.tiny_llama().eval(), GroupTexts([[7, 8, 9]], ("law",))
    nothing = consistency(model, [single, single])
    assert nothing.results() == []
    assert nothing.skipped == 2
    found = consistency(model, [*random_groups(3), single]).results()
    assert remarks(found, "OOD") == ["OOD: LCS leaves out 1 groups of one instance, 3 are measured"]


def test_a_long_common_template_is_no_collapse():
    model = tiny.tiny_llama().eval()
    template = list(range(10, 110)) * 2
    groups = [GroupTexts([template + ids for ids in group.ids]) for group in random_groups()]
    found = one(model, groups)
    assert found.between_groups < 1e-2
    assert not found.collapsed


def problem_groups():
    instances = tuple(Instance(d, f"{d} rule: Who?", "So the Ann.", "Ann") for d in ("law", "drug"))
    return [IsomerGroup("g", "s", instances)]


def test_texts_are_the_prompt_or_all_of_it_and_what_is_cut_is_counted():
    tokenizer = tiny.tiny_tokenizer()
    (prompt,), (full,) = (group_texts(tokenizer, problem_groups(), text, None) for text in ("prompt", "full"))
    assert prompt.domains == full.domains == ("law", "drug")
    assert all(long[: len(short)] == short and long[-1] == 2 for short, long in zip(prompt.ids, full.ids))
    assert (prompt.cut, full.cut) == (0, 0)
    (cut,) = group_texts(tokenizer, problem_groups(), "full", 12)
    assert cut.cut == 2
    assert [len(ids) for ids in cut.ids] == [12, 12]
    found = consistency(tiny.tiny_llama().eval(), [cut, cut], text="full").results()
    assert (found[0].text, found[0].cut_texts) == ("full", 4)
    assert remarks(found, "ID")[:1] == [
        "ID: 4 texts are longer than the model has positions; LCS averages their beginnings"
    ]
    with pytest.raises(UserError, match="lcs_text is 'all'"):
        group_texts(tokenizer, problem_groups(), "all", None)


def test_the_shown_layer_is_the_papers_where_it_was_measured():
    assert shown_layer((0, 31, 32), 31) == 31
    assert shown_layer((8, 16), 31) == 16
