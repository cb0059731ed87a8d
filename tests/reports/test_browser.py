"""The page in a real browser: it draws, sorts, searches, turns pages, goes dark, and asks the network for nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fakes
import pytest

from codir.reports.page import write_page
from codir.reports.values import Report

DESKTOP, PHONE = (1280, 900), (390, 844)
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
ALL_DRAWN = "() => [...document.querySelectorAll('[data-figure]')].every(e => e.querySelector('.main-svg'))"
# What a figure shows: the largest of its drawings, and how many marks are in them.
DRAWN = """place => {
  const boxes = [...place.querySelectorAll('.main-svg, canvas')].map(each => each.getBoundingClientRect());
  const webgl = [...place.querySelectorAll('canvas')].some(each => each.width > 0);
  return {
    width: Math.max(0, ...boxes.map(box => box.width)),
    height: Math.max(0, ...boxes.map(box => box.height)),
    marks: place.querySelectorAll('.point, .heatmaplayer image, .lines path, .textpoint').length + (webgl ? 1 : 0),
    inside: place.getBoundingClientRect().width,
  };
}"""
# Opens the hover box of the first point of every trace of every drawn figure.
HOVER = """() => {
  for (const place of document.querySelectorAll('[data-drawn]'))
    place.data.forEach((trace, number) => {
      if (place.offsetParent && trace.type === 'scatter' && trace.hoverinfo !== 'skip' && trace.x.length)
        Plotly.Fx.hover(place, [{ curveNumber: number, pointNumber: 0 }]);
    });
}"""


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Callable[..., Any]:
    """Returns a context manager that opens a report's page and afterwards complains about errors and requests."""

    @contextmanager
    def open_page(report: Report, size: tuple[int, int] = DESKTOP, **settings: Any) -> Iterator[Any]:
        write_page(report, tmp_path / "page.html")
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **settings)
        page = context.new_page()
        page.set_default_timeout(30_000)
        problems: list[str] = []
        requests: list[str] = []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address := (tmp_path / "page.html").as_uri())
        yield page
        page.screenshot(path=tmp_path / "page.png")
        context.close()
        assert problems == []
        assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [address]

    return open_page


def require_drawn(page: Any) -> None:
    """Scrolls to every figure that can be seen, waits for it, and checks that it shows something and fits."""
    for place in page.locator("[data-figure]:visible").all():
        place.scroll_into_view_if_needed()
        page.wait_for_function(
            """place => 'drawn' in place.dataset
                && place.querySelector('.main-svg').clientWidth <= place.clientWidth + 1""",
            arg=place.element_handle(),
        )
        shown = place.evaluate(DRAWN)
        assert shown["marks"] > 0
        assert shown["height"] > 100
        assert 200 < shown["width"] <= shown["inside"] + 1
    assert page.evaluate(OVERFLOW) <= 0


def is_dark(page: Any) -> bool:
    colour = page.locator("body").evaluate("each => getComputedStyle(each).backgroundColor")
    return sum(int(part) for part in re.findall(r"\d+", colour)[:3]) < 180


def test_every_figure_of_a_crowded_page_draws_on_a_phone_and_on_a_desk(opened: Callable[..., Any]) -> None:
    with opened(fakes.crowded(), PHONE) as page:
        for width, height in (PHONE, DESKTOP):
            page.set_viewport_size({"width": width, "height": height})
            require_drawn(page)
        place = page.locator("[data-figure='clouds-0']")  # by WebGL, or without where there is none
        points = "place => place.querySelector('canvas') ? 3600 : place.querySelectorAll('.point').length"
        assert place.evaluate(points) == 3600


