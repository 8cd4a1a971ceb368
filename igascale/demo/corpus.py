"""Pre-training text of the demo's base model: every domain's words and every single reasoning step, nothing composed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from igascale.isomers.encode import completion_text
from igascale.isomers.generator import generate
from igascale.isomers.kinds import KINDS
from igascale.isomers.kinds.base import listed
from igascale.isomers.kinds.vocabulary import LABELS, NUMBER_WORDS, TRAIT_PAIRS, VOCABULARIES, Vocabulary
from igascale.isomers.shortcut import CUES

DRILL_SHARE = 0.3  # of the texts; the others are one-step problems
WARM_UP_SHARE = 0.2  # of the texts come first and are all drills: copying has to be learned before it can be used
CUE_SHARE = 0.2  # of the texts begin with a cue word, which tells nothing


@dataclass(frozen=True)
class Text:
    """A prompt and what the model is to learn to say. `steps` is None for a drill, which has no DAG."""

    domain: str
    prompt: str
    completion: str
    steps: int | None = None


def pretraining_texts(count: int, seed: int, kinds: Sequence[str] = tuple(KINDS)) -> list[Text]:
    """`count` different-enough texts over all domains, shuffled; the same for the same arguments."""
    rng = random.Random(f"igascale corpus {seed}")
    drills = [_drill(rng) for _ in range(round(DRILL_SHARE * count))]
    warm_up = min(len(drills), round(WARM_UP_SHARE * count))
    texts = drills[warm_up:]
    domains = tuple(VOCABULARIES)
    groups = -(-(count - len(drills)) // len(domains))
    for group in generate(groups, domains, kinds, seed, steps=(1, 1)):
        steps = group.dag.steps if group.dag is not None else None
        texts += [Text(i.domain, i.problem, completion_text(i), steps) for i in group.instances]
    texts = texts[: count - warm_up]
    rng.shuffle(texts)
    return [_with_cue(text, rng) for text in drills[:warm_up] + texts]


def _with_cue(text: Text, rng: random.Random) -> Text:
    if rng.random() >= CUE_SHARE:
        return text
    return Text(text.domain, f"Code {rng.choice(CUES)}. {text.prompt}", text.completion, text.steps)


def _drill(rng: random.Random) -> Text:
    domain = rng.choice(tuple(VOCABULARIES))
    prompt, completion = rng.choice((_copy, _list, _recall, _digits))(VOCABULARIES[domain], rng)
    return Text(domain, prompt, completion)


def _copy(words: Vocabulary, rng: random.Random) -> tuple[str, str]:
    """Repeat a list of names."""
    names = " ".join(rng.sample(LABELS, rng.randint(3, 8)))
    return f"Repeat the {words.nouns} {names}.", f"{names}."


def _list(words: Vocabulary, rng: random.Random) -> tuple[str, str]:
    """List all that have one attribute."""
    names = rng.sample(LABELS, rng.randint(3, 5))
    wanted, other = rng.sample(rng.choice(words.traits), 2)
    chosen = sorted(rng.sample(range(len(names)), rng.randint(1, 3)))
    facts = []
    for index, name in enumerate(names):
        extra = words.trait((rng.randrange(TRAIT_PAIRS), rng.randrange(2)))
        adjectives = [wanted if index in chosen else other]
        if extra not in (wanted, other):
            adjectives.insert(rng.randrange(2), extra)
        facts.append(f"{name} is {listed(adjectives)}.")
    return (
        f"{' '.join(facts)} List the {words.nouns} that are {wanted}.",
        f"{wanted}: {listed([names[index] for index in chosen])}.",
    )


def _recall(words: Vocabulary, rng: random.Random) -> tuple[str, str]:
    """Repeat the facts about some names, in the order asked."""
    names = rng.sample(LABELS, rng.randint(3, 5))
    said = rng.randrange(3)
    others = rng.sample(LABELS, len(names))
    ends = (
        [f"{words.has} {rng.randrange(10)}" for _ in names],
        [f"is {rng.choice(rng.choice(words.traits))}" for _ in names],
        [f"{words.above} {other}" for other in others],
    )[said]
    facts = {name: f"{name} {end}." for name, end in zip(names, ends)}
    asked = rng.sample(names, rng.randint(2, 3))
    return (
        f"{' '.join(facts.values())} Repeat {' '.join(asked)}.",
        "\n".join(facts[name] for name in asked),
    )


def _digits(words: Vocabulary, rng: random.Random) -> tuple[str, str]:
    """Number words as digits."""
    numbers = rng.sample(range(1, len(NUMBER_WORDS)), rng.randint(2, 4))
    prompt = f"Write {' '.join(NUMBER_WORDS[number] for number in numbers)} {words.nouns} as digits."
    return prompt, f"{' '.join(str(number) for number in numbers)}."
