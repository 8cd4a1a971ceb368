"""Per-domain gradient sums in flat buckets, each reduced to the rank that owns its adapters.

The accumulators into which capture adds are views of the buckets, so nothing is copied before it is sent. A bucket holds
adapters of one owner only, in the order in which the backward pass completes them (last module first), and is sent as soon as
the last micro-batch has completed all of them and every bucket before it is on its way: the order is the same on all ranks,
whatever each of them found complete first. So communication runs beside the rest of the backward pass.

Why ``reduce`` and not ``reduce_scatter``: the bytes are the same, but a scattered bucket must hold an equal part for every rank.
It would have to be padded, and would wait for adapters of every owner. Gloo moreover carries out a reduce-scatter as an
all-reduce of the whole, W times the bytes that are needed.

If a rank raises in its backward pass, it starts no further collective. Those under way end or fail with the process: the
others wait in the next one until the launcher ends them, as for any rank that dies.

Shape legend: D domains, R LoRA rank, I in-features, O out-features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from igascale.engine.collectives import Collectives, Pending
from igascale.errors import UserError
from igascale.hooks.base import DomainFactorGrads

#: ``(A.shape, B.shape)`` of an adapter.
FactorShapes = tuple[torch.Size, torch.Size]


@dataclass(frozen=True)
class Bucket:
    """Adapters of one owner that are sent together.

    Attributes:
        owner: the rank that gets the sums.
        fqns: the adapters, in the order in which they lie in memory.
        numel: float32 numbers, of all domains.
    """

    owner: int
    fqns: tuple[str, ...]
    numel: int


def plan_buckets(
    shapes: Mapping[str, FactorShapes], owners: Mapping[str, int], num_domains: int, bucket_mb: float
) -> list[Bucket]:
    """The buckets, in the order in which they are sent.

    Args:
        shapes: of every adapter, in the order of the model's modules.
        owners: adapter -> rank.
        num_domains: D.
        bucket_mb: most that a bucket holds, in units of 2**20 bytes; an adapter that is larger has one to itself.
    """
    limit = bucket_mb * 2**20 / 4
    filling: dict[int, tuple[list[str], int]] = {}
    full: list[Bucket] = []
    for fqn in reversed(list(shapes)):
        owner, numel = owners[fqn], num_domains * sum(shape.numel() for shape in shapes[fqn])
        fqns, held = filling.get(owner, ([], 0))
        if fqns and held + numel > limit:
            full.append(Bucket(owner, tuple(fqns), held))
            fqns, held = [], 0
        filling[owner] = [*fqns, fqn], held + numel
    full += [Bucket(owner, tuple(fqns), held) for owner, (fqns, held) in filling.items()]
    completed = {fqn: k for k, fqn in enumerate(reversed(list(shapes)))}
    return sorted(full, key=lambda bucket: completed[bucket.fqns[-1]])


class GradientBuckets(Mapping[str, DomainFactorGrads]):
    """This rank's sums of one optimizer step, ``a [D, R, I]`` and ``b [D, O, R]`` by adapter: zeros to add into.

    A bucket's memory is allocated when one of its adapters is first asked for, and is given back after the reduction, except on
    its owner.

    Args:
        plan: from :func:`plan_buckets`.
        shapes: of every adapter.
        num_domains: D.
        comm: who communicates.
    """

    def __init__(self, plan: Sequence[Bucket], shapes: Mapping[str, FactorShapes], num_domains: int, comm: Collectives):
        self._plan, self._shapes, self._num_domains, self._comm = plan, shapes, num_domains, comm
        self._number = {fqn: k for k, bucket in enumerate(plan) for fqn in bucket.fqns}
        self._incomplete = [set(bucket.fqns) for bucket in plan]
        self._flat: dict[int, Tensor] = {}
        self._views: dict[str, DomainFactorGrads] = {}
        self._sent: list[Pending] = []

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, fqn: str) -> DomainFactorGrads:
        """The accumulators of one adapter.

        Raises:
            UserError: its bucket has been sent; what is added now would be lost on the owner.
        """
        number = self._number[fqn]
        if number < len(self._sent):
            raise UserError(
                f"{fqn}: a gradient arrived after the adapter's sums were sent to their owner: this module runs backward more "
                "often than its forward passes told; set engine.overlap_reduce: false"
            )
        if fqn not in self._views:
            self._allocate(number)
        return self._views[fqn]

    def _allocate(self, number: int) -> None:
        bucket = self._plan[number]
        flat = self._flat[number] = torch.zeros(bucket.numel, device=self._comm.device)
        shapes = [(self._num_domains, *shape) for fqn in bucket.fqns for shape in self._shapes[fqn]]
        pieces = flat.split([torch.Size(shape).numel() for shape in shapes])
        views = [piece.view(shape) for piece, shape in zip(pieces, shapes)]
        self._views |= {fqn: DomainFactorGrads(*views[2 * i : 2 * i + 2]) for i, fqn in enumerate(bucket.fqns)}

    def complete(self, fqn: str) -> None:
        """Nothing more comes for this adapter: send its bucket, if that was all it and those before it waited for."""
        self._incomplete[self._number[fqn]].discard(fqn)
        while len(self._sent) < len(self._plan) and not self._incomplete[len(self._sent)]:
            self._send_next()

    def send(self) -> None:
        """Send what is left, complete or not: an adapter without a gradient in this step counts as zero.

        Call it on every rank before anything else communicates: the ranks need not have sent the same buckets yet.
        """
        while len(self._sent) < len(self._plan):
            self._send_next()

    def _send_next(self) -> None:
        number = len(self._sent)
        if number not in self._flat:
            self._allocate(number)
        self._sent.append(self._comm.start_sum_to(self._flat[number], self._plan[number].owner))

    def receive(self) -> dict[str, DomainFactorGrads]:
        """Wait for the sums over all ranks; those of the adapters that this rank owns, in the order of the modules.

        The buckets end with it: memory of other owners is free when this returns, the rest when the result is dropped.
        """
        self.send()
        for pending in self._sent:
            pending.wait()
        mine = {fqn for bucket in self._plan if bucket.owner == self._comm.rank for fqn in bucket.fqns}
        owned = {fqn: self._views[fqn] for fqn in self._shapes if fqn in mine}
        self._flat.clear()
        self._views.clear()
        return owned
