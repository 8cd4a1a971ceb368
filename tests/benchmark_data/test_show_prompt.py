"""``igascale data benchmark NAME SOURCE --show-prompt N --score FILE``: what is asked, and what an answer is worth."""

import pytest
from click.testing import CliRunner

from igascale.cli import main

from published_files import arb_folder, logiqa_folder, math_tree, reclor_folder

MAKERS = {"arb": arb_folder, "logiqa2": logiqa_folder, "math": math_tree, "reclor": reclor_folder}


def invoke(*arguments, stdin=None, status=0):
    result = CliRunner().invoke(main, ["data", "benchmark", *map(str, arguments)], input=stdin)
    assert result.exit_code == status, (result.output, result.exception)
    return result.output if status == 0 else result.output.splitlines()[-1]


def refused(*arguments):
    return invoke(*arguments, status=2)


@pytest.mark.parametrize("name", MAKERS)
def test_the_right_answer_in_the_form_that_is_asked_for_is_right(name, tmp_path):
    source = MAKERS[name](tmp_path)
    source = source / "train.json" if name == "reclor" else source
    shown = invoke(name, source, "--show-prompt", 1)
    prompt, expected = shown.split("--- prompt of ")[1].split("\n---\n")
    assert "Think step by step" in prompt and "version 1" in prompt.splitlines()[0]
    answer = expected.removeprefix("expected: ").rpartition(" (")[0]
    form = prompt.splitlines()[-1]
    assert form.startswith("Answer: ") and "X" in form
    said = invoke(name, source, "--show-prompt", 1, "--score", "-", stdin="So:\n" + form.replace("X", answer))
    assert said.endswith(f"read from the text: {answer}\nright\n")
    file = tmp_path / "reply.txt"
    file.write_text("Answer: five and six")
    assert "a parse failure and wrong" in invoke(name, source, "--show-prompt", 1, "--score", file) or name == "math"


def test_a_wrong_answer_and_a_hidden_one(tmp_path):
    source = reclor_folder(tmp_path)
    shown = invoke("reclor", source, "--subset", "val", "--show-prompt", 1, "--score", "-", stdin="Answer: D")
    assert shown.endswith("expected: A (choice)\nread from the text: D\nwrong\n")
    shown = invoke("reclor", source, "--subset", "test", "--show-prompt", 1, "--score", "-", stdin="Answer: D")
    assert shown.endswith("not scored: its answer is hidden\nread from the text: D\n")


def test_refusals(tmp_path):
    source = reclor_folder(tmp_path)
    assert "--score goes with --show-prompt" in refused("reclor", source, "--score", "-")
    assert "problems are selected; the first is 1" in refused("reclor", source, "--show-prompt", 0)
    assert "--show-prompt 99: " in refused("reclor", source, "--show-prompt", 99)
    assert "No such file" in refused("reclor", source, "--show-prompt", 1, "--score", tmp_path / "none")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    assert "is not UTF-8 text" in refused("reclor", source, "--show-prompt", 1, "--score", tmp_path / "bytes")
    assert "--show-prompt needs a path" in refused("reclor", "--show-prompt", 1)


def test_duplicates_between_dev_and_test_of_logiqa_are_told(tmp_path):
    from published_files import logiqa_question, write_lines

    folder = tmp_path / "LOGIQA"
    write_lines(folder / "dev.txt", [logiqa_question(n) for n in range(4)])
    write_lines(folder / "test.txt", [logiqa_question(n, id=200 + n) for n in range(2, 7)])
    assert "note: dev and test share 2 problems: same question, 2 of them with the same options" in invoke(
        "logiqa2", folder
    )
