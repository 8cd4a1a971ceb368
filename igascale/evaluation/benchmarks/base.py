"""What a benchmark is: how its files are read, what is known of them, and which split of the paper they allow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from igascale.errors import UserError, did_you_mean
from igascale.evaluation.benchmarks._fields import Fields
from igascale.evaluation.benchmarks._sources import combined_digest, open_source

AnswerKind = Literal["choice", "numeric", "symbolic", "text", "proof"]
Part = Literal["all", "id", "ood"]


@dataclass(frozen=True)
class BenchmarkItem:
    """One problem of a benchmark.

    Attributes:
        id: unique in what was loaded, and the same whenever the same files are.
        benchmark: its name, for example ``math``.
        split: the publisher's, for example ``train``; for ARB the collection.
        question: passage and question, without options and without any prompt.
        options: the texts of the options, without letters; empty where the answer is written freely.
        answer: the letter of the right option, or the answer's text; None where it is hidden or (a proof) there is none.
        answer_kind: what sort of comparison the answer asks for.
        subject: as the publisher calls it.
        genre: of the text the problem came from, where the files tell.
        level: of difficulty.
        solution: a worked one, where the files have it.
        meta: the publisher's other fields.
    """

    id: str
    benchmark: str
    split: str
    question: str
    options: tuple[str, ...] = ()
    answer: str | None = None
    answer_kind: AnswerKind = "text"
    subject: str | None = None
    genre: str | None = None
    level: str | None = None
    solution: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def answer_index(self) -> int | None:
        """The right option, counted from 0; None without options or where the answer is hidden."""
        return ord(self.answer) - ord("A") if self.options and self.answer is not None else None

    @property
    def problem(self) -> str:
        """The question, and a line ``A. text`` for every option."""
        lines = [f"{chr(ord('A') + i)}. {option}" for i, option in enumerate(self.options)]
        return "\n".join([self.question, *lines])


@dataclass(frozen=True)
class Facts:
    """What a user must know before downloading; printed by ``igascale data benchmark NAME``.

    Attributes:
        title: its full name.
        homepage: of the publisher.
        citation: of the paper.
        licence: what the publisher says, and what follows.
        obtain: how to get the files.
        files: what is read, and what is not.
        hub: ids of copies on the Hub whose columns are read.
        published: split -> how many problems the publisher states.
        paper_split: what arXiv 2606.05025 (Appendix B.1) says it does.
        public_split: what the public files allow, and what ``id`` and ``ood`` therefore are.
    """

    title: str
    homepage: str
    citation: str
    licence: str
    obtain: str
    files: str
    hub: tuple[str, ...]
    published: Mapping[str, int]
    paper_split: str
    public_split: str


class Skip(Exception):
    """A record that is left out on purpose; the message, the reason, is counted and told."""


@dataclass(frozen=True)
class ReadFile:
    """One file that was read. `rows` are its records, `items` those that became problems."""

    name: str
    split: str
    sha256: str
    rows: int
    items: int


@dataclass(frozen=True)
class Loaded:
    """What a source held.

    Attributes:
        items: the problems, in the order of the files.
        source: as a user would name it.
        files: those that were read.
        sha256: of the file or archive; of several files, of their ``sha256sum`` lines.
        notes: whatever was left out or is odd, one line each; a caller must show them.
    """

    items: list[BenchmarkItem]
    source: str
    files: list[ReadFile]
    sha256: str
    notes: list[str]


class Benchmark(ABC):
    """A benchmark. A subclass says which files it reads, what a record of theirs is, and what is out of distribution."""

    name: ClassVar[str]
    facts: ClassVar[Facts]
    #: Splits that are read only from a file that is named itself, not as part of a folder.
    only_named: ClassVar[Collection[str]] = ()

    @abstractmethod
    def split_of(self, file: str) -> str | None:
        """The published split that a file holds; None for a file that is not read.

        Args:
            file: its path within the source (``/`` between the parts), or ``configuration/split`` of a Hub id. Where that
                does not tell, it is asked again with the names of the folders above in front.
        """

    @abstractmethod
    def item(self, fields: Fields, split: str, key: str) -> BenchmarkItem:
        """The problem that a record is.

        Args:
            fields: of the record.
            split: what `split_of` said of its file.
            key: names the record within its split where it has no id of its own.

        Raises:
            Skip: it is left out on purpose.
            UserError: it breaks the format.
        """

    @abstractmethod
    def part(self, item: BenchmarkItem) -> Literal["id", "ood"] | None:
        """The side of the paper's split that a problem is on, as far as the public files allow; None: on neither."""

    def labels(self, item: BenchmarkItem) -> Collection[str]:
        """By what problems can be held out, other than by the paper's split."""
        return [item.subject] if item.subject else []

    def choose_configurations(self, names: list[str]) -> list[str]:
        """Which configurations of a Hub data set are read when the id names none."""
        return names

    def remarks(self, items: list[BenchmarkItem]) -> Iterator[str]:
        """Lines on what is odd in the problems."""
        return iter(())

    def load(self, source: str | Path, *, password: str | None = None, skip_bad: bool = False) -> Loaded:
        """Read and check a source.

        Args:
            source: file, folder as published, archive, or Hub id.
            password: of an encrypted zip archive.
            skip_bad: leave records out that break the format, and say which, instead of stopping at the first.

        Raises:
            UserError: nothing there that this benchmark knows, or a record breaks the format.
        """
        opened = open_source(source, password=password, choose=self.choose_configurations)
        above = "" if opened.is_hub else Path(source).absolute().parent.as_posix().strip("/") + "/"
        if not opened.is_hub and Path(source).is_dir():
            above += Path(source).absolute().name + "/"
        items: list[BenchmarkItem] = []
        files: list[ReadFile] = []
        unread, left_out, letters, bad = [], Counter[str](), Counter[tuple[str, str]](), []
        for file in opened.files:
            split = self.split_of(file.name) or (self.split_of(_tail(above) + file.name) if above else None)
            if split is None or (split in self.only_named and len(opened.files) > 1 and not opened.is_hub):
                unread.append(file.name)
                continue
            digest, records = file.load()
            before = len(items)
            for number, record in enumerate(records):
                key = str(number) if len(records) > 1 else file.name.rpartition("/")[2].rpartition(".")[0] or "0"
                try:
                    fields = Fields(record.value, record.where)
                    items.append(self.item(fields, split, key))
                    if fields.letters:
                        letters[split, fields.letters] += 1
                except Skip as reason:
                    left_out[f"{split}: {reason}"] += 1
                except UserError as error:
                    if not skip_bad:
                        raise
                    bad.append(str(error))
            files.append(ReadFile(file.name, split, digest, len(records), len(items) - before))
        if not files:
            raise UserError(f"{opened.shown}: no file of {self.facts.title} in it; read are: {self.facts.files}")
        items, renamed = _unique(items)
        notes = [
            *self._unread_note(unread),
            *(f"{count} left out: {reason}" for reason, count in left_out.items()),
            *(_letters_note(*key, count) for key, count in letters.items()),
            *(
                [f"{len(bad)} LEFT OUT BECAUSE THEY BREAK THE FORMAT (--skip-bad): {'; '.join(bad[:20])}"]
                if bad
                else []
            ),
            *([f"and {len(bad) - 20} more such records"] if len(bad) > 20 else []),
            *([f"{renamed} ids occur more than once; the later ones have '#2' and so on appended"] if renamed else []),
            *self.remarks(items),
        ]
        digests = {file.name: file.sha256 for file in files}
        whole = opened.sha256 or (files[0].sha256 if len(opened.files) == 1 else combined_digest(digests))
        return Loaded(items, opened.shown, files, whole, notes)

    def select(
        self, items: Iterable[BenchmarkItem], split: Part = "all", held_out: Collection[str] = ()
    ) -> list[BenchmarkItem]:
        """One side of a split.

        Args:
            items: problems.
            split: ``all``; ``ood``: the paper's out-of-distribution side as far as ``facts.public_split`` says it can be
                rebuilt; ``id``: its in-distribution side. Some problems are on neither.
            held_out: labels that make ``ood`` instead of the paper's choice, everything else that has a label being ``id``;
                problems without any label are on neither side.

        Raises:
            UserError: no problem has such a label.
        """
        items = list(items)
        known = Counter(label for item in items for label in self.labels(item))
        for label in held_out:
            if label not in known:
                there = f"; there are {', '.join(sorted(known))}" if known else "; these problems have no labels"
                raise UserError(f"nothing here is labelled '{label}'{did_you_mean(label, known) or there}")
        if split == "all":
            return items
        if held_out:
            labelled = [(item, set(self.labels(item))) for item in items]
            return [item for item, own in labelled if own and bool(own & set(held_out)) == (split == "ood")]
        return [item for item in items if self.part(item) == split]

    def _unread_note(self, unread: list[str]) -> list[str]:
        if not unread:
            return []
        more = f" and {len(unread) - 6} more" if len(unread) > 6 else ""
        return [f"{len(unread)} other file{'s' if len(unread) > 1 else ''} not read: {', '.join(unread[:6])}{more}"]


def _letters_note(split: str, what: str, count: int) -> str:
    if what == "off":
        return f"{split}: {count} have letters in front of their options ('A.'), which are taken off"
    return (
        f"{split}: {count} have options that seem to begin with their own letters ('A.', 'A,'), which are kept: the file is "
        "published without, or they may be data, or two options would be the same"
    )


def _tail(folder: str) -> str:
    """The last three folders of a path."""
    return "/".join(folder.rstrip("/").split("/")[-3:]) + "/"


def _unique(items: list[BenchmarkItem]) -> tuple[list[BenchmarkItem], int]:
    """The items with ``#2`` and so on after an id that came before, and how many that are."""
    seen: Counter[str] = Counter()
    taken = {item.id for item in items}
    result = []
    for item in items:
        seen[item.id] += 1
        if seen[item.id] > 1:
            number = seen[item.id]
            while f"{item.id}#{number}" in taken:
                number += 1
            item = replace(item, id=f"{item.id}#{number}")
            taken.add(item.id)
        result.append(item)
    return result, sum(count - 1 for count in seen.values())
