"""Split groups by seed: all groups made from one seed land on the same side."""

from __future__ import annotations

import random
from collections.abc import Sequence

from igascale.errors import UserError
from igascale.isomers.schema import IsomerGroup


def split_groups(
    groups: Sequence[IsomerGroup], validation_fraction: float, seed: int
) -> tuple[list[IsomerGroup], list[IsomerGroup]]:
    """Divide into (training, validation) so that no `seed_id` is on both sides; both keep the order of `groups`.

    Args:
        groups: the groups to divide.
        validation_fraction: share of the seeds (not of the groups) held out; at least one seed a side.
        seed: chooses which seeds; the choice does not depend on the order of `groups`.

    Raises:
        UserError: the fraction is not inside (0, 1), or there are fewer than two seeds.
    """
    if not 0.0 < validation_fraction < 1.0:
        raise UserError(f"validation_fraction must be above 0 and below 1, not {validation_fraction}")
    seeds = sorted({group.seed_id for group in groups})
    if len(seeds) < 2:
        raise UserError(f"a split by seed needs groups from at least two seeds, found {len(seeds)}")
    count = min(max(round(validation_fraction * len(seeds)), 1), len(seeds) - 1)
    held_out = set(random.Random(f"igascale split {seed}").sample(seeds, count))
    training = [group for group in groups if group.seed_id not in held_out]
    return training, [group for group in groups if group.seed_id in held_out]
