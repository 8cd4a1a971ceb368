"""A group laid out for the eye: its tellings as columns, what they share, and what is one domain's own."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from igascale.isomers.schema import Instance, IsomerGroup

#: A run of text, and whether its words are missing from at least one other domain.
Piece = tuple[str, bool]

_WORD = re.compile(r"\w+")
_NUMBERED = re.compile(r"(?:step\s*)?(\d+)\s*[.:)]\s+", re.IGNORECASE)
#: What would move the cursor, reverse the reading order or fail to be written: shown by name, never obeyed.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True)
class Side:
    """One telling.

    Attributes:
        domain: its domain.
        problem: the problem, in pieces.
        steps: the steps of the solution, each in pieces, without the numbers it was written with.
        answer: the answer.
        score: its alignment with the group's graph, where the group's `meta` has one.
    """

    domain: str
    problem: list[Piece]
    steps: list[list[Piece]]
    answer: str
    score: float | None


@dataclass(frozen=True)
class SideBySide:
    """A group as two views show it.

    Attributes:
        sides: the tellings, a column each.
        hidden: domains that were not asked for.
        shared: what all sides agree on, in words.
        differs: what they ought to agree on and do not, in words.
        common_words: the words of a problem or solution that every side uses, in the first side's order.
        meta: what `meta` holds beside the alignment.
    """

    sides: list[Side]
    hidden: list[str]
    shared: list[str]
    differs: list[str]
    common_words: list[str]
    meta: dict[str, object]

    @property
    def alignment(self) -> str:
        """The scores of the sides in words, where there are any."""
        scores = [side.score for side in self.sides if side.score is not None]
        return f"alignment {sum(scores) / len(scores):.2f}, lowest {min(scores):.2f}" if scores else ""


def lay_out(group: IsomerGroup, domains: Collection[str] = ()) -> SideBySide:
    """Compare the tellings of a group.

    Args:
        group: the group.
        domains: show only these; all when empty. Words are compared between those shown.
    """
    shown = [instance for instance in group.instances if not domains or instance.domain in domains]
    vocabularies = [_words(instance) for instance in shown]
    common = {word for word in vocabularies[0] if all(word in other for other in vocabularies)} if shown else set()
    scores = alignment(group)
    sides = [
        Side(
            domain=instance.domain,
            problem=_pieces(instance.problem, common),
            steps=[_pieces(step, common) for step in steps_of(instance.cot)],
            answer=visible(instance.answer),
            score=scores.get(instance.domain),
        )
        for instance in shown
    ]
    shared, differs = _agreement(group, sides)
    return SideBySide(
        sides=sides,
        hidden=[instance.domain for instance in group.instances if instance not in shown],
        shared=shared,
        differs=differs,
        common_words=[as_written for word, as_written in vocabularies[0].items() if word in common]
        if len(shown) > 1
        else [],
        meta={key: value for key, value in group.meta.items() if key != "alignment" or not scores},
    )


def steps_of(cot: str) -> list[str]:
    """The steps of a solution: its lines that are not blank, without the numbers 1, 2, 3 that some teachers write."""
    lines = [line.strip() for line in cot.splitlines() if line.strip()]
    marks = [_NUMBERED.match(line) for line in lines]
    if all(mark and int(mark[1]) == number for number, mark in enumerate(marks, start=1)):
        return [line[mark.end() :] for line, mark in zip(lines, marks, strict=True) if mark]
    return lines


def alignment(group: IsomerGroup) -> dict[str, float]:
    """Domain -> score from ``meta["alignment"]``; empty where it holds anything else."""
    scores = group.meta.get("alignment")
    if not isinstance(scores, dict):
        return {}
    return {str(k): float(v) for k, v in scores.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def visible(text: str) -> str:
    """The text with control characters and marks that reverse the reading order spelled out, such as ``<U+202E>``."""
    return _UNSEEN.sub(lambda match: f"<U+{ord(match[0]):04X}>", text)


def _words(instance: Instance) -> dict[str, str]:
    """The words of a telling in the order of their first use: case folded -> as written there."""
    words: dict[str, str] = {}
    for word in _WORD.findall(f"{instance.problem}\n{instance.cot}"):
        words.setdefault(word.casefold(), word)
    return words


def _pieces(text: str, common: Collection[str]) -> list[Piece]:
    """Cut into runs of common and of own words; what stands between two words of one kind goes with them."""
    pieces: list[Piece] = []
    at = 0
    for match in _WORD.finditer(text):
        own = match[0].casefold() not in common
        between = text[at : match.start()]
        if pieces and pieces[-1][1] == own:
            pieces[-1] = (pieces[-1][0] + between + match[0], own)
        else:
            pieces += [(between, False)] * bool(between) + [(match[0], own)]
        at = match.end()
    pieces += [(text[at:], False)] * bool(text[at:])
    return [(visible(piece), own) for piece, own in pieces]


def _agreement(group: IsomerGroup, sides: list[Side]) -> tuple[list[str], list[str]]:
    """What is the same on all sides, and what is not: answers and step counts."""
    shared: list[str] = []
    differs: list[str] = []
    answers: dict[str, list[Side]] = {}
    counts: dict[int, list[Side]] = {}
    for side in sides:
        answers.setdefault(" ".join(side.answer.casefold().split()), []).append(side)
        counts.setdefault(len(side.steps), []).append(side)
    if len(answers) == 1:
        shared.append(f"answer {sides[0].answer}")
    else:
        differs.append("answers: " + _by_domain({some[0].answer: some for some in answers.values()}))
    if len(counts) == 1:
        shared.append(counted(len(sides[0].steps), "step"))
    else:
        differs.append("steps: " + _by_domain({str(count): some for count, some in sorted(counts.items())}))
    if group.dag is not None:
        shared.append(f"a graph of {counted(len(group.dag.nodes), 'node')} and {counted(len(group.dag.edges), 'edge')}")
        if group.dag.steps is not None and set(counts) != {group.dag.steps}:
            differs.append(f"the graph says {counted(group.dag.steps, 'step')}")
    return shared, differs


def counted(count: int, what: str) -> str:
    """``1 step``, ``1,000 steps``."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _by_domain(values: dict[str, list[Side]]) -> str:
    return "; ".join(f"{value} ({', '.join(side.domain for side in sides)})" for value, sides in values.items())
