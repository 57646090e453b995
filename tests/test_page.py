"""The page in a real browser, at three widths, light and dark: a study as recorded, one with failures in several
contexts, and another program's table."""

import csv
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import HOSTILE, needs
from others import MAPPING, results, some_table
from PIL import Image

from analysis.load import load
from analysis.page.report import write_report
from analysis.sources.columns import Reading
from analysis.sources.table import from_table
from analysis.synthetic import study as synthetic_study

WIDTHS = (390, 1600, 1000)
FAILING = {
    "dcgan": {"failure": 0.4, "sigma": 2.0},
    "sn_dcgan": {"fd": 8.0},
    "plain": {"failure": 0.7},
    "sn": {"fd": 9.0},
}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    needs(path, "needs Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=quiet)
        yield browser
        browser.close()


class Tab:
    """A page that was opened alone, without its folder: what it asked for and complained of."""

    def __init__(self, browser: Any, page: Path, alone: Path) -> None:
        shutil.copy(page, alone)
        self.tab = browser.new_page(viewport={"width": 1000, "height": 900})
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("console", lambda message: self.messages.append(message.text))
        self.tab.on("pageerror", lambda error: self.messages.append(str(error)))
        self.tab.goto(f"file://{alone}")

    def close(self) -> None:
        self.tab.close()
        assert [url for url in self.requests if not url.startswith(("file:", "data:"))] == []
        assert self.messages == []


def unfold(tab: Any) -> None:
    tab.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")


def fits(tab: Any) -> None:
    """Nothing scrolls sideways but tables on a phone, and there is no text too small or too pale to read."""
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        assert low_contrast(tab) == [], scheme
    for width in WIDTHS:
        tab.set_viewport_size({"width": width, "height": 900})
        assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), width
        small = tab.evaluate("""() => [...document.querySelectorAll("p, li, td, th, a, figcaption, summary, button")]
          .filter(e => e.offsetParent && parseFloat(getComputedStyle(e).fontSize) < 13).map(e => e.outerHTML)""")
        assert small == [], width
    wide = tab.evaluate("""() => [...document.querySelectorAll(".scroll")]
      .filter(e => e.scrollWidth > e.clientWidth).map(e => [e.ariaLabel, e.scrollWidth, e.clientWidth])""")
    assert wide == []  # at 1,000 pixels


def nothing_is_empty(tab: Any) -> None:
    """Every part holds something to see or read; every link leads somewhere that is then seen."""
    unfold(tab)
    assert "Nothing to show" not in tab.inner_text("body")
    empty = tab.evaluate("""() => [...document.querySelectorAll("details, figure, .film")].filter(e => {
      const rest = e.innerText.replace(e.querySelector("summary, h3, figcaption")?.innerText ?? "", "").trim();
      return !rest && !e.querySelector("svg, img") && !e.classList.contains("off") && !e.closest(".off");
    }).map(e => e.outerHTML.slice(0, 200))""")
    assert empty == []
    assert tab.evaluate("[...document.querySelectorAll('tbody')].filter(e => !e.rows.length).length") == 0
    headings = tab.evaluate("""() => [...document.querySelectorAll("h2")].filter(e => {
      const next = e.nextElementSibling;
      return !next || next.tagName === "H2" || next.tagName === "SCRIPT";
    }).map(e => e.innerText)""")
    assert headings == []
    zero = tab.evaluate("""() => [...document.querySelectorAll("svg")].filter(e =>
      !e.querySelector("path, use, image")).length""")
    assert zero == 0
    tab.evaluate("document.querySelectorAll('details').forEach(d => { d.open = false; })")
    hidden = tab.evaluate("""async () => {
      const missing = [];
      for (const link of document.querySelectorAll("a[href^='#']")) {
        link.click();
        await new Promise(done => setTimeout(done, 5));
        const target = document.getElementById(decodeURIComponent(link.getAttribute("href").slice(1)));
        if (!target || !target.getClientRects().length) missing.push(link.outerHTML);
      }
      return missing;
    }""")
    assert hidden == []


