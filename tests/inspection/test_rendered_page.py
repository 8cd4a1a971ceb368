"""The page in a real browser: wide and narrow, light and dark, with JavaScript and without."""

import json

import pytest
from test_group_page import MANIFEST

from igascale.isomers.generator import generate
from igascale.isomers.inspection.page import write_page
from igascale.isomers.inspection.rejections import Rejections
from igascale.isomers.schema import Dag, DagEdge, DagNode

from browser import Browser, needs_browser
from view_cases import HOSTILE, group, hostile

pytestmark = needs_browser

GROUPS = 12
SIZES = [(1280, 900), (390, 844)]


def wide_graph():
    """Forty nodes with long texts, each resting on some of the nine before it."""
    types = ("ENTITY", "RELATION", "CONSTRAINT", "PROPOSITION")
    nodes = [
        DagNode(f"n{i}", types[i % 4], "Wherever MAXIMAL assumptions hold " * (i % 3) + f"p{i}") for i in range(39)
    ]
    nodes.append(DagNode("n39", "GOAL", "一二三四五六七八九十 😀😀 WWWWWWWWWWWWWWWW"))
    edges = [DagEdge(f"n{i - 1 - i * k % min(i, 9)}", f"n{i}", "HAS_PROPERTY") for i in range(6, 40) for k in (1, 2)]
    return Dag(tuple(nodes), tuple(edges))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    entries = [{"seed_id": f"r{n}", "stage": "verify", "reason": "alignment", "problem": HOSTILE} for n in range(30)]
    (folder / "rejected.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    groups = [
        *generate(GROUPS - 3, ["mathematics", "medicine", "law", "science"]),
        group("wide", kind="rules", dag=wide_graph(), cots=("a\nb\nc", "x")),
        group("unbroken", kind="rules", answers=("x" * 300, "H")),
        hostile(),
    ]
    write_page(
        folder / "page.html",
        groups,
        title="set.jsonl",
        shown=lambda: f"all {GROUPS} groups",
        manifest=MANIFEST,
        rejections=Rejections(folder / "rejected.jsonl", limit=30),
        warnings=["a warning"],
    )
    return folder / "page.html"


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


