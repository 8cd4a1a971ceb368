"""One JSON object from a teacher's text, or a refusal; never a guess."""

import json
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from igascale.isomers.teacher.json_text import NotJson, parse_object
from igascale.isomers.teacher.latex import AMBIGUOUS, CONTROL, UNICODE

quick = settings(max_examples=100, deadline=None)
# Text without what this module reads otherwise on purpose: control characters that a LaTeX command would leave.
plain = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=40)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | plain,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(plain, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(plain, values, min_size=1, max_size=5)
styles = st.sampled_from([{}, {"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False}])
prose = st.sampled_from(
    [
        "",
        "Here you are:\n",
        "The set {A, B} and {1}: ",
        '<think>\nmaybe {"a": 1}?\n</think>\n',
        "**Answer** [see below] ",
    ]
)
fences = st.sampled_from([("", ""), ("```json\n", "\n```"), ("```\n", "\n```\nHope this helps!")])


@quick
@given(objects, styles, prose, fences)
def test_an_object_is_read_as_written_whatever_stands_around_it(value, style, before, fence):
    text = before + fence[0] + json.dumps(value, **style) + fence[1]
    assert parse_object(text) == value


@quick
@given(objects, styles, st.data())
def test_a_truncated_object_is_never_read(value, style, data):
    text = json.dumps(value, **style)
    end = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(NotJson):
        parse_object(text[:end])


@quick
@given(objects, objects, st.sampled_from(["", "\n", ", ", " or rather ", "\n```\n```json\n"]))
def test_two_objects_are_none(one, other, between):
    with pytest.raises(NotJson, match="2 JSON objects"):
        parse_object(json.dumps(one) + between + json.dumps(other))


@quick
@given(objects)
def test_trailing_commas_are_mended(value):
    text = json.dumps({"v": value, "l": [1, 2]}, indent=1)
    mended = text.replace("\n}", ",\n}").replace("2\n ]", "2 ,\n ]")
    assert parse_object(mended) == {"v": value, "l": [1, 2]}


@pytest.mark.parametrize("text", ['{"a": [,]}', '{"a": [1,,2]}', '{"a": [1,,]}', '{, "a": 1}', '{"a":,}'])
def test_other_commas_are_not(text):
    with pytest.raises(NotJson):
        parse_object(text)


def test_commas_and_braces_in_strings_stay():
    assert parse_object('{"a": "x,]}{", "b": "{\\"c\\": 1,}",}') == {"a": "x,]}{", "b": '{"c": 1,}'}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no JSON object"),
        ("I would rather not.", "no JSON object"),
        ("[1, 2]", "no JSON object"),
        ('[{"a": 1}]', "inside an array"),
        ('{"a": NaN}', "NaN is not JSON"),
        ('{"a": -Infinity}', "Infinity is not JSON"),
        ('{"a": 1e999}', "too large a number"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' stands twice"),
        ('{"a": "\\ud800"}', "surrogate"),
        ('{"steps": [{"a": 1}, {"a": 2}', "never ends"),
        ('{"a": "the end', "never ends"),
        ('{"a": [1}]', "do not match"),
        ("{'a': 1}", "no JSON object"),
        ("{'a': {\"b\": 1}}", "inside braces that are not JSON"),
        ('{a: {"b": 1}}', "inside braces that are not JSON"),
        ('{ /* so */ "a": {"b": 1}}', "inside braces that are not JSON"),
        ('{"a": 1} or {"b": ', "never ends"),
        ('{"a": "\\u12"}', "neither JSON nor LaTeX"),
        ('{"a": "\\1"}', "neither JSON nor LaTeX"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "digits"),
    ],
)
def test_refused_and_why(text, why):
    with pytest.raises(NotJson, match=why):
        parse_object(text)


def test_raw_line_breaks_in_a_string_are_line_breaks():
    assert parse_object('{"a": "one\ntwo\tthree"}') == {"a": "one\ntwo\tthree"}


# LaTeX

commands = st.sampled_from(
    [
        *sorted(CONTROL | UNICODE),
        "alpha",
        "sum",
        "ldots",
        "pi",
        "leq",
        "cdot",
        "mathbb",
        "Delta",
        "(",
        ")",
        "[",
        "%",
        "{",
        "}",
        ",",
    ]
)
formulas = st.lists(
    st.tuples(
        st.sampled_from(["Let ", "x = ", "and 2", " ", "(", "é "]),
        commands,
        st.sampled_from(["{1}{2}", " x", "_2", "", "^2 + 1"]),
    ),
    min_size=1,
    max_size=5,
).map(lambda parts: "".join(f"{before}\\{command}{after} " for before, command, after in parts))


@quick
@given(formulas, styles)
@example("$\\frac{1}{2}$", {})
@example("\\theta \\neq \\nabla \\rho \\beta", {})
def test_latex_reads_the_same_whether_it_was_escaped_or_not(formula, style):
    escaped = json.dumps({"text": formula}, **style)
    forgotten = escaped.replace("\\\\", "\\")
    assert parse_object(escaped) == parse_object(forgotten) == {"text": formula}


@pytest.mark.parametrize("command", sorted(CONTROL))
def test_every_known_command_survives_alone(command):
    assert parse_object(f'{{"a": "x \\{command} y"}}') == {"a": f"x \\{command} y"}


@pytest.mark.parametrize("command", sorted(AMBIGUOUS))
def test_a_command_that_is_a_word_too_is_decided_by_what_stands_around_it(command):
    read = json.loads(f'"\\{command}"')
    assert parse_object(f'{{"a": "so\\{command} = 3"}}') == {"a": f"so{read} = 3"}, "alone: what JSON says"
    assert parse_object(f'{{"a": "$\\{command}$"}}') == {"a": f"$\\{command}$"}, "at once after a dollar"
    assert parse_object(f'{{"a": "x_\\{command} {{\\{command}}}"}}') == {"a": f"x_\\{command} {{\\{command}}}"}
    mixed = parse_object(f'{{"a": "so \\{command} 3", "b": "\\alpha"}}')
    assert mixed == {"a": f"so \\{command} 3", "b": "\\alpha"}, "this teacher does not escape"
    escaped = parse_object(f'{{"a": "so\\{command} 3", "b": "\\\\alpha"}}')
    assert escaped == {"a": f"so{read} 3", "b": "\\alpha"}, "this one does"


def test_line_breaks_and_tabs_before_words_stay():
    for words in (
        "one\\nnext",
        "one\\nNow x",
        "a\\tb",
        "1.\\n2.",
        "a\\r\\nb",
        "x\\nor y",
        "\\nif",
        "\\ttwo",
        "\\n\\nbut",
    ):
        assert parse_object(f'{{"a": "{words}"}}') == json.loads(f'{{"a": "{words}"}}')


def test_a_quote_that_needed_no_backslash_is_a_quote():
    assert parse_object('{"a": "it\\\'s", "b": "so\\nu"}') == {"a": "it's", "b": "so\nu"}


def test_a_command_that_nobody_knows_is_not_silently_damaged():
    with pytest.raises(NotJson, match=r"'\\bogus' looks like a LaTeX command"):
        parse_object('{"a": "\\bogus{1}"}')
    with pytest.raises(NotJson, match=r"'\\fancy'"):
        parse_object('{"a": {"b": ["x", "\\fancy"]}}')


def test_escaped_backslashes_are_left_alone():
    value = {"a": "\\\\ \\n \\b \\f \\frac \\\\frac C:\\temp\\new"}
    assert parse_object(json.dumps(value)) == value


@quick
@given(st.text(max_size=200))
def test_any_text_gives_an_object_or_a_refusal(text):
    with suppress(NotJson):
        assert isinstance(parse_object(text), dict)


def test_thoughts_that_never_end_are_no_answer():
    with pytest.raises(NotJson, match="thoughts"):
        parse_object('<think>\nperhaps {"a": 1}')
    assert parse_object('perhaps {"a": 1}\n</think>\n{"a": 2}') == {"a": 2}, "begun by the chat template"
    assert parse_object('{"a": "</think>"}') == {"a": "</think>"}


def test_a_list_on_new_lines_beside_latex_stays_one():
    text = r'{"a": "Let \(x \ne 3\).\ni) x is odd\nii) x \ni 3\ne) neither\ni. one"}'
    assert parse_object(text) == {"a": "Let \\(x \\ne 3\\).\ni) x is odd\nii) x \\ni 3\ne) neither\ni. one"}