def low_contrast(tab: Any) -> list[str]:
    """Texts whose contrast with what is behind them is below 4.5 (WCAG 2.1 AA)."""
    return tab.evaluate("""() => {
      const rgb = text => text.match(/[\\d.]+/g).map(Number);
      const linear = v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
      const light = c => [0.2126, 0.7152, 0.0722].reduce((sum, w, i) => sum + w * linear(c[i] / 255), 0);
      const back = e => rgb(getComputedStyle(e).backgroundColor);
      const behind = e => {
        while (e.parentElement && back(e)[3] === 0) e = e.parentElement;
        return back(e);
      };
      const low = e => {
        const [x, y] = [light(rgb(getComputedStyle(e).color)), light(behind(e))].sort((a, b) => b - a);
        return (x + 0.05) / (y + 0.05) < 4.5;
      };
      const tags = "p, td, th, li, a, h1, h2, h3, figcaption, span, code, button, summary, label, small, output";
      const shown = [...document.querySelectorAll(tags)].filter(e => e.textContent.trim());
      return shown.filter(low).map(e => e.outerHTML.slice(0, 80));
    }""")


def grid_boxes(tab: Any) -> list[list[Any]]:
    return tab.eval_on_selector_all(
        ".film:not(.off) .grids img:not([hidden])",
        """all => all.map(i => {
      const box = i.getBoundingClientRect();
      return [box.top, box.width, box.height, i.naturalWidth, getComputedStyle(i).imageRendering];
    })""",
    )


