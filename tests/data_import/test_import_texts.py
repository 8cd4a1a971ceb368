"""Prompt, solution and answer of a row: each way to write them, and each conflict."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igascale.data_import.answers import last_boxed, scorable
from igascale.data_import.columns import Columns
from igascale.data_import.texts import BadRow, TextReader, Texts
from igascale.evaluation.answers import extract_answer, is_correct
from igascale.isomers.encode import completion_text
from igascale.isomers.schema import Instance


def read(row, columns, **options):
    reader = TextReader(Columns("domain", "group", **columns), **options)
    return reader.read(row), reader.notes()


PAIR = {"prompt": "p", "completion": "c"}


@pytest.mark.parametrize(
    ("completion", "cot", "answer", "said"),
    [
        ("Because.\nAnswer: 42", "Because.", "42", "a last line 'Answer: ...'"),
        ("Answer: the bank.  \n\n", "", "the bank.", "a last line 'Answer: ...'"),
        ("Answer: no\nWait.\n  Answer: yes", "Answer: no\nWait.", "yes", "a last line 'Answer: ...'"),
        ("48/2 = 24\n#### 24", "48/2 = 24", "24", "a last line '#### ...'"),
        (r"So \boxed{\frac{1}{2}}.", r"So \boxed{\frac{1}{2}}.", r"\frac{1}{2}", r"\boxed{}; the solution keeps it"),
        ("So.\n**Answer:** 7", "So.", "7", "a last line 'Answer: ...'"),
        ("So.\n**Answer: 7**", "So.", "7", "a last line 'Answer: ...'"),
        ("So.\n**Final Answer**: **7**", "So.", "7", "a last line 'Answer: ...'"),
        ("So.\n## final answer: x*y", "So.", "x*y", "a last line 'Answer: ...'"),
        ("So.\nanswer: 7", "So.", "7", "a last line 'Answer: ...'"),
        ("We add.\nAnswer: \\boxed{7}", "We add.", "7", "a last line 'Answer: ...'"),
        ("We add.\n#### $\\boxed{7}$.", "We add.", "7", "a last line '#### ...'"),
        (
            "First \\boxed{3} is the intermediate value.\nThen add four.\nFinal Answer: 7",
            "First \\boxed{3} is the intermediate value.\nThen add four.",
            "7",
            "a last line 'Answer: ...'",
        ),
        ("We get \\boxed{3} first.\n**Answer:** 7", "We get \\boxed{3} first.", "7", "a last line 'Answer: ...'"),
        (
            "So \\boxed{3}.\nThe answer is $3$, as wanted.",
            "So \\boxed{3}.\nThe answer is $3$, as wanted.",
            "3",
            r"\boxed{}; the solution keeps it",
        ),
        (r"\boxed{1}, no, \boxed{2}", r"\boxed{1}, no, \boxed{2}", "2", r"\boxed{}; the solution keeps it"),
    ],
)
def test_the_answer_in_a_completion(completion, cot, answer, said):
    texts, notes = read({"p": "Q?", "c": completion}, PAIR)
    assert texts == Texts("Q?", cot, answer)
    assert len(notes) == 1 and notes[0].startswith("1 rows: ") and said in notes[0]


@given(
    st.text("ab .\n:#", max_size=20).map(str.strip), st.text("xy 1", min_size=1, max_size=8).map(str.strip).filter(bool)
)
def test_what_training_writes_is_read_back(cot, answer):
    completion = completion_text(Instance("d", "p", cot, answer))
    assert read({"p": "Q?", "c": completion}, PAIR)[0] == Texts("Q?", cot, answer)


@pytest.mark.parametrize(
    "completion",
    [
        "42",
        "The answer: 42",
        "Answer:",
        "Answer: 42\nThat was it.",
        r"\boxed{1",
        r"\boxed{}",
        "#### \n",
        "**Answer:**\n7",
    ],
)
def test_no_answer_is_a_bad_row(completion):
    with pytest.raises(BadRow, match="no answer in the completion"):
        read({"p": "Q?", "c": completion}, PAIR)


@pytest.mark.parametrize(
    ("after", "other"),
    [
        (".\nAnswer: 7\nThat is it.", "7"),
        (".\n**Final answer:**\n7", "7"),
        (". So the answer is 30.", "30."),
        (". The answer to the question is 7", "7"),
        (".\n#### 7\nThat is it.", "7"),
    ],
)
def test_another_answer_after_the_last_box_is_a_bad_row(after, other):
    with pytest.raises(BadRow, match=rf"the last \\boxed{{}} says '3', and after it stands the answer '{other}'"):
        read({"p": "Q?", "c": r"Wrong guess \boxed{3}" + after}, PAIR)


def test_a_sentence_about_the_answer_is_a_bad_row():
    with pytest.raises(BadRow, match=r"is a sentence about the answer \('The final answer is \$7\$\. I hope"):
        read({"p": "Q?", "c": "So.\nFinal Answer: The final answer is $7$. I hope it is correct."}, PAIR)


def test_headings_after_the_box_are_no_answers():
    completion = "So \\boxed{3}.\n#### Check\nIt fits.\n#### 2. Units\nNone."
    assert read({"p": "Q?", "c": completion}, PAIR)[0].answer == "3"


def test_a_pattern_of_ones_own():
    row = {"p": "Q?", "c": "First (A). The answer is (B)."}
    texts, notes = read(row, PAIR, pattern=re.compile(r"The answer is \((\w)\)\."))
    assert texts == Texts("Q?", "First (A).", "B")
    texts, notes = read(row, PAIR, pattern=re.compile(r"\(\w\)"))
    assert texts == Texts("Q?", row["c"], "(B)")  # "." follows: nothing is cut off
    assert "in the text, which keeps it" in notes[0]
    with pytest.raises(BadRow, match=r"--answer-pattern x\+ is not found"):
        read(row, PAIR, pattern=re.compile("x+"))
    with pytest.raises(BadRow, match="the answer that the pattern finds is empty"):
        read(row, PAIR, pattern=re.compile("First( )"))


ANSWERED = {"prompt": "p", "completion": "c", "answer": "a"}


def test_an_answer_column():
    assert read({"p": "Q", "c": "Because.", "a": 42}, ANSWERED)[0] == Texts("Q", "Because.", "42")
    assert read({"p": "Q", "c": "Because.\nAnswer: 42.", "a": "42"}, ANSWERED)[0] == Texts("Q", "Because.", "42")
    assert read({"p": "Q", "c": "B.", "a": "B"}, ANSWERED)[0] == Texts("Q", "", "B")
    assert read({"p": "Q", "c": None, "a": 1.5}, ANSWERED)[0] == Texts("Q", "", "1.5")
    with pytest.raises(BadRow, match="column 'a' says '42', the completion's last line '43'"):
        read({"p": "Q", "c": "Because.\n#### 43", "a": "42"}, ANSWERED)
    with pytest.raises(BadRow, match="the answer has several lines"):
        read({"p": "Q", "c": "x", "a": "42\n43"}, ANSWERED)
    for value, kind in ((True, "a boolean"), (None, "nothing"), ([], "a list")):
        with pytest.raises(BadRow, match=f"column 'a': expected text, not {kind}"):
            read({"p": "Q", "c": "x", "a": value}, ANSWERED)


@pytest.mark.parametrize(
    ("completion", "answer", "message"),
    [
        (r"So \boxed{3}.", "7", r"column 'a' says '7', the completion's last \boxed{} '3'"),
        (r"thus \boxed{12}", 1, r"column 'a' says '1', the completion's last \boxed{} '12'"),
        ("2 * 2 * 2\n#### 2**3", "23", "column 'a' says '23', the completion's last line '2**3'"),
        ("So.\nFinal Answer: 3", "7", "column 'a' says '7', the completion's last line '3'"),
        ("So.\nAnswer: 3\nThat is it.", "7", "column 'a' says '7', the completion's last marked answer '3'"),
        (
            "So \\boxed{7}.\nThe answer is 3.",
            "7",
            r"column 'a' says '7', and the completion after its last \boxed{} '3.'",
        ),
    ],
)
def test_a_completion_that_contradicts_the_answer_column(completion, answer, message):
    with pytest.raises(BadRow, match=re.escape(message)):
        read({"p": "Q", "c": completion, "a": answer}, ANSWERED)


def test_one_answer_written_in_two_ways_is_no_contradiction():
    for completion, answer in (
        (r"So \boxed{\dfrac{1}{2}}.", r"\frac{1}{2}"),
        (r"So \boxed{\text{(B)}}.", "B"),
        (r"So $\boxed{1,024}$.", "1024"),
        ("So.\nAnswer: no\nWait.\nAnswer: it is yes.\nGood.", "yes"),
    ):
        assert read({"p": "Q", "c": completion, "a": answer}, ANSWERED)[0] == Texts("Q", completion, answer)


def test_what_stands_around_the_answer_column_is_taken_off_aloud():
    for value in ("Answer: 5", "#### 5", r"\boxed{5}", "**Answer:** 5", r"Answer: $\boxed{5}$."):
        texts, notes = read({"p": "Q", "c": "So.", "a": value}, ANSWERED)
        assert texts.answer == "5" and "is taken off" in notes[0]


@pytest.mark.parametrize("answer", ["...", "x Answer: 5", "1\x0b2", '""'])
def test_answers_that_nobody_could_give_are_bad_rows(answer):
    for row, columns in (
        ({"p": "Q", "c": "So.", "a": answer}, ANSWERED),
        ({"p": "Q", "c": f"So.\n#### {answer}"}, PAIR),
    ):
        with pytest.raises(BadRow, match=r"no model could be scored right on the answer|has several lines"):
            read(row, columns)


@given(
    st.text("aB1.\"' \n\x0b\u2028", max_size=8)
    | st.sampled_from(["Answer: 5", "x Answer:", "answer: 5", "'Answer: 5'"])
)
def test_an_answer_is_taken_if_and_only_if_it_can_be_scored(answer):
    said = extract_answer(completion_text(Instance("d", "p", "So.", answer)))
    assert scorable(answer) == is_correct(said, answer)


def test_a_solution_column():
    columns = {"prompt": "p", "completion": "c", "cot": "t"}
    assert read({"p": "Q", "c": "Answer: 1", "t": "Because."}, columns)[0] == Texts("Q", "Because.", "1")
    assert read({"p": "Q", "c": "Because.\nAnswer: 1", "t": "Because."}, columns)[0] == Texts("Q", "Because.", "1")
    assert (
        read({"p": "Q", "t": "Because.\nAnswer: 1", "a": "1"}, {"prompt": "p", "cot": "t", "answer": "a"})[0].cot
        == "Because."
    )
    with pytest.raises(BadRow, match="column 'c' says '1', column 't''s last line '2'"):
        read({"p": "Q", "c": "Answer: 1", "t": "Because.\nAnswer: 2"}, columns)
    with pytest.raises(BadRow, match="columns 't' and 'c' hold two different solutions"):
        read({"p": "Q", "c": "Why not?\nAnswer: 1", "t": "Because."}, columns)


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


SYSTEM = {"role": "system", "content": "Be brief."}
CHAT = {"messages": "m"}


def test_messages():
    assert read({"m": [user("Q"), assistant("B.\nAnswer: 1")]}, CHAT)[0] == Texts("Q", "B.", "1")
    shared = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "Answer: 1"}]
    assert read({"m": shared}, CHAT)[0] == Texts("Q", "", "1")
    filled = {
        "images": [],
        "tool_calls": None,
        "reasoning": "",
        "audio": {"path": None},
        "name": "x",
        "id": 1,
        "weight": 1,
    }
    assert read({"m": [user("Q") | filled, assistant("Answer: 1")]}, CHAT)[0] == Texts("Q", "", "1")
    table = [{"role": None, "content": None} | message for message in shared]
    assert read({"m": table}, CHAT)[0] == Texts("Q", "", "1")
    parts = [user([{"type": "text", "text": "Q"}, {"type": "text", "text": "R"}]), assistant("Answer: 1")]
    assert read({"m": parts}, CHAT)[0].problem == "Q\nR"


def test_an_instruction_and_its_input_are_one_problem_aloud():
    columns = {"prompt": "instruction", "completion": "output", "input": "input"}
    row = {"instruction": "Add these.\n", "input": "2 and 3", "output": "Answer: 5"}
    texts, notes = read(row, columns)
    assert texts.problem == "Add these.\n\n2 and 3"
    assert "1 rows: column 'input' stands after the instruction, as part of the problem" in notes
    texts, notes = read(row | {"input": ""}, columns)
    assert texts.problem == row["instruction"] and len(notes) == 1
    with pytest.raises(BadRow, match="column 'input' beside messages would be lost"):
        read(row | {"instruction": [user("Q")]}, columns)


def test_two_halves_of_a_conversation():
    assert read({"p": [SYSTEM, user("Q")], "c": [assistant("Answer: 1")]}, PAIR)[0] == Texts("Be brief.\n\nQ", "", "1")
    assert read({"p": [user("Q")], "a": "1"}, {"prompt": "p", "answer": "a"})[0] == Texts("Q", "", "1")


def test_a_system_message_is_kept_or_left_out_aloud():
    row = {"m": [SYSTEM, user("Q"), assistant("Answer: 1")]}
    texts, notes = read(row, CHAT)
    assert texts.problem == "Be brief.\n\nQ"
    assert "1 rows: the system message stands before the problem (--system prepend)" in notes
    texts, notes = read(row, CHAT, system="drop")
    assert texts.problem == "Q"
    assert "1 rows: the system message is left out (--system drop)" in notes


def test_several_turns_are_refused_or_joined_aloud():
    row = {"m": [user("Q"), assistant("Which?"), user("This."), assistant("Answer: 1")]}
    with pytest.raises(BadRow, match=r"3 messages before the last answer; a problem is told in one\. --turns join"):
        read(row, CHAT)
    texts, notes = read(row, CHAT, turns="join")
    assert texts == Texts("User: Q\n\nAssistant: Which?\n\nUser: This.", "", "1")
    assert "earlier turns are part of the problem" in notes[0]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([user("Q")], "the last message is not the assistant's"),
        ([], "the last message is not the assistant's"),
        ([assistant("Answer: 1")], "no message of the user"),
        ([SYSTEM, assistant("Answer: 1")], "no message of the user"),
        ("text", "the last message is not the assistant's"),
        (7, "column 'm': expected a list of messages, not int"),
        ([user("Q"), "x"], "column 'm', message 2: expected an object with role and content, not a text"),
        ([user("Q"), {"role": "tool", "content": "x"}, assistant("Answer: 1")], "message 2: role 'tool'"),
        ([user("Q"), assistant("Answer: 1", tool_calls=[1])], "message 2: 'tool_calls' would be lost"),
        ([user("Q"), assistant("Answer: 1", reasoning_content="so")], "message 2: 'reasoning_content' would be lost"),
        ([user("Q"), assistant("Answer: 1", reasoning="so")], "message 2: 'reasoning' would be lost"),
        ([user("Q") | {"images": ["a.png"]}, assistant("Answer: 1")], "message 1: 'images' would be lost"),
        ([user("Q") | {"value": "R"}, assistant("Answer: 1")], "message 1: 'content' and 'value' differ"),
        (
            [user([{"type": "image", "url": "x"}]), assistant("Answer: 1")],
            "message 1: holds something that is not text",
        ),
        (
            [user([{"type": "text", "text": "Q", "image": "x"}]), assistant("Answer: 1")],
            "message 1: holds something that is not text",
        ),
        ([user(None), assistant("Answer: 1")], "message 1: expected text, not nothing"),
    ],
)
def test_messages_that_cannot_be_taken(messages, message):
    with pytest.raises(BadRow, match=re.escape(message)):
        read({"m": messages}, CHAT)


def test_braces_are_balanced():
    assert last_boxed(r"\boxed{a{b}c}d}") == "a{b}c"
    assert last_boxed("none") is None
