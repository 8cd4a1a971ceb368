"""Accuracy over isomer groups, with intervals that allow for the dependence within a group."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

from igascale.evaluation.answers import extract_answer, is_correct, normalise_answer
from igascale.isomers.schema import IsomerGroup


@dataclass(frozen=True)
class Sample:
    """One problem, what the model wrote, and what it was worth: one line of ``samples.jsonl``.

    Attributes:
        suite: ``isomers``, or a benchmark's name.
        group_id: what its errors are shared with; of a benchmark, the item itself.
        domain: or subject, for a benchmark.
        kind: of reasoning, or of answer.
        predicted: the normalised answer, ``None`` for a parse failure.
        finished: whether the model ended the text itself, rather than running into the token limit.
    """

    split: str
    group_id: str
    instance_id: str
    domain: str
    kind: str | None
    problem: str
    generated: str
    predicted: str | None
    expected: str
    correct: bool
    new_tokens: int
    finished: bool
    suite: str = "isomers"

    def to_dict(self) -> dict[str, Any]:
        """A JSON-serialisable record."""
        return asdict(self)


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of one set of samples.

    Attributes:
        value: share of right answers; a missing answer is wrong.
        low, high: 95% confidence interval, see :func:`group_interval`.
        chance: share of the most frequent expected answer: what the best constant answer would score.
        parse_failures: share of samples without an answer.
        samples, groups: how many.
    """

    value: float
    low: float
    high: float
    chance: float
    parse_failures: float
    samples: int
    groups: int


@dataclass(frozen=True)
class AccuracyBreakdown:
    """Overall, per domain, and per reasoning kind (empty where the groups name none)."""

    overall: Accuracy
    per_domain: dict[str, Accuracy]
    per_kind: dict[str, Accuracy]


def score(
    groups: Sequence[IsomerGroup],
    texts: Sequence[str],
    lengths: Sequence[int],
    finished: Sequence[bool],
    split: str,
) -> list[Sample]:
    """Compare generated texts with the instances of ``groups``, in order.

    Args:
        groups: K groups of N instances.
        texts: ``[K * N]`` generated texts, group by group.
        lengths: ``[K * N]`` generated tokens.
        finished: ``[K * N]``, whether each text came to its own end.
        split: a name for the set, ``"id"`` say.
    """
    pairs = [(group, instance) for group in groups for instance in group.instances]
    assert len(pairs) == len(texts) == len(lengths) == len(finished)
    samples = []
    for (group, instance), text, length, ended in zip(pairs, texts, lengths, finished):
        predicted = extract_answer(text)
        samples.append(
            Sample(
                split=split,
                group_id=group.id,
                instance_id=instance.id or f"{group.id}/{instance.domain}",
                domain=instance.domain,
                kind=group.kind,
                problem=instance.problem,
                generated=text,
                predicted=predicted,
                expected=instance.answer,
                correct=is_correct(predicted, instance.answer),
                new_tokens=length,
                finished=ended,
            )
        )
    return samples


def accuracy_of(samples: Iterable[Sample]) -> Accuracy:
    """Accuracy, interval, chance and parse failures of a non-empty set of samples."""
    samples = list(samples)
    by_group: dict[str, list[bool]] = defaultdict(list)
    for sample in samples:
        by_group[sample.group_id].append(sample.correct)
    answers = Counter(normalise_answer(sample.expected) for sample in samples)
    low, high = group_interval(list(by_group.values()))
    return Accuracy(
        value=sum(sample.correct for sample in samples) / len(samples),
        low=low,
        high=high,
        chance=max(answers.values()) / len(samples),
        parse_failures=sum(sample.predicted is None for sample in samples) / len(samples),
        samples=len(samples),
        groups=len(by_group),
    )


def breakdown(samples: Sequence[Sample]) -> AccuracyBreakdown:
    """Overall accuracy, and by domain and kind in first-seen order."""
    domains = dict.fromkeys(sample.domain for sample in samples)
    kinds = dict.fromkeys(sample.kind for sample in samples if sample.kind is not None)
    return AccuracyBreakdown(
        overall=accuracy_of(samples),
        per_domain={domain: accuracy_of(s for s in samples if s.domain == domain) for domain in domains},
        per_kind={kind: accuracy_of(s for s in samples if s.kind == kind) for kind in kinds},
    )


def group_interval(groups: Sequence[Sequence[bool]], confidence: float = 0.95) -> tuple[float, float]:
    r"""Wilson interval of a proportion, with the effective sample size of cluster sampling.

    .. math:: n_\mathrm{eff} = \frac{n}{\max(1, \mathrm{deff})}\Bigl(\frac{t_{n-1}}{t_{K-1}}\Bigr)^2, \quad
        \mathrm{deff} = \frac{K}{K-1} \frac{\sum_k (\sum_i (y_{ki} - p))^2}{n\, p (1 - p)}

    Answers within a group tend to be right or wrong together, so n instances are worth fewer independent
    ones. A bootstrap over groups would say the same in the middle, but has no width at 0% and 100%, where a
    small test set tells little; there the design effect cannot be estimated and each group counts once.

    Reference: Wilson (1927); Korn and Graubard (1998), "Confidence intervals for proportions with small
    expected number of positive counts estimated from survey data", for the effective sample size.

    Args:
        groups: K groups of outcomes; groups may differ in size.
        confidence: coverage.
    """
    n, K = sum(len(group) for group in groups), len(groups)
    p = sum(sum(group) for group in groups) / n
    if K == 1 or p in (0.0, 1.0):
        effective = float(K)
    else:
        between = sum((sum(group) - p * len(group)) ** 2 for group in groups)
        deff = K / (K - 1) * between / (n * p * (1 - p))
        effective = n / max(1.0, deff) * (_t_quantile(n - 1, confidence) / _t_quantile(K - 1, confidence)) ** 2
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    centre = (p + z2 / (2 * effective)) / (1 + z2 / effective)
    half = math.sqrt(z2 / effective * (p * (1 - p) + z2 / (4 * effective))) / (1 + z2 / effective)
    # Exact at the ends, where the formula is off by rounding.
    return (0.0 if p == 0 else max(0.0, centre - half)), (1.0 if p == 1 else min(1.0, centre + half))


def difference_interval(first: Accuracy, second: Accuracy) -> tuple[float, float]:
    """95% interval of ``first - second`` for two sets of different groups, from their own intervals.

    Reference: Newcombe (1998), "Interval estimation for the difference between independent proportions",
    method 10.
    """
    difference = first.value - second.value
    low = difference - math.hypot(first.value - first.low, second.high - second.value)
    high = difference + math.hypot(first.high - first.value, second.value - second.low)
    return max(-1.0, low), min(1.0, high)


def _t_quantile(degrees: int, confidence: float) -> float:
    """Two-sided quantile of Student's t: exact for 1 and 2 degrees, else Hill's expansion (error < 0.2% at 95%)."""
    p = (1 + confidence) / 2
    if degrees <= 1:
        return math.tan(math.pi * (p - 0.5))
    if degrees == 2:
        return (2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p)))
    z, v = NormalDist().inv_cdf(p), degrees
    terms = (
        (z**3 + z) / 4 / v,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96 / v**2,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384 / v**3,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160 / v**4,
    )
    return z + sum(terms)