def test_hostile_texts_are_shown_and_run_nothing(opened: Callable[..., Any]) -> None:
    # without the policy the escaping alone has to hold
    with opened(fakes.hostile(), PHONE, bypass_csp=True) as page:
        links = page.locator("a").count()
        for tab in page.get_by_role("tab").all():
            tab.click()
            require_drawn(page)
        page.evaluate(HOVER)
        page.locator("details").evaluate_all("all => all.forEach(each => { each.open = true; })")
        page.locator("button.more").evaluate_all("all => all.forEach(each => each.click())")
        page.fill("#search", "<script>")
        assert page.locator("#examples mark").count() > 0
        page.fill("#search", "")
        assert page.evaluate("window.hacked") is None
        assert page.locator("a").count() == links  # plotly makes links of <a href> in its texts
        assert page.locator("img, iframe, [onerror], [onload], main script").count() == 0
        assert page.locator("main b, main i").count() == 0
        words = page.locator("body").inner_text()
        for bad in fakes.HOSTILE[:6]:
            assert bad in words
        # plotly's own markup in a label is a text, too
        assert page.locator(".ytick text").get_by_text("<b>b</b><a href='x:'>a</a>", exact=True).count() > 0
        assert page.locator(".ytick text").get_by_text("<script>").count() > 0
        assert page.evaluate(OVERFLOW) <= 0


def test_a_run_in_one_visit(opened: Callable[..., Any]) -> None:
    with opened(fakes.full(), color_scheme="dark") as page:
        page.wait_for_function(ALL_DRAWN)  # though nobody scrolls
        assert page.evaluate("window.scrollY") == 0
        assert page.locator("[data-figure]").count() > 8
        require_drawn(page)
        # hovering shows the text as it is
        clouds = page.locator("[data-figure='clouds-0']")
        clouds.evaluate("e => Plotly.Fx.hover(e, [{curveNumber: e.data.length - 1, pointNumber: 0}])")
        assert "<a href='x'>see</a> &lt; <b>bold</b>" in (clouds.locator(".hoverlayer").text_content() or "")
        assert page.locator(".hoverlayer a").count() == 0
        # dark as the system says, then light by the button, and back
        button = page.locator("#theme")
        for dark in (True, False, True):
            assert button.get_attribute("aria-pressed") == str(dark).lower()
            assert is_dark(page) == dark
            page.wait_for_function(
                """dark => [...document.querySelectorAll('.xtitle')].every(each =>
                    (Number(getComputedStyle(each).fill.match(/\\d+/)[0]) > 128) === dark)""",
                arg=dark,
            )
            button.click()
        assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
        # the table sorts
        names = page.locator("table.sortable tbody th")
        first = names.all_inner_texts()
        heading = page.get_by_role("columnheader", name="speed-up")
        heading.get_by_role("button").click()
        assert heading.get_attribute("aria-sort") == "descending"
        assert names.first.inner_text() == "CoDIR student, openvino bf16"
        heading.get_by_role("button").press("Enter")
        assert (heading.get_attribute("aria-sort"), names.first.inner_text()) == ("ascending", "teacher")
        page.get_by_role("columnheader", name="Model").get_by_role("button").click()
        assert names.all_inner_texts() == sorted(first, key=str.lower)
        assert page.locator("th[aria-sort]").count() == 1
        # buttons hide and show clouds and classes
        place, group = page.locator("[data-figure='clouds-0']"), page.locator("[data-switches='clouds-0']")
        for name, left in (("bank", 300), ("equivalent", 150), ("bank", 300)):
            group.get_by_role("button", name=name, exact=True).click()
            page.wait_for_function(
                "([place, many]) => place.querySelectorAll('.scatterlayer .point').length === many",
                arg=[place.element_handle(), left],
            )
        # nothing is cut off at any width: a wide table becomes a list, and a table again
        for width in (1920, 768, 640, 390, 360, 1280):
            page.set_viewport_size({"width": width, "height": 800})
            page.wait_for_timeout(100)
            assert page.evaluate(OVERFLOW) <= 0, width
            assert page.locator(".scroll").first.evaluate("each => each.scrollWidth - each.clientWidth") <= 0
            stacked = page.locator(".scroll").first.evaluate("each => each.classList.contains('stacked')")
            assert stacked or width > 400


