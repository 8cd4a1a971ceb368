"""What the jobs of a study found, row by row; what is missing is kept, with the reason."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from igascale.errors import UserError
from igascale.evaluation.layer_names import TABLE5, parse_layers
from igascale.evaluation.results import ISOMERS, SAMPLES_FILE, Consistency, EvaluationResult, read_result
from igascale.evaluation.significance import OverSeeds, over_seeds
from igascale.evaluation.table_cells import against_chance
from igascale.studies import records
from igascale.studies.jobs import FAILED, FINISHED, Job, finished_before
from igascale.studies.matrix import Row

#: Of one evaluation, a figure; ``None`` where it was not measured.
Figure = Callable[[EvaluationResult], float | None]
#: (suite, side) -> group -> problem -> whether it was answered right.
Outcomes = dict[tuple[str, str], dict[str, dict[str, bool]]]


@dataclass(frozen=True)
class Finding:
    """A finished job.

    Attributes:
        job: it.
        result: its evaluation.
        config: the resolved configuration it was made from.
        data: SHA-256 of the file it was trained on.
        model: fingerprint of the base model.
    """

    job: Job
    result: EvaluationResult
    config: Mapping[str, Any]
    data: str | None = None
    model: Mapping[str, str] | None = None

    @cached_property
    def outcomes(self) -> Outcomes:
        """Of every problem, from ``samples.jsonl``."""
        found: Outcomes = {}
        path = self.job.result.with_name(SAMPLES_FILE)
        try:
            with path.open(encoding="utf-8") as file:
                for line in file:
                    sample = json.loads(line)
                    side = found.setdefault((sample.get("suite", ISOMERS), sample["split"]), {})
                    side.setdefault(sample["group_id"], {})[sample["instance_id"]] = bool(sample["correct"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} cannot be read ({error}); remove {path.parent} to evaluate again") from None
        return found

    @cached_property
    def problems(self) -> dict[tuple[str, str], str]:
        """A hash of the problems of every side: rows can be compared where it is the same."""
        return {
            side: hashlib.sha256(
                "\n".join(sorted(f"{g}\t{i}" for g, each in groups.items() for i in each)).encode()
            ).hexdigest()
            for side, groups in self.outcomes.items()
        }


@dataclass(frozen=True)
class RowFindings:
    """A row of the study, over its seeds.

    Attributes:
        row: it.
        found: seed -> what was found.
        missing: seed -> why there is nothing: ``failed: ...`` or ``not run``.
    """

    row: Row
    found: dict[int | None, Finding] = field(default_factory=dict)
    missing: dict[int | None, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The row's."""
        return self.row.name

    def values(self, figure: Figure) -> dict[int | None, float]:
        """A figure by seed, where it was measured."""
        all_ = {seed: figure(finding.result) for seed, finding in self.found.items()}
        return {seed: value for seed, value in all_.items() if value is not None}

    def over_seeds(self, figure: Figure) -> OverSeeds | None:
        """Its mean and spread; ``None`` where it was not measured."""
        values = list(self.values(figure).values())
        return over_seeds(values) if values else None

    def any(self, holds: Callable[[EvaluationResult], bool]) -> bool:
        """Whether something holds of any seed's evaluation."""
        return any(holds(finding.result) for finding in self.found.values())


def collect(rows: Sequence[Row]) -> list[RowFindings]:
    """Read everything that is finished.

    Raises:
        UserError: a finished evaluation cannot be read.
    """
    found = []
    for row in rows:
        findings = RowFindings(row)
        for seed, job in row.jobs.items():
            record = records.read(job.records)
            if record.wanted is not None and record.state == FINISHED and finished_before(job, record):
                wanted = record.wanted
                findings.found[seed] = Finding(
                    job, read_result(job.result), _config(job, wanted), wanted.data, wanted.model
                )
            else:
                findings.missing[seed] = f"failed: {record.reason}" if record.state == FAILED else "not run"
        found.append(findings)
    return found


