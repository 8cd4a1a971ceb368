"""What `igascale eval` is asked to do, as plain data, and the problems that it names. Plain Python.

A :class:`Request` is what goes from the command line to every process that answers; it is JSON on the way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from igascale.errors import UserError, did_you_mean
from igascale.evaluation import benchmarks, tasks
from igascale.evaluation.benchmarks import Benchmark, BenchmarkItem, Loaded
from igascale.evaluation.of_run import in_distribution, leakage_note
from igascale.evaluation.suites import BenchmarkSuite, IsomerSuite, Suite
from igascale.isomers.schema import read_groups


@dataclass(frozen=True)
class BenchmarkChoice:
    """A benchmark to ask.

    Attributes:
        name: of the benchmark and of its task.
        source: file, folder, archive or Hub id.
        subsets: only the publisher's splits of these names; all without any.
    """

    name: str
    source: str
    subsets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """One evaluation.

    Attributes:
        model: what is evaluated: a model, an adapter or a run folder, or the adapter folder of a checkpoint.
        shown: what it is called in the result.
        out: the folder of the result.
        base: base model of an adapter, or ``None``.
        id_file, ood_file: isomer groups, or ``None``.
        run: the run folder, where it is one or a checkpoint of one.
        run_data: the ``data`` section of the run's configuration; empty without a run.
        own_validation: ``id_file`` is the run's own, of which the domains of the training are taken.
        limit_groups: only the first of each file.
        benchmarks: to ask.
        benchmark_split: ``sides`` (id and ood), or ``all``.
        held_out: labels that make the ood side, by benchmark.
        limit_problems: of each side of a benchmark.
        password: of an encrypted archive.
        batch_size, max_new_tokens, lcs_text, lcs_layers, gir_groups, dtype, device: see ``igascale eval --help``.
        adapter_sha256: of a checkpoint's adapter.
        generator: ``local``, ``vllm`` or ``endpoint``.
        endpoint, served_model, concurrency, timeout, sampled: of a server.
    """

    model: str
    shown: str
    out: str
    base: str | None = None
    id_file: str | None = None
    ood_file: str | None = None
    run: str | None = None
    run_data: dict[str, Any] = field(default_factory=dict)
    own_validation: bool = False
    limit_groups: int | None = None
    benchmarks: tuple[BenchmarkChoice, ...] = ()
    benchmark_split: str = "sides"
    held_out: dict[str, tuple[str, ...]] = field(default_factory=dict)
    limit_problems: int | None = None
    password: str | None = None
    batch_size: int = 16
    max_new_tokens: int | None = None
    lcs_text: str = "prompt"
    lcs_layers: str = "penultimate"
    gir_groups: int | None = None
    dtype: str = "auto"
    device: str | None = None
    adapter_sha256: str | None = None
    generator: str = "local"
    endpoint: str | None = None
    served_model: str | None = None
    concurrency: int = 32
    timeout: float = 600.0
    sampled: bool = False

    def to_json(self) -> str:
        """For another process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Request:
        """What :meth:`to_json` gave."""
        values = json.loads(text)
        values["benchmarks"] = tuple(
            BenchmarkChoice(each["name"], each["source"], tuple(each["subsets"])) for each in values["benchmarks"]
        )
        values["held_out"] = {name: tuple(labels) for name, labels in values["held_out"].items()}
        return cls(**values)

    def digest(self) -> str:
        """Of everything but what is evaluated and where the result goes: results of equal digest stand in one table."""
        same = replace(
            self, model="", shown="", out="", run=None, password=None, device=None, adapter_sha256=None, concurrency=0
        )
        files = [hashlib.sha256(Path(f).read_bytes()).hexdigest() if f else None for f in (self.id_file, self.ood_file)]
        return hashlib.sha256(json.dumps([asdict(same), files], sort_keys=True).encode()).hexdigest()[:16]


