r"""MATH (Hendrycks et al., 2021): competition mathematics with worked solutions that end in ``\boxed{answer}``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

from igascale.evaluation.benchmarks._fields import Fields
from igascale.evaluation.benchmarks.base import AnswerKind, Benchmark, BenchmarkItem, Facts

#: Folder or configuration -> the subject as the files spell it.
SUBJECTS = {
    "algebra": "Algebra",
    "counting_and_probability": "Counting & Probability",
    "geometry": "Geometry",
    "intermediate_algebra": "Intermediate Algebra",
    "number_theory": "Number Theory",
    "prealgebra": "Prealgebra",
    "precalculus": "Precalculus",
}
_ID = ("Algebra", "Number Theory")
_OOD = ("Counting & Probability", "Geometry", "Precalculus")
_NUMBER = re.compile(r"[-+]?(\d[\d,]*|\d*\.\d+|\d[\d,]*\.\d*)(\\?%)?")


class Math(Benchmark):
    """MATH: 12,500 problems of seven subjects and five levels."""

    name = "math"
    facts = Facts(
        title="MATH",
        homepage="https://github.com/hendrycks/math",
        citation="Hendrycks et al., Measuring Mathematical Problem Solving With the MATH Dataset, 2021, arXiv:2103.03874",
        licence="The authors' repository is MIT. The problems come from contests: since a takedown notice of January 2025 the "
        "authors' archive and their copy on the Hub are gone (hendrycks/math issue 29), so check your own right to use them.",
        obtain="The authors published MATH.tar; their README now points to the copy qwedsacf/competition_math on the Hub. That "
        "one has a single split 'train' with all 12,500 problems; EleutherAI/hendrycks_math keeps train and test apart. Keep "
        "a local copy.",
        files="MATH/{train,test}/SUBJECT/N.json (one problem each), MATH.tar, or copies as JSON lines or Parquet with the "
        "columns problem, level, type or subject, solution, and perhaps answer",
        hub=(
            "EleutherAI/hendrycks_math",
            "HuggingFaceH4/MATH-500",
            "DigitalLearningGmbH/MATH-lighteval",
            "qwedsacf/competition_math",
        ),
        published={"train": 7500, "test": 5000},
        paper_split="Train on algebra, number theory and combinatorics; test on probability, geometry and precalculus.",
        public_split="Not exactly: combinatorics and probability are ONE subject of the files, Counting & Probability, and "
        "nothing in a record tells them apart. Here the whole subject is ood, with Geometry and Precalculus; id is Algebra "
        "and Number Theory, so that no subject is on both sides. Prealgebra and Intermediate Algebra, which the paper does "
        "not name, are on neither side. The split is by subject: take the publisher's test files of either side to evaluate "
        "(--subset test).",
    )

    def split_of(self, file: str) -> str | None:
        """By a folder, a file name or a Hub split called train or test."""
        folder, _, name = file.lower().rpartition("/")
        stem, dot, ending = name.partition(".")
        if dot and ending not in ("json", "jsonl", "parquet"):
            return None
        words = [*folder.split("/"), *re.split(r"[^a-z0-9]+", stem)]
        return next((word for word in reversed(words) if word in ("train", "test")), None)

    def item(self, fields: Fields, split: str, key: str) -> BenchmarkItem:
        """See the base class."""
        subject = _subject(fields)
        solution = fields.optional_text(["solution"])
        answer = fields.optional_text(["answer"])
        meta: dict[str, Any] = {}
        if solution is None and answer is None:
            fields.text(["solution", "answer"])
        if solution is not None:
            boxed = last_boxed(solution)
            if answer is None:
                if not boxed:
                    fields.fail("solution", r"holds no complete \boxed{...} or \fbox{...}, and there is no 'answer'")
                answer = boxed
            elif boxed is not None and "".join(boxed.split()) != "".join(answer.split()):
                meta["boxed"] = boxed
            if len(_BOX.findall(solution)) > 1:
                meta["boxes"] = len(_BOX.findall(solution))
        assert answer is not None
        own = fields.optional_text(["unique_id"])
        slug = next(slug for slug, name in SUBJECTS.items() if name == subject)
        return BenchmarkItem(
            id=own.removesuffix(".json") if own else f"{split}/{slug}/{key}",
            benchmark=self.name,
            split=split,
            question=fields.text(["problem"]),
            answer=answer,
            answer_kind=kind_of(answer),
            subject=subject,
            level=_level(fields),
            solution=solution,
            meta=meta,
        )

    def part(self, item: BenchmarkItem) -> Literal["id", "ood"] | None:
        """See ``facts.public_split``."""
        return "id" if item.subject in _ID else "ood" if item.subject in _OOD else None

    def choose_configurations(self, names: list[str]) -> list[str]:
        """The seven subjects where there are such; else the default one, which then holds all (some copies have both)."""
        subjects = [name for name in names if name in SUBJECTS]
        if len(subjects) == len(SUBJECTS):
            return subjects
        return ["default"] if "default" in names else ["all"] if "all" in names else names

    def remarks(self, items: list[BenchmarkItem]) -> Iterator[str]:
        """Levels that are unknown, several boxes, answers that differ from the box."""
        train = sum(item.split == "train" for item in items)
        if train > self.facts.published["train"]:
            yield (
                f"{train} IN ONE SPLIT 'train', more than the publisher's: this copy does not keep the test apart; what is "
                "trained on it cannot be evaluated on MATH"
            )
        unknown = sum(item.level is None for item in items)
        if unknown:
            yield f"{unknown} have no level ('Level ?' in the files)"
        several = sum("boxes" in item.meta for item in items)
        if several:
            yield f"{several} solutions box more than one expression; the last one is the answer"
        differ = sum("boxed" in item.meta for item in items)
        if differ:
            yield f"{differ} have an 'answer' that differs from the last box of the solution; 'answer' is taken"


_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")


def last_boxed(solution: str) -> str | None:
    r"""The content of the last ``\boxed``, or without any of the last ``\fbox``; None where it is missing or not closed.

    Braces are matched as TeX matches them: an escaped one (``\{``) does not count. Without a brace after it the box holds
    what stands before the next ``$`` or line end (``\boxed 5$``).

    Example:
        >>> last_boxed(r"so $x=\boxed{\frac{1}{2}}$."), last_boxed(r"$\boxed 7$"), last_boxed("none")
        ('\\frac{1}{2}', '7', None)
    """
    boxes = list(_BOX.finditer(solution))
    boxes = [box for box in boxes if box[0] == r"\boxed"] or boxes
    if not boxes:
        return None
    rest = solution[boxes[-1].end() :].lstrip()
    if not rest.startswith("{"):
        return re.split(r"[$\n]", rest, maxsplit=1)[0].strip() or None
    depth, position = 0, 0
    while position < len(rest):
        character = rest[position]
        if character == "\\":
            position += 1  # and the escaped character after it
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return rest[1:position].strip()
        position += 1
    return None


def kind_of(answer: str) -> AnswerKind:
    r"""What an answer looks like: a plain number, words (``\text{Friday}``), else an expression.

    >>> kind_of("1,024"), kind_of(r"\text{Friday}"), kind_of(r"\frac{1}{2}")
    ('numeric', 'text', 'symbolic')
    """
    bare = re.sub(r"\\[!,]|\\?\$|\s", "", answer)  # thin spaces, dollars, blanks
    if _NUMBER.fullmatch(bare):
        return "numeric"
    return "text" if re.fullmatch(r"\\(text|textbf|mbox|mathrm)\{[A-Za-z ,.'-]+\}", answer.strip()) else "symbolic"


def _subject(fields: Fields) -> str:
    value = fields.text(["type", "subject"])
    name = "type" if fields.has(["type"]) else "subject"
    return fields.one_of(name, SUBJECTS.get(value, value), list(SUBJECTS.values()))


def _level(fields: Fields) -> str | None:
    """``Level 3`` and 3 are "3"; ``Level ?`` is None."""
    value = fields.optional_text(["level"])
    if value is None:
        fields.text(["level"])
    level = str(value).removeprefix("Level").strip()
    if level == "?":
        return None
    if level not in ("1", "2", "3", "4", "5"):
        fields.fail("level", f"is {value!r}; accepted: 'Level 1' to 'Level 5', 'Level ?', or the number alone")
    return level