def films_play(tab: Any) -> None:
    """By the keyboard and by itself; every arm shows one grid, and all of them stand in line."""
    film, visible = tab.locator(".film:not(.off)"), ".film:not(.off) [data-arm] img:not([hidden])"
    slider, steps = film.locator("input[type=range]"), "all => all.map(i => Number(i.dataset.step))"
    arms = film.locator("[data-arm]").count()
    last = tab.eval_on_selector_all(visible, steps)
    assert len(last) == arms
    slider.focus()
    slider.press("Home")
    first = tab.eval_on_selector_all(visible, steps)
    assert len(set(first)) == 1
    assert first[0] < last[0]
    assert film.locator("output").inner_text() == f"{first[0]:,}"
    slider.press("ArrowRight")
    assert first[0] < tab.eval_on_selector_all(visible, steps)[0] < last[0]
    slider.press("Home")
    film.locator("button").click()
    assert film.locator("button").inner_text() == "Pause"
    tab.wait_for_function("document.querySelector('.film:not(.off) button').textContent === 'Play'", timeout=30_000)
    assert tab.eval_on_selector_all(visible, steps) == last
    for seed in film.locator("option").all_inner_texts():
        film.locator("select").select_option(seed)
        assert set(tab.eval_on_selector_all(visible, "all => all.map(i => i.dataset.seed)")) == {seed}
    whole, wide = film.locator("[type=checkbox]"), grid_boxes(tab)
    if whole.count():  # 16 of 64 are seen, twice as large
        whole.check()
        assert [box[1] / 2 for box in wide] == [box[1] for box in grid_boxes(tab)]
        whole.uncheck()
    boxes = grid_boxes(tab)
    assert boxes == wide
    assert len({tuple(box[1:]) for box in boxes}) == 1  # one size, which is a multiple of the native one
    assert boxes[0][1] % boxes[0][3] == 0
    assert boxes[0][4] == "pixelated"
    assert len({box[0] for box in boxes}) <= -(-len(boxes) // 3)  # rows


def figures_enlarge(tab: Any) -> None:
    tab.set_viewport_size({"width": 390, "height": 800})
    picture = tab.locator(".picture:visible").first
    width = picture.bounding_box()["width"]
    picture.click()
    assert tab.eval_on_selector(".picture.large > *", "e => e.getBoundingClientRect().width") > 2 * width
    tab.keyboard.press("Escape")
    assert tab.locator(".picture.large").count() == 0
    tab.set_viewport_size({"width": 1000, "height": 900})


@pytest.fixture
def opened(chromium: Any, page: Path, tmp_path: Path) -> Iterator[Any]:
    tab = Tab(chromium, page, tmp_path / "elsewhere.html")
    yield tab.tab
    tab.close()


def test_the_page_in_a_browser(opened: Any) -> None:
    assert opened.title() == "tiny: report"
    order = opened.evaluate("""() => [...document.querySelectorAll("#short, nav, h2")].map(e => e.id || e.tagName)""")
    assert order[:3] == ["short", "NAV", "samples"]  # the answer first
    loaded = opened.eval_on_selector_all("img", "all => all.map(i => [i.complete && i.naturalWidth > 0, i.alt])")
    assert len(loaded) == len(set(map(tuple, loaded))) > 10
    assert all(width and alt for width, alt in loaded)
    films_play(opened)
    figures_enlarge(opened)
    nothing_is_empty(opened)
    unfold(opened)
    assert opened.get_by_text(HOSTILE).count() >= 1  # the hostile reason stayed text
    fits(opened)
    sort_and_filter(opened)
    copy(opened)


def sort_and_filter(tab: Any) -> None:
    cells = "rows => rows.filter(r => !r.hidden).map(r => r.cells[{}].textContent.trim())"
    head = tab.locator("#table-runs thead th").all_inner_texts()
    step, run_id = head.index("step"), head.index("run id")
    for expected in (False, True):  # clicked once: rising; again: falling
        tab.locator("#table-runs thead button").nth(step).click()
        shown = [int(text) for text in tab.eval_on_selector_all("#table-runs tbody tr", cells.format(step))]
        assert shown == sorted(shown, reverse=expected)
    assert tab.locator("#table-runs thead th").nth(step).get_attribute("aria-sort") == "descending"
    tab.locator("input[data-filter=runs]").fill("-SN-")
    shown = tab.eval_on_selector_all("#table-runs tbody tr", cells.format(run_id))
    assert len(shown) == 3
    assert all("-sn-" in text for text in shown)
    tab.locator("input[data-filter=runs]").fill("")
    tab.locator("input[data-filter=runs_statistics]").fill("-dcgan-")
    for part in tab.locator("table[data-table=runs_statistics]").all():  # all parts alike
        shown = part.locator("tbody tr:visible td:first-child").all_inner_texts()
        assert len(shown) == 3
        assert all("-dcgan-" in text for text in shown)
    tab.locator("input[data-filter=runs_statistics]").fill("")


def copy(tab: Any) -> None:
    """To the clipboard, or where that is forbidden into a box to copy from: all parts, limits in their own columns."""
    tab.evaluate("() => { navigator.clipboard.writeText = async text => { window.copied = text; }; }")
    tab.locator("button[data-copy=arms]").click()
    tab.wait_for_function("window.copied")
    rows = list(csv.DictReader(io.StringIO(tab.evaluate("window.copied"))))
    heads = tab.locator("table[data-table=arms] thead th").all_inner_texts()
    assert set(heads) < set(rows[0])
    assert [row["arm"] for row in rows] == ["DCGAN", "SN"]
    rate, low, high = (float(rows[0][name]) for name in ("failure rate", "rate low", "rate high"))
    assert low < high
    assert low <= rate <= high
    tab.evaluate("() => { navigator.clipboard.writeText = async () => { throw new Error('forbidden'); }; }")
    tab.locator("button[data-copy=runs]").click()
    assert HOSTILE in tab.locator("textarea").input_value().replace('""', '"')


@pytest.mark.slow
def test_contexts_are_tabs(chromium: Any, tmp_path: Path) -> None:
    """A study with failures in two contexts: one is seen at a time, or all."""
    of = synthetic_study(tmp_path / "runs", FAILING, 8, settings={"A": 1.0, "C": 1.3})
    grids = []
    for i in range(3):
        grids.append(tmp_path / f"{i}.png")
        Image.fromarray(np.full((242, 242), 60 * i, np.uint8)).save(grids[-1])
    of = replace(of, samples={run_id: dict(enumerate(grids)) for run_id in of.runs["run_id"]}, real={"mnist": grids[0]})
    opened = Tab(chromium, write_report(of), tmp_path / "page.html")
    tab = opened.tab
    tabs = tab.locator("[role=tab]")
    assert tabs.all_inner_texts() == ["mnist, setting A", "mnist, setting C", "all"]
    seen = "all => all.filter(e => e.getClientRects().length).map(e => e.id)"
    for place, slug in enumerate(("A", "C")):
        tabs.nth(place).click()
        assert tab.locator("[role=tab][aria-selected=true]").inner_text() == f"mnist, setting {slug}"
        figures = tab.eval_on_selector_all("figure[id]", seen)
        assert f"figure-causes-mnist__setting_{slug}" in figures
        assert {name.partition("setting_")[2] for name in figures if "setting_" in name} == {slug}
        cells = tab.locator("#table-arms tbody tr:visible td:first-child").all_inner_texts()
        assert set(cells) == {f"mnist, setting {slug}"}
        films_play(tab)
    tabs.nth(1).press("ArrowRight")
    assert len(tab.locator("#table-arms tbody tr:visible").all()) == 8
    tabs.nth(0).click()
    tab.evaluate("location.hash = '#figure-causes-mnist__setting_C'")
    tab.wait_for_function("document.querySelector('[role=tab][aria-selected=true]').textContent.endsWith('C')")
    nothing_is_empty(tab)
    unfold(tab)
    fits(tab)
    assert {"judged", "what-failed"} <= set(tab.eval_on_selector_all("h2", "all => all.map(e => e.id)"))
    opened.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["curves", "ends", "several sets"])
