"""The words of each domain. Everything that differs between two isomers of a group is in these tables."""

from __future__ import annotations

from dataclasses import dataclass

from igascale.errors import UserError, did_you_mean

# Names of things, shared by all domains: "patient K", "fund K". Not A or I (words) or O (looks like a digit).
LABELS = ("B", "D", "F", "H", "K", "M", "P", "R", "T", "W")
DIGITS = tuple("0123456789")
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Vocabulary:
    """The words one domain puts into the sentence patterns of the reasoning kinds."""

    noun: str
    nouns: str
    above: str  # K {above} B
    below: str  # the converse of `above`
    has: str  # K {has} 3 {units}
    have: str
    units: str
    place: str  # which {place} is K in?
    traits: tuple[tuple[str, str], ...]  # pairs of adjectives that exclude each other

    def trait(self, trait: tuple[int, int]) -> str:
        """The adjective of (pair, side)."""
        return self.traits[trait[0]][trait[1]]


VOCABULARIES: dict[str, Vocabulary] = {
    "mathematics": Vocabulary(
        noun="set",
        nouns="sets",
        above="includes",
        below="refines",
        has="contains",
        have="contain",
        units="elements",
        place="class",
        traits=(
            ("open", "closed"),
            ("bounded", "unbounded"),
            ("convex", "concave"),
            ("ordered", "unordered"),
        ),
    ),
    "medicine": Vocabulary(
        noun="patient",
        nouns="patients",
        above="predates",
        below="follows",
        has="takes",
        have="take",
        units="doses",
        place="ward",
        traits=(
            ("feverish", "pale"),
            ("asthmatic", "diabetic"),
            ("allergic", "anemic"),
            ("pregnant", "elderly"),
        ),
    ),
    "law": Vocabulary(
        noun="party",
        nouns="parties",
        above="outranks",
        below="obeys",
        has="files",
        have="file",
        units="claims",
        place="court",
        traits=(
            ("foreign", "domestic"),
            ("solvent", "insolvent"),
            ("liable", "exempt"),
            ("insured", "uninsured"),
        ),
    ),
    "science": Vocabulary(
        noun="sample",
        nouns="samples",
        above="outweighs",
        below="lifts",
        has="holds",
        have="hold",
        units="grams",
        place="lab",
        traits=(
            ("acidic", "alkaline"),
            ("metallic", "organic"),
            ("magnetic", "inert"),
            ("volatile", "stable"),
        ),
    ),
    "finance": Vocabulary(
        noun="fund",
        nouns="funds",
        above="outearns",
        below="lags",
        has="owns",
        have="own",
        units="bonds",
        place="desk",
        traits=(
            ("hedged", "leveraged"),
            ("liquid", "frozen"),
            ("active", "passive"),
            ("listed", "unlisted"),
        ),
    ),
    "engineering": Vocabulary(
        noun="beam",
        nouns="beams",
        above="supports",
        below="burdens",
        has="carries",
        have="carry",
        units="loads",
        place="rig",
        traits=(("welded", "bolted"), ("coated", "rusty"), ("hollow", "solid"), ("curved", "straight")),
    ),
}

TRAINING_DOMAINS = ("mathematics", "medicine", "law", "science")
OOD_DOMAINS = ("finance", "engineering")
TRAIT_PAIRS = 4


def vocabulary_of(domain: str) -> Vocabulary:
    """The words of a domain.

    Raises:
        UserError: no such domain.
    """
    if domain not in VOCABULARIES:
        raise UserError(
            f"unknown domain '{domain}'; the generator knows {', '.join(VOCABULARIES)}"
            + did_you_mean(domain, VOCABULARIES)
        )
    return VOCABULARIES[domain]
