"""`codir report`: where the page goes, what it may replace, what it says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from small_world import quiet
from typer.testing import CliRunner

import codir.reports
from codir.cli.main import app
from codir.errors import ConfigError, RunError
from codir.reports import report


def test_the_page_lies_in_the_folder_is_renewed_and_opened(copy_of: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(codir.reports.webbrowser, "open", lambda address: bool(opened.append(address)))
    console: Any = quiet()
    page = report(copy_of, models=False, console=console)
    assert page == copy_of / "report.html"
    first = page.read_bytes()
    assert first.startswith(b"<!doctype html>")
    assert opened == []
    said = console.file.getvalue()
    assert "keeps" in said
    assert "--no-models" in said
    report(copy_of, models=False, show=True, console=console)  # in place of the first
    assert page.read_bytes() == first
    assert opened == [page.resolve().as_uri()]
    assert "No browser" in console.file.getvalue()


def test_nothing_else_is_replaced_unasked(copy_of: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("<html>my thesis</html>")
    for output, message in ((mine, "none of codir.s.*--overwrite"), (tmp_path, "is a folder")):
        with pytest.raises(RunError, match=message):
            report(copy_of, output, models=False, console=quiet())
    assert mine.read_text() == "<html>my thesis</html>"
    report(copy_of, mine, models=False, overwrite=True, console=quiet())
    assert codir.reports.MARKER in mine.read_bytes()[:16_000]


def test_the_command_has_all_flags(copy_of: Path, tmp_path: Path) -> None:
    page, pictures = tmp_path / "page.html", tmp_path / "pictures"
    asked = ["report", str(copy_of), "--output", str(page)]
    result = CliRunner().invoke(app, [*asked, "--examples", "5"])
    assert result.exit_code == 0, result.output
    assert "5 of the 40 of the validation split" in page.read_text(encoding="utf-8")
    result = CliRunner().invoke(app, [*asked, "--no-models", "--images", str(pictures)])
    assert result.exit_code == 0, result.output
    assert {path.suffix for path in pictures.iterdir()} == {".png", ".svg"}
    result = CliRunner().invoke(app, ["report", str(tmp_path / "none")])
    assert result.exit_code == 2
    assert "does not exist" in result.output
    assert not (tmp_path / "none").exists()


def test_what_cannot_work_is_named_before_anything_is_run(copy_of: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--no-models"):
        report(copy_of, examples=1)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "plotly" else find(name))
    with pytest.raises(ConfigError, match=r'plotly: pip install "codir\[report\]"'):
        report(copy_of, console=quiet())
    assert not (copy_of / "report.html").exists()
