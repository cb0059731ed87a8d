"""`codir publish` on the command line: what is asked, what is passed on, and what ends with a message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from codir.cli.main import app
from codir.deploy import publish as module


def run(*arguments: str, given: str | None = None) -> Result:
    environment = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    return CliRunner(env=environment).invoke(app, ["publish", *arguments], input=given)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    noted: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    monkeypatch.setattr(module, "publish", lambda *args, **settings: noted.append((args, settings)))
    return noted


def test_flags_become_arguments(calls: list[tuple[tuple[Any, ...], dict[str, Any]]]) -> None:
    more = ["--with", "d/a", "--with", "d/b", "--private", "--license", "mit", "--language", "en", "--report"]
    more += ["--regenerate", "--update", "--revision", "v2", "--message", "New", "--yes"]
    done = run("runs/s", "ann/model", *more)
    assert done.exit_code == 0, done.output
    assert calls == [
        (
            (Path("runs/s"), "ann/model"),
            {
                "exported": [Path("d/a"), Path("d/b")],
                "dry_run": False,
                "private": True,
                "update": True,
                "regenerate": True,
                "report": True,
                "revision": "v2",
                "message": "New",
                "license": "mit",
                "language": "en",
                "confirm": None,
            },
        )
    ]


def test_a_dry_run_asks_nothing(calls: list[tuple[tuple[Any, ...], dict[str, Any]]]) -> None:
    assert run("runs/s", "ann/model", "--dry-run").exit_code == 0
    ((_, settings),) = calls
    assert settings["dry_run"] is True
    assert settings["revision"] == "main"


def test_without_a_terminal_somebody_must_have_said_yes(
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]],
) -> None:
    done = run("runs/s", "ann/model")
    assert done.exit_code == 2
    assert "add --yes" in done.output
    assert not calls


def test_in_a_terminal_the_user_is_asked(
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from codir.cli import publishing

    monkeypatch.setattr(publishing, "_at_a_terminal", lambda: True)
    assert run("runs/s", "ann/model").exit_code == 0
    ((_, settings),) = calls
    assert settings["confirm"] is typer.confirm


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "ann/model", "--dry-run"], "nowhere does not exist"),
        (["nowhere", "model", "--dry-run"], "Give user/model-name"),
        (["nowhere", "ann/model", "--yes", "--revision", "a b"], "no name of a branch"),
    ],
)
def test_bad_input_ends_with_a_message(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output


def test_the_command_calls_the_workflow_as_it_is() -> None:
    import inspect

    settings = ["exported", "dry_run", "private", "update", "regenerate", "report", "revision", "message"]
    settings += ["license", "language", "confirm"]
    inspect.signature(module.publish).bind("f", "r", **dict.fromkeys(settings))
