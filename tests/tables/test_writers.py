"""Every writer against another reader of its format: what stands in the table comes out, and nothing else."""

import csv
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from markdown_it import MarkdownIt
from rich.console import Console

from igascale.tables import (
    MISSING,
    Cell,
    Column,
    Table,
    emphasise_best,
    number,
    to_csv,
    to_html,
    to_json,
    to_latex,
    to_markdown,
    to_rich,
)
from igascale.tables.table import clean

from hostile import TEXTS, tables

many = settings(max_examples=80, deadline=None)


def shown(cell: Cell | str | None) -> str:
    """What a reader should see, said again in other words."""
    if cell is None:
        return MISSING
    text = cell if isinstance(cell, str) else cell.text + cell.mark
    return clean(text).strip()


def squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def body(table: Table) -> list[list[str]]:
    return [[squeezed(shown(cell)) for cell in row] for row in table.rows if row]


# Markdown, read by markdown-it with the rules of GitHub's tables.


def read_markdown(text: str) -> tuple[list[str], list[list[str]], list[str]]:
    rows, paragraphs, inside = [], [], False
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text):
        assert token.type not in (
            "heading_open",
            "bullet_list_open",
            "ordered_list_open",
            "hr",
            "html_block",
            "fence",
        ), text
        if token.type == "table_open":
            inside = True
        elif token.type == "table_close":
            inside = False
        elif token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            content = "".join(" " if child.content == "<br>" else child.content for child in token.children)
            assert {child.type for child in token.children} <= {"text", "html_inline", "strong_open", "strong_close"}, (
                text
            )
            assert all(child.content == "<br>" for child in token.children if child.type == "html_inline")
            (rows[-1] if inside else paragraphs).append(squeezed(content))
    return rows[0], rows[1:], paragraphs


@many
@given(tables())
def test_markdown(table):
    heads, rows, paragraphs = read_markdown(to_markdown(table))
    assert heads == [squeezed(shown(column.name)) for column in table.columns]
    assert rows == body(table)
    titled = [table.title] if table.title.strip() else []
    assert paragraphs == [squeezed(shown(text)) for text in titled + table.notes if squeezed(shown(text))]


# HTML, read by the standard library's parser.


