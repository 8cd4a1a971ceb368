"""ARB (Sawada et al., 2023): graduate-level law, mathematics, physics and MCAT, published through a REST API alone.

The API names one field in up to three ways: ``Problem Statement`` (law, MCAT), ``Problem_Statement`` (mathematics,
physics) and ``problemStatement`` (the schema of its server). All three are read everywhere.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Literal

from igascale.evaluation.benchmarks._fields import Fields
from igascale.evaluation.benchmarks.base import AnswerKind, Benchmark, BenchmarkItem, Facts, Skip

#: Collection -> the answers its problems have. The names are the API's routes with ``_`` for ``/``; noimg is left out.
COLLECTIONS: dict[str, AnswerKind] = {
    "law": "choice",
    "math_numerical": "numeric",
    "math_symbolic": "symbolic",
    "math_prooflike": "proof",
    "physics_numerical": "numeric",
    "physics_numerical_img": "numeric",
    "physics_symbolic": "symbolic",
    "physics_symbolic_img": "symbolic",
    "mcat_reading_val": "choice",
    "mcat_reading_test": "choice",
    "mcat_science_val": "choice",
    "mcat_science_val_img": "choice",
    "mcat_science_test": "choice",
    "mcat_science_test_img": "choice",
}
#: A subject of the paper's -> how a Topic or Subject begins that belongs to it.
_SUBJECTS = {
    "biology": ("bio",),
    "chemistry": ("chem", "organic chem", "general chem", "inorganic chem", "physical chem"),
    "physics": ("phys",),
}


#: The words of all routes.
_ROUTE = {word for collection in COLLECTIONS for word in collection.split("_")} | {"noimg", "arb", ""}


def _words(name: str) -> set[str]:
    """``mcatReading`` and ``mcat_reading`` are mcat and reading."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=^mcat)(?=reading|science)", " ", name)
    return set(re.split(r"[^a-z0-9]+", spaced.lower()))


def _spellings(name: str) -> list[str]:
    """``Final Answer``, ``Final_Answer`` and ``finalAnswer``."""
    words = name.split()
    return [name, "_".join(words), words[0].lower() + "".join(words[1:])]


