"""Samples that lm-evaluation-harness wrote (``--log_samples``), beside ours: where the two scorers, and the two answers, part.

Nothing of that package is imported: its files are JSON lines. Known are the documents of its ``hendrycks_math*``, ``minerva_math*`` and
``logiqa2`` tasks, told by their fields; it has no task for ReClor or ARB.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from igascale.comparing.reading import Evaluation
from igascale.errors import UserError
from igascale.evaluation.accuracy import Sample
from igascale.evaluation.benchmarks.base import BenchmarkItem
from igascale.evaluation.benchmarks.math import kind_of, last_boxed


@dataclass(frozen=True)
class Document:
    """One line of their file.

    Attributes:
        where: file and line.
        item: the problem, as a benchmark of ours has it.
        text: what the model wrote; ``None`` where options were ranked by likelihood instead.
        verdicts: by metric, with the name of the filter where it has one.
    """

    where: str
    item: BenchmarkItem
    text: str | None
    verdicts: dict[str, bool]


@dataclass(frozen=True)
class Rescored:
    """What both scorers make of one text that lm-evaluation-harness has; ours is ``None`` without a text."""

    document: Document
    predicted: str | None
    correct: bool | None
    own: Sample | None


@dataclass(frozen=True)
class Agreement:
    """Two verdicts on the same documents.

    Attributes:
        of: what ours is: the same text scored by us, or our own evaluation.
        metric: theirs.
        documents: in all.
        both, theirs_only, ours_only, neither: by who says that the answer is right.
    """

    of: str
    metric: str
    documents: int
    both: int
    theirs_only: int
    ours_only: int
    neither: int

    @property
    def agree(self) -> float:
        """Share of documents with the same verdict."""
        return (self.both + self.neither) / self.documents


@dataclass(frozen=True)
class LmEvalComparison:
    """All of it.

    Attributes:
        task: the task of ours that scores.
        agreements: by kind of verdict and metric.
        rescored: per document, in the order of their files.
        notes: what was left out or is not comparable, a line each.
    """

    task: str
    agreements: list[Agreement]
    rescored: list[Rescored]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable: the agreements, and the documents on which the verdicts differ."""
        return {
            "task": self.task,
            "agreements": [asdict(agreement) | {"agree": agreement.agree} for agreement in self.agreements],
            "differing": [
                {
                    "where": each.document.where,
                    "problem": each.document.item.problem,
                    "expected": each.document.item.answer,
                    "theirs": each.document.verdicts,
                    "predicted": each.predicted,
                    "correct": each.correct,
                    "own_correct": each.own.correct if each.own else None,
                }
                for each in self.rescored
                if differs(each)
            ],
            "notes": self.notes,
        }


def differs(each: Rescored) -> bool:
    """Whether a verdict of theirs is not ours on the same text (or, where there is none, on our own)."""
    ours = each.correct if each.correct is not None else each.own.correct if each.own else None
    return ours is not None and any(verdict != ours for verdict in each.document.verdicts.values())


def compare_with_lm_eval(evaluation: Evaluation, files: Sequence[str]) -> LmEvalComparison:
    """Join their documents with our samples by the problem's text, and score their texts again.

    Raises:
        UserError: a file is none of theirs, its task is unknown or not evaluated here, or no document is joined.
    """
    documents = [document for file in files for document in read_documents(Path(file))]
    names = {document.item.benchmark for document in documents}
    if len(names) != 1:
        raise UserError(
            f"the files hold documents of {' and '.join(sorted(names)) or 'nothing'}; compare one benchmark at a time"
        )
    (name,) = names
    ours = {_spelled(s.problem): s for s in evaluation.samples.values() if s.suite == name}
    if not ours:
        raise UserError(
            f"{evaluation.name} holds no {name}, only {', '.join(evaluation.result.suites)}; evaluate it with --benchmark {name}=SOURCE"
        )
    rescored = _rescored(documents, name, ours)
    joined = [each for each in rescored if each.own is not None]
    if not joined:
        raise UserError(
            f"none of the {len(documents)} documents has the text of one of the {len(ours)} {name} problems of {evaluation.name}; are they of the same split?"
        )
    notes = []
    if left := len(rescored) - len(joined):
        notes.append(
            f"{left} of their documents are not among our problems: scored again, but without an answer of our own"
        )
    if left := len(ours) - len({_spelled(each.document.item.problem) for each in joined}):
        notes.append(f"{left} of our problems are not among their documents")
    if any(each.document.text is None for each in rescored):
        notes.append("their task ranks the options by likelihood and writes nothing: there is no text to score again")
    notes.append(
        "our own answers are to our prompt, theirs to theirs: the second comparison holds the prompts too, the first the scorers alone"
    )
    return LmEvalComparison(name, _agreements(rescored, joined), rescored, notes)


