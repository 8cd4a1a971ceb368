"""What counts as a near-duplicate: shingles and thresholds against generated problems whose truth is known.

    python -m benchmarks.near_duplicates                # 600 problems of each kind; --groups 200 --kinds ordering,rules

Every pair of problems of one kind is compared exactly. Two are different when their facts or goals differ, whatever their order;
a pair above the threshold that is different is a false alarm. Recall is of copies with one planted edit.
"""

from __future__ import annotations

import argparse
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations

from igascale.isomers.generator import generate
from igascale.isomers.kinds import KINDS
from igascale.isomers.normal import is_symbol, tokens
from igascale.isomers.schema import IsomerGroup
from igascale.isomers.similarity import sketch

Shingles = Callable[[str], frozenset[object]]
THRESHOLDS = (0.7, 0.8, 0.9)


def ngrams(n: int) -> Shingles:
    """Runs of n words over the whole text, the usual shingles."""
    return lambda text: frozenset(tuple(tokens(text)[i : i + n]) for i in range(max(1, len(tokens(text)) - n + 1)))


def characters(text: str) -> frozenset[object]:
    """Runs of five characters."""
    joined = " ".join(tokens(text))
    return frozenset(joined[i : i + 5] for i in range(max(1, len(joined) - 4)))


def ours(text: str) -> frozenset[object]:
    """Those of igascale."""
    return frozenset(sketch(text).shingles.tolist())


SHINGLES: dict[str, Shingles] = {
    "words": ngrams(1),
    "2 words": ngrams(2),
    "3 words": ngrams(3),
    "5 characters": characters,
    "word and the symbols of its sentence": ours,
}


def edits(text: str, rng: random.Random) -> dict[str, str]:
    """Copies that are the same problem; a word that is changed is no label and no number."""
    pieces = re.split(r"(\w+)", text)
    plain = [i for i in range(1, len(pieces), 2) if not is_symbol(pieces[i].casefold())]
    at, gone = rng.choice(plain), rng.choice(plain)
    *facts, goal = [sentence.strip() for sentence in re.findall(r"[^.?]+[.?]", text)]
    rng.shuffle(facts)
    return {
        "case, punctuation": re.sub(r"[.,?]", "", text.upper()),
        "facts in another order": " ".join([*facts, goal]),
        "cue before it": f"Code amber. {text}",
        "a word replaced": "".join([*pieces[:at], "certain", *pieces[at + 1 :]]),
        "a word deleted": "".join(pieces[:gone] + pieces[gone + 1 :]),
        "cue and a word replaced": "Code amber. " + "".join([*pieces[:at], "certain", *pieces[at + 1 :]]),
    }


def truth(group: IsomerGroup) -> tuple[str, ...]:
    """The facts in an order of their own, and the goal."""
    assert group.dag is not None and group.dag.logical_form is not None
    facts, _, goal = group.dag.logical_form.partition(" |- ")
    return (*sorted(facts.split(" & ")), goal)


def jaccard(first: frozenset[object], second: frozenset[object]) -> float:
    return len(first & second) / len(first | second)


def measure(shingles: Shingles, texts: list[str], truths: list[tuple[str, ...]]) -> Iterator[tuple[str, str, float]]:
    """(what, edit, similarity) of every pair of different problems, and of every copy with its original."""
    sets = [shingles(text) for text in texts]
    for i, j in combinations(range(len(texts)), 2):
        if truths[i] != truths[j]:
            yield "different", "", jaccard(sets[i], sets[j])
    rng = random.Random(0)
    for text, own in zip(texts, sets):
        for name, copy in edits(text, rng).items():
            yield "same", name, 1.0 if tokens(copy) == tokens(text) else jaccard(own, shingles(copy))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=600, help="problems of each kind")
    parser.add_argument("--kinds", default=",".join(KINDS))
    arguments = parser.parse_args()
    kinds = arguments.kinds.split(",")
    banks = {kind: generate(arguments.groups, ("law",), (kind,), seed=0) for kind in kinds}
    print(
        f"false alarms in {arguments.groups * (arguments.groups - 1) // 2} pairs of each kind, and recall of planted edits"
    )
    for label, shingles in SHINGLES.items():
        alarms: dict[float, Counter[str]] = {t: Counter() for t in THRESHOLDS}
        found: dict[float, Counter[str]] = {t: Counter() for t in THRESHOLDS}
        copies: Counter[str] = Counter()
        for kind, groups in banks.items():
            texts = [group.instances[0].problem for group in groups]
            for what, edit, similarity in measure(shingles, texts, [truth(group) for group in groups]):
                copies[edit] += what == "same"
                for threshold in THRESHOLDS:
                    if similarity >= threshold:
                        (alarms if what == "different" else found)[threshold][
                            kind if what == "different" else edit
                        ] += 1
        for threshold in THRESHOLDS:
            shares = ", ".join(f"{edit} {found[threshold][edit] / copies[edit]:.3f}" for edit in copies if edit)
            counts = ", ".join(f"{kind} {alarms[threshold][kind]}" for kind in kinds)
            print(f"{label}, {threshold}: false alarms {alarms[threshold].total()} ({counts}); recall: {shares}")


if __name__ == "__main__":
    main()
