"""What a run cost: the figures of the paper's Table 3, from what its folder recorded (docs/efficiency.md)."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from igascale import status
from igascale.checkpoints import names
from igascale.evaluation.run_records import Start, number, read_config, records, section, starts
from igascale.runs.reading import DIED, read_run

#: Steps after each start that no time is taken from: compilation, caches, allocators.
WARM_UP = 3
_LISTED_RANKS = 64  # more are not listed one by one (igascale.metrics)
_UNSTEADY = 1.5  # between quartiles; above it the median says less than it seems to
#: Of a record of a step.
_KEPT = ("seconds", "tokens", "skipped", "peak_memory_bytes", "peak_memory_by_rank")
_ADAPTER = "adapter_model.safetensors"


@dataclass(frozen=True)
class Efficiency:
    """What a run cost. ``None``: the folder does not tell.

    Attributes:
        run: the folder.
        state: as of ``igascale runs ls``.
        steps: optimizer steps taken, each counted once.
        timed_steps: recorded steps that the next two are taken from: not skipped, not among the first of a start.
        seconds_per_step: their median.
        seconds_low, seconds_high: their quartiles.
        tokens_per_second: their tokens over their time, over all ranks.
        steps_per_epoch: whole steps that the training file makes.
        peak_memory_bytes: most that a rank held.
        peak_memory_by_rank: of each rank, where it is recorded.
        memory_of: what ``peak_memory_bytes`` is the most of.
        trainable: numbers in the adapter's file.
        modules: adapted modules.
        r: rank.
        devices: GPUs, or processes on CPUs; of the last start.
        hardware: in words.
        hardware_key: equal for two runs on the same hardware.
        wall_seconds: training time of all attempts; steps that were taken again after a crash count each time.
        device_seconds: the same times the devices that were held.
        notes: what to know before comparing.
    """

    run: str
    state: str
    steps: int
    timed_steps: int
    seconds_per_step: float | None
    seconds_low: float | None
    seconds_high: float | None
    tokens_per_second: float | None
    steps_per_epoch: int | None
    peak_memory_bytes: int | None
    peak_memory_by_rank: tuple[int, ...]
    memory_of: str
    trainable: int | None
    modules: int | None
    r: int | None
    devices: int
    hardware: str
    hardware_key: tuple[str, ...]
    wall_seconds: float | None
    device_seconds: float | None
    notes: tuple[str, ...] = ()

    @property
    def hours_per_epoch(self) -> float | None:
        """Median step times steps of an epoch; validation and checkpoints are not in it."""
        if self.seconds_per_step is None or self.steps_per_epoch is None:
            return None
        return self.seconds_per_step * self.steps_per_epoch / 3600

    @property
    def compute_hours(self) -> float | None:
        """Hours times devices, of all attempts: what was paid."""
        return None if self.device_seconds is None else self.device_seconds / 3600

    def per_compute_hour(self, accuracy: float) -> float | None:
        """Accuracy, in whatever unit, over :attr:`compute_hours`."""
        return accuracy / self.compute_hours if self.compute_hours else None

    def per_epoch_hour(self, accuracy: float) -> float | None:
        """The paper's Acc/CHr: accuracy over hours per epoch, however many devices share the epoch and many epochs there were."""
        return accuracy / self.hours_per_epoch if self.hours_per_epoch else None


