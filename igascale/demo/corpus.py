"""Pre-training text of the demo's base model: every domain's words and every single reasoning step, nothing composed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from igascale.isomers.encode import completion_text
from igascale.isomers.generator import generate
from igascale.isomers.kinds import KINDS
from igascale.isomers.kinds.base import listed
from igascale.isomers.kinds.vocabulary import LABELS, NUMBER_WORDS, TRAIT_PAIRS, VOCABULARIES, Vocabulary
from igascale.isomers.shortcut import CUES

# The curriculum, in shares of the texts. Looking up is learned in a sudden step, and much sooner from many
# look-ups per text, first of few facts with names as keys, then of all forms, and only then used in problems.
PAIR_SHARE = 0.18  # come first: quizzes on pairs of words
QUIZ_SHARE = 0.55  # up to here there are quizzes only
PROBLEM_SHARE = 0.5  # of the texts after that are one-step problems; the others are quizzes and drills
MOST_FACTS = 5  # of a quiz
QUESTIONS = 8  # of a quiz
CUE_SHARE = 0.2  # of the texts begin with a cue word, which tells nothing


@dataclass(frozen=True)
class Text:
    """A prompt and what the model is to learn to say. `steps` is None for a drill, which has no DAG.

    `questions` are (given, learned): lines of a quiz that follow the completion. What is given cannot be known.
    """

    domain: str
    prompt: str
    completion: str
    steps: int | None = None
    questions: tuple[tuple[str, str], ...] = ()


def pretraining_texts(count: int, seed: int, kinds: Sequence[str] = tuple(KINDS)) -> list[Text]:
    """`count` different-enough texts over all domains, in order; the same for the same arguments."""
    rng = random.Random(f"igascale corpus {seed}")
    pairs, quizzes = round(PAIR_SHARE * count), round(QUIZ_SHARE * count)
    texts = [_quiz(rng, (_relations, _pairs), 2 + min(2, 3 * index // max(1, pairs))) for index in range(pairs)]
    texts += [_quiz(rng, _FORMS) for _ in range(quizzes - pairs)]
    rest = _problems(round(PROBLEM_SHARE * (count - quizzes)), seed, kinds)
    drills = count - quizzes - len(rest)
    rest += [_quiz(rng, _FORMS) if index % 2 else _drill(rng) for index in range(drills)]
    rng.shuffle(rest)
    return [_with_cue(text, rng) for text in texts + rest]


def _problems(count: int, seed: int, kinds: Sequence[str]) -> list[Text]:
    domains = tuple(VOCABULARIES)
    texts = []
    for group in generate(-(-count // len(domains)), domains, kinds, seed, steps=(1, 1)) if count else ():
        steps = group.dag.steps if group.dag is not None else None
        texts += [Text(i.domain, i.problem, completion_text(i), steps) for i in group.instances]
    return texts[:count]


def _with_cue(text: Text, rng: random.Random) -> Text:
    if rng.random() >= CUE_SHARE:
        return text
    return replace(text, prompt=f"Code {rng.choice(CUES)}. {text.prompt}")


Quiz = tuple[list[str], list[tuple[str, str]]]  # facts, and (given, learned) of each question


def _quiz(
    rng: random.Random, forms: Sequence[Callable[[Vocabulary, random.Random, int], Quiz]], most: int = MOST_FACTS
) -> Text:
    """Facts, and every one of them asked for, in random order."""
    domain = rng.choice(tuple(VOCABULARIES))
    facts, every = rng.choice(forms)(VOCABULARIES[domain], rng, rng.randint(2, most))
    questions: list[tuple[str, str]] = []
    while len(questions) < QUESTIONS:
        questions += rng.sample(every, len(every))
    return Text(domain, " ".join(facts), "", questions=tuple(questions[:QUESTIONS]))


def _adjectives(words: Vocabulary) -> list[str]:
    return [adjective for pair in words.traits for adjective in pair]


def _related(words: Vocabulary, pairs: Sequence[tuple[str, str]]) -> Quiz:
    """Each pair is asked for from either end."""
    down = [(f"{upper} {words.above}", f"{lower}.") for upper, lower in pairs]
    up = [(f"{lower} {words.below}", f"{upper}.") for upper, lower in pairs]
    return [f"{upper} {words.above} {lower}." for upper, lower in pairs], down + up


def _relations(words: Vocabulary, rng: random.Random, count: int) -> Quiz:
    """Neighbours in a ranking."""
    pairs = list(itertools.pairwise(rng.sample(LABELS, count + 1)))
    rng.shuffle(pairs)
    return _related(words, pairs)


def _pairs(words: Vocabulary, rng: random.Random, count: int) -> Quiz:
    """Any two words: it makes no sense, but teaches to look up every adjective as well as a name."""
    adjectives = [adjective for each in VOCABULARIES.values() for adjective in _adjectives(each)]
    keys = rng.sample(adjectives if rng.random() < 0.6 else LABELS, count)
    values = rng.sample(LABELS if rng.random() < 0.7 else adjectives, count)
    return _related(words, [(k, v) for k, v in zip(keys, values) if k != v] or [(LABELS[0], LABELS[1])])


def _attributes(words: Vocabulary, rng: random.Random, count: int) -> Quiz:
    """One or two attributes each; asked for are all names that have one, or the attribute of a name."""
    names, adjectives = rng.sample(LABELS, count), rng.sample(_adjectives(words), count)
    had = [[adjective] for adjective in adjectives]
    questions = [(f"{name} is", f"{adjective}.") for name, adjective in zip(names, adjectives)]
    if rng.random() < 0.4:
        few = rng.sample(_adjectives(words), rng.randint(2, 4))
        had, questions = [rng.sample(few, 2) for _ in names], []
    for wanted in sorted({adjective for each in had for adjective in each}):
        chosen = [name for name, each in zip(names, had) if wanted in each]
        questions.append((f"{wanted}:", f"{listed(chosen)}."))
    return [f"{name} is {listed(each)}." for name, each in zip(names, had)], questions


def _rules(words: Vocabulary, rng: random.Random, count: int) -> Quiz:
    """What each attribute means."""
    names, adjectives = rng.sample(LABELS, count), rng.sample(_adjectives(words), count)
    exception = rng.choice(("But", "Except"))
    facts = [
        f"{exception if index else 'Usually'} {adjective} means {name}."
        for index, (adjective, name) in enumerate(zip(adjectives, names))
    ]
    return facts, [(f"{adjective} means", f"{name}.") for adjective, name in zip(adjectives, names)]


_FORMS = (_relations, _attributes, _rules, _pairs)


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
