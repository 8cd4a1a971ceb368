"""Bodies of problems that one evaluation asks: isomer groups of two files, or a benchmark. Plain Python."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from igascale.errors import UserError
from igascale.evaluation.accuracy import Accuracy, AccuracyBreakdown, Sample, accuracy_of, breakdown, score
from igascale.evaluation.benchmarks.base import BenchmarkItem
from igascale.evaluation.generator import Answered
from igascale.evaluation.results import ISOMERS
from igascale.evaluation.tasks.base import Task
from igascale.isomers.schema import IsomerGroup

#: The answers of one side that were asked for, in its order.
Answers = Sequence[Answered]


@dataclass(frozen=True)
class Question:
    """One problem as it is put to a model. ``id`` is unique on its side of its suite."""

    id: str
    prompt: str


class Suite(ABC):
    """Problems on one or more sides (``id``, ``ood``, or ``all``), and what answers to them are worth.

    Attributes:
        name: :data:`ISOMERS`, or the benchmark's.
        version: of prompt and scoring; an answer is not used again under another.
    """

    name: str
    version: str

    @property
    @abstractmethod
    def sides(self) -> list[str]:
        """Those that have problems."""

    @abstractmethod
    def questions(self, side: str) -> list[Question]:
        """What is asked, in the order of the samples."""

    @abstractmethod
    def score(self, side: str, answers: Answers) -> list[Sample]:
        """A sample for every question."""

    @abstractmethod
    def breakdown(self, side: str, samples: Sequence[Sample]) -> AccuracyBreakdown:
        """Accuracy of the side, and of its parts."""

    def groups(self, side: str) -> Sequence[IsomerGroup]:
        """Isomer groups, whose consistency can be measured; empty for a benchmark."""
        return ()

    def settings(self) -> dict[str, str | int | float | bool | None]:
        """What stands in the result's settings of this suite."""
        return {}

    def notes(self) -> list[str]:
        """What was left out, one line each."""
        return []


class IsomerSuite(Suite):
    """Held-out groups of the training domains, and groups of unseen domains.

    Raises:
        UserError: a side has no groups.
    """

    name, version = ISOMERS, "1"

    def __init__(self, id_groups: Sequence[IsomerGroup], ood_groups: Sequence[IsomerGroup] | None = None):
        self._groups = {"id": list(id_groups)} | ({} if ood_groups is None else {"ood": list(ood_groups)})
        for side, groups in self._groups.items():
            if not groups:
                raise UserError(f"the {side.upper()} set has no groups; nothing can be evaluated")

    @property
    def sides(self) -> list[str]:
        """ID, and OOD where there is a file."""
        return list(self._groups)

    def groups(self, side: str) -> Sequence[IsomerGroup]:
        """As given."""
        return self._groups[side]

    def questions(self, side: str) -> list[Question]:
        """The problems as training put them, group by group."""
        return [Question(f"{g.id}/{i.domain}", i.problem) for g in self._groups[side] for i in g.instances]

    def score(self, side: str, answers: Answers) -> list[Sample]:
        """By :func:`igascale.evaluation.accuracy.score`."""
        return score(
            self._groups[side],
            [answer.text for answer in answers],
            [answer.new_tokens for answer in answers],
            [answer.finished for answer in answers],
            split=side,
        )

    def breakdown(self, side: str, samples: Sequence[Sample]) -> AccuracyBreakdown:
        """By domain and by kind of reasoning."""
        return breakdown(samples)


class BenchmarkSuite(Suite):
    """A benchmark's problems by side, asked and scored by its task.

    Args:
        task: prompts, extraction, comparison.
        sides: the problems of each side; what no program can score is left out here, counted and told.
        source: where they are from, for the settings.
        sha256: of that.
        notes: what the loader, and the choice of sides, left out.

    Raises:
        UserError: no side has a problem that can be scored.
    """

    def __init__(
        self,
        task: Task,
        sides: Mapping[str, Sequence[BenchmarkItem]],
        source: str = "",
        sha256: str = "",
        notes: Sequence[str] = (),
    ):
        self.task, self.name, self.version = task, task.name, str(task.version)
        self._source, self._sha256, self._notes = source, sha256, list(notes)
        self._items: dict[str, list[BenchmarkItem]] = {}
        for side, items in sides.items():
            scorable = [item for item in items if task.scorable(item)]
            if len(scorable) < len(items):
                reasons = Counter(
                    "proof" if i.answer_kind == "proof" else "hidden answer" if i.answer is None else "not scorable"
                    for i in items
                    if not task.scorable(i)
                )
                told = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
                self._notes.append(
                    f"{side.upper()}: {len(items) - len(scorable)} left out, which no program can score ({told})"
                )
            if scorable:
                self._items[side] = scorable
        if not self._items:
            raise UserError(
                f"{self.name}: no problem that can be scored in {source or 'what was given'}; "
                + ("; ".join(self._notes) or "it is empty")
            )

    @property
    def sides(self) -> list[str]:
        """Those with problems that can be scored."""
        return list(self._items)

    def questions(self, side: str) -> list[Question]:
        """By the task's prompt."""
        return [Question(item.id, self.task.prompt(item)) for item in self._items[side]]

    def score(self, side: str, answers: Answers) -> list[Sample]:
        """An answer of nothing but blanks is no answer, whatever the extraction makes of it."""
        samples = []
        for item, answer in zip(self._items[side], answers, strict=True):
            predicted = self.task.extract(answer.text, item) if answer.text.strip() else None
            samples.append(
                Sample(
                    split=side,
                    group_id=item.id,
                    instance_id=item.id,
                    domain=item.subject or "",
                    kind=item.answer_kind,
                    problem=item.problem,
                    generated=answer.text,
                    predicted=predicted,
                    expected=str(item.answer),
                    correct=self.task.is_correct(predicted, item),
                    new_tokens=answer.new_tokens,
                    finished=answer.finished,
                    suite=self.name,
                )
            )
        return samples

    def breakdown(self, side: str, samples: Sequence[Sample]) -> AccuracyBreakdown:
        """By subject and by kind of answer, where there are several; chance is the task's."""
        items = self._items[side]
        return AccuracyBreakdown(
            overall=self._accuracy(items, samples),
            per_domain=self._parts(items, samples, [sample.domain or "no subject" for sample in samples]),
            per_kind=self._parts(items, samples, [sample.kind or "" for sample in samples]),
        )

    def _accuracy(self, items: Sequence[BenchmarkItem], samples: Sequence[Sample]) -> Accuracy:
        return replace(accuracy_of(samples), chance=self.task.chance(items))

    def _parts(
        self, items: Sequence[BenchmarkItem], samples: Sequence[Sample], names: Sequence[str]
    ) -> dict[str, Accuracy]:
        parts: dict[str, tuple[list[BenchmarkItem], list[Sample]]] = {}
        for item, sample, name in zip(items, samples, names, strict=True):
            own = parts.setdefault(name, ([], []))
            own[0].append(item)
            own[1].append(sample)
        # A single part would be the whole once more.
        return {name: self._accuracy(*own) for name, own in parts.items()} if len(parts) > 1 else {}

    def settings(self) -> dict[str, str | int | float | bool | None]:
        """Source, its hash and the task's version."""
        values: dict[str, str | int | float | bool | None] = {
            "source": self._source,
            "sha256": self._sha256,
            "task_version": self.task.version,
        }
        return {f"{self.name}.{key}": value for key, value in values.items()}

    def notes(self) -> list[str]:
        """Each begins with the benchmark's name."""
        return [f"{self.name}: {note}" for note in self._notes]