def efficiency(folder: Path) -> Efficiency:
    """Read a run folder.

    Raises:
        UserError: it is none, or its configuration is damaged.
    """
    config, began, run = read_config(folder), starts(folder), read_run(folder)
    steps, damaged = records(folder, "train", _KEPT)
    timed, warm_up_left_out = _timed(steps, began)
    seconds = [s for record in timed if (s := number(record, "seconds")) is not None]
    tokens = [number(record, "tokens") for record in timed]
    rate = sum(t for t in tokens if t is not None) / sum(seconds) if seconds and None not in tokens else None
    trainable, modules = _adapter(folder)
    peak, by_rank, memory_of = _memory(steps, began[-1])
    hardware, key = _hardware(began[-1], folder)
    weight, uneven = _devices_held(steps, began)
    r = section(config, "lora").get("r")
    low, _, high = quantiles(seconds, method="inclusive") if len(seconds) > 1 else (None, None, None)
    notes = _notes(folder, config, run.state, began, steps, damaged, warm_up_left_out) + uneven
    if low and high and high > _UNSTEADY * low:
        notes.append(
            f"steps took {low:.3g} to {high:.3g} s (quartiles): the machine was shared, or texts differ much in length"
        )
    return Efficiency(
        run=str(folder),
        state=run.state,
        steps=run.step or 0,
        timed_steps=len(seconds),
        seconds_per_step=median(seconds) if seconds else None,
        seconds_low=low,
        seconds_high=high,
        tokens_per_second=rate,
        steps_per_epoch=_steps_per_epoch(config, began[-1]),
        peak_memory_bytes=peak,
        peak_memory_by_rank=by_rank,
        memory_of=memory_of,
        trainable=trainable,
        modules=modules,
        r=r if isinstance(r, int) else None,
        devices=len(began[-1].ranks),
        hardware=hardware,
        hardware_key=key,
        wall_seconds=run.ran_seconds,
        device_seconds=None if run.ran_seconds is None or weight is None else run.ran_seconds * weight,
        notes=tuple(notes),
    )


def attempt_of(step: int, began: list[Start]) -> int:
    """Which start took a step that stands in the records: the last one from before it."""
    return next((i for i in range(len(began) - 1, -1, -1) if began[i].step < step), 0)


def _timed(steps: list[dict[str, Any]], began: list[Start]) -> tuple[list[dict[str, Any]], bool]:
    """Records to take times from; all that were not skipped where nothing else is left, and whether warm-up is out of them."""
    whole = [record for record in steps if not record.get("skipped")]
    warm = [r for r in whole if r["step"] - began[attempt_of(r["step"], began)].step > WARM_UP]
    return (warm, True) if warm else (whole, False)


def _steps_per_epoch(config: dict[str, Any], last: Start) -> int | None:
    train, data = section(config, "train"), last.facts.get("data")
    file = data.get("train") if isinstance(data, dict) else None
    groups = file.get("groups") if isinstance(file, dict) else None
    per_step = [train.get(key) for key in ("groups_per_batch", "gradient_accumulation_steps")]
    if not isinstance(groups, int) or not all(isinstance(n, int) and n > 0 for n in per_step):
        return None
    return groups // math.prod(n for n in per_step if n is not None) or None


def _memory(steps: list[dict[str, Any]], last: Start) -> tuple[int | None, tuple[int, ...], str]:
    """The most of any rank, of each rank, and what that is the most of."""
    peaks = [int(p) for record in steps if (p := number(record, "peak_memory_bytes")) is not None]
    lists = [r["peak_memory_by_rank"] for r in steps if isinstance(r.get("peak_memory_by_rank"), list)]
    width = max(map(len, lists), default=0)
    by_rank = tuple(max(one[rank] for one in lists if rank < len(one)) for rank in range(width))
    gpu = any(rank.get("gpu") for rank in last.ranks)
    kind = "GPU memory as PyTorch counts it" if gpu else "resident memory" if last.ranks else "memory of unknown kind"
    alone = 1 < len(last.ranks) <= _LISTED_RANKS and not by_rank  # as an earlier version recorded it
    of = f"{kind} of {'rank 0 alone' if alone else 'the largest rank'}"
    return max(peaks, default=None), by_rank, of


def _adapter(folder: Path) -> tuple[int | None, int | None]:
    """Numbers and modules of the final adapter, or of the newest checkpoint's: by the header of its file."""
    published = names.published(folder / "checkpoints") if (folder / "checkpoints").is_dir() else []
    for path in [folder / "adapter" / _ADAPTER, *(p / "adapter" / _ADAPTER for p in sorted(published, reverse=True))]:
        try:
            with path.open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            shapes = {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError, RecursionError):
            continue
        return sum(math.prod(shape) for shape in shapes.values()), sum(".lora_A." in name for name in shapes) or len(
            shapes
        )
    return None, None


