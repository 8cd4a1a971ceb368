"""The page in a real browser: wide and narrow, light and dark; its numbers against the files they come from; hostile text inert."""

import json
from statistics import mean

import pytest

from igascale.report.write import write_report

from browser import Browser, needs_browser
from report_cases import PROJECTIONS, TRAINED, made_up_run

pytest.importorskip("plotly")
pytestmark = needs_browser

SECTIONS = [
    "results",
    "accuracy",
    "consistency",
    "training",
    "hook",
    "atlas",
    "cosines",
    "efficiency",
    "runs",
    "samples",
]
LAYERS, STEPS = 8, 120
SIZES = [(1280, 900), (390, 844)]
# Colours as the eye gets them: an element's own background, or that of what it stands on.
CONTRAST = """(() => {
  const rgb = (c) => (c.match(/[\\d.]+/g) ?? []).map(Number);
  const light = (c) => { const [r, g, b] = c.map((v) => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }); return .2126 * r + .7152 * g + .0722 * b; };
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const c = rgb(getComputedStyle(at).backgroundColor);
      if (c.length === 3 || (c.length === 4 && c[3] === 1)) return c.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    const drawn = node instanceof SVGElement;
    if (drawn ? node.tagName !== "text" || node.closest(".heatmap-label, .hm, .hoverlayer") : ![...node.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
    if (!node.getClientRects().length || ["SCRIPT", "STYLE", "OPTION"].includes(node.tagName)) continue;
    const style = getComputedStyle(node);
    const colour = rgb(drawn ? style.fill : style.color).slice(0, 3);
    const [a, b] = [light(colour), light(ground(node))].sort((x, y) => y - x);
    found.push([(a + .05) / (b + .05), node.tagName, node.textContent.trim().slice(0, 40)]);
  }
  return found;
})()"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("runs")
    selection = {"by": "leave_one_domain_out", "trials": 8, "searched": {"optimizer.lr": [1e-4, 2e-4]}}
    return [
        made_up_run(
            base / "erm",
            hook="mean",
            method="erm-sft",
            seed=1,
            steps=STEPS,
            layers=LAYERS,
            groups=12,
            selection=selection,
            hostile=True,
        ),
        made_up_run(base / "iga<b>&amp;", seed=2, steps=STEPS, layers=LAYERS, groups=12, skill=0.6, hostile=True),
    ]


@pytest.fixture(scope="module")
def path(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "out"
    write_report(folders, out, ["html", "csv"])
    return out / "report.html"


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def opened(browser, path):
    """Opens a page, or gives the one that is open already; with everything drawn and laid out."""
    pages = {}

    def open_page(width=1280, height=900, scheme="light", javascript=True):
        key = width, height, scheme, javascript
        if key not in pages:
            page = pages[key] = browser.open(path, *key)
            if javascript:  # what comes into sight later is drawn and laid out now
                drawn = (
                    "[...document.querySelectorAll('.figure')].every((n) => n.hidden || n.querySelector('.main-svg'))"
                )
                if len(pages) == 1:
                    wait(page, drawn, scroll=True)
                else:  # the same at once
                    page.evaluate("figures.forEach((_, node) => node.hidden || draw(node))")
                page.evaluate(
                    "document.querySelectorAll('.group').forEach((g) => { g.style.contentVisibility = 'visible' })"
                )
        pages[key].call("Page.bringToFront")  # a page in the background draws nothing and its clock stands
        return pages[key]

    return open_page


def wait(page, condition, scroll=False):
    """Until a condition holds; with `scroll`, going from figure to figure meanwhile."""
    step = (
        "document.querySelectorAll('.figure')[i++ % document.querySelectorAll('.figure').length].scrollIntoView();"
        if scroll
        else ""
    )
    done = page.evaluate(
        f"(async () => {{ let i = 0; for (let t = 0; t < 4000; t++) {{ if ({condition}) return true; {step} await new Promise((r) => setTimeout(r, 30)); }} return false; }})()"
    )
    assert done, f"waited for {condition}"


def records(folder, name, kind=None):
    found = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [r for r in found if kind is None or r["kind"] == kind]


def plot(name):
    return f"document.querySelector('#figure-{name} .plot')"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_it_renders_quietly_at_any_size(opened, path, width, height, scheme):
    page = opened(width, height, scheme)
    assert page.console == []
    # A heat map is an image that is part of the page.
    assert [r for r in page.requests if not r.startswith("data:image/png;base64,")] == [path.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("[...document.querySelectorAll('main > section')].map((s) => s.id)") == SECTIONS
    # No figure sticks out of its frame, and no panel is squeezed to nothing.
    wide = page.evaluate(
        "[...document.querySelectorAll('.figure:not([hidden]) .main-svg')].map((s) => s.getBoundingClientRect().right)"
    )
    assert max(wide) <= width
    panels = page.evaluate(
        "[...document.querySelectorAll('.figure:not([hidden]) .plot')].flatMap((p) => Object.values(p._fullLayout._plots).map((s) => s.xaxis._length))"
    )
    assert panels and min(panels) > 150


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast(opened, scheme):
    page = opened(scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true })")
    found = page.evaluate(CONTRAST)
    assert len([f for f in found if f[1] == "text"]) > 50 and len(found) > 300
    assert [f for f in found if f[0] < 4.5] == []


def test_figures_change_their_colours_with_the_scheme(browser, path):
    page = browser.open(path)
    page.call("Page.bringToFront")
    page.evaluate("choose('erm')")
    page.evaluate("['losses', 'atlas-erm'].forEach((name) => draw($(`figure-${name}`)))")
    ask = f"[{plot('losses')}._fullLayout.paper_bgcolor, {plot('losses')}._fullData[0].line.color, getComputedStyle({plot('atlas-erm')}.querySelector('text')).fill]"
    light = page.evaluate(ask)
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    wait(page, f"{plot('losses')}._fullLayout.paper_bgcolor !== '{light[0]}'")
    dark = page.evaluate(ask)
    assert all(a != b for a, b in zip(light, dark)) and dark[0] == "#1b1d21"


def test_the_slider_moves_through_the_atlas(opened, folders):
    page = opened()
    name = "atlas-iga-b-amp"
    page.evaluate("choose('iga<b>&amp;')")
    wait(page, f"{plot(name)}.querySelector('.main-svg')")
    rows = records(folders[1], "adapter_metrics.jsonl")

    def shown():
        told, cells = page.evaluate(
            f"[document.querySelector('#figure-{name} output').textContent, {plot(name)}.data.slice(0, 2).map((t) => [...t.customdata].map((r) => [...r]))]"
        )
        return told, cells

    def expected(first, last):
        inside = [r["adapters"] for r in rows if first <= r["step"] <= last]
        return [
            [
                [mean(a[f"model.layers.{layer}.self_attn.{p}"][figure] for a in inside) for p in PROJECTIONS]
                for layer in range(LAYERS)
            ]
            for figure in ("gir", "mean_mask")
        ]

    told, cells = shown()
    assert told == "steps 119–120"
    assert cells[0] == [pytest.approx(row, rel=1e-4) for row in expected(119, 120)[0]]
    assert cells[1] == [pytest.approx(row, rel=1e-4) for row in expected(119, 120)[1]]
    page.evaluate(
        f"(() => {{ const r = document.querySelector('#figure-{name} input'); r.value = 3; r.dispatchEvent(new Event('input')); }})()"
    )
    told, cells = shown()
    assert told == "steps 7–8"
    assert cells[0] == [pytest.approx(row, rel=1e-4) for row in expected(7, 8)[0]]
    # The picture itself follows: its cells are an image.
    page.evaluate(f"document.querySelector('#figure-{name} .slider button').click()")
    wait(page, f"document.querySelector('#figure-{name} output').textContent !== 'steps 7–8'")
    page.evaluate(f"document.querySelector('#figure-{name} .slider button').click()")


def test_numbers_are_those_of_the_files(opened, folders):
    page = opened()
    erm = records(folders[0], "metrics.jsonl", "train")
    x, y = page.evaluate(f"((t) => [[...t.x], [...t.y]])({plot('losses')}.data[0])")
    assert x == [r["step"] for r in erm] and y == pytest.approx([r["loss"] for r in erm], rel=1e-5)
    validation = records(folders[0], "metrics.jsonl", "validation")
    traces = page.evaluate(f"{plot('losses')}.data.map((t) => [t.name, t.xaxis, [...t.y]])")
    ood = next(t for t in traces if t[0] == "erm" and t[1] == "x3")
    assert ood[2] == pytest.approx([mean(r["ood"].values()) for r in validation], rel=1e-5)
    # Accuracy, recomputed from the samples.
    samples = records(folders[0] / "evaluation", "samples.jsonl")
    right = {split: 100 * mean(s["correct"] for s in samples if s["split"] == split) for split in ("id", "ood")}
    dots = page.evaluate(f"{plot('accuracy')}.data.filter((t) => t.error_x).map((t) => [t.name, [...t.x]])")
    assert dots[0] == ["erm", pytest.approx([right["id"], right["ood"]])]
    cells = page.evaluate(
        "[...document.querySelectorAll('#results table:first-of-type tbody tr')].map((r) => [...r.cells].map((c) => [c.textContent, c.dataset.value]))"
    )
    assert (
        cells[0][0][0] == "erm"
        and float(cells[0][1][1]) == pytest.approx(right["id"])
        and float(cells[0][2][1]) == pytest.approx(right["ood"])
    )
    # The cosine matrix of the last frame.
    page.evaluate("(() => { choose('erm'); draw($('figure-cosine-matrix-erm')) })()")
    last = page.evaluate(f"[...{plot('cosine-matrix-erm')}.data[0].z].map((r) => [...r])")
    assert last[0][1] == pytest.approx(mean(r["cosines"][f"{TRAINED[0]}/{TRAINED[1]}"] for r in erm[-2:]), rel=1e-4)
    assert last[1][0] == last[0][1]
    # Efficiency: tokens over seconds of the steps after the first three.
    rate = sum(r["tokens"] for r in erm[3:]) / sum(r["seconds"] for r in erm[3:])
    row = page.evaluate("[...document.querySelector('#efficiency tbody tr').cells].map((c) => c.dataset.value)")
    assert float(row[3]) == pytest.approx(rate)


def test_csv_files_hold_every_point(folders, path):
    import csv

    with (path.parent / "data" / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    for folder, name in zip(folders, ("erm", "iga<b>&amp;")):
        train = [r for r in rows if r["run"] == name and r["quantity"] == "train"]
        assert [float(r["value"]) for r in train] == pytest.approx(
            [r["loss"] for r in records(folder, "metrics.jsonl", "train")], rel=1e-15
        )
    with (path.parent / "data" / "atlas-erm.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60 * LAYERS * len(PROJECTIONS)
    assert (
        rows[0]["adapter"] == "model.layers.0.self_attn.q_proj"
        and rows[0]["layer"] == "0"
        and rows[0]["projection"] == "q_proj"
    )


def test_hostile_text_stays_text(opened, path):
    page = opened()
    assert page.evaluate("document.title").startswith("erm, iga<b>&amp;")
    assert page.evaluate("document.querySelectorAll('main img, main b img, [onerror]').length") == 0
    text = page.evaluate("document.querySelector('#samples').textContent")
    assert (
        "</script><img src=x onerror=\"document.title='owned'\">" in text and "<U+202E>" in text and "{{title}}" in text
    )
    assert page.evaluate("document.querySelector('#figure-losses .legend').textContent") == "ermiga<b>&amp;"
    assert page.console == []


def test_samples_can_be_searched_and_filtered(opened):
    page = opened()
    assert (
        page.evaluate("document.querySelectorAll('.group:not([hidden])').length") == page.evaluate("groups.length") > 10
    )
    page.evaluate(
        "(() => { $('words').value = 'finance ood-0003'; $('words').dispatchEvent(new Event('input', { bubbles: true })); })()"
    )
    assert page.evaluate(
        "[...document.querySelectorAll('.group:not([hidden]) h3 > span:first-child')].map((h) => h.textContent)"
    ) == ["ood-0003"]
    page.evaluate(
        "(() => { $('words').value = ''; const s = document.querySelector('select[name=set]'); s.value = 'ID'; s.dispatchEvent(new Event('input', { bubbles: true })); })()"
    )
    shown = page.evaluate(
        "[...document.querySelectorAll('.group:not([hidden]) h3 > span:first-child')].map((h) => h.textContent)"
    )
    assert shown and all(name.startswith("id-") for name in shown)
    assert page.evaluate("$('found').textContent").startswith(f"{len(shown)} of the ")


def test_a_series_can_be_hidden(opened):
    page = opened()
    page.evaluate("document.querySelector('#figure-losses .legend button').click()")
    assert (
        page.evaluate(f"{plot('losses')}.data.filter((t) => t.visible === false).map((t) => t.name)").count("erm") >= 3
    )
    assert (
        page.evaluate("document.querySelector('#figure-losses .legend button').getAttribute('aria-pressed')") == "false"
    )


def test_it_is_a_document_without_javascript(opened):
    page = opened(javascript=False)
    assert page.console == []
    assert page.evaluate("getComputedStyle(document.querySelector('noscript')).display") != "none"
    assert page.evaluate("document.querySelectorAll('.figure details table').length") >= 10
    described = page.evaluate("[...document.querySelectorAll('.plot')].map((p) => p.getAttribute('aria-label'))")
    assert all(len(text) > 60 for text in described)


def test_size_is_bounded(path):
    assert path.stat().st_size < 7_000_000
