"""What an evaluation found, as plain data: written to ``evaluation.json``, read back for tables."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from igascale.errors import UserError
from igascale.evaluation.accuracy import Accuracy, Sample, difference_interval
from igascale.files import write_atomically

RESULT_FILE = "evaluation.json"
SAMPLES_FILE = "samples.jsonl"
#: The suite of isomer groups; benchmarks go by their own names.
ISOMERS = "isomers"


@dataclass(frozen=True)
class Consistency:
    """LCS of a set of groups; the four numbers are ``None`` where the model's states are not finite.

    Attributes:
        lcs: Eq. 11, in squared units of the hidden state (the paper prints it times 100); lower is more
            consistent.
        relative: ``lcs`` over the mean squared norm of the states.
        mean_squared_norm: mean of ``‖z‖²`` over all instances.
        between_groups: trace of the sample covariance of the group means over ``mean_squared_norm``; also
            ``None`` for one group.
        collapsed: the model represents different problems alike, so that a low LCS means nothing.
        layer: index into ``hidden_states``.
        groups: K.
    """

    lcs: float | None
    relative: float | None
    mean_squared_norm: float | None
    between_groups: float | None
    collapsed: bool
    layer: int
    groups: int


@dataclass(frozen=True)
class SplitResult:
    """One side of a suite. ``consistency`` is ``None`` where its problems are told in one domain each.

    Attributes:
        per_domain: or per subject, for a benchmark.
        per_kind: of reasoning, or of answer.
        consistency: at the layer the tables show.
        layers: at every layer that was asked for, in order.
        unfinished: share of texts that ran into the token limit.
        seconds: that the answers took, added up over processes and over the attempts of a resumed evaluation.
    """

    accuracy: Accuracy
    per_domain: dict[str, Accuracy]
    per_kind: dict[str, Accuracy]
    consistency: Consistency | None
    unfinished: float
    seconds: float
    layers: list[Consistency] = field(default_factory=list)


@dataclass(frozen=True)
class SuiteResult:
    """One body of problems in and out of distribution: the isomer groups of two files, or a benchmark.

    Attributes:
        id: held-out problems of the training domains, or a benchmark's in-distribution side.
        ood: problems of unseen domains, or a benchmark's out-of-distribution side.
        delta_gap: ID accuracy minus OOD accuracy; ``None`` without both.
        delta_gap_low, delta_gap_high: its 95% interval.
        all: the whole of a benchmark, where it was asked for instead of its sides.
    """

    id: SplitResult | None
    ood: SplitResult | None
    delta_gap: float | None = None
    delta_gap_low: float | None = None
    delta_gap_high: float | None = None
    all: SplitResult | None = None

    @classmethod
    def of(cls, id_: SplitResult | None, ood: SplitResult | None) -> SuiteResult:
        """With the gap and its interval."""
        if id_ is None or ood is None:
            return cls(id_, ood)
        low, high = difference_interval(id_.accuracy, ood.accuracy)
        return cls(id_, ood, id_.accuracy.value - ood.accuracy.value, low, high)

    @property
    def splits(self) -> dict[str, SplitResult]:
        """What was measured, by ``id``, ``ood`` and ``all``."""
        sides = {"id": self.id, "ood": self.ood, "all": self.all}
        return {name: split for name, split in sides.items() if split is not None}


@dataclass(frozen=True)
class EvaluationResult:
    """Everything that ``igascale eval`` reports of one model.

    Attributes:
        suites: by name, in the order they were measured: :data:`ISOMERS`, or a benchmark's name.
        settings: how it was measured (decoding limit, batch size, text and layer of the LCS, dtype, ...).
        samples: one record per problem; not part of the JSON.
    """

    suites: dict[str, SuiteResult]
    settings: dict[str, str | int | float | bool | None]
    samples: list[Sample] = field(default_factory=list, repr=False, compare=False)

    @property
    def isomers(self) -> SuiteResult:
        """The suite of isomer groups.

        Raises:
            UserError: there is none in this evaluation.
        """
        if ISOMERS not in self.suites:
            raise UserError(f"this evaluation holds no isomer groups, only {', '.join(self.suites)}")
        return self.suites[ISOMERS]

    def to_json(self) -> str:
        """Indented JSON, without the samples."""
        return _ADAPTER.dump_json(self, indent=2, exclude={"samples"}).decode() + "\n"


_ADAPTER = TypeAdapter(EvaluationResult)


def read_result(file: Path) -> EvaluationResult:
    """Read an ``evaluation.json``.

    Raises:
        UserError: it is missing or not one.
    """
    try:
        return _ADAPTER.validate_json(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; run igascale eval first") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the top level"
        raise UserError(f"{file} is not an evaluation.json: {where}: {first['msg']}") from None


def write_result(result: EvaluationResult, folder: Path) -> None:
    """``samples.jsonl``, then ``evaluation.json``: where the second is, the first is complete.

    Raises:
        UserError: the folder cannot be written.
    """
    lines = [json.dumps(sample.to_dict(), ensure_ascii=False) + "\n" for sample in result.samples]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULT_FILE).unlink(missing_ok=True)
        write_atomically(folder / SAMPLES_FILE, "".join(lines))
        write_atomically(folder / RESULT_FILE, result.to_json())
    except OSError as error:
        raise UserError(f"{folder}: the result cannot be written ({error.strerror}); choose another --out") from None
