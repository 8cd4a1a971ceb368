"""Multiple choice: every way of naming an option, by construction; and a brute-force reading of short answers."""

import itertools
import time
from collections.abc import Sequence

import pytest

from igascale.evaluation.benchmarks import BenchmarkItem
from igascale.evaluation.tasks import find
from igascale.evaluation.tasks._choice import chosen

OPTIONS = ("the rain stops", "the snow melts", "the rain stops and the snow melts", "A wind rises")
CHOICES = ("logiqa2", "reclor", "arb")


def item(options: Sequence[str] = OPTIONS, answer: str | None = "B", name: str = "reclor", **meta) -> BenchmarkItem:
    return BenchmarkItem("val_1", name, "val", "Passage.\n\nQuestion?", tuple(options), answer, "choice", meta=meta)


# How models mark the answer, and how they write the letter.
PLACES = [
    "Answer: {}",
    "Because of that.\nAnswer: {}",
    "**Answer: {}**",
    "**ANSWER: {}**",
    "**Answer:** {}",
    "### Final Answer:\n\n{}",
    "answer：{}",
    "The correct answer is: {}",
    "Final answer: {}.",
    "Let me see. The answer is {}.",
    "Not A. So the correct option is {}",
    "{}",
    "It cannot be the first.\nAnswer: D? No.\nAnswer: {}\n",
    "<think>\nAnswer: A\n</think>\n\nAnswer: {}",
]
LETTERS = [
    *(
        "{u}",
        "{l}",
        "({u})",
        "({l})",
        "{u}.",
        "{u})",
        "[{u}]",
        "**{u}**",
        "`{u}`",
        "'{u}'",
        "${u}$",
        "_{u}_",
        "Option {u}",
        "option {l}",
    ),
    *(r"\boxed{{{u}}}", r"$\boxed{{{u}}}$", r"\boxed{{\text{{{u}}}}}", r"\(\boxed{{\mathbf{{{u}}}}}\)", "{f}", "({f})"),
    *(
        "{u}. {t}",
        "({u}) {t}.",
        "{u}: {t}",
        "{u} - {t}",
        "{u} {t}",
        r"\boxed{{{u}. {t}}}",
        "**{u}) {t}**",
        "{t}",
        "{t}.",
        "“{t}”",
        "{T}",
    ),
    *("{u}, because the sun shines", "{u} because a sun shines", "({u}). A reason follows.", "{u} is correct"),
]


def spelled(form: str, index: int) -> str:
    letter = "ABCD"[index]
    text = OPTIONS[index]
    return form.format(u=letter, l=letter.lower(), f=chr(ord(letter) + 0xFEE0), t=text, T=text.upper())


def test_every_way_of_naming_an_option_in_every_place():
    cases = 0
    for place, form, index in itertools.product(PLACES, LETTERS, range(4)):
        text = place.format(spelled(form, index))
        assert chosen(text, OPTIONS) == "ABCD"[index], text
        cases += 1
    assert cases >= 1500


def test_two_options_a_denial_or_another_letter_are_no_answer():
    cases = 0
    forms = [
        "{} or {}",
        "{} and {}",
        "{}/{}",
        "{}, {}",
        "{} & {}",
        "({}) and ({})",
        "({}) or ({})",
        "both {} and {}",
        "not {} but {}",
    ]
    forms += [
        "either {} or {}",
        "not ({}), ({})",
        "{} {}",
        "{}-{}",
        "neither {} nor {}",
        "{}; or {}",
        "{}. or {}",
        "{}, or {}",
    ]
    for place, form, (one, other) in itertools.product(PLACES, forms, itertools.permutations("ABCD", 2)):
        text = place.format(form.format(one, other))
        assert chosen(text, OPTIONS) is None, text
        cases += 1
    denials = [
        "{} is wrong",
        "{} is not correct",
        "({}) is incorrect",
        "{} isn't right",
        "not {}",
        "{} cannot be right",
        "anything but {}",
    ]
    for place, form, letter in itertools.product(PLACES, denials, "ABCD"):
        assert chosen(place.format(form.format(letter)), OPTIONS) is None, (place, form, letter)
        cases += 1
    outside = [
        "E",
        "(E)",
        "e.",
        "Z",
        "E. the rain stops",
        r"\boxed{E}",
        "X",
        "AB",
        "5",
        "none",
        "None of the above",
        "?",
        "Ａb",
        "…",
    ]
    for place, form in itertools.product(PLACES, outside):
        assert chosen(place.format(form), OPTIONS) is None, (place, form)
        cases += 1
    assert cases >= 3000


