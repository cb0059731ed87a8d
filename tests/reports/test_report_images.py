"""The pictures for papers: which there are, the same each time, texts that are no mathematics."""

from __future__ import annotations

from pathlib import Path

import fakes
import pytest

from codir.errors import ConfigError, RunError
from codir.reports.images import draw_images, write_images

pytest.importorskip("matplotlib")


def test_every_main_figure_is_written_in_both_formats(tmp_path: Path) -> None:
    files = write_images(fakes.full(), tmp_path / "pictures")
    assert [file.name for file in files if file.suffix == ".svg"] == [
        "latency-mrpc.svg",
        "loss.svg",
        "score.svg",
        "accuracy.svg",
        "agreement.svg",
        "similarity.svg",
    ]
    for file in files:
        start = file.read_bytes()[:200]
        assert start.startswith(b"\x89PNG" if file.suffix == ".png" else b"<?xml")


def test_a_study_has_scores_and_differences() -> None:
    tasks = ("mrpc", "cola", "average")
    assert list(draw_images(fakes.study())) == [
        *(f"scores-{task}" for task in tasks),
        *(f"differences-{task}" for task in tasks),
    ]


def test_the_same_report_gives_the_same_files() -> None:
    report = fakes.unfinished()
    assert draw_images(report) == draw_images(report)


def test_nothing_to_draw() -> None:
    assert draw_images(fakes.empty()) == {}


@pytest.mark.filterwarnings("ignore:Glyph")
def test_hostile_names_are_texts_and_harmless_file_names(tmp_path: Path) -> None:
    files = write_images(fakes.hostile(), tmp_path)
    assert files
    assert all(file.parent == tmp_path for file in files)
    assert len(set(files)) == len(files)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"file.*--images"):
        write_images(fakes.unfinished(), tmp_path / "file")


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"codir\[plots\]"):
        draw_images(fakes.unfinished())
