"""`codir study` on the command line: flags become settings, and what it cannot do is said."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from codir.cli.main import app
from codir.studies import run as module

COMMAND = ["study", "--recipes", "finetune,kd", "--tasks", "mrpc", "--model", "m", "--output", "o"]


def run(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).invoke(app, list(arguments))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, dict[str, Any]]]:
    noted: list[tuple[Any, dict[str, Any]]] = []

    def workflow(config: Any, **settings: Any) -> Any:
        noted.append((config, settings))
        return SimpleNamespace(failed={})

    monkeypatch.setattr(module, "study", workflow)
    return noted


def test_flags_become_settings(calls: list[tuple[Any, dict[str, Any]]]) -> None:
    more = [
        "--seeds",
        "1-3",
        "--epochs",
        "2",
        "--student-layers",
        "3",
        "--limit-train",
        "50",
        "--workers",
        "2",
    ]
    done = run(
        *COMMAND, *more, "--teachers", "mrpc=runs/t", "--set", "training.warmup_steps=0.1", "--retry-failed"
    )
    assert done.exit_code == 0, done.output
    ((config, settings),) = calls
    assert config.seeds == [1, 2, 3]
    assert config.training.model_dump(exclude_unset=True) == {"num_train_epochs": 2.0, "warmup_steps": 0.1}
    assert config.student.layers == 3
    assert config.tasks["mrpc"].limit_train == 50
    assert config.workers == 2
    assert config.teachers == {"mrpc": "runs/t"}
    assert settings == {"retry_failed": True}


def test_flags_win_over_the_file(calls: list[tuple[Any, dict[str, Any]]], tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(
        "recipes: [kd, finetune]\ntasks: [mrpc]\nmodel: m\nseeds: 1-5\ntraining: {num_train_epochs: 3}\n"
    )
    done = run("study", str(study), "--output", str(tmp_path / "s"), "--seeds", "7", "--epochs", "1")
    assert done.exit_code == 0, done.output
    ((config, _),) = calls
    assert config.seeds == [7]
    assert config.training.model_dump(exclude_unset=True) == {"num_train_epochs": 1.0}
    assert list(config.recipes) == ["kd", "finetune"]


def test_resume_alone_takes_the_study_in_the_folder(
    calls: list[tuple[Any, dict[str, Any]]], tmp_path: Path
) -> None:
    (tmp_path / "study.yaml").write_text("recipes: [kd]\ntasks: [mrpc]\nmodel: m\noutput: elsewhere\n")
    done = run("study", "--output", str(tmp_path), "--resume", "--workers", "3")
    assert done.exit_code == 0, done.output
    ((config, _),) = calls
    assert (config.resume, config.workers, config.output) == (True, 3, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study"], "Nothing to study"),
        (["study", "--status"], "Add --output"),
        (["study", "--status", "--output", "/nowhere/s"], "holds no study"),
        (["study", "--report", "--output", "/nowhere/s"], "There is no study in"),
        ([*COMMAND, "--teachers", "mrpc"], "expected NAME=MODEL"),
        ([*COMMAND, "--seeds", "a"], "give seeds such as 1-5"),
        ([*COMMAND, "--set", "wrokers=2"], "did you mean 'workers'"),
    ],
)
def test_what_is_missing_is_said(
    calls: list[tuple[Any, dict[str, Any]]], arguments: list[str], message: str
) -> None:
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.output.split())
    assert not calls


def test_a_study_with_failures_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "study", lambda config, **_: SimpleNamespace(failed={"a": "b"}))
    assert run(*COMMAND).exit_code == 1