def test_letter_and_text_that_disagree_are_no_answer():
    for one, other in itertools.permutations(range(4), 2):
        for form in ("{}. {}", "({}) {}", "{}: {}", "{} {}", r"\boxed{{{}. {}}}"):
            assert chosen("Answer: " + form.format("ABCD"[one], OPTIONS[other]), OPTIONS) is None


TOKENS = ["A", "B", "E", "b", "(A)", "(B)", "or", "and", "not", ",", ".", "rain", "snow", "because", "x"]
SHORT = ("rain", "snow", "A snow", "rain and snow")


def by_brute_force(line: list[str]) -> str | None:
    """What one line of tokens says: the options it could mean are tried one by one."""
    words = " ".join(line)
    bare = words.strip(" .,()")
    if len(bare) == 1:
        return bare.upper() if bare.upper() in "ABCD" else None
    readings = [bare] + [words[:i].strip(" .,()") for i in range(len(words)) if words[i : i + 2] == ". "]
    for reading in readings:
        for letter, option in zip("ABCD", SHORT):
            if reading.lower() == option.lower():
                return letter
    head = line[0].strip("()").upper()
    if head not in ("A", "B") or len(line) == 1:  # E and x are outside
        return None
    rest = line[1:]
    parted = line[0].startswith("(") or rest[0] in (",", ".")
    listed = rest[0] == ","
    while rest and rest[0] in (",", "."):
        rest = rest[1:]
    behind = " ".join(rest).strip(" .,").lower()
    if behind in [option.lower() for option in SHORT]:
        return head if behind == SHORT["AB".index(head)].lower() else None
    if not parted and (not rest or rest[0] != "because"):
        return None
    second = (
        rest[1:]
        if rest and rest[0] in ("or", "and")
        else rest
        if listed or (rest and len(behind.strip("()")) == 1)
        else []
    )
    if second and len(second[0].strip("()")) == 1 and second[0] not in ",." and second[0].strip("()").upper() != head:
        return None
    return head


def test_short_lines_against_brute_force():
    cases, found, wrong = 0, 0, []
    for length in (1, 2, 3):
        for line in itertools.product(TOKENS, repeat=length):
            said = chosen("Answer: " + " ".join(line), SHORT)
            expected = by_brute_force(list(line))
            if said != expected:
                wrong.append((" ".join(line), said, expected))
            cases, found = cases + 1, found + (said is not None)
    assert not wrong, (len(wrong), wrong[:30])
    assert cases >= 3000 and found >= 200


