"""`codir augment`: what its flags become, and what it refuses before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from codir.cli.main import app
from codir.runs import augment as workflow


def run(*arguments: str) -> Any:
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, ["augment", *arguments])


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    monkeypatch.setattr(workflow, "augment", lambda *given, **more: calls.append((given, more)))
    return calls


def test_defaults_are_the_papers(called: list[Any]) -> None:
    assert run("--model", "mlm", "--task", "cola", "--output", "o.jsonl").exit_code == 0
    ((model, data, output), settings) = called[0]
    assert (model, output) == ("mlm", Path("o.jsonl"))
    assert (data.task, data.holdout, data.limit_train) == ("cola", None, None)
    assert (settings["copies"], settings["probability"], settings["candidates"]) == (20, 0.4, 15)
    assert (settings["together"], settings["precision"]) == (0.0, "auto")
    assert not settings["resume"]
    assert not settings["overwrite"]


def test_flags(called: list[Any]) -> None:
    line = (
        "--model m --train t.csv --text review --text-pair reply --label stars --holdout 0.2 --limit-train 9 "
    )
    line += (
        "--max-length 32 --copies 3 --probability 0.1 --candidates 5 --together 0.15 --seed 7 --batch-size 4 "
    )
    line += "--precision fp32 --resume --overwrite --output o.jsonl"
    assert run(*line.split()).exit_code == 0
    ((_, data, _), settings) = called[0]
    assert (data.train, data.text, data.text_pair, data.label) == ("t.csv", "review", "reply", "stars")
    assert (data.holdout, data.limit_train, data.max_length) == (0.2, 9, 32)
    assert settings == {
        "copies": 3,
        "probability": 0.1,
        "candidates": 5,
        "together": 0.15,
        "seed": 7,
        "batch_size": 4,
        "precision": "fp32",
        "resume": True,
        "overwrite": True,
    }


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "There are no training texts"),
        ("--validation dev.csv", "There are no training texts"),
        ("--task cola --train t.csv", "exclude each other"),
        ("--task cola --precision bf17", "Known: auto, fp32, bf16, fp16"),
        ("--task cola --holdout 2", "holdout"),
    ],
)
def test_refusals(called: list[Any], flags: str, message: str) -> None:
    outcome = run("--model", "m", "--output", "o.jsonl", *flags.split())
    assert outcome.exit_code == 2
    assert message in outcome.output.replace("\n", " ")
    assert not called