class ARB(Benchmark):
    """ARB: several collections, with options, numbers, expressions or proofs to answer."""

    name = "arb"
    facts = Facts(
        title="ARB (Advanced Reasoning Benchmark)",
        homepage="https://github.com/TheDuckAI/arb",
        citation="Sawada et al., ARB: Advanced Reasoning Benchmark for Large Language Models, 2023, arXiv:2307.13692",
        licence="The repository's LICENSE.txt is MIT; it holds the web site, not the problems. The authors publish the "
        "problems through their API alone, to keep them out of training data: do not republish them.",
        obtain="Save what the REST API returns, one file a collection: curl -o law.json "
        "https://advanced-reasoning-benchmark.netlify.app/api/lib/law/ and likewise math/{numerical,symbolic,prooflike}, "
        "physics/{numerical,symbolic}/{img,noimg}, mcatReading/{val,test}, mcatScience/{val,test}/{img,noimg}. The site "
        "dates from 2023: keep your copies.",
        files="JSON arrays as the API returns them; a file's name or its folders tell the collection: law.json, "
        "math_numerical.json or math/numerical.json, physics_symbolic_img.json, mcatReading_val.json, ...",
        hub=(),
        published={
            "law": 627,
            "math_numerical": 52,
            "math_symbolic": 34,
            "math_prooflike": 19,
            "physics_numerical": 80,
            "physics_symbolic": 18,
        },
        paper_split="Withhold law and biology in training; evaluate on physics, mathematics, chemistry, biology and law.",
        public_split="For law, yes: it is a collection. For biology only as far as the MCAT science records' Subject or Topic "
        "says so: a value that begins with 'bio' is biology. Which values the API uses was not verified here; the summary "
        "counts them, and those that name no subject, like MCAT reading, are on neither side. Mathematics and physics "
        "collections, and MCAT science called chemistry or physics, are id. The paper's OOD figure may be over all five: use "
        "--split all for that. Problems with images are left out.",
    )

    def split_of(self, file: str) -> str | None:
        """The collection, from the words of the path; None for one that is not there."""
        folder, _, name = file.rpartition("/")
        stem, _, ending = name.partition(".")
        if ending not in ("json", "jsonl"):
            return None
        words = _words(stem)
        for part in folder.split("/"):
            words |= _words(part) if _words(part) <= _ROUTE else set()  # a folder that is a part of the route
        fits = [collection for collection in COLLECTIONS if set(collection.split("_")) <= words]
        return max(fits, key=lambda collection: collection.count("_"), default=None)

    def item(self, fields: Fields, split: str, key: str) -> BenchmarkItem:
        """See the base class."""
        kind = COLLECTIONS[split]
        if split.endswith("_img") or fields.get(_spellings("Images")):
            raise Skip("needs an image")
        self._check_type(fields, split, kind)
        options = fields.options(_spellings("Answer Candidates"), lettered=True) if kind == "choice" else ()
        answer = self._answer(fields, kind, options)
        meta = {
            name.lower().replace(" ", "_"): fields.get(_spellings(name))
            for name in ("Problem Number", "Problem Type", "Topic", "Source", "Output Format Instructions")
            if fields.has(_spellings(name))
        }
        meta |= {name: fields.get([name]) for name in ("rubric", "rubric_template") if fields.has([name])}
        return BenchmarkItem(
            id=f"{split}/{fields.optional_text(['_id', 'id']) or f'row{key}'}",
            benchmark=self.name,
            split=split,
            question=fields.text(_spellings("Problem Statement")),
            options=options,
            answer=answer,
            answer_kind=kind,
            subject=_subject(fields, split),
            solution=fields.optional_text(_spellings("Solution")),
            meta=meta,
        )

    def part(self, item: BenchmarkItem) -> Literal["id", "ood"] | None:
        """See ``facts.public_split``."""
        if item.subject in ("law", "biology"):
            return "ood"
        return "id" if item.subject in ("mathematics", "physics", "chemistry") else None

    def remarks(self, items: list[BenchmarkItem]) -> Iterator[str]:
        """What Subject and Topic said, and problems without an answer."""
        science = [item for item in items if item.split.startswith("mcat_science")]
        said = Counter(str(item.subject) for item in science)
        if said:
            yield f"MCAT science by Subject or Topic: {', '.join(f'{k} {n}' for k, n in said.most_common())}"
        bare = Counter(item.split for item in items if item.answer is None)
        if bare:
            yield f"no final answer: {', '.join(f'{k} {n}' for k, n in bare.items())}"
        both = {item.id.rpartition("/")[2] for item in items if item.split == "mcat_reading_val"}
        both &= {item.id.rpartition("/")[2] for item in items if item.split == "mcat_reading_test"}
        if both:
            yield f"{len(both)} MCAT reading problems are in val and in test (both routes of the API serve the test set)"

    def _check_type(self, fields: Fields, split: str, kind: AnswerKind) -> None:
        """The collections hold rows of no type besides; the paper counts those of the collection's own."""
        said = fields.optional_text(_spellings("Problem Type"))
        wanted = {"numeric": "numerical", "symbolic": "symbolic"}.get(kind)
        # A single problem, saved from /{id}, carries no type at all: the key is missing, not blank.
        present = any(name in fields.record for name in _spellings("Problem Type"))
        if wanted and present and (said is None or not said.lower().startswith(wanted)):
            raise Skip(f"'Problem Type' is {said or ''!r}, not {wanted.capitalize()!r}")

    def _answer(self, fields: Fields, kind: AnswerKind, options: tuple[str, ...]) -> str | None:
        spellings = _spellings("Final Answer")
        if kind == "proof":
            return fields.optional_text(spellings)
        if not options:
            return fields.optional_text(spellings) or fields.text(spellings)
        said = fields.text(spellings)
        same = [i for i, option in enumerate(options) if option == said]
        letter = re.fullmatch(r"\(?([A-Za-z])\)?[.):]?", said)
        if not letter and len(same) != 1:
            letter = re.match(r"\(?([A-Z])\s*[.):]\s", said)
        index = ord(letter[1].upper()) - ord("A") if letter else same[0] if len(same) == 1 else -1
        name = next(n for n in spellings if fields.has([n]))
        if not 0 <= index < len(options):
            last = chr(ord("A") + len(options) - 1)
            fields.fail(name, f"is {said[:60]!r}, outside the options A to {last}")
        if letter:
            text = _plain(
                said[letter.end() :] or letter[1]
            )  # what follows the letter; alone, it may be an option itself
            others = [i for i, option in enumerate(options) if _plain(option) == text]
            if others and index not in others:
                other = chr(ord("A") + others[0])
                fields.fail(name, f"is {said[:60]!r}: by its letter option {letter[1].upper()}, by its text {other}")
        return chr(ord("A") + index)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")


def _subject(fields: Fields, split: str) -> str | None:
    """The paper's subject: of a collection or, for MCAT science, from Subject, else Topic."""
    first = split.partition("_")[0]
    if first != "mcat":
        return {"law": "law", "math": "mathematics", "physics": "physics"}[first]
    if split.startswith("mcat_reading"):
        return "reading"
    for name in ("Subject", "Topic"):
        said = fields.get(_spellings(name))
        for value in said if isinstance(said, list) else [said]:
            words = " ".join(str(value or "").lower().split())
            for subject, starts in _SUBJECTS.items():
                if words.startswith(starts):
                    return subject
    said = fields.get(_spellings("Subject"))
    return str(said).strip() if isinstance(said, str) else None
