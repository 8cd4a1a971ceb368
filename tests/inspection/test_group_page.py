"""The HTML page as text: everything is in it, nothing in it acts, and it needs nothing else."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from igascale.errors import UserError
from igascale.isomers.generator import generate
from igascale.isomers.inspection.page import write_page
from igascale.isomers.inspection.rejections import Rejections
from igascale.isomers.schema import Dag, DagNode

from view_cases import HOSTILE, HOSTILE_SHOWN, chain, group, hostile

VOID = {"meta", "input", "br", "hr", "img", "link"}
MANIFEST = {
    "teacher": "some-model",
    "yield": 0.785,
    "mean_alignment": 0.93125,
    "cost_usd": 41.3,
    "stages": [
        {"stage": "bank", "left": 1000, "meaning": "read from the bank", "rejected": {}},
        {"stage": "extract", "left": 900, "meaning": "logical structure extracted", "rejected": {"reply_length": 100}},
        {"stage": "verify", "left": 785, "meaning": "verified in every domain", "rejected": {"alignment": 115}},
    ],
    "files": {"groups.jsonl": {"sha256": "ab12"}},
    "odd": [{"a": 1}, {"b": [1, 2]}],
    HOSTILE: HOSTILE,
}


class Document(HTMLParser):
    """The elements of a page, and its text as a reader sees it; it insists on well-formed nesting."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.text, self.open, self.script = [], "", [], ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            self.script += data
        elif self.open[-1:] != ["style"]:
            self.text += data

    def all(self, tag, **attributes):
        return [a for t, a in self.elements if t == tag and all(a.get(k) == v for k, v in attributes.items())]


def page(tmp_path, groups, **options):
    path = tmp_path / "page.html"
    options = {"title": "set.jsonl", "shown": lambda: "all that there is", **options}
    count = write_page(path, groups, **options)
    return count, Document(path.read_text(encoding="utf-8"))


def test_every_text_of_every_group_is_on_the_page(tmp_path):
    groups = generate(6, ["law", "science", "medicine"])
    count, document = page(tmp_path, groups)
    assert count == 6
    for one in groups:
        for text in (one.id, one.seed_id, one.kind, one.dag.logical_form):
            assert text in document.text
        for instance in one.instances:
            assert instance.problem in document.text
            assert all(step in document.text for step in instance.cot.splitlines())
        for node in one.dag.nodes:
            assert f"{node.id} ({node.type}): {node.text}" in document.text
    assert len(document.all("article")) == len(document.all("figure")) == 6
    assert [a["data-kind"] for a in document.all("article")] == [one.kind for one in groups]
    assert len([a for t, a in document.elements if (a.get("class") or "").startswith("e e-")]) == sum(
        len(one.dag.edges) for one in groups
    )
    assert "all that there is" in document.text
    drawn = re.findall(r'<text class="a"[^>]*>([^<]+)</text>', (tmp_path / "page.html").read_text())
    assert drawn == [edge.label.replace("_", " ").lower() for one in groups for edge in one.dag.edges]


def test_columns_have_a_row_for_every_step_of_the_longest_solution(tmp_path):
    _, document = page(tmp_path, [group(cots=("a\nb\nc\nd", "x")), group("g2", cots=("", ""))])
    assert [a["style"] for a in document.all("div", **{"class": "sides"})] == ["--rows:7", "--rows:4"]
    assert "no solution" in document.text


def test_hostile_text_is_legible_and_does_nothing(tmp_path):
    rejected = tmp_path / "rejected.jsonl"
    entry = {
        "seed_id": HOSTILE,
        "stage": HOSTILE,
        "reason": HOSTILE,
        "detail": HOSTILE,
        "problem": HOSTILE,
        HOSTILE: HOSTILE,
    }
    rejected.write_text(json.dumps(entry) + "\n")
    _, document = page(
        tmp_path,
        [hostile()],
        title=HOSTILE,
        shown=lambda: HOSTILE,
        manifest=MANIFEST,
        rejections=Rejections(rejected),
        warnings=[HOSTILE],
    )
    assert document.text.count(HOSTILE_SHOWN) >= 20
    assert "or only<video>here" in document.text  # words of one domain, which are marked as such
    assert not document.all("video")
    assert not document.all("img")
    assert len(document.all("script")) == len(document.all("style")) == 1
    assert "hacked" not in document.script
    assert not [name for _, attributes in document.elements for name in attributes if name.startswith("on")]
    assert "\u202e" not in document.text
    assert "\0" not in document.text


