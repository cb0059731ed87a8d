"""The page in a real browser: it draws, sorts, searches, turns pages, goes dark, and asks the network for nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakes
import pytest

from codir.reports.page import write_page
from codir.reports.values import Report

DESKTOP, PHONE = (1280, 900), (390, 844)
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
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


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[], Report]], Path]:
    """Returns a function that writes a report's page, once."""
    folder = tmp_path_factory.mktemp("pages")

    def write(make: Callable[[], Report]) -> Path:
        path = folder / f"{make.__qualname__.replace('<locals>', '')}.html"
        if not path.exists():
            write_page(make(), path)
        return path

    return write


@pytest.fixture
def opened(browser: Any, written: Callable[..., Path], tmp_path: Path) -> Callable[..., Any]:
    """Returns a context manager that opens a page and afterwards complains about errors and requests."""

    @contextmanager
    def open_page(
        make: Callable[[], Report], size: tuple[int, int] = DESKTOP, **settings: Any
    ) -> Iterator[Any]:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **settings)
        page = context.new_page()
        page.set_default_timeout(30_000)
        problems: list[str] = []
        requests: list[str] = []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        address = written(make).as_uri()
        page.goto(address)
        yield page
        page.screenshot(path=tmp_path / f"{make.__name__}-{size[0]}.png")
        context.close()
        assert problems == []
        assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [address]

    return open_page


def eventually(page: Any, expression: str, argument: object = None) -> None:
    """Waits until a JavaScript expression of `argument` is true; raises playwright's TimeoutError if it never is."""
    page.wait_for_function(expression, arg=argument)


def shows(page: Any, place: Any, points: int) -> None:
    """Waits until a figure has exactly so many points."""
    eventually(
        page,
        "([place, many]) => place.querySelectorAll('.scatterlayer .point').length === many",
        [place.element_handle(), points],
    )


def hover_all(page: Any) -> None:
    """Opens the hover box of the first point of every trace of every drawn figure."""
    page.evaluate(
        """() => {
          for (const place of document.querySelectorAll('[data-drawn]'))
            place.data.forEach((trace, number) => {
              if (place.offsetParent && trace.type === 'scatter' && trace.hoverinfo !== 'skip' && trace.x.length)
                Plotly.Fx.hover(place, [{ curveNumber: number, pointNumber: 0 }]);
              if (place.querySelector('.hoverlayer a')) throw new Error('a link in a hover box');
            });
        }"""
    )


def draw_all(page: Any) -> list[dict[str, float]]:
    """Scrolls to every figure that can be seen, waits for it and returns what each shows."""
    shown = []
    for place in page.locator("[data-figure]:visible").all():
        place.scroll_into_view_if_needed()
        page.wait_for_function(
            """place => 'drawn' in place.dataset
                && place.querySelector('.main-svg').clientWidth <= place.clientWidth + 1""",
            arg=place.element_handle(),
        )
        shown.append(place.evaluate(DRAWN))
    return shown