class Reader(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.rows, self.tags, self.text, self.values = [], [], [], []

    def handle_starttag(self, tag, attributes):
        if tag == "br":
            self.text.append("\n")
            return
        names = dict(attributes)
        assert tag in ["figure", "table", "caption", "thead", "tbody", "tr", "th", "td", "figcaption", "p"]
        assert set(names) <= {"class", "scope", "data-value"}
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th", "caption", "p"):
            self.text = []
            self.values.append(names.get("data-value"))

    def handle_data(self, data):
        self.text.append(data)

    def handle_endtag(self, tag):
        assert self.tags.pop() == tag
        if tag in ("td", "th"):
            self.rows[-1].append(squeezed("".join(self.text)))


@many
@given(tables())
def test_html(table):
    reader = Reader()
    reader.feed(to_html(table))
    reader.close()
    assert not reader.tags
    assert reader.rows[0] == [squeezed(clean(column.name)) for column in table.columns]
    assert reader.rows[1:] == body(table)


# LaTeX: there is no TeX here, so a small reader of the few things that are written.

_COMMANDS = {
    r"\textbackslash": "\\",
    r"\textasciitilde": "~",
    r"\textasciicircum": "^",
    r"\textless": "<",
    r"\textgreater": ">",
    r"\textbar": "|",
    r"\textasciigrave": "`",
    r"\textquotesingle": "'",
    r"\textquotedbl": '"',
    r"\pm": "±",
    r"\lambda": "λ",
    r"\Delta": "Δ",
    r"\approx": "≈",
    r"\blacktriangle": "▲",
    r"\blacktriangledown": "▼",
    r"\textbf": "",
    r"\textit": "",
    r"\dag": "†",
    r"\textendash": "–",
}


def read_latex_row(line: str) -> list[str]:
    """Cells of a row; fails on anything that TeX would take for something else."""
    assert line.endswith(r" \\") and not line.startswith(("[", "*"))
    cells, depth, maths, text, at = [], 0, False, "", 0
    line = line.removesuffix(r" \\").replace("~", " ")
    while at < len(line):
        found = re.compile(r"\\[A-Za-z]+|\\.|.").match(line, at)
        token, at = found[0], found.end()
        if token in ("{", "}"):
            depth += 1 if token == "{" else -1
            assert depth >= 0, line
        elif token == "$":
            maths = not maths
        elif token == "&":
            assert depth == 0 and not maths, line
            cells.append(text)
            text = ""
        elif token in _COMMANDS:
            text += _COMMANDS[token]
        elif token == "^":
            assert maths, line
            text += {"2": "²", "3": "³"}[line[at]]
            at += 1
        elif maths and token == "-":
            text += "−"
        else:
            assert not line.startswith("-", at) or token != "-", line  # would join into a dash
            assert (
                token[0] == "\\" and token[1:] in "{}$&#_%"
                if len(token) == 2
                else token not in "#_%~^\\<>|\"'`" and (token not in "[]" or depth)
            ), line
            text += token[-1]
    assert depth == 0 and not maths, line
    return [squeezed(cell) for cell in [*cells, text]]


def signs(text: str) -> str:
    """The minus that stands for a hyphen in numbers."""
    return text.replace("−", "-")


@many
@given(tables())
def test_latex(table):
    lines = to_latex(table).splitlines()
    columns = "".join(column.align[0] for column in table.columns)
    start, end = lines.index(rf"\begin{{tabular}}{{{columns}}}"), lines.index(r"\end{tabular}")
    inner = lines[start + 1 : end]
    assert inner[0] == r"\toprule" and inner[2] == r"\midrule" and inner[-1] == r"\bottomrule"
    read = [read_latex_row(line) for line in inner if line not in (r"\toprule", r"\midrule", r"\bottomrule")]
    assert [[signs(cell) for cell in row] for row in read] == [
        [signs(cell) for cell in row] for row in [[squeezed(clean(c.name)) for c in table.columns], *body(table)]
    ]
    for line in lines[:start] + lines[end:]:
        unescaped = re.sub(r"\\.", "", line)
        assert unescaped.count("{") == unescaped.count("}")
        assert line.startswith("%") or "%" not in unescaped


# CSV, read by the standard library's reader.


@many
@given(tables())
def test_csv_gives_the_numbers_back(table):
    rows = list(csv.reader(io.StringIO(to_csv(table), newline="")))
    width = len(rows[0])
    assert [len(row) for row in rows[1:]] == [width] * len(body(table))
    told = [row for row in table.grid() if row]
    at = 0
    for i, column in enumerate(table.columns):
        cells = [row[i] for row in told]
        extras = [n for n in ("low", "high", "std", "mark") if any(getattr(c, n) not in (None, "") for c in cells)]
        for offset, name in enumerate(["value", *extras]):
            header = rows[0][at + offset]
            expected = clean(column.name if name == "value" else f"{column.name} {name}")
            assert header in (expected, f"'{expected}")
            for row, cell in zip(rows[1:], cells):
                value = getattr(cell, name)
                if isinstance(value, (int, float)):
                    assert float(row[at + offset]) == value
                elif name == "value":
                    text = "" if cell.text == MISSING else clean(cell.text)
                    assert row[at + offset] in (text, f"'{text}")
        at += 1 + len(extras)
    assert at == width


@pytest.mark.parametrize("text", ["=1+1", "+1+1", "-1+cmd", "@A1", " =1", "\t=1", "\n=1", "＝1"])
def test_csv_runs_no_formula(text):
    row = next(csv.reader(io.StringIO(to_csv(Table("", [Column("x")], [[text]])).split("\n", 1)[1], newline="")))
    assert row[0].startswith("'")


def test_csv_leaves_numbers_numbers():
    assert (
        to_csv(Table("", [Column("x")], [["-5"], [Cell("+0.0", -0.0123456789012345)]]))
        == "x\n-5\n-0.0123456789012345\n"
    )


# The terminal.


@many
@given(tables())
def test_rich_shows_every_text(table):
    console = Console(file=io.StringIO(), width=1000, color_system=None)
    console.print(to_rich(table))
    printed = console.file.getvalue()
    assert "\x1b" not in printed
    assert all(line.strip() in printed for row in table.grid() for cell in row for line in cell.shown.splitlines())
    for text in [table.title, *table.notes]:  # wrapped to the table's width
        assert "".join(clean(text).split()) in "".join(printed.split())


def test_rich_keeps_the_emphasis():
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard")
    console.print(
        to_rich(Table("", [Column("x")], [[Cell("more", 1.0, emphasis="best")], [Cell("down", emphasis="bad")]]))
    )
    assert "\x1b[1mmore" in console.file.getvalue() and "\x1b[31mdown" in console.file.getvalue()


# JSON.


@many
@given(tables())
def test_json(table):
    read = json.loads(to_json(table), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert read["title"] == table.title and read["notes"] == table.notes
    for told, row in zip(table.rows, read["rows"], strict=True):
        for cell, record in zip(told, row, strict=True):
            assert (cell is None) == (record is None)
            if isinstance(cell, Cell):
                assert Cell(**record) == cell


# What all share.


@pytest.mark.parametrize("write", [to_csv, to_html, to_json, to_latex, to_markdown, to_rich])
def test_a_row_of_the_wrong_length_is_an_error(write):
    with pytest.raises(ValueError, match="table 'T': row 2 has 1 cells for 2 columns"):
        write(Table("T", [Column("a"), Column("b")], [["1", "2"], ["3"]]))


@pytest.mark.parametrize("write", [to_csv, to_html, to_json, to_latex, to_markdown])
def test_every_hostile_text_can_be_encoded(write):
    table = Table(TEXTS[0], [Column(text) for text in TEXTS], [list(TEXTS)], TEXTS)
    written = write(table).encode("utf-8")
    assert b"\x1b" not in written and b"\x00" not in written


def test_numbers():
    assert number(None) is None
    assert number(float("nan")) == Cell("not finite", emphasis="bad")
    assert number(70.5, low=63.2, high=76.8, before="▲ ").text == "▲ 70.5 [63, 77]"
    assert number(-0.04, sign=True).text == "+0.0" and number(-0.04, sign=True).value == -0.04
    assert number(12.345, 2, std=0.5, mark="?").shown == "12.35 ± 0.50?" or number(12.345, 2).text == "12.35"


def test_the_best_of_a_column():
    rows = [[number(1.0)], [number(3.0)], [], [number(3.0)], [number(9.0, emphasis="dim")], [None], ["text"]]
    best = emphasise_best(Table("", [Column("x")], rows), "x")
    assert [row[0].emphasis for row in best.grid() if row] == ["none", "best", "best", "dim", "none", "none"]
    least = emphasise_best(Table("", [Column("x")], rows), "x", largest=False)
    assert [row[0].emphasis for row in least.grid() if row] == ["best", "none", "none", "dim", "none", "none"]
    assert rows[1][0].emphasis == "none"
    close = emphasise_best(Table("", [Column("x")], [[number(1.01)], [number(1.02)], [number(0.5)]]), "x")
    assert [row[0].emphasis for row in close.grid()] == ["best", "best", "none"]  # printed alike
    with pytest.raises(ValueError, match="no column 'y'; it has x"):
        emphasise_best(Table("", [Column("x")], rows), "y")


def test_one_value_is_not_the_best_of_anything():
    for rows in ([[number(1.0)], [None]], [[number(1.0)], [number(1.0)]], [[number(1.01)], [number(1.02)]], []):
        table = Table("", [Column("x")], rows)
        assert emphasise_best(table, "x") == table


def test_tables_need_no_large_library():
    code = "import igascale.tables, sys; print([m for m in ('torch', 'pandas', 'numpy', 'rich') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