def _config(job: Job, wanted: records.Wanted) -> Mapping[str, Any]:
    path = job.folder / "config.yaml"
    config = yaml.safe_load(path.read_text()) if path.is_file() else None
    return config if isinstance(config, dict) else wanted.config


def suites_of(rows: Sequence[RowFindings]) -> list[str]:
    """The suites of all rows, in the order they came."""
    return list(dict.fromkeys(s for row in rows for f in row.found.values() for s in f.result.suites))


def layers_of(rows: Sequence[RowFindings]) -> list[int]:
    """The layers whose consistency was measured in a sweep, of any row."""
    sides = [f.result.suites[ISOMERS].id for row in rows for f in row.found.values() if ISOMERS in f.result.suites]
    return sorted({lcs.layer for side in sides if side is not None for lcs in side.layers})


def paper_layers(rows: Sequence[RowFindings]) -> dict[int, int]:
    """Layer here -> the layer of the paper's Table 5 that lies as deep; empty where the depth is not known, or too little for four."""
    for row in rows:
        for finding in row.found.values():
            path = Path(str((finding.config.get("model") or {}).get("path"))) / "config.json"
            with suppress(OSError, ValueError, KeyError, TypeError):
                here = parse_layers("table5", int(json.loads(path.read_text())["num_hidden_layers"]))
                return dict(zip(here, TABLE5)) if len(here) == len(TABLE5) else {}
    return {}


def accuracy(suite: str, side: str) -> Figure:
    """Accuracy of a side, in percent."""

    def figure(result: EvaluationResult) -> float | None:
        split = result.suites[suite].splits.get(side) if suite in result.suites else None
        return None if split is None else 100 * split.accuracy.value

    return figure


def at_chance(suite: str, side: str) -> Callable[[EvaluationResult], bool]:
    """Whether the accuracy of a side is not above chance."""

    def holds(result: EvaluationResult) -> bool:
        split = result.suites[suite].splits.get(side) if suite in result.suites else None
        return split is not None and against_chance(split.accuracy) != "above"

    return holds


def consistency_of(result: EvaluationResult, layer: int | None = None) -> Consistency | None:
    """LCS of the held-out isomer groups of the training domains, at the layer that tables show or at a given one."""
    split = result.suites[ISOMERS].id if ISOMERS in result.suites else None
    if split is None or layer is None:
        return None if split is None else split.consistency
    return next((lcs for lcs in split.layers if lcs.layer == layer), None)


def lcs(layer: int | None = None, relative: bool = False) -> Figure:
    """LCS times 100, or relative to the states' mean squared norm."""

    def figure(result: EvaluationResult) -> float | None:
        found = consistency_of(result, layer)
        if found is None or found.lcs is None:
            return None
        return found.relative if relative else 100 * found.lcs

    return figure


def lcs_means_nothing(layer: int | None = None) -> Callable[[EvaluationResult], bool]:
    """The states have collapsed, or the accuracy on the same groups is not above chance."""

    def holds(result: EvaluationResult) -> bool:
        found = consistency_of(result, layer)
        return found is not None and (found.collapsed or at_chance(ISOMERS, "id")(result))

    return holds


def average_ood(result: EvaluationResult) -> float | None:
    """Mean OOD accuracy of the benchmarks, in percent; of the isomer groups where there is no benchmark."""
    return _average(result, [accuracy(suite, "ood")(result) for suite in averaged(result)])


def average_gap(result: EvaluationResult) -> float | None:
    """Mean ID minus OOD, in points, of the same."""
    gaps = [result.suites[suite].delta_gap for suite in averaged(result)]
    return _average(result, [None if gap is None else 100 * gap for gap in gaps])


def gap_means_nothing(result: EvaluationResult) -> bool:
    """In distribution nothing was learnt either."""
    return any(at_chance(suite, "id")(result) for suite in averaged(result))


def averaged(result: EvaluationResult) -> list[str]:
    """The suites that an average is over."""
    return [suite for suite in result.suites if suite != ISOMERS] or [
        suite for suite in result.suites if suite == ISOMERS
    ]


def _average(result: EvaluationResult, values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