def test_a_study_in_one_visit(opened: Callable[..., Any]) -> None:
    with opened(fakes.study(), color_scheme="dark") as page:
        tabs = page.get_by_role("tab")
        assert tabs.all_inner_texts() == ["mrpc", "cola", "average"]
        kept = page.locator("#panel-0").get_by_role("columnheader", name="kept").get_by_role("button")
        for _ in range(2):  # unknown values come last both ways
            kept.click()
            last = page.locator("#panel-0 tbody tr").last.locator("th").inner_text()
            assert last == "codir-fine with a weight of 0.00"
        tabs.nth(1).click()
        assert page.get_by_role("tabpanel").count() == 1
        assert (page.locator("#panel-1").is_visible(), page.locator("#panel-0").is_hidden()) == (True, True)
        require_drawn(page)
        tabs.nth(1).focus()
        for key, number in (("ArrowRight", 2), ("ArrowRight", 0), ("End", 2), ("Home", 0)):
            page.keyboard.press(key)
            assert page.locator(f"#panel-{number}").is_visible()
        assert tabs.nth(0).get_attribute("aria-selected") == "true"
        assert tabs.nth(1).get_attribute("tabindex") == "-1"
        # on paper all is open and light, those of tabs that nobody has opened, too
        page.emulate_media(media="print")
        page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        assert not is_dark(page)
        assert all(page.locator(f"#panel-{number}").is_visible() for number in range(3))
        assert page.locator("details:not([open])").count() == 0
        page.wait_for_function(ALL_DRAWN)
        assert not page.locator(".top").is_visible()
        page.evaluate("window.dispatchEvent(new Event('afterprint'))")
        page.emulate_media(media="screen")
        assert is_dark(page)
    with opened(fakes.study(), java_script_enabled=False) as page:
        assert page.get_by_text("codir-fine with a weight of 0.00").first.is_visible()
        assert page.locator("table").count() == 3
        assert "Figures need JavaScript." in page.locator("body").inner_text()


def test_examples_are_searched_filtered_and_paged(opened: Callable[..., Any]) -> None:
    items = fakes.full().disagreements
    with opened(fakes.without_figures()) as page:
        # all is reached from the keyboard alone
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        reached = set()
        for _ in range(45):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
        assert {"theme", "scroll", "chip", "search", "next"} <= reached

        shown, examples = page.locator("#shown"), page.locator("#examples > li")
        assert (shown.inner_text(), examples.count()) == ("1–25 of 79", 25)
        assert page.locator("#previous").is_disabled()
        for said in ("26–50 of 79", "51–75 of 79", "76–79 of 79"):
            page.locator("#next").click()
            assert shown.inner_text() == said
        assert page.locator("#next").is_disabled()
        assert examples.count() == 4

        lost = page.get_by_role("button", name=re.compile("^lost"))
        lost.click()
        assert lost.get_attribute("aria-pressed") == "true"
        assert shown.inner_text() == "1–25 of 40"
        assert set(page.locator("#examples .badge").all_inner_texts()) == {"lost"}
        page.locator("#search").press_sequentially("SONG child")
        of_kind = [item for item in items if item.kind == "lost"]
        found = [item for item in of_kind if "song child" in f"{item.text}\n{item.text_pair}".lower()]
        assert 0 < len(found) < 25
        assert shown.inner_text() == f"1–{len(found)} of {len(found)}"
        assert {text.lower() for text in page.locator("#examples mark").all_inner_texts()} == {"song child"}
        page.fill("#search", "no text has this")
        assert shown.inner_text() == "Nothing found"
        page.fill("#search", "")
        worst = max(of_kind, key=lambda item: item.badness)
        assert f"example {worst.number}" in examples.first.inner_text()
        bar = examples.first.locator(".bar span").first
        width = bar.evaluate("each => each.getBoundingClientRect().width / each.parentElement.clientWidth")
        assert width == pytest.approx(worst.teacher_confidence, abs=0.02)

        long = max((item.text for item in of_kind), key=len)
        page.fill("#search", long[:60])
        more = page.locator("#examples .more").first
        assert f"{len(long):,} characters" in more.inner_text()
        more.click()
        assert page.locator("#examples p").first.inner_text() == long

        page.get_by_text("Configuration, as it was used").click()
        page.evaluate(
            """() => {
              window.said = [];
              const button = document.querySelector('[data-copy]');
              new MutationObserver(() => window.said.push(button.textContent)).observe(button, { childList: true });
            }"""
        )
        page.locator("[data-copy]").click()
        page.wait_for_function("() => window.said.includes('Copied')")