@pytest.mark.parametrize(
    "text, letter",
    [
        ("", None),
        ("Answer:", None),
        ("I would think about the rain, and a lot.", None),
        ("The options are A and B.", None),
        (r"So the value is \boxed{\langle H\rangle}." + "\n**Answer: D**", "D"),
        (r"It is \boxed{32}.", None),
        ("The answer is B. Note that A is a common distractor.", "B"),
        ("ANSWER IS D. A is incorrect.", "D"),
        ("The answer is C because a car moves.", "C"),
        ("I would pick B — a safe choice.", None),
        ("Answer: B\n\nWhy: the answer is supported by the passage.", "B"),
        ("Answer: B\nHold on.\nAnswer: C", "C"),
        ("Answer: B\nHold on.\nAnswer: not C", None),
        ("The answer is B. The answer is not A", None),
        ("All of it.\n\n(C)", "C"),
        ("All of it.\n\nC. the rain stops and the snow melts", None),
        ("A. the rain stops\nB. the snow melts", None),
        ("A. the rain stops\nB", None),
        ("A wind rises", "D"),
        ("Answer: A wind rises", "D"),
        ("Answer: A wind falls", None),
        ("Answer: the rain", None),
        ("Answer: the rain stops and the snow", None),
        ("Answer: the rain stops. That follows.", "A"),
        ("Answer: the rain stops and the snow melts", "C"),
        ("Answer: Ⓑ", "B"),
        ("Answer: I", None),
        ("Answer:\n$$\n\\boxed{C}\n$$", "C"),
        ("<think>The answer is A", None),
        ("the answer B", "B"),
        ("The best choice is (A)", "A"),
        ("B", "B"),
        ("b)", "B"),
    ],
)
def test_traps(text, letter):
    for name in CHOICES:
        assert find(name).extract(text, item(name=name)) == letter


def test_options_that_are_letters_numbers_or_the_same():
    assert chosen("Answer: B", ("B", "A")) == "B"  # the letter that the prompt asks for, not the text
    assert chosen("Answer: B. A", ("B", "A")) == "B"
    assert chosen("Answer: 5", ("3", "5")) == "B"
    assert chosen("Answer: B. 5", ("3", "5")) == "B" and chosen("Answer: B. 3", ("3", "5")) is None
    assert chosen("Answer: rain", ("rain", "Rain.")) is None and chosen("Answer: (b) rain", ("rain", "Rain.")) == "B"
    assert chosen("Answer: I", tuple("abcdefghi")) == "I"
    assert chosen("Answer: Option B is right", ("rain", "snow", "Option B is right")) == "C"
    assert chosen("Answer: y", ("x", "y")) == "B" and chosen("Answer: (E)", ("x", "y", "E")) == "C"
    assert chosen("Answer: $x^2$", ("$x$", "$x^2$")) == "B"


@pytest.mark.parametrize("name", CHOICES)
def test_what_the_prompt_asks_for_is_read(name):
    task, problem = find(name), item(name=name)
    prompt = task.prompt(problem)
    assert prompt.startswith("Passage.\n\nQuestion?\nA. the rain stops\nB. the snow melts\n")
    assert prompt.endswith("\nAnswer: X")
    answer = task.extract("So.\n" + prompt.splitlines()[-1].replace("X", "B"), problem)
    assert answer == "B" and task.is_correct(answer, problem)
    assert not task.is_correct("A", problem) and not task.is_correct(None, problem)


def test_a_blank_is_explained():
    task = find("reclor")
    assert "fills the blank" in task.prompt(item(cloze=True)) and "blank" not in task.prompt(item())
    assert task.prompt(item(cloze=True)).endswith("\nAnswer: X")


def test_hidden_answers_and_chance():
    task = find("reclor")
    items = [item(answer=letter) for letter in ("A", "B", "B", "C", None)]
    assert [task.scorable(i) for i in items] == [True] * 4 + [False]
    assert "hidden" in str(task.left_out(items[-1]))
    assert task.chance(items) == 0.5 and task.chance([]) == 0.0 and task.chance(items[-1:]) == 0.0


@pytest.mark.parametrize(
    "piece", ["rain. ", "A or ", "answer is ", "Answer: ", "\\text{", "$", "(", "B. ", "**", "\\boxed{"]
)
def test_a_long_text_of_one_thing_does_not_hang(piece):
    started = time.process_time()
    for text in (piece * 20_000, "Answer: " + piece * 20_000):
        chosen(text, OPTIONS)
    assert time.process_time() - started < 60  # it was minutes, of what grows with the square
