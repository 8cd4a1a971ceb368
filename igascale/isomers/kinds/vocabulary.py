"""The words of each domain. Everything that differs between two isomers of a group is in these tables."""

from __future__ import annotations

import re
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
    job: str  # what takes time and waits for another
    causes: str  # K {causes} B
    cause: str
    measures: tuple[str, ...]  # five nouns, each made of the next; their plurals end in s

    def trait(self, trait: tuple[int, int]) -> str:
        """The adjective of (pair, side)."""
        return self.traits[trait[0]][trait[1]]

    def word(self, code: str) -> str:
        """What a DAG's argument is called in this domain: ``t1b`` an adjective, ``u2`` a measure; others are themselves."""
        if match := re.fullmatch(r"t(\d)([ab])", code):
            return self.trait((int(match[1]), "ab".index(match[2])))
        if match := re.fullmatch(r"u(\d)", code):
            return self.measures[int(match[1])]
        return code


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
        job="proof",
        causes="forces",
        cause="force",
        measures=("tower", "grid", "row", "cell", "point"),
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
        job="scan",
        causes="provokes",
        cause="provoke",
        measures=("carton", "pack", "blister", "pill", "pellet"),
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
        job="hearing",
        causes="prompts",
        cause="prompt",
        measures=("archive", "docket", "folder", "page", "clause"),
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
        job="assay",
        causes="kindles",
        cause="kindle",
        measures=("rack", "tray", "vial", "bead", "speck"),
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
        job="audit",
        causes="spurs",
        cause="spur",
        measures=("vault", "ledger", "stack", "note", "coin"),
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
        job="repair",
        causes="trips",
        cause="trip",
        measures=("frame", "panel", "plate", "bracket", "rivet"),
    ),
}

# Further domains, apart from the six above: the demo's text and its tokenizer are made of those.
FURTHER_VOCABULARIES: dict[str, Vocabulary] = {
    "education": Vocabulary(
        noun="pupil",
        nouns="pupils",
        above="outscores",
        below="copies",
        has="reads",
        have="read",
        units="books",
        place="room",
        traits=(
            ("attentive", "distracted"),
            ("literate", "illiterate"),
            ("punctual", "tardy"),
            ("gifted", "struggling"),
        ),
        job="lesson",
        causes="inspires",
        cause="inspire",
        measures=("college", "course", "module", "chapter", "exercise"),
    ),
    "logistics": Vocabulary(
        noun="van",
        nouns="vans",
        above="overtakes",
        below="shadows",
        has="hauls",
        have="haul",
        units="drums",
        place="dock",
        traits=(("fueled", "drained"), ("local", "remote"), ("heated", "chilled"), ("idle", "busy")),
        job="delivery",
        causes="stalls",
        cause="stall",
        measures=("ship", "container", "pallet", "crate", "parcel"),
    ),
    "sports": Vocabulary(
        noun="player",
        nouns="players",
        above="outruns",
        below="chases",
        has="scores",
        have="score",
        units="goals",
        place="team",
        traits=(("agile", "clumsy"), ("rested", "tired"), ("tall", "stocky"), ("seasoned", "novice")),
        job="warmup",
        causes="rouses",
        cause="rouse",
        measures=("league", "season", "game", "quarter", "lap"),
    ),
    "cooking": Vocabulary(
        noun="stew",
        nouns="stews",
        above="tops",
        below="soaks",
        has="needs",
        have="need",
        units="onions",
        place="oven",
        traits=(("salty", "sweet"), ("spicy", "bland"), ("simmered", "raw"), ("creamy", "watery")),
        job="roast",
        causes="sours",
        cause="sour",
        measures=("sack", "jar", "cup", "spoon", "crumb"),
    ),
    # Nobody's domain: seed problems are told in it (docs/data.md).
    "general": Vocabulary(
        noun="thing",
        nouns="things",
        above="beats",
        below="trails",
        has="has",
        have="have",
        units="marks",
        place="spot",
        traits=(("red", "blue"), ("big", "small"), ("round", "flat"), ("heavy", "light")),
        job="task",
        causes="triggers",
        cause="trigger",
        measures=("trunk", "bag", "bundle", "token", "chip"),
    ),
}

ALL_VOCABULARIES = {**VOCABULARIES, **FURTHER_VOCABULARIES}

TRAINING_DOMAINS = ("mathematics", "medicine", "law", "science")
OOD_DOMAINS = ("finance", "engineering")
SEED_DOMAIN = "general"
TRAIT_PAIRS = 4


def vocabulary_of(domain: str) -> Vocabulary:
    """The words of a domain.

    Raises:
        UserError: no such domain.
    """
    if domain not in ALL_VOCABULARIES:
        raise UserError(
            f"unknown domain '{domain}'; the generator knows {', '.join(ALL_VOCABULARIES)}"
            + did_you_mean(domain, ALL_VOCABULARIES)
        )
    return ALL_VOCABULARIES[domain]
