"""Does it fit, and if not, what to change first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from igascale.model import Checkpointing
from igascale.planning.cluster import Cluster, Gpu, known_gpus
from igascale.planning.memory import Memory

#: Share of the memory within which "fits" is no promise.
CLOSE = 0.05

#: Memory as a function of the micro-batch size and of the activation checkpointing.
Predict = Callable[[int, Checkpointing], Memory]


@dataclass(frozen=True)
class Verdict:
    """The answer.

    Attributes:
        fits: whether the run fits on its GPUs.
        headroom: bytes that are left; negative where it does not fit.
        text: one line.
        remedy: what to do first, or "".
    """

    fits: bool
    headroom: float
    text: str
    remedy: str


def decide(predict: Predict, micro_batch: int, checkpointing: Checkpointing, cluster: Cluster) -> Verdict:
    """Compare with the GPU's memory; look for the smallest change that makes it fit.

    Args:
        predict: memory for other settings.
        micro_batch: of the run.
        checkpointing: of the run.
        cluster: its GPUs.
    """
    memory, room = predict(micro_batch, checkpointing), cluster.gpu.memory_bytes
    need = memory.total()
    headroom = room - need
    word = "fits" if headroom >= 0 else "DOES NOT FIT"
    text = f"{word}: {_gib(need)} of {_gib(room)} GiB on each {cluster.gpu_name}, "
    text += f"{_gib(headroom)} GiB ({headroom / room:.0%}) left" if headroom >= 0 else f"{_gib(-headroom)} GiB too much"
    if 0 <= headroom < CLOSE * room:
        text += "; closer than this prediction is sure of, try it"
    remedy = "" if headroom >= 0 else _remedy(predict, memory, micro_batch, checkpointing, cluster)
    return Verdict(headroom >= 0, headroom, text, remedy)


def _remedy(predict: Predict, memory: Memory, micro_batch: int, checkpointing: Checkpointing, cluster: Cluster) -> str:
    room = cluster.gpu.memory_bytes
    stays = memory.phase("resident") + memory.phase("combine")
    if stays < room:
        for settings, rows, mode in _changes(micro_batch, checkpointing):
            if (need := predict(rows, mode).total()) <= room:
                return f"set {settings}: {_gib(need)} GiB"
    sharded = memory.total(sharded=True)
    told = (
        f"{_gib(stays)} GiB stay whatever the batch is: no setting helps. " if stays >= room else "no setting helps. "
    )
    larger = [
        f"{name} ({1 - memory.total() / Gpu(**gpu).memory_bytes:.0%} left)"
        for name, gpu in known_gpus().items()
        if Gpu(**gpu).memory_bytes >= memory.total()
    ]
    told += (
        f"As configured it fits on {', '.join(larger)}. "
        if larger
        else "As configured it fits on no GPU of the table. "
    )
    verb = "would fit" if sharded <= room else "would not fit either"
    told += f"With sharded base weights, which igascale cannot do yet, it {verb}: {_gib(sharded)} GiB"
    return told


def _changes(micro_batch: int, checkpointing: Checkpointing) -> Iterator[tuple[str, int, Checkpointing]]:
    """Settings to try, the cheapest first: recompute, then fewer instances at once."""
    prefix = ""
    if checkpointing == "none":
        prefix = "model.activation_checkpointing=non-reentrant"
        yield prefix, micro_batch, "non-reentrant"
        checkpointing = "non-reentrant"
    while micro_batch > 1:
        micro_batch //= 2
        yield f"{prefix} train.micro_batch_size={micro_batch}".strip(), micro_batch, checkpointing


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.1f}"
