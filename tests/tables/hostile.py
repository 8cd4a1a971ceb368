"""Tables to break a writer with."""

from hypothesis import strategies as st

from igascale.tables import Cell, Column, Table

TEXTS = [
    "a|b",
    "back\\slash \\| \\\\",
    "[red]not red[/red]",
    "[63, 77]",
    "<script>alert('x')</script> & &amp;",
    "$x_1^2$ 100% #1 ~a~ {b}",
    "=1+1",
    " =cmd|' /C calc'!A0",
    "@SUM(A1)",
    "two\nlines",
    "*bold* _em_ `code` ~~gone~~ [link](http://x) ![i](y) [^1]",
    "unicode 中文 é ± − – λ Δ ▲ ≈ ▼ ² 🙂",
    "\x1b[31mred\x1b[0m \x00 \ud800",
    "--lr -5 -.5 'q' \"d\" `` ''",
    "\\end{tabular} %",
    "trailing \\",
    "**",
    "| --- |",
    "",
]

alphabet = st.sampled_from([*list("ab1 -=+@|\\&<>$%#_{}~^[]()*`'\"!:\n.,"), "中", "±", "−", "–", "λ", "é", "▲"])
texts = st.one_of(st.sampled_from(TEXTS), st.text(alphabet, max_size=12))
numbers = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True), st.integers(-(10**6), 10**6))
cells = st.one_of(
    st.none(),
    texts,
    st.builds(
        Cell,
        text=texts,
        value=numbers,
        low=numbers,
        high=numbers,
        mark=st.sampled_from(["", "?", "†", "|"]),
        emphasis=st.sampled_from(["none", "best", "dim", "bad"]),
        std=numbers,
    ),
)


@st.composite
def tables(draw) -> Table:
    """Any table, rules between its rows included."""
    width = draw(st.integers(1, 4))
    columns = [
        Column(draw(texts), align)
        for align in draw(st.lists(st.sampled_from(["left", "right"]), min_size=width, max_size=width))
    ]
    row = st.one_of(st.just([]), st.lists(cells, min_size=width, max_size=width))
    return Table(draw(texts), columns, draw(st.lists(row, max_size=4)), draw(st.lists(texts, max_size=2)))
