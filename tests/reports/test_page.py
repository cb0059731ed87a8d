"""The page as text: well formed, complete, nothing from outside, everything escaped. No browser is needed."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zipfile
from collections.abc import Callable
from functools import lru_cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import fakes
import pytest

from codir.errors import RunError
from codir.reports import page
from codir.reports.page import render, write_page
from codir.reports.values import Report

REPORTS: list[Callable[[], Report]] = [fakes.full, fakes.empty, fakes.study, fakes.crowded, fakes.hostile]
VOID = {"meta", "link", "input", "br", "img", "hr"}
Attributes = dict[str, str | None]


class Reader(HTMLParser):
    """Reads a page into a list of elements and complains about what is not closed in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, Attributes]] = []
        self.scripts: list[tuple[Attributes, str]] = []
        self.texts: list[str] = []
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if len(dict(attrs)) != len(attrs):
            self.faults.append(f"<{tag}> has an attribute twice")
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        elif not (self.open and self.open[-1] == "style"):
            self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        self.faults.append(f"a comment: {data}")


@lru_cache(maxsize=len(REPORTS))
def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    return reader


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {make.__name__: render(make()) for make in REPORTS}


@pytest.fixture(params=[make.__name__ for make in REPORTS])
def text(request: pytest.FixtureRequest, pages: dict[str, str]) -> str:
    return pages[request.param]


def test_elements_are_closed_in_order_ids_are_unique_and_headings_do_not_jump(text: str) -> None:
    reader = read(text)
    assert reader.faults == []
    assert reader.open == []
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for _, attributes in reader.elements:
        for name in ("aria-labelledby", "data-copy"):
            assert not attributes.get(name) or attributes[name] in ids
        if (attributes.get("href") or "").startswith("#"):
            assert (attributes["href"] or "")[1:] in ids
    levels = [int(tag[1]) for tag, _ in reader.elements if re.fullmatch("h[1-6]", tag)]
    assert (levels[0], levels.count(1)) == (1, 1)
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_nothing_comes_from_outside_and_no_element_carries_code(text: str) -> None:
    for tag, attributes in read(text).elements:
        assert "src" not in attributes, tag
        assert tag not in ("iframe", "object", "embed", "form", "base", "img")
        assert not [name for name in attributes if name.startswith("on")], tag
        if tag in ("a", "link"):
            assert (attributes["href"] or "").startswith(("#", "data:,")), attributes
    assert "@import" not in text
    assert "url(http" not in text


def test_the_policy_knows_every_script_and_allows_no_request(text: str) -> None:
    reader = read(text)
    (policy,) = [a["content"] or "" for _, a in reader.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-inline" not in policy.split("style-src")[0]
    run = [code for attributes, code in reader.scripts if attributes.get("type") != "application/json"]
    digests = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in run]
    assert re.findall(r"'sha256-([^']+)'", policy) == digests
    assert ("'unsafe-eval'" in policy) == ('"scattergl"' in "".join(code for _, code in reader.scripts if _))


def test_every_figure_has_its_data_a_title_and_a_takeaway(text: str) -> None:
    reader = read(text)
    places = [attributes for _, attributes in reader.elements if "data-figure" in attributes]
    specs = {attributes["data-spec"]: code for attributes, code in reader.scripts if "data-spec" in attributes}
    assert [place["data-figure"] for place in places] == list(specs)
    for place in places:
        assert place["role"] == "img"
        assert re.search(r"\w.*\. \S.*[.;)]", place["aria-label"] or "", flags=re.DOTALL), place
    for code in specs.values():
        assert set(json.loads(code)) == {"data", "layout", "narrow"}


def test_the_full_page_has_every_section(pages: dict[str, str]) -> None:
    text, report = pages["full"], fakes.full()
    reader = read(text)
    sections = "summary results training similarity clouds confusions disagreements costs facts"
    assert [attributes["id"] for tag, attributes in reader.elements if tag == "section"] == sections.split()
    title = text[text.index("<title>") + 7 : text.index("</title>")]
    for part in (report.title, "codir-fine", report.panels[0].task):  # by which open pages are told apart
        assert part in title
    words = " ".join(" ".join(reader.texts).split())
    numbers = ("95.4 %", "2.00×", "17.4 M", "69.6 MB", "80.5 %", "11.9×", "as openvino; 2.00× in PyTorch")
    for expected in (*numbers, report.words[0], "1 part is missing", "The 79 worst of 1203."):
        assert expected in words
    assert 'data-figure="panel-0-latency-0"' in text  # there are times, and the scores are in that figure
    assert 'data-figure="panel-0-scores"' not in text
    assert 'data-figure="panel-0-latency-1"' in pages["crowded"]
    assert render(report) == text


def test_an_empty_report_says_what_is_missing_and_why(pages: dict[str, str]) -> None:
    reader = read(pages["empty"])
    assert "section" not in [tag for tag, _ in reader.elements]
    words = " ".join(reader.texts)
    assert all(part in words and why in words for part, why in fakes.empty().missing)
    assert ['class="banner"' in pages[name] for name in ("empty", "full")] == [True, False]
    for name, content in pages.items():  # plotly only where something is drawn
        assert content.count("plotly.js v") == (name != "empty"), name


def test_a_study_has_a_panel_for_each_task(pages: dict[str, str]) -> None:
    report = fakes.study()
    report.panels = report.panels[:2]  # differences without a table have a panel, too
    for text in (pages["study"], render(report)):
        elements = read(text).elements
        panels = [a["data-name"] for _, a in elements if a.get("class") == "panel"]
        assert panels == ["mrpc", "cola", "average"]
    figures = [a["data-figure"] for _, a in read(pages["study"]).elements if "data-figure" in a]
    assert figures == [f"panel-{number}-{kind}" for number in range(3) for kind in ("scores", "forest")]


def test_hostile_texts_make_no_element_and_no_script(pages: dict[str, str]) -> None:
    hostile, full = read(pages["hostile"]), read(pages["full"])
    run = [code for attributes, code in hostile.scripts if not attributes]
    assert run == [code for attributes, code in full.scripts if not attributes]
    allowed = {tag for tag, _ in full.elements} | {"h4", "strong"}
    assert {tag for tag, _ in hostile.elements} <= allowed
    words = "".join(hostile.texts)
    for bad in fakes.HOSTILE[:7]:
        assert bad in words
    assert "\x00" not in pages["hostile"]
    assert "null␀byte" in words
    assert pages["hostile"].encode("utf-8")


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    write_page(fakes.empty(), path)
    before = path.read_bytes()
    assert before.startswith(b"<!doctype html>")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("codir.files.os.replace", fail)
    with pytest.raises(RunError, match=r"report\.html: No space left on device.*--output"):
        write_page(fakes.without_figures(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_wheel_holds_the_templates(tmp_path: Path) -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel")
    root = Path(page.__file__).parents[3]
    if not (root / "pyproject.toml").is_file():
        pytest.skip("codir is installed without its source tree")
    built = next(iter(wheel.WheelBuilder(str(root)).build(directory=str(tmp_path), versions=["standard"])))
    names = zipfile.ZipFile(built).namelist()
    for file in page.TEMPLATES.iterdir():
        assert f"codir/reports/templates/{file.name}" in names
