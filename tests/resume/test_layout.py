"""How rows are cut into forward passes, against the functions that really cut them."""

import itertools

import pytest

from igascale.assemble import micro_batch_size
from igascale.config import RunConfig
from igascale.isomers.batches import micro_batches, shard_groups
from igascale.resuming.layout import Layout, describe_change, keep_rows


def config(groups=4, accumulation=2, micro=None):
    train = {"groups_per_batch": groups, "gradient_accumulation_steps": accumulation, "micro_batch_size": micro}
    return RunConfig.model_validate(
        {"output_dir": "run", "model": {"path": "model"}, "data": {"train": "train.jsonl"}, "train": train}
    )


def really(layout):
    """Every rank's passes, as lists of row numbers over the whole step, by the functions of the training loop."""
    cfg, ranks = layout.config, []
    for rank in range(layout.world_size):
        groups = shard_groups(list(range(layout.groups)), rank, layout.world_size)
        rows = [group * layout.width + i for group in groups for i in range(layout.width)]
        size = layout.rows or micro_batch_size(cfg, len(groups), layout.width)
        cuts = [len(chunk) for chunk in micro_batches([_Row()] * len(rows), size)]
        ranks.append([rows[sum(cuts[:k]) : sum(cuts[: k + 1])] for k in range(len(cuts))])
    return ranks


class _Row:
    domain = 0


GRID = [
    case
    for case in itertools.product((1, 2, 3, 5), (4, 3), (1, 2, 3), (None, 3, 8), (1, 4))
    if case[0] <= case[1] * case[2]
]


@pytest.mark.parametrize(("world", "groups", "accumulation", "micro", "width"), GRID)
def test_against_the_loop(world, groups, accumulation, micro, width):
    cfg = config(groups, accumulation, micro)
    layout = Layout(cfg.groups_per_step, width, world, None, cfg)
    ranks = really(layout)
    assert layout.passes == max(len(passes) for passes in ranks)
    assert layout.largest_pass == max(len(rows) for passes in ranks for rows in passes)
    ends = {rows[-1] + 1 for passes in ranks for rows in passes if (rows[-1] + 1) % width == 0}
    assert layout.whole_groups_end() == ends
    for other in (1, 2, 4):
        if other > cfg.groups_per_step:
            continue
        after = keep_rows(layout, cfg, other)
        passes = [rows for each in really(after) for rows in each]
        assert sorted(itertools.chain(*passes)) == list(range(cfg.groups_per_step * width))  # every row once
        assert max(map(len, passes)) <= layout.largest_pass  # no rank needs more memory


def test_what_is_told():
    cfg = config()
    two = Layout(8, 4, 2, None, cfg)
    told = describe_change(two, keep_rows(two, cfg, 1))
    assert (
        told
        == "2 -> 1 ranks: 2 -> 4 forward passes per step of at most 8 instances on each; the same 8 groups per step"
    )
    assert describe_change(two, keep_rows(two, cfg, 2)) == ""
    split = config(8, 1)
    assert "2 -> 1 forward passes" in describe_change(two, keep_rows(two, split, 2))
