"""The page is understood in a minute: what will be deployed, in words, nothing cut off, no winner of a tie."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from fault_world import QUICK, codir, flags, sentences, succeeded, write_csv

pytest.importorskip("plotly")

LABELS = ("negative", "positive")
BUSY = "The machine was busy (2 cores, 2 used here: load average 7.9 at the start): the times are too long."


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("data") / "train.csv", sentences(32, labels=LABELS))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, train: Path, model: Path) -> Path:
    """Returns a distilled student with an undistilled one beside it."""
    output = tmp_path_factory.mktemp("runs") / "xyz-17"
    given = flags(teacher=model, train=train, validation=train, student_layers=1, recipe="kd")
    succeeded("distill", *given, *QUICK, output=output)
    return output


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / run.name))


def _with_scores(run: Path, scores: dict[str, float], constant: float = 0.5) -> None:
    """Writes other scores into the results of a run: by role, `finetune` the undistilled student."""
    path = run / "metrics.json"
    (run / "codir-manifest.json").unlink()  # which says that nobody changed them
    content = json.loads(path.read_text(encoding="utf-8"))
    comparison = content["comparison"]
    comparison |= {"constant": constant, "tests": {}}
    for row in comparison["rows"]:
        score = scores[row["role"]]
        row["metrics"][row["main_metric"]] = score
        row["share_kept"] = score / scores["teacher"]
    path.write_text(json.dumps(content), encoding="utf-8")


def _page(run: Path, *more: object) -> str:
    """Returns what the page says, in order: titles, tiles, words; without styles, scripts and data."""
    output = run.parent / "page.html"
    done = codir("report", run, "--output", output, "--no-models", "--overwrite", *more)
    assert done.code == 0, done.text
    text = output.read_text(encoding="utf-8")
    text = re.sub(r"(?s)<(style|script)\b.*?</\1>", " ", text[text.index("<body") :])
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def _tiles(page: str) -> str:
    return page[: page.index("All models")]


def test_the_title_is_in_words(run: Path) -> None:
    page = _page(run)
    assert "Negative or positive: distilled student with 1 of 2 layers" in page
    assert "for train" not in page
    assert "Scores: train" not in page
    assert "codir report · xyz-17" in page


@pytest.mark.parametrize(("score", "first"), [(0.5, True), (0.4, True), (0.75, False)])
def test_no_better_than_one_answer_comes_first(copy: Path, score: float, first: bool) -> None:
    _with_scores(copy, {"teacher": 0.9, "finetune": 0.45, "kd": score, "codir": score})
    done = codir("report", copy, "--output", copy.parent / "p.html", "--no-models")
    assert done.text.startswith("Answering the same class to everything scores 0.5000") is first
    page = _page(copy)
    words, kept = page.index("Answering the same class") if first else -1, page.index("keeps")
    assert words < kept


@pytest.mark.parametrize(("other", "tie"), [(0.8, True), (0.80004, True), (0.7, False)])
def test_a_tie_has_no_winner(copy: Path, other: float, tie: bool) -> None:
    _with_scores(copy, {"teacher": 0.9, "finetune": other, "kd": 0.8, "codir": 0.8})
    path = copy / "metrics.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    for row in content["comparison"]["rows"]:
        row["timing"] = None  # then the scores are drawn
    path.write_text(json.dumps(content), encoding="utf-8")
    page = _page(copy)
    assert ("No student is ahead: undistilled student and KD student have the same score, 80.0" in page) is tie
    assert ("The highest score of a student is KD student's with 80.0" in page) is not tie


def test_times_of_a_busy_machine_say_so(copy: Path, train: Path) -> None:
    file = copy / "latency.json"
    quick = flags(rounds=1, sequences=8, batch=4, no_memory=True)
    succeeded("latency", copy, *quick, validation=train, output=file)
    content = json.loads(file.read_text(encoding="utf-8"))
    content["notes"] = ["An ordinary note."]
    file.write_text(json.dumps(content), encoding="utf-8")
    assert "The machine was busy" not in _page(copy)
    content["notes"] = ["An ordinary note.", BUSY]
    file.write_text(json.dumps(content), encoding="utf-8")
    page = _page(copy)
    assert page.index(BUSY) < page.index("of the teacher's score")


def test_the_speed_is_that_of_what_will_be_deployed(copy: Path, train: Path) -> None:
    export, file = copy.parent / "bf16", copy / "latency.json"
    succeeded("export", copy, "--format", "torch-bf16", "--output", export, "--validation", train)
    # not timed yet: the tile says what its speed is of
    assert "as torch-bf16 it was not timed" in _tiles(_page(copy, "--with", export))
    quick = flags(rounds=1, sequences=8, batch=4, no_memory=True)
    succeeded("latency", copy, export, *quick, validation=train, output=file)
    content = json.loads(file.read_text(encoding="utf-8"))
    (row,) = [row for row in content["rows"] if row["engine"] != "torch"]
    row["timing"]["speedup"] = 7.25
    file.write_text(json.dumps(content), encoding="utf-8")
    page = _page(copy, "--with", export)
    assert "7.25× as fast" in " ".join(_tiles(page).replace("as fast 7.25×", "7.25× as fast").split())
    assert "7.25 times as torch-bf16" in page  # the headline agrees


def test_the_table_is_whole_at_every_width(run: Path, tmp_path: Path, browser: Any) -> None:
    output = tmp_path / "page.html"
    succeeded("report", run, "--output", output, "--no-models")
    page = browser.new_page(color_scheme="dark")
    page.goto(output.as_uri())
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(500)
        cut = page.evaluate(
            "() => [...document.querySelectorAll('.models td, .models th.name')].filter(each => {"
            " const box = each.getBoundingClientRect();"
            " return box.width && (box.right > document.documentElement.clientWidth + 1 || box.left < -1)}).length"
        )
        assert cut == 0
        assert page.evaluate("() => document.querySelectorAll('.models td').length") > 10
    page.close()