def test_the_page_needs_nothing_but_itself(tmp_path):
    _, document = page(tmp_path, [group(dag=chain(3))])
    addresses = [a[k] for _, a in document.elements for k in ("href", "src", "action", "data", "srcset") if a.get(k)]
    assert addresses
    assert all(re.fullmatch(r"#[\w-]+", address) for address in addresses)
    anchors = {a["id"] for _, a in document.elements if "id" in a}
    assert {address[1:] for address in addresses} <= anchors
    policy = document.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    digest = base64.b64encode(hashlib.sha256(document.script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}'" in policy
    style = (tmp_path / "page.html").read_text().partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_a_manifest_becomes_a_funnel_figures_and_a_table(tmp_path):
    _, document = page(tmp_path, [group()], manifest=MANIFEST)
    for shown in (
        "verified in every domain",
        "1,000",
        "785",
        "90.0% kept",
        "87.2% kept",
        "rejected: alignment 115",
        "78.5%",
        "$41.30",
    ):
        assert shown in document.text
    assert [a["style"] for a in document.all("i") if "style" in a] == [
        "--part:100.00%",
        "--part:90.00%",
        "--part:78.50%",
    ]
    assert "some-model" in document.text
    assert "ab12" in document.text  # what is not known by name is in the table


def test_figures_of_the_teacher_are_shown_as_such(tmp_path):
    teacher = {"model": "m-7", "mean_alignment": 0.915, "yield": 0.6667, "output_tokens": 12345, "cost": None}
    _, document = page(tmp_path, [group()], manifest={"yield": 0.6667, "teacher": teacher})
    names = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", (tmp_path / "page.html").read_text())
    assert dict(names) == {
        "teacher": "m-7",
        "yield": "66.7%",
        "mean alignment": "0.915",
        "output tokens": "12,345",
        "cost": "unknown",
    }
    assert len(names) == 5
    assert "The rest" not in document.text


@pytest.mark.parametrize(
    "manifest",
    [
        {},
        {"stages": None, "yield": None, "teacher": {"model": "m", "prices": [1, 2]}},
        {"stages": [], "counts": {"seeds": 10, "groups": 4}},
        {"stages": [{"left": "many"}], "funnel": 3},
        {"stages": {"seeds": 0}},
        {"counts": {"a": -1, "b": 2}, "deep": {"a": {"b": {"c": [None, True, 1.5, "x"]}}}},
    ],
)
def test_any_manifest_will_do_and_nothing_in_it_is_left_out(tmp_path, manifest):
    _, document = page(tmp_path, [group()], manifest=manifest)
    for text in re.findall(r'"(\w+)"', json.dumps(manifest)):
        assert text in document.text or text in ("left", "stages", "counts"), text
    assert ("groups" in document.text) and (
        not manifest.get("counts", {}).get("seeds") or "40.0% kept" in document.text
    )


def test_a_graph_too_large_to_draw_is_said_to_be(tmp_path):
    _, document = page(tmp_path, [group(dag=chain(81, "premise"))])
    assert "Not drawn: a graph of more than 80 nodes or 200 edges (81 and 80); it is in the table." in document.text
    assert not document.all("figure")
    assert "premise80" in document.text  # in the table
    assert page(tmp_path, [group(dag=Dag((), ()))])[0] == 1  # nor does an empty one hurt
    assert page(tmp_path, [group(dag=Dag((DagNode("n", "RELATION", "x"),), ()))])[0] == 1


def test_only_its_own_pages_are_replaced(tmp_path):
    page(tmp_path, [group("first")])
    _, document = page(tmp_path, [group("second")])
    assert "second" in document.text
    other = tmp_path / "notes.html"
    other.write_text("<p>mine</p>")
    with pytest.raises(UserError, match=r"notes.html: exists and is no page of `igascale data inspect`"):
        write_page(other, [group()], title="t", shown=str)
    assert other.read_text() == "<p>mine</p>"
    with pytest.raises(UserError, match=r"cannot write the page here \(No such file or directory\)"):
        write_page(tmp_path / "absent" / "p.html", [group()], title="t", shown=str)


def test_a_group_that_cannot_be_read_leaves_no_page(tmp_path):
    def groups():
        yield group()
        raise UserError("line 2")

    with pytest.raises(UserError, match="line 2"):
        write_page(tmp_path / "page.html", groups(), title="t", shown=str)
    assert list(tmp_path.iterdir()) == []


def contrast(one, other):
    """WCAG 2 contrast ratio of two colours."""

    def luminance(colour):
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_the_contrast_that_wcag_aa_asks_for(tmp_path, scheme):
    page(tmp_path, [group()])
    style = (tmp_path / "page.html").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", light if scheme == "light" else dark))
    pairs = [(ink, ground) for ink in ("ink", "soft", "link") for ground in ("paper", "card")]
    pairs += [(f"d{number}", "card") for number in range(1, 7)] + [("warn", "warn-tint"), ("against", "card")]
    pairs += [
        (ink, node) for node in ("entity", "relation", "constraint", "proposition", "goal") for ink in ("ink", "soft")
    ]
    low = {pair: contrast(*(colours[name] for name in pair)) for pair in pairs}
    assert {pair: ratio for pair, ratio in low.items() if ratio < 4.5} == {}
    lines = [
        contrast(colours[f"{node}-line"], colours["card"]) for node in ("entity", "relation", "constraint", "goal")
    ]
    assert min(lines) >= 3