def read_documents(file: Path) -> list[Document]:
    """The lines of a ``samples_TASK_*.jsonl``; a document once per filter, of which the verdicts are put together.

    Raises:
        UserError: the file cannot be read, or a line is none of a known task.
    """
    found: dict[Any, Document] = {}
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                key, document = _document(line, f"{file}:{number}")
                if key in found:
                    document.verdicts.update(found[key].verdicts)
                found[key] = document
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; give a samples_TASK_*.jsonl of lm_eval --log_samples") from None
    if not found:
        raise UserError(f"{file}: is empty; give a samples_TASK_*.jsonl of lm_eval --log_samples")
    return list(found.values())


def _document(line: str, where: str) -> tuple[Any, Document]:
    try:
        record = json.loads(line)
        doc, metrics, responses = record["doc"], list(record["metrics"]), record["resps"]
        key = record["doc_id"]
        filtered = str(record.get("filter", "none"))
        verdicts = {
            metric if filtered == "none" else f"{metric} ({filtered})": bool(float(record[metric]))
            for metric in metrics
        }
        text = responses[0][0] if isinstance(responses[0][0], str) else None
        item = _item(doc, where)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"{where}: no sample of lm_eval --log_samples ({type(error).__name__}: {error})") from None
    return key, Document(where, item, text, verdicts)


def _item(doc: dict[str, Any], where: str) -> BenchmarkItem:
    """The document as a problem of ours."""
    if "problem" in doc and "solution" in doc:
        answer = last_boxed(doc["solution"]) or doc.get("answer")
        if not answer:
            raise UserError(f"{where}: the solution holds no box, and there is no answer")
        return BenchmarkItem(where, "math", "", doc["problem"], answer=answer, answer_kind=kind_of(answer))
    if {"text", "question", "options", "answer"} <= set(doc):
        letter, question = chr(ord("A") + int(doc["answer"])), f"{doc['text']}\n\n{doc['question']}"
        return BenchmarkItem(where, "logiqa2", "", question, tuple(doc["options"]), letter, "choice")
    raise UserError(
        f"{where}: a document with the fields {', '.join(map(str, doc))}; known are those of hendrycks_math*, minerva_math* and logiqa2"
    )


def _rescored(documents: Sequence[Document], name: str, ours: dict[str, Sample]) -> list[Rescored]:
    from igascale.evaluation.tasks import find

    task, found = find(name), []
    for document in documents:
        predicted = correct = None
        if document.text is not None:
            predicted = task.extract(document.text, document.item) if document.text.strip() else None
            correct = task.is_correct(predicted, document.item)
        found.append(Rescored(document, predicted, correct, ours.get(_spelled(document.item.problem))))
    return found


def _agreements(rescored: Sequence[Rescored], joined: Sequence[Rescored]) -> list[Agreement]:
    found = []
    for metric in dict.fromkeys(name for each in rescored for name in each.document.verdicts):
        texts = [
            (e.document.verdicts[metric], e.correct)
            for e in rescored
            if e.correct is not None and metric in e.document.verdicts
        ]
        own = [
            (e.document.verdicts[metric], e.own.correct)
            for e in joined
            if e.own is not None and metric in e.document.verdicts
        ]
        for of, pairs in (("the same texts", texts), ("our own answers", own)):
            if pairs:
                counts = [
                    sum(pair == wanted for pair in pairs)
                    for wanted in ((True, True), (True, False), (False, True), (False, False))
                ]
                found.append(Agreement(of, metric, len(pairs), *counts))
    return sorted(found, key=lambda agreement: agreement.of, reverse=True)


def _spelled(problem: str) -> str:
    """Copies of a data set differ in their blanks."""
    return " ".join(problem.split())