def _hardware(last: Start, folder: Path) -> tuple[str, tuple[str, ...]]:
    """In words; and a key. CPUs are told apart by host, since their kind is not recorded; what is unknown is like nothing else."""
    ranks = last.ranks
    if not ranks:
        return "not recorded", ("not recorded", str(folder.resolve()))
    hosts = sorted({str(rank.get("host")) for rank in ranks})
    where = f"host {hosts[0]}" if len(hosts) == 1 else f"{len(hosts)} hosts"
    gpus = Counter(_gpu(rank["gpu"]) for rank in ranks if isinstance(rank.get("gpu"), dict))
    cores = sorted({n for rank in ranks if isinstance(n := rank.get("cpus"), int)})
    if sum(gpus.values()) == len(ranks):
        told = ", ".join(f"{count} x {name}" for name, count in sorted(gpus.items()))
        return f"{told} ({where})", (*(f"{count} {name}" for name, count in sorted(gpus.items())), str(len(hosts)))
    told = f"{len(ranks)} process{'es' * (len(ranks) > 1)} on CPUs ({where}, {'/'.join(map(str, cores))} cores)"
    return told, ("cpu", str(len(ranks)), *hosts, *map(str, cores))


def _gpu(gpu: dict[str, Any]) -> str:
    memory = gpu.get("memory_bytes")
    return f"{gpu.get('name')}" + (f" {memory / 2**30:.0f} GiB" if isinstance(memory, int) else "")


def _devices_held(steps: list[dict[str, Any]], began: list[Start]) -> tuple[float | None, list[str]]:
    """Mean number of devices over the training time: of one number exact, of several shared out by the recorded steps."""
    counts = [len(start.ranks) for start in began]
    if not counts[-1]:
        return None, ["the number of devices is not recorded: no compute hours"]
    if len({count for count in counts if count}) == 1:
        return float(counts[-1]), []
    seconds: defaultdict[int, float] = defaultdict(float)
    for record in steps:
        seconds[counts[attempt_of(record["step"], began)]] += number(record, "seconds") or 0.0
    whole = sum(seconds.values())
    told = " -> ".join(str(count) for count in counts)
    note = f"devices changed ({told}): its compute hours are shared out by the recorded steps, its times mix them"
    return (sum(n * s for n, s in seconds.items()) / whole if whole else None), [note]


def _notes(
    folder: Path,
    config: dict[str, Any],
    state: str,
    began: list[Start],
    steps: list[dict[str, Any]],
    damaged: int,
    warm_up_left_out: bool,
) -> list[str]:
    notes = []
    if state != status.FINISHED:
        late = "; it may have run ten seconds longer than is recorded" if state == DIED else ""
        notes.append(f"{state}: the compute hours are those so far{late}")
    if not steps:
        notes.append("no step is recorded")
    elif not warm_up_left_out:
        notes.append(
            f"only steps of the first {WARM_UP} after a start are recorded: the times are those of the warm-up"
        )
    forked = began[1:2] if len(began) > 1 and began[1].facts.get("fork") else []
    if forked:
        notes.append(
            f"a fork: the {forked[0].step} steps before it were another run's, and are not in its compute hours"
        )
    if resumes := len(began) - 1 - len(forked):
        notes.append(
            f"resumed {resumes} time{'s' * (resumes > 1)}: steps that were taken again count each time in the compute hours, "
            "once in the times"
        )
    skipped = sum(bool(record.get("skipped")) for record in steps)
    if skipped:
        notes.append(f"{skipped} skipped step{'s' * (skipped > 1)} left out of the times")
    every = section(config, "logging").get("every", 1)
    if isinstance(every, int) and every > 1:
        notes.append(f"times from every {every}th step (logging.every)")
    if damaged:
        notes.append(f"{damaged} line{'s' * (damaged > 1)} of {folder / 'metrics.jsonl'} cannot be read")
    return notes