@pytest.mark.parametrize(
    ("make", "first", "then"),
    [
        (fakes.empty, DESKTOP, PHONE),
        (fakes.many_measured, PHONE, DESKTOP),
        (fakes.many_classes, DESKTOP, PHONE),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_figure_draws_and_the_page_never_scrolls_sideways(
    opened: Callable[..., Any], make: Callable[[], Report], first: tuple[int, int], then: tuple[int, int]
) -> None:
    with opened(make, first) as page:
        for width, height in (first, then):
            page.set_viewport_size({"width": width, "height": height})
            shown = draw_all(page)
            assert (make is fakes.empty) == (not shown)
            for figure in shown:
                assert figure["marks"] > 0
                assert figure["height"] > 150
                assert 200 < figure["width"] <= figure["inside"] + 1
            assert page.evaluate(OVERFLOW) <= 0
        if make is fakes.many_classes:  # by WebGL, or without where there is none
            place = page.locator("[data-figure='clouds-0']")
            points = "place => place.querySelector('canvas') ? 3600 : place.querySelectorAll('.point').length"
            assert place.evaluate(points) == 3600


@pytest.mark.parametrize(
    ("size", "opened_with_policy"), [(DESKTOP, False), (PHONE, True)], ids=["desktop", "phone"]
)
def test_hostile_texts_are_shown_and_run_nothing(
    opened: Callable[..., Any], size: tuple[int, int], opened_with_policy: bool
) -> None:
    # Without the policy the escaping alone has to hold.
    with opened(fakes.hostile, size, bypass_csp=not opened_with_policy) as page:
        links = page.locator("a").count()
        for tab in page.get_by_role("tab").all():
            tab.click()
            for figure in draw_all(page):
                assert figure["width"] > 200
            hover_all(page)
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
    with opened(fakes.full, color_scheme="dark") as page:
        # all is drawn though nobody scrolls
        eventually(
            page, "() => [...document.querySelectorAll('[data-figure]')].every(e => 'drawn' in e.dataset)"
        )
        assert page.evaluate("window.scrollY") == 0
        assert page.locator("[data-figure]").count() > 8
        for figure in draw_all(page):
            assert figure["marks"] > 0
            assert figure["height"] > 150
            assert 200 < figure["width"] <= figure["inside"] + 1
        # dark as the system says, then light by the button, and back
        button = page.locator("#theme")
        for dark in (True, False, True):
            assert button.get_attribute("aria-pressed") == str(dark).lower()
            assert (luminance(page, "body", "backgroundColor") < 60) == dark
            eventually(
                page,
                """dark => [...document.querySelectorAll('.xtitle')].every(each =>
                    (Number(getComputedStyle(each).fill.match(/\\d+/)[0]) > 128) === dark)""",
                dark,
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
            shows(page, place, left)
        # nothing is cut off at any width: a wide table becomes a list, and a table again
        for width in (1920, 1024, 768, 641, 640, 390, 360, 1280):
            page.set_viewport_size({"width": width, "height": 800})
            page.wait_for_timeout(100)
            assert page.evaluate(OVERFLOW) <= 0, width
            assert page.locator(".scroll").first.evaluate("each => each.scrollWidth - each.clientWidth") <= 0
            stacked = page.locator(".scroll").first.evaluate("each => each.classList.contains('stacked')")
            assert stacked or width > 400


def test_a_study_in_one_visit(opened: Callable[..., Any], tmp_path: Path) -> None:
    def report() -> Report:
        made = fakes.study()
        models = [
            replace(model, kept=None) if n == 3 else model for n, model in enumerate(made.panels[0].models)
        ]
        return replace(made, panels=[replace(made.panels[0], models=models), *made.panels[1:]])

    with opened(report, color_scheme="dark") as page:
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
        assert [figure["width"] > 600 for figure in draw_all(page)] == [True, True]
        tabs.nth(1).focus()
        for key, number in (("ArrowRight", 2), ("ArrowRight", 0), ("End", 2), ("Home", 0)):
            page.keyboard.press(key)
            assert page.locator(f"#panel-{number}").is_visible()
        assert tabs.nth(0).get_attribute("aria-selected") == "true"
        assert tabs.nth(1).get_attribute("tabindex") == "-1"
        # on paper all is open and light, those of tabs that nobody has opened, too
        page.emulate_media(media="print")
        page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        assert luminance(page, "body", "backgroundColor") > 200
        assert all(page.locator(f"#panel-{number}").is_visible() for number in range(3))
        assert page.locator("details:not([open])").count() == 0
        eventually(
            page,
            "() => [...document.querySelectorAll('[data-figure]')].every(e => e.querySelector('.main-svg'))",
        )
        assert not page.locator(".top").is_visible()
        page.evaluate("window.dispatchEvent(new Event('afterprint'))")
        page.emulate_media(media="screen")
        assert luminance(page, "body", "backgroundColor") < 60


def test_it_is_used_from_the_keyboard_alone(opened: Callable[..., Any]) -> None:
    def report() -> Report:
        return replace(fakes.without_figures(), panels=fakes.full().panels)

    with opened(report) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        reached = set()
        for _ in range(70):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
        assert {"theme", "scroll", "chip", "search", "next"} <= reached


def test_hovering_shows_the_text_as_it_is(opened: Callable[..., Any]) -> None:
    def hover() -> Report:
        texts = ("<a href='x'>see</a> &lt; <b>bold</b>",)
        return replace(fakes.without_figures(), clouds=fakes.clouds(fakes.CLASSES, 10, texts))

    with opened(hover) as page:
        place = page.locator("[data-figure='clouds-0']")
        place.scroll_into_view_if_needed()
        page.wait_for_function("place => 'drawn' in place.dataset", arg=place.element_handle())
        place.evaluate(
            "place => Plotly.Fx.hover(place, [{curveNumber: place.data.length - 1, pointNumber: 0}])"
        )
        assert "<a href='x'>see</a> &lt; <b>bold</b>" in (place.locator(".hoverlayer").text_content() or "")
        assert page.locator(".hoverlayer a").count() == 0


def test_examples_are_searched_filtered_and_paged(opened: Callable[..., Any]) -> None:
    with opened(fakes.without_figures) as page:
        shown, examples = page.locator("#shown"), page.locator("#examples > li")
        assert shown.inner_text() == "1–25 of 79"
        assert examples.count() == 25
        assert page.locator("#previous").is_disabled()
        page.locator("#next").click()
        assert shown.inner_text() == "26–50 of 79"
        for _ in range(2):
            page.locator("#next").click()
        assert shown.inner_text() == "76–79 of 79"
        assert page.locator("#next").is_disabled()
        assert examples.count() == 4

        lost = page.get_by_role("button", name=re.compile("^lost"))
        lost.click()
        assert lost.get_attribute("aria-pressed") == "true"
        assert shown.inner_text() == "1–25 of 40"
        assert set(page.locator("#examples .badge").all_inner_texts()) == {"lost"}

        page.locator("#search").press_sequentially("SONG child")
        found = [
            item
            for item in fakes.full().disagreements
            if item.kind == "lost" and "song child" in f"{item.text}\n{item.text_pair}".lower()
        ]
        assert 0 < len(found) < 25
        assert shown.inner_text() == f"1–{len(found)} of {len(found)}"
        assert {text.lower() for text in page.locator("#examples mark").all_inner_texts()} == {"song child"}
        page.fill("#search", "no text has this")
        assert shown.inner_text() == "Nothing found"
        page.fill("#search", "")
        assert shown.inner_text() == "1–25 of 40"
        worst = max(
            (i for i in fakes.full().disagreements if i.kind == "lost"), key=lambda item: item.badness
        )
        assert f"example {worst.number}" in examples.first.inner_text()
        bar = examples.first.locator(".bar span").first
        width = bar.evaluate("each => each.getBoundingClientRect().width / each.parentElement.clientWidth")
        assert width == pytest.approx(worst.teacher_confidence, abs=0.02)


def test_a_long_text_opens(opened: Callable[..., Any]) -> None:
    with opened(fakes.without_figures) as page:
        long = max((item.text for item in fakes.full().disagreements), key=len)
        page.fill("#search", long[:60])
        more = page.locator("#examples .more").first
        assert f"{len(long):,} characters" in more.inner_text()
        more.click()
        assert page.locator("#examples p").first.inner_text() == long


def luminance(page: Any, selector: str, what: str) -> float:
    colour = page.locator(selector).first.evaluate(f"each => getComputedStyle(each)['{what}']")
    red, green, blue = (int(part) for part in re.findall(r"\d+", colour)[:3])
    return (red + green + blue) / 3


def test_the_configuration_is_copied(opened: Callable[..., Any]) -> None:
    with opened(fakes.without_figures) as page:
        page.get_by_text("Configuration, as it was used").click()
        page.evaluate(
            """() => {
              window.said = [];
              const button = document.querySelector('[data-copy]');
              new MutationObserver(() => window.said.push(button.textContent)).observe(button, { childList: true });
            }"""
        )
        page.locator("[data-copy]").click()
        eventually(page, "() => window.said.includes('Copied')")


def test_without_scripts_tables_and_facts_are_there(opened: Callable[..., Any]) -> None:
    with opened(fakes.study, java_script_enabled=False) as page:
        assert page.get_by_text("codir-fine with a weight of 0.00").first.is_visible()
        assert page.locator("table").count() == 3
        assert "Figures need JavaScript." in page.locator("body").inner_text()
