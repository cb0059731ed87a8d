"""`codir corpus`: its flags reach the workflow, also the command as the README writes it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import codir.runs
from codir.cli.main import app

REQUIRED = ["--tokenizer", "t", "--output", "o"]


def run(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).invoke(
        app, ["corpus", *arguments]
    )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    noted: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def workflow(*args: Any, **kwargs: Any) -> None:
        noted.append((args, kwargs))

    monkeypatch.setattr(codir.runs, "corpus", SimpleNamespace(corpus=workflow), raising=False)
    return noted


@pytest.mark.parametrize(
    ("flags", "inputs"),
    [
        (["--input", "a.jsonl", "b.txt", "c.txt", *REQUIRED], ["a.jsonl", "b.txt", "c.txt"]),
        ([*REQUIRED, "--input", "a.jsonl", "b.txt"], ["a.jsonl", "b.txt"]),
        (["--input", "a", "--input", "b", *REQUIRED], ["a", "b"]),
        (["--input", "a", "b", "--input", "c", *REQUIRED], ["a", "c", "b"]),
        (["a", "b", *REQUIRED], ["a", "b"]),
        (["--input", "org/name:en:train", *REQUIRED], ["org/name:en:train"]),
    ],
)
def test_inputs(flags: list[str], inputs: list[str], calls: list[Any]) -> None:
    result = run(*flags)
    assert result.exit_code == 0, result.output
    assert calls[0][0] == (inputs, "t", Path("o"))


@pytest.mark.parametrize(
    ("flags", "name", "value"),
    [
        ([], "block", 512),
        (["--block", "128"], "block", 128),
        (["--text", "body"], "text", "body"),
        (["--documents", "file"], "documents", "file"),
        (["--validation", "0.2"], "validation", 0.2),
        (["--workers", "3"], "workers", 3),
        ([], "workers", None),
        (["--seed", "4"], "seed", 4),
        (["--allow-skipped", "0.5"], "allow_skipped", 0.5),
        ([], "allow_skipped", 0.01),
        (["--resume"], "resume", True),
        ([], "resume", False),
    ],
)
def test_flags(flags: list[str], name: str, value: Any, calls: list[Any]) -> None:
    result = run("--input", "a.txt", *REQUIRED, *flags)
    assert result.exit_code == 0, result.output
    assert calls[0][1][name] == value


def test_no_input(calls: list[Any]) -> None:
    result = run(*REQUIRED)
    assert result.exit_code == 2
    assert "There is no input: add --input" in result.output
    assert not calls


def test_an_error_is_a_message(tmp_path: Path) -> None:
    result = run(
        "--input",
        str(tmp_path / "no.txt"),
        "--tokenizer",
        str(tmp_path / "no"),
        "--output",
        str(tmp_path / "c"),
    )
    assert result.exit_code == 2
    assert "does not exist" in result.output
    assert "Traceback" not in result.output
