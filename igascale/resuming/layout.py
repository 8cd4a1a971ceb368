"""How the rows of a step are cut into forward passes, and how that is kept on another number of ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from igascale.assemble import micro_batch_size
from igascale.config import RunConfig


@dataclass(frozen=True)
class Layout:
    """Which rows of a step share a forward pass.

    Attributes:
        groups: isomer groups of a step, over all ranks.
        width: instances of a group.
        world_size: number of ranks.
        rows: instances per forward pass; ``None``: what the configuration implies for each rank's share of the groups.
        config: what it implies them from.
    """

    groups: int
    width: int
    world_size: int
    rows: int | None
    config: RunConfig

    @property
    def largest_pass(self) -> int:
        """Instances in the largest forward pass of any rank, which decides how much memory it takes."""
        share = math.ceil(self.groups / self.world_size)
        return min(self._rows(share), share * self.width)

    @property
    def passes(self) -> int:
        """Forward passes per step on the rank that has most."""
        return max(math.ceil(share * self.width / self._rows(share)) for share in self._shares())

    def whole_groups_end(self) -> set[int]:
        """Where, in the step's order of instances, a pass ends with a group: what lies between is one sample of the noise."""
        ends, start = set(), 0
        for share in self._shares():
            rows = share * self.width
            cuts = [*range(self._rows(share), rows, self._rows(share)), rows]
            ends |= {start + cut for cut in cuts if cut % self.width == 0}
            start += rows
        return ends

    def _rows(self, share: int) -> int:
        return self.rows or micro_batch_size(self.config, share, self.width)

    def _shares(self) -> list[int]:
        """As :func:`igascale.isomers.batches.shard_groups` deals them out."""
        bounds = [rank * self.groups // self.world_size for rank in range(self.world_size + 1)]
        return [end - begin for begin, end in pairwise(bounds)]


def keep_rows(before: Layout, config: RunConfig, world_size: int) -> Layout:
    """The layout on another number of ranks: as many rows per forward pass as before, more or fewer passes.

    So no rank needs more memory than one did, and a step has the same groups. Where the configuration's own keys
    about it were changed, they have the last word.
    """
    same_keys = all(
        getattr(before.config.train, key) == getattr(config.train, key)
        for key in ("groups_per_batch", "gradient_accumulation_steps", "micro_batch_size")
    )
    rows = None
    if same_keys:
        rows = before.rows if world_size == before.world_size else before.largest_pass
    return Layout(config.groups_per_step, before.width, world_size, rows, config)


def describe_change(before: Layout, after: Layout) -> str:
    """One line, or nothing where nothing changed."""
    ranks = f"{before.world_size} -> {after.world_size} ranks"
    same = before.groups == after.groups
    groups = (
        f"the same {after.groups} groups per step" if same else f"{before.groups} -> {after.groups} groups per step"
    )
    if before.world_size == after.world_size and before.passes == after.passes:
        return ""
    passes = f"{before.passes} -> {after.passes} forward passes per step of at most {after.largest_pass} instances"
    return f"{ranks}: {passes} on each; {groups}"
