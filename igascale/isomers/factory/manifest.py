"""`manifest.json`: what a build made of its bank, stage by stage, and the paper's arithmetic beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: The paper's figures (App. B.1): seeds, the share that the filters keep, domains, the share held out.
PAPER_SEEDS, PAPER_YIELD, PAPER_DOMAINS, PAPER_VALIDATION = 50_000, 0.78, 4, 0.2
#: Every stage that can turn a seed away, in order. The first three cost nothing.
STAGES = (
    ("bank", "read from the bank"),
    ("extract", "logical structure extracted"),
    ("instantiate", "told in every domain"),
    ("verify", "verified in every domain"),
    ("votes", "answers confirmed"),
    ("group", "step counts and structure agree"),
    ("contamination", "clean of the benchmarks"),
    ("near_duplicates", "unlike every earlier group"),
)


@dataclass
class Tally:
    """What became of the seeds, counted while the files are written.

    Attributes:
        seeds: read.
        rejected: by (stage, reason).
        unfinished: seeds without an outcome.
        groups: written.
        scores: sum and number of the verifier's scores of all tellings.
        kept_scores: the same of the tellings in the written groups.
        usage: answers and tokens behind all outcomes.
    """

    seeds: int = 0
    rejected: Counter[tuple[str, str]] = field(default_factory=Counter)
    unfinished: int = 0
    groups: int = 0
    scores: list[float] = field(default_factory=lambda: [0.0, 0])
    kept_scores: list[float] = field(default_factory=lambda: [0.0, 0])
    usage: Counter[str] = field(default_factory=Counter)

    @property
    def asked(self) -> int:
        """Seeds that the teacher decided: those of the bank without what was set aside, and without what is unfinished."""
        aside = sum(count for (stage, _), count in self.rejected.items() if stage == "bank")
        return self.seeds - aside - self.unfinished

    @property
    def share(self) -> float:
        """The yield: written groups over seeds asked for."""
        return self.groups / self.asked if self.asked else 0.0

    def stages(self) -> list[dict[str, Any]]:
        """How many seeds were left after each stage, and why the others were not. Unfinished seeds are taken out first."""
        left = self.seeds - self.unfinished
        rows = []
        for stage, meaning in STAGES:
            reasons = {reason: n for (at, reason), n in sorted(self.rejected.items()) if at == stage}
            left -= sum(reasons.values())
            rows.append({"stage": stage, "left": left, "meaning": meaning, "rejected": reasons})
        return rows


def mean(sum_and_count: list[float]) -> float | None:
    """The mean, rounded; None of nothing."""
    total, count = sum_and_count
    return round(total / count, 4) if count else None


def arithmetic(seeds: int, share: float, domains: int, validation: float) -> dict[str, int]:
    """What a bank of so many seeds gives: groups, pairs of problem and solution, and the seed-level split.

    Example:
        >>> arithmetic(50_000, 0.78, 4, 0.2)
        {'seeds': 50000, 'groups': 39000, 'pairs': 156000, 'train_groups': 31200, 'validation_groups': 7800}
    """
    groups = round(seeds * share)
    held_out = round(groups * validation)
    return {
        "seeds": seeds,
        "groups": groups,
        "pairs": groups * domains,
        "train_groups": groups - held_out,
        "validation_groups": held_out,
    }


def paper() -> dict[str, Any]:
    """The paper's own figures."""
    return {"yield": PAPER_YIELD, **arithmetic(PAPER_SEEDS, PAPER_YIELD, PAPER_DOMAINS, PAPER_VALIDATION)}


def projection(share: float, domains: int, validation: float) -> dict[str, Any]:
    """What the paper's number of seeds would give at this build's yield."""
    return {"yield": round(share, 4), **arithmetic(PAPER_SEEDS, share, domains, validation)}


def said(figures: Mapping[str, Any]) -> str:
    """Projection or paper as one line."""
    return (
        f"{figures['seeds']:,} seeds at a yield of {figures['yield']:.0%} give {figures['groups']:,} groups, "
        f"{figures['pairs']:,} pairs; {figures['train_groups']:,} groups to train on and {figures['validation_groups']:,} held out"
    )
