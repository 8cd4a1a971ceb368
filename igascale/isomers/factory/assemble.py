"""From stored outcomes to files, in the order of the bank: the same store gives the same bytes, whatever order it was filled in.

What looks across seeds is decided here, and costs nothing to decide again: benchmarks, near-duplicates, the split.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from igascale.isomers.factory.decontaminate import Benchmarks
from igascale.isomers.factory.folder import Writing
from igascale.isomers.factory.manifest import Tally
from igascale.isomers.factory.pipeline import ACCEPTED
from igascale.isomers.factory.survey import Survey, near_index, outcome_id
from igascale.isomers.leakage import prove
from igascale.isomers.schema import iter_groups
from igascale.isomers.seeds import Seed
from igascale.isomers.similarity import THRESHOLD, NearDuplicates, sketch
from igascale.isomers.split import Clusters, assign
from igascale.isomers.teacher.store import Store

GROUPS, TRAIN, VALIDATION, REJECTED = "groups.jsonl", "train.jsonl", "validation.jsonl", "rejected.jsonl"


@dataclass(frozen=True)
class Assembly:
    """What is put together from what."""

    survey: Survey
    store: Store
    recipe: str
    near: float
    benchmarks: Benchmarks
    validation_fraction: float
    split_seed: int

    def write(self, files: Writing) -> Tally:
        """Write groups, rejections and both sides of the split; returns the counts."""
        tally = Tally()
        contaminated = self.benchmarks.overlaps("problems", self._problems()) if self.benchmarks.paths else {}
        index = near_index(self.near)
        for seed, rejection, record in self._outcomes():
            tally.seeds += 1
            if record is None and rejection is None:
                tally.unfinished += 1
                continue
            group = record["group"] if record is not None and rejection is None else None
            if record is not None:
                _count(tally, record)
            if group is not None:
                rejection = _overlap(group, contaminated) or _repetition(group, index)
            if rejection is None and group is not None:
                files[GROUPS].write(group)
                tally.groups += 1
                scores = group["meta"]["alignment"].values()
                tally.kept_scores[0] += sum(scores)
                tally.kept_scores[1] += len(scores)
            elif rejection is not None:
                tally.rejected[(rejection["stage"], rejection["reason"])] += 1
                files[REJECTED].write({"seed_id": seed.id, **rejection, "problem": seed.problem})
        del index
        files[GROUPS].finish()
        self._divide(files)
        return tally

    def _divide(self, files: Writing) -> None:
        """The split, by seed. Fewer than two groups (or clusters of groups that are alike) cannot be split: all are for training."""
        threshold, unlike = _ties(self.near)
        clusters = Clusters(threshold, ("form",))
        for _, group in iter_groups(files[GROUPS].path) if files[GROUPS].lines else ():
            clusters.add(replace(group, instances=()) if unlike else group)
        part_of: Mapping[str, str] = {}
        if len(clusters.members()) > 1:
            part_of, _ = assign(clusters, {"validation": self.validation_fraction}, self.split_seed)
        with files[GROUPS].path.open("rb") as lines:
            for line in lines:
                held_out = part_of.get(json.loads(line)["seed_id"]) == "validation"
                files[VALIDATION if held_out else TRAIN].write_line(line)

    def _outcomes(self) -> Iterator[tuple[Seed, dict[str, Any] | None, dict[str, Any] | None]]:
        """Of each seed: (seed, why it is rejected, the outcome's record); neither where it is unfinished."""
        for seed, dropped in self.survey.walk():
            if dropped is not None:
                yield seed, {"stage": "bank", "reason": dropped.reason, "detail": dropped.detail}, None
                continue
            outcome = self.store.get_outcome(outcome_id(seed), self.recipe)
            if outcome is None:
                yield seed, None, None
                continue
            record = json.loads(outcome.record)
            if outcome.status == ACCEPTED:
                yield seed, None, record | {"group": as_in_the_bank(record["group"], seed)}
                continue
            why = {key: record[key] for key in ("detail", "domain", "draft") if record.get(key) is not None}
            yield seed, {"stage": outcome.stage, "reason": outcome.reason, **why}, record

    def _problems(self) -> Iterator[tuple[str, str]]:
        """The problems of all accepted groups, by instance id."""
        for _, rejection, record in self._outcomes():
            if rejection is None and record is not None:
                yield from ((instance["id"], instance["problem"]) for instance in record["group"]["instances"])


def as_in_the_bank(group: Mapping[str, Any], seed: Seed) -> dict[str, Any]:
    """An outcome's group with what the bank says of its seed now: kind and source decide no outcome, and may be edited."""
    kind = {} if seed.kind is None else {"kind": seed.kind}
    meta = group["meta"] | ({} if seed.source is None else {"source": seed.source})
    return {"id": group["id"], "seed_id": group["seed_id"], **kind, **group, "meta": meta}


def _ties(near: float) -> tuple[float, bool]:
    """From which similarity problems must share a side, and whether none that do can be left.

    Logical forms tie nothing: here they are a teacher's words for a pattern of reasoning, which many problems share.
    """
    return (near, True) if near and near <= THRESHOLD else (THRESHOLD, False)


def proof(files: Writing, near: float) -> dict[str, Any] | None:
    """That training and held-out file share no seed, problem or near-duplicate; None where nothing is held out."""
    if not files[VALIDATION].lines:
        return None
    threshold, _ = _ties(near)
    return prove(files[TRAIN].path, [files[VALIDATION].path], threshold=threshold, ignore=("form",)).record()


def _count(tally: Tally, record: Mapping[str, Any]) -> None:
    tally.usage.update(record["usage"])
    tally.scores[0] += sum(record["scores"])
    tally.scores[1] += len(record["scores"])


def _overlap(group: Mapping[str, Any], contaminated: Mapping[str, str]) -> dict[str, Any] | None:
    for instance in group["instances"]:
        if instance["id"] in contaminated:
            detail = f"the problem {contaminated[instance['id']]}"
            return {"stage": "contamination", "reason": "overlap", "detail": detail, "domain": instance["domain"]}
    return None


def _repetition(group: Mapping[str, Any], index: NearDuplicates[str] | None) -> dict[str, Any] | None:
    """Whether a problem of the group is like one of an earlier group; if not, the group joins the index."""
    if index is None:
        return None
    read = [(instance, sketch(instance["problem"])) for instance in group["instances"]]
    for instance, item in read:
        for other, similarity in index.matches(item)[:1]:
            return {
                "stage": "near_duplicates",
                "reason": "near_duplicate",
                "detail": f"the problem is {similarity:.0%} like {other}",
                "domain": instance["domain"],
            }
    for instance, item in read:
        index.add(instance["id"], item)
    return None
