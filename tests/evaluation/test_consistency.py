"""LCS against dense numpy, one sequence at a time and without padding."""

import numpy as np
import pytest
import torch

from igascale.evaluation.consistency import ConsistencyAccumulator, consistency, penultimate_layer

import tiny


def random_groups(count=7, size=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        [
            torch.randint(6, 128, (int(torch.randint(3, 25, (1,), generator=generator)),), generator=generator).tolist()
            for _ in range(size)
        ]
        for _ in range(count)
    ]


def states(model, groups, layer):
    """``[K, N, H]`` numpy, by one forward per sequence."""
    with torch.no_grad():
        return np.array(
            [
                [
                    model(input_ids=torch.tensor([ids]), output_hidden_states=True)
                    .hidden_states[layer][0]
                    .double()
                    .mean(0)
                    .numpy()
                    for ids in group
                ]
                for group in groups
            ]
        )


def dense(states_KNH):
    lcs = np.mean([np.trace(np.cov(group, rowvar=False, ddof=1)) for group in states_KNH])
    norm = (states_KNH**2).sum(-1).mean()
    return lcs, norm, np.trace(np.cov(states_KNH.mean(1), rowvar=False, ddof=1)) / norm


@pytest.mark.parametrize("layer", [None, 0, 1, 2, 3])
def test_equals_dense_numpy(layer):
    model, groups = tiny.tiny_llama(num_hidden_layers=3).eval(), random_groups()
    assert penultimate_layer(model) == 2
    lcs, norm, between = dense(states(model, groups, 2 if layer is None else layer))
    found = consistency(model, groups, layer=layer, batch_size=4)
    assert found.layer == (2 if layer is None else layer)
    assert found.groups == 7
    assert found.lcs == pytest.approx(lcs, rel=1e-6)
    assert found.relative == pytest.approx(lcs / norm, rel=1e-6)
    assert found.mean_squared_norm == pytest.approx(norm, rel=1e-6)
    assert found.between_groups == pytest.approx(between, rel=1e-6)
    assert not found.collapsed


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_side_and_batch_size_do_not_matter(batch_size, side):
    model, groups = tiny.tiny_peft().eval(), random_groups()
    lcs, norm, _ = dense(states(model, groups, 1))
    found = consistency(model, groups, batch_size=batch_size, padding_side=side)
    assert found.lcs == pytest.approx(lcs, rel=1e-6)
    assert found.relative == pytest.approx(lcs / norm, rel=1e-6)


def test_groups_of_different_sizes():
    model = tiny.tiny_llama().eval()
    groups = random_groups(3, 2) + random_groups(2, 4, seed=1) + random_groups(1, 3, seed=2)
    parts = [dense(states(model, [group] * 2, 1))[0] for group in groups]
    assert consistency(model, groups, batch_size=3).lcs == pytest.approx(np.mean(parts), rel=1e-6)


def test_identical_instances_have_no_spread():
    model = tiny.tiny_llama().eval()
    groups = [[group[0]] * 3 for group in random_groups()]
    found = consistency(model, groups, batch_size=4)
    assert found.lcs == pytest.approx(0.0, abs=1e-12 * found.mean_squared_norm)
    assert not found.collapsed  # different problems still differ
    assert found.between_groups > 1e-3


def test_collapsed_model_is_flagged():
    """One state for every token: the best possible LCS, and no reason for joy."""
    model = tiny.tiny_llama().eval()
    with torch.no_grad():
        model.model.embed_tokens.weight[:] = model.model.embed_tokens.weight[5].clone()
    found = consistency(model, random_groups())
    assert found.relative < 1e-10
    assert found.collapsed


def test_dead_and_broken_models_are_flagged():
    model = tiny.tiny_llama().eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.zero_()
    dead = consistency(model, random_groups())
    assert (dead.lcs, dead.relative, dead.collapsed) == (0.0, 0.0, True)
    with torch.no_grad():
        model.model.embed_tokens.weight.fill_(torch.nan)
    broken = consistency(model, random_groups())
    assert (broken.lcs, broken.relative, broken.collapsed) == (None, None, True)


def test_accumulator_is_stable_far_from_the_origin():
    rng = np.random.default_rng(0)
    data = 1e4 + rng.normal(size=(50, 4, 16))
    accumulator = ConsistencyAccumulator()
    for group in data:
        accumulator.add(torch.from_numpy(group))
    found = accumulator.result(0)
    lcs, norm, between = dense(data)
    assert found.lcs == pytest.approx(lcs, rel=1e-9)
    assert found.between_groups == pytest.approx(between, rel=1e-9)
    assert found.mean_squared_norm == pytest.approx(norm, rel=1e-9)
    assert lcs == pytest.approx(16, rel=0.1)  # H independent unit variances


def test_one_instance_has_no_covariance():
    with pytest.raises(ValueError, match="at least two"):
        ConsistencyAccumulator().add(torch.ones(1, 4))


def test_a_long_common_template_is_no_collapse():
    model = tiny.tiny_llama().eval()
    template = list(range(10, 110)) * 2
    groups = [[template + ids for ids in group] for group in random_groups()]
    found = consistency(model, groups)
    assert found.between_groups < 1e-2
    assert not found.collapsed
