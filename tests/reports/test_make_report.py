"""The command: where the page goes, what it may replace, what it says. The page itself is stood in for."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from small_world import quiet
from typer.testing import CliRunner

from codir.cli.main import app
from codir.errors import ConfigError, RunError
from codir.reports import make, report
from codir.reports.contents import Report


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Report]:
    """Stands in for the page, and keeps what it was to draw."""
    kept: list[Report] = []

    def write_page(found: Report, path: Path) -> None:
        kept.append(found)
        path.write_text('<!doctype html><html><head><meta name="generator" content="codir 1">')

    page = types.ModuleType("codir.reports.page")
    page.write_page = write_page  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "codir.reports.page", page)
    monkeypatch.setattr(make, "_require_packages", lambda: None)
    return kept


def test_the_page_lies_in_the_folder_and_is_renewed(copy_of: Path, drawn: list[Report]) -> None:
    console: Any = quiet()
    page = report(copy_of, models=False, console=console)
    assert page == copy_of / "report.html"
    said = console.file.getvalue()
    assert drawn[0].words[0][:40] in said
    assert "--no-models" in said
    report(copy_of, models=False, console=quiet())
    assert len(drawn) == 2


def test_nothing_else_is_replaced_unasked(copy_of: Path, drawn: list[Report], tmp_path: Path) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("<html>my thesis</html>")
    with pytest.raises(RunError, match="add --overwrite"):
        report(copy_of, mine, models=False, console=quiet())
    assert mine.read_text() == "<html>my thesis</html>"
    with pytest.raises(RunError, match="is a folder"):
        report(copy_of, tmp_path, models=False, console=quiet())
    assert drawn == []
    report(copy_of, mine, models=False, overwrite=True, console=quiet())
    assert "generator" in mine.read_text()


def test_a_page_of_ours_is_recognised(copy_of: Path, tmp_path: Path) -> None:
    """The real page carries the mark that lets it be replaced."""
    page = tmp_path / "page.html"
    for _ in range(2):
        report(copy_of, page, models=False, console=quiet())
    assert make.MARKER in page.read_bytes()[: make._HEAD]


def test_the_command_has_all_flags(copy_of: Path, drawn: list[Report], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["report", str(copy_of), "--output", str(page), "--examples", "5"])
    assert result.exit_code == 0, result.output
    assert drawn[0].confusions[0].counts.sum() == 5
    result = CliRunner().invoke(app, ["report", str(tmp_path / "none")])
    assert result.exit_code == 2
    assert "does not exist" in result.output
    assert not (tmp_path / "none").exists()


def test_the_browser_is_asked_for_only_if_wanted(
    copy_of: Path, drawn: list[Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(make.webbrowser, "open", lambda address: bool(opened.append(address)))
    report(copy_of, models=False, console=quiet())
    assert opened == []
    console: Any = quiet()
    report(copy_of, models=False, show=True, console=console)
    assert opened == [(copy_of / "report.html").resolve().as_uri()]
    assert "No browser" in console.file.getvalue()


def test_missing_packages_are_named_before_anything_is_run(
    copy_of: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = make.importlib.util.find_spec
    monkeypatch.setattr(make.importlib.util, "find_spec", lambda n: None if n == "plotly" else find(n))
    monkeypatch.setattr(make, "gather", lambda *args, **settings: pytest.fail("it was gathered"))
    with pytest.raises(ConfigError, match=r'plotly: pip install "codir\[report\]"'):
        report(copy_of, console=quiet())


def test_pictures_are_written_where_asked(
    copy_of: Path, drawn: list[Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = types.ModuleType("codir.reports.images")
    images.write_images = lambda found, folder: [folder / "a.svg"]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "codir.reports.images", images)
    console: Any = quiet()
    report(copy_of, models=False, images=tmp_path / "pictures", console=console)
    assert "1 picture" in console.file.getvalue()
