"""Padding, weights, and who gets which groups."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from igascale.errors import UserError
from igascale.isomers.batches import GroupSchedule, collate, domain_denominators, micro_batches, pack, shard_groups
from igascale.isomers.encode import Example

LONG = Example([1, 5, 6, 7, 2], [-100, -100, 6, 7, 2], 1, "g", "g/b")
SHORT = Example([1, 8, 2], [-100, 8, 2], 0, "g", "g/a")
FULL = Example([9, 8, 7], [9, 8, 7], 1, "h", "h/b")  # supervised from the first token on


def test_padding_on_the_right():
    batch = collate([LONG, SHORT], 0, "token")
    assert batch.input_ids.tolist() == [[1, 5, 6, 7, 2], [1, 8, 2, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert batch.labels.tolist() == [[-100, -100, 6, 7, 2], [-100, 8, 2, -100, -100]]
    assert batch.weights.tolist() == [[0, 0, 1, 1, 1], [0, 1, 1, 0, 0]]
    assert batch.domain.tolist() == [1, 0]
    dtypes = {batch.input_ids.dtype, batch.attention_mask.dtype, batch.labels.dtype, batch.domain.dtype}
    assert dtypes == {torch.int64} and batch.weights.dtype == torch.float32


def test_instance_weights_share_one():
    batch = collate([LONG, SHORT, FULL], 0, "instance")
    torch.testing.assert_close(batch.weights.sum(1), torch.ones(3))
    assert batch.weights[1].tolist() == [0, 0.5, 0.5, 0, 0]
    assert batch.weights[2].tolist() == [0, 0.5, 0.5, 0, 0]


def test_the_first_label_never_counts():
    assert collate([FULL], 0, "token").labels.tolist() == [[-100, 8, 7]]


def test_eos_as_padding_is_still_supervised():
    batch = collate([LONG, SHORT], 2, "token")
    assert batch.labels[1].tolist() == [-100, 8, 2, -100, -100]
    assert batch.attention_mask[1].tolist() == [1, 1, 1, 0, 0]


def test_denominators():
    rows = [LONG, SHORT, FULL]
    assert domain_denominators(rows, 3, "token").tolist() == [2, 5, 0]
    assert domain_denominators(rows, 3, "instance").tolist() == [1, 2, 0]
    assert domain_denominators(rows, 3, "token").dtype == torch.float64


@pytest.mark.parametrize("reduction", ["token", "instance"])
def test_weights_add_up_to_the_denominators(reduction):
    """The loss of a model that is wrong by one nat everywhere is one."""
    rows = [LONG, SHORT, FULL]
    batch = collate(rows, 0, reduction)
    sums = torch.zeros(2).index_add_(0, batch.domain, batch.weights.sum(1))
    torch.testing.assert_close(sums.double(), domain_denominators(rows, 2, reduction))


def test_unknown_reduction():
    with pytest.raises(ValueError, match="'mean'"):
        collate([LONG], 0, "mean")
    with pytest.raises(ValueError, match="'mean'"):
        domain_denominators([LONG], 2, "mean")


@pytest.mark.parametrize("batch", [collate([LONG, SHORT], 0, "token"), pack([LONG, SHORT], "token")])
def test_to_device_keeps_everything(batch):
    moved = batch.to("meta")
    assert moved.lengths == batch.lengths
    for name in vars(batch).keys() - {"lengths"}:
        assert getattr(moved, name).device.type == "meta"
        assert getattr(moved, name).shape == getattr(batch, name).shape


def test_packing():
    """No padding, every token with its domain, and nothing supervised where an instance begins."""
    batch = pack([SHORT, LONG, FULL], "token")
    assert batch.input_ids.tolist() == [[1, 8, 2, 1, 5, 6, 7, 2, 9, 8, 7]]
    assert batch.attention_mask.tolist() == [[1] * 11]
    assert batch.labels.tolist() == [[-100, 8, 2, -100, -100, 6, 7, 2, -100, 8, 7]]
    assert batch.domain.tolist() == [[0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]]
    assert batch.weights.tolist() == [[0, 1, 1, 0, 0, 1, 1, 1, 0, 1, 1]]
    assert batch.lengths == (3, 5, 3)
    dtypes = {batch.input_ids.dtype, batch.attention_mask.dtype, batch.labels.dtype, batch.domain.dtype}
    assert dtypes == {torch.int64} and batch.weights.dtype == torch.float32


@pytest.mark.parametrize("reduction", ["token", "instance"])
@pytest.mark.parametrize("make", [pack, lambda rows, reduction: collate(rows, 0, reduction)])
def test_weights_by_domain(make, reduction):
    rows = [SHORT, LONG, FULL]
    batch = make(rows, reduction)
    assert batch.domain_weights.shape == batch.domain.shape
    sums = torch.zeros(2).index_add_(0, batch.domain.flatten(), batch.domain_weights.flatten())
    torch.testing.assert_close(sums.double(), domain_denominators(rows, 2, reduction))


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 5))
def test_every_epoch_takes_each_group_at_most_once(num_groups, groups_per_step, seed):
    if groups_per_step > num_groups:
        with pytest.raises(UserError, match=f"{num_groups} groups .* one optimizer step of {groups_per_step}"):
            GroupSchedule(num_groups, groups_per_step, seed)
        return
    schedule = GroupSchedule(num_groups, groups_per_step, seed)
    assert schedule.steps_per_epoch == num_groups // groups_per_step
    for epoch in range(2):
        steps = range(epoch * schedule.steps_per_epoch, (epoch + 1) * schedule.steps_per_epoch)
        taken = [g for s in steps for g in schedule.groups_of_step(s)]
        assert len(taken) == len(set(taken)) == schedule.steps_per_epoch * groups_per_step
        assert set(taken) <= set(range(num_groups))


def test_the_order_depends_on_step_and_seed_alone():
    forward = GroupSchedule(40, 6, 3)
    order = [forward.groups_of_step(s) for s in range(20)]
    backward = GroupSchedule(40, 6, 3)
    assert [backward.groups_of_step(s) for s in reversed(range(20))][::-1] == order
    assert order[0] != order[6], "another order in the second epoch"
    assert order != [GroupSchedule(40, 6, 4).groups_of_step(s) for s in range(20)]


def test_what_is_left_out_changes_with_the_epoch():
    schedule = GroupSchedule(7, 3, 0)
    left_out = [set(range(7)) - {g for s in (2 * e, 2 * e + 1) for g in schedule.groups_of_step(s)} for e in range(6)]
    assert all(len(rest) == 1 for rest in left_out)
    assert len(set.union(*left_out)) > 1


@given(st.integers(1, 30), st.integers(1, 30))
def test_shards_are_contiguous_and_near_equal(num_groups, world_size):
    groups = list(range(100, 100 + num_groups))
    if world_size > num_groups:
        with pytest.raises(UserError, match=f"{world_size} processes but only {num_groups} isomer groups"):
            shard_groups(groups, 0, world_size)
        return
    shards = [shard_groups(groups, rank, world_size) for rank in range(world_size)]
    assert [g for shard in shards for g in shard] == groups
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1 and min(sizes) >= 1


def test_micro_batches():
    rows = [LONG, SHORT, FULL, LONG, SHORT]  # of domains 1, 0, 1, 1, 0
    assert micro_batches(rows, 2) == [[SHORT, LONG], [FULL, LONG], [SHORT]]
    assert micro_batches(rows, 9) == [[SHORT, SHORT, LONG, FULL, LONG]]
    again = [other for part in micro_batches(rows, 4) for other in part]
    assert all(any(row is other for other in again) for row in rows)
    with pytest.raises(ValueError, match="at least 1"):
        micro_batches(rows, 0)
