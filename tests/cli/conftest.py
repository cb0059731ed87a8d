"""What the tests of the command line share: `codir` in this process, with workflows that note what they are given."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import codir.runs
from codir.cli.main import app
from codir.deploy import export, latency
from codir.runs import augment
from codir.studies import run as studies
from codir.studies.paper import reproduce


@pytest.fixture
def run() -> Callable[..., Result]:
    """Returns `codir` on a wide terminal, so that help and messages are not broken into lines."""
    runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    return lambda *arguments: runner.invoke(app, [str(each) for each in arguments])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Replaces every workflow by one that notes its name and what it was called with."""
    noted: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def noting(name: str) -> Callable[..., Any]:
        def workflow(*args: Any, **kwargs: Any) -> Any:
            noted.append((name, args, kwargs))
            return SimpleNamespace(failed={})

        return workflow

    for name in ("finetune", "distill", "evaluate", "predict", "demo", "corpus"):
        monkeypatch.setattr(codir.runs, name, SimpleNamespace(**{name: noting(name)}), raising=False)
    homes = {"export": export, "latency": latency, "augment": augment, "study": studies}
    for name, module in {**homes, "show_plan": reproduce, "reproduce": reproduce}.items():
        monkeypatch.setattr(module, name, noting(name))
    return noted