@pytest.fixture
def opened(browser, path):
    pages = []

    def open_page(width=1280, height=900, scheme="light", javascript=True):
        pages.append(browser.open(path, width, height, scheme, javascript))
        # Groups out of sight are laid out when they come into sight; the tests measure all of them.
        pages[-1].evaluate(
            "document.querySelectorAll('article').forEach((a) => { a.style.contentVisibility = 'visible' })"
        )
        return pages[-1]

    yield open_page
    for page in pages:
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_it_renders_in_its_window_and_asks_for_nothing(opened, path, tmp_path, width, height, scheme):
    page = opened(width, height, scheme)
    assert page.console == []
    assert page.requests == [path.as_uri()]
    assert page.evaluate("window.hacked === undefined")
    assert page.evaluate("document.documentElement.scrollWidth") == width  # no sideways scrolling
    bright = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (min(bright) > 240) if scheme == "light" else (max(bright) < 40)
    drawn = page.evaluate("[...document.querySelectorAll('.dag svg')].map((e) => e.getBoundingClientRect().toJSON())")
    assert len(drawn) == GROUPS - 1  # `unbroken` has no graph
    assert all(box["width"] > 100 and box["height"] > 50 for box in drawn)
    assert page.screenshot(tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


def test_columns_stand_side_by_side_with_their_rows_in_line(opened):
    """At 1280 px four columns, and in each row the same height on all of them; at 390 px one under the other."""
    tops = "[...document.querySelectorAll('#g1 .side')].map((e) => Math.round(e.getBoundingClientRect().top))"
    assert len(set(opened(1280).evaluate(tops))) == 1
    assert len(set(opened(390).evaluate(tops))) == 4
    wide = opened(1280)
    for row in (".problem", ".steps li:nth-child(1)", ".steps li:nth-child(2)", ".answer"):
        at = wide.evaluate(
            f"[...document.querySelectorAll('#g1 {row}')].map((e) => Math.round(e.getBoundingClientRect().top))"
        )
        assert len(at) == 4
        assert len(set(at)) == 1, row
    number = GROUPS - 2  # three steps beside one: the answers are in line all the same
    at = wide.evaluate(
        f"[...document.querySelectorAll('#g{number} .answer')].map((e) => e.getBoundingClientRect().top)"
    )
    assert at[0] == at[1]


@pytest.mark.parametrize("width", [1280, 390])
def test_the_texts_of_a_graph_stay_in_their_shapes_and_apart(opened, width):
    page = opened(width)
    outside = page.evaluate(
        """[...document.querySelectorAll('.dag .n')].flatMap((node) => {
          const shape = node.querySelector('rect, polygon').getBoundingClientRect();
          return [...node.querySelectorAll('text')].filter((text) => {
            const box = text.getBoundingClientRect();
            return box.left < shape.left || box.right > shape.right || box.top < shape.top - 1 || box.bottom > shape.bottom + 1;
          }).map((text) => text.textContent);
        })"""
    )
    assert outside == []
    too_wide = page.evaluate(
        """[...document.querySelectorAll('.dag .e')].filter((edge) =>
          edge.querySelector('text').getBBox().width > edge.querySelector('rect').getBBox().width).length"""
    )
    assert too_wide == 0
    smallest = page.evaluate(
        """Math.min(...[...document.querySelectorAll('.dag svg')].map((svg) =>
          svg.getBoundingClientRect().width / svg.viewBox.baseVal.width))"""
    )
    assert smallest >= 0.79  # a graph wider than its frame scrolls in it rather than become too small to read


VISIBLE = "[...document.querySelectorAll('article')].filter((a) => a.checkVisibility()).map((a) => a.querySelector('h2').textContent)"


def test_search_kind_and_domain_filter(opened):
    page = opened()

    def found():
        entries = page.evaluate("[...document.querySelectorAll('#list li')].filter((e) => e.checkVisibility()).length")
        names = page.evaluate(VISIBLE)
        assert entries == len(names)
        return names, page.evaluate("document.getElementById('found').textContent")

    assert len(found()[0]) == GROUPS
    page.evaluate("document.getElementById('text').focus()")
    for key in "Foreign":
        page.press(key)
    names, said = found()
    assert "wide" in names
    assert "evil" not in names
    assert said == f"{len(names)} of the {GROUPS} groups on this page"
    page.evaluate(
        "(() => { const k = document.getElementById('kind'); k.value = 'rules'; k.dispatchEvent(new Event('change')) })()"
    )
    rules = found()[0]
    assert 2 <= len(rules) <= len(names)
    assert {"wide", "unbroken"} <= set(rules)
    columns = "[...document.querySelectorAll('#g1 .side')].filter((e) => !e.hidden).map((e) => e.dataset.domain)"
    assert page.evaluate(columns) == ["mathematics", "medicine", "law", "science"]
    page.evaluate("document.querySelector('#domains input[value=law]').click()")
    assert page.evaluate(columns) == ["mathematics", "medicine", "science"]
    assert page.console == []


def test_own_words_can_be_shown_without_colour(opened):
    page = opened()
    colour = "getComputedStyle(document.querySelector('#g1 .problem i')).color"
    ink = page.evaluate("getComputedStyle(document.querySelector('#g1 .problem')).color")
    assert page.evaluate(colour) != ink
    page.evaluate("document.getElementById('mark').click()")
    assert page.evaluate(colour) == ink


def test_keys_go_from_group_to_group(opened):
    page = opened()
    top = "[...document.querySelectorAll('article')].findIndex((a) => Math.abs(a.getBoundingClientRect().top) < 40) + 1"
    for key, place in (("j", 1), ("j", 2), ("j", 3), ("k", 2), ("k", 1), ("k", 1)):
        page.press(key)
        assert page.evaluate(top) == place


@pytest.mark.parametrize("width", [1280, 390])
def test_it_is_a_plain_document_without_javascript(opened, width):
    page = opened(width, javascript=False)
    assert page.console == []
    assert len(page.evaluate(VISIBLE)) == GROUPS
    assert not page.evaluate("document.getElementById('filter').checkVisibility()")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    colours = page.evaluate("['.problem', '.problem i'].map((s) => getComputedStyle(document.querySelector(s)).color)")
    assert colours[0] != colours[1]
