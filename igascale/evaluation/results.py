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
        layer: index into ``hidden_states`` (:mod:`igascale.evaluation.layers`).
        groups: K, of two instances at least.
        pairs: ``"law/medicine"`` -> half the squared distance between the two domains' states, mean over the groups that have
            both. Their mean is ``lcs`` where every group has all domains. Empty where the states are not finite.
        standard_error: of ``lcs`` as a mean over groups; ``None`` for one group.
        alarm: why ``collapsed``, or "".
        text: whose tokens are averaged: ``prompt``, or ``full`` with the reference solution.
        skipped_groups: those of one instance, which have no covariance.
        cut_texts: how many were longer than the model has positions.
    """

    lcs: float | None
    relative: float | None
    mean_squared_norm: float | None
    between_groups: float | None
    collapsed: bool
    layer: int
    groups: int
    pairs: dict[str, float] = field(default_factory=dict)
    standard_error: float | None = None
    alarm: str = ""
    text: str = "prompt"
    skipped_groups: int = 0
    cut_texts: int = 0

    @property
    def times_100(self) -> float | None:
        """``lcs`` as the paper prints it."""
        return None if self.lcs is None else 100 * self.lcs


@dataclass(frozen=True)
class Residual:
    """How much the domains' gradients of one adapter, or of all of them, disagree; ``None`` where a number is not defined.

    Attributes:
        gir: ``sum V / sum mean^2`` of the gradients of A and B, V the population variance over domains (Eq. 14 is its
            numerator): what a run's ``gir`` is.
        noise_share: estimated share of ``sum V`` that is sampling noise, by which ``gir`` is too large; it may exceed 1.
        weight_gir: the same ratio of the reconstructed gradients ``b_n A + B a_n``.
        weight_noise_share: and its share of noise.
        cosines: ``"law/medicine"`` -> cosine between the two domains' gradients of A and B.
    """

    gir: float | None
    noise_share: float | None
    weight_gir: float | None
    weight_noise_share: float | None
    cosines: dict[str, float | None]


@dataclass(frozen=True)
class HeldOutResidual:
    """The gradient invariance residual on held-out groups; nothing is trained.

    Attributes:
        overall: over all adapters, as one vector.
        adapters: each by its name in the model, ``model.layers.0.self_attn.q_proj`` say.
        domains: in the groups' order.
        losses: of each domain, nats per supervised token.
        groups: how many were averaged.
        skipped_groups: of those chosen, how many lacked a domain, or an answer within the model's positions.
        cut_texts: how many were longer than the model has positions.
    """

    overall: Residual
    adapters: dict[str, Residual]
    domains: list[str]
    losses: dict[str, float | None]
    groups: int
    skipped_groups: int = 0
    cut_texts: int = 0


@dataclass(frozen=True)
class SplitResult:
    """One side of a suite. ``consistency`` is ``None`` where its problems are told in one domain each.

    Attributes:
        per_domain: or per subject, for a benchmark.
        per_kind: of reasoning, or of answer.
        consistency: at the layer the tables show.
        layers: at every layer that was asked for, in order.
        gir: on the groups, where it was asked for.
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
    gir: HeldOutResidual | None = None


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
    new = folder / f".{SAMPLES_FILE}.new"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(new, "".join(lines))  # while the earlier result is still there: the disk may be full
        (folder / RESULT_FILE).unlink(missing_ok=True)
        new.replace(folder / SAMPLES_FILE)
        write_atomically(folder / RESULT_FILE, result.to_json())
    except OSError as error:
        raise UserError(
            f"{folder}: the result cannot be written ({error.strerror}); mend that and run the same command again, or choose another --out"
        ) from None