def test_another_programs_page(kind: str, chromium: Any, tmp_path: Path) -> None:
    reading = Reading(MAPPING if kind == "curves" else {"quality": "score"}, maximize=kind == "several sets")
    table = some_table() if kind == "curves" else results(1.0, ("sn", "b & b", "<c>"), sets=4 if "sets" in kind else 1)
    page = write_report(from_table(table, reading, "theirs", tmp_path / "t"))
    statistics = json.loads((page.parent / "statistics.json").read_text())
    opened = Tab(chromium, page, tmp_path / "page.html")
    tab, text = opened.tab, opened.tab.inner_text("#short")
    assert all(sentence in text for sentence in statistics["about"] + statistics["short"])
    if kind != "curves":
        assert "SN" not in tab.inner_text("body").replace("SNAP", "")  # their arm keeps its name
    nothing_is_empty(tab)
    unfold(tab)
    fits(tab)
    opened.close()


@pytest.mark.slow
def test_the_page_of_the_demo_is_small_and_has_nothing_empty(chromium: Any, tmp_path: Path) -> None:
    folder = Path(__file__).parents[1] / "experiments" / "results" / "demo" / "data"
    page = write_report(replace(load(f"frozen:{folder}"), folder=tmp_path / "demo"))
    assert page.stat().st_size < 2e6
    opened = Tab(chromium, page, tmp_path / "page.html")
    films_play(opened.tab)
    assert opened.tab.locator(".grids figcaption").first.inner_text() == "real images"
    nothing_is_empty(opened.tab)
    unfold(opened.tab)
    fits(opened.tab)
    body = opened.tab.inner_text("body")
    assert opened.tab.get_by_role("cell", name="not tested", exact=True).count() == 0
    assert "setting custom" not in body
    opened.close()