def read_suites(request: Request) -> tuple[list[Suite], list[str]]:
    """The problems of a request, and what the user must be told of them.

    Raises:
        UserError: a file is missing or breaks its format, a name is unknown, or nothing is left to ask.
    """
    suites: list[Suite] = []
    notes: list[str] = []
    if request.id_file is not None:
        id_groups = read_groups(request.id_file)[: request.limit_groups]
        if request.own_validation:
            id_groups, notes = in_distribution(id_groups, request.run_data)
        ood_groups = read_groups(request.ood_file)[: request.limit_groups] if request.ood_file else None
        suites.append(IsomerSuite(id_groups, ood_groups))
    elif request.run_data.get("validation"):
        notes.append(
            "the run's own groups are not asked, so no LCS: --benchmark asks the benchmarks alone; --id FILE adds groups"
        )
    notes += leakage_note(request.run_data)
    for choice in request.benchmarks:
        suite = _benchmark_suite(request, choice)
        suites.append(suite)
        notes += suite.notes()
    return suites, notes


def parse_benchmarks(given: Sequence[str], subsets: Sequence[str]) -> tuple[BenchmarkChoice, ...]:
    """From ``NAME=SOURCE`` and ``NAME=SPLIT`` on the command line.

    Raises:
        UserError: another form, an unknown name, a name twice, or a subset of a benchmark that is not asked for.
    """
    choices: dict[str, BenchmarkChoice] = {}
    for text in given:
        name, source = split_option("--benchmark", text, "SOURCE")
        benchmarks.find(name)
        if name in choices:
            raise UserError(f"--benchmark {name} is given twice; a second source of it needs an evaluation of its own")
        choices[name] = BenchmarkChoice(name, source)
    for text in subsets:
        name, subset = split_option("--subset", text, "SPLIT")
        if name not in choices:
            raise UserError(f"--subset {text}: there is no --benchmark {name}=SOURCE")
        choices[name] = replace(choices[name], subsets=(*choices[name].subsets, subset))
    return tuple(choices.values())


def split_option(option: str, text: str, what: str) -> tuple[str, str]:
    """``NAME=...`` in two.

    Raises:
        UserError: it has no such form.
    """
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise UserError(f"{option} {text}: should be NAME={what}, for example math={what.lower()}")
    return name, value


def _benchmark_suite(request: Request, choice: BenchmarkChoice) -> BenchmarkSuite:
    benchmark = benchmarks.find(choice.name)
    loaded = benchmark.load(choice.source, password=request.password)
    notes, items = list(loaded.notes), _of_subsets(choice, loaded)
    if request.benchmark_split == "all":
        sides = {"all": items}
    else:
        sides = _sides(benchmark, items, request.held_out.get(choice.name, ()), notes)
    for side, some in sides.items():
        train = sum("train" in item.split for item in some)
        if train:
            notes.append(
                f"{side.upper()}: {train} of {len(some)} problems are of the publisher's training split (--subset)"
            )
    if request.limit_problems is not None:
        sides = {side: _spread(some, request.limit_problems) for side, some in sides.items()}
        notes.append(f"only {request.limit_problems} problems of each side (--limit-problems), evenly from its order")
    return BenchmarkSuite(tasks.find(benchmark.name), sides, choice.source, loaded.sha256, notes)


def _of_subsets(choice: BenchmarkChoice, loaded: Loaded) -> list[BenchmarkItem]:
    there = dict.fromkeys(file.split for file in loaded.files)
    for subset in choice.subsets:
        if subset not in there:
            hint = did_you_mean(subset, there) or f"; there are {', '.join(there)}"
            raise UserError(f"--subset {choice.name}={subset}: {choice.source} has no such split{hint}")
    return [item for item in loaded.items if not choice.subsets or item.split in choice.subsets]


def _sides(
    benchmark: Benchmark, items: list[BenchmarkItem], held_out: Sequence[str], notes: list[str]
) -> dict[str, list[BenchmarkItem]]:
    sides = {"id": benchmark.select(items, "id", held_out), "ood": benchmark.select(items, "ood", held_out)}
    if not held_out:
        notes.append(f"`igascale data benchmark {benchmark.name}` says how far its sides are the paper's split")
    neither = len(items) - len(sides["id"]) - len(sides["ood"])
    if neither:
        notes.append(
            f"{neither} of {len(items)} problems are on neither side and are not asked (--benchmark-split all)"
        )
    for side, some in list(sides.items()):
        if not some:
            notes.append(
                f"there is no {side.upper()} side in these files, so no gap (igascale data benchmark says why)"
            )
            del sides[side]
    return sides


def _spread(items: list[BenchmarkItem], most: int) -> list[BenchmarkItem]:
    """At most so many, evenly: the first ones would all be of one subject."""
    if len(items) <= most:
        return items
    return [items[k * len(items) // most] for k in range(most)]
