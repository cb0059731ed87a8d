"""`codir export` on the command line: flags reach the workflow, and what makes no sense is refused at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from codir.cli.main import app
from codir.deploy import export as module
from codir.errors import ModelError

COMMAND = ["export", "runs/student", "--format", "onnx", "--output", "deploy/student"]


def run(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).invoke(app, list(arguments))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    noted: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    monkeypatch.setattr(module, "export", lambda *args, **settings: noted.append((args, settings)))
    return noted


def test_defaults(calls: list[Any]) -> None:
    done = run(*COMMAND)
    assert done.exit_code == 0, done.output
    ((args, settings),) = calls
    assert args == ("runs/student", Path("deploy/student"), "onnx")
    assert settings == {
        "quantize": None,
        "precision": None,
        "data": None,
        "use_run_data": True,
        "max_length": None,
        "calibration": 300,
        "max_difference": None,
        "min_agreement": None,
        "max_drop": None,
        "batch_size": 32,
    }


def test_flags_reach_the_workflow(calls: list[Any]) -> None:
    limits = ["--max-difference", "0.1", "--min-agreement", "0.9", "--max-drop", "1", "--calibration", "50"]
    data = ["--task", "mrpc", "--data-dir", "glue", "--max-length", "64", "--limit-validation", "9"]
    done = run(*COMMAND, "--quantize", "int8", *limits, *data, "--batch-size", "4")
    assert done.exit_code == 0, done.output
    ((_, settings),) = calls
    given = settings["data"]
    assert (given.task, given.data_dir, given.max_length, given.limit_validation) == (
        "mrpc",
        Path("glue"),
        64,
        9,
    )
    assert settings["quantize"] == "int8"
    assert (settings["max_difference"], settings["min_agreement"], settings["max_drop"]) == (0.1, 0.9, 1.0)
    assert (settings["calibration"], settings["batch_size"], settings["max_length"]) == (50, 4, 64)


def test_files_and_a_length_alone(calls: list[Any]) -> None:
    files = ["--train", "a.csv", "--validation", "b.csv", "--text", "review", "--label", "stars"]
    assert run(*COMMAND, *files).exit_code == 0
    assert run(*COMMAND, "--max-length", "40").exit_code == 0
    data = calls[0][1]["data"]
    assert (data.train, data.validation, data.text, data.label) == ("a.csv", "b.csv", "review", "stars")
    assert calls[1][1]["data"] == {"max_length": 40}  # over what the run says
    assert calls[1][1]["max_length"] == 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "m", "--format", "onnx"], "Missing option '--output'"),
        (["export", "m", "--format", "onxx", "--output", "o"], "did you mean 'onnx'"),
        ([*COMMAND, "--quantize", "int4"], "did you mean 'int8'"),
        ([*COMMAND, "--precision", "bf16"], "onnx has no bf16"),
        (
            ["export", "m", "--format", "torch-bf16", "--quantize", "int8", "--output", "o"],
            "torch-bf16 has no int8",
        ),
        ([*COMMAND, "--task", "mrpc", "--no-data"], "--task names data and --no-data leaves them out"),
        ([*COMMAND, "--task", "mrpc", "--train", "a.csv"], "exclude each other"),
    ],
)
def test_bad_flags_are_refused(calls: list[Any], arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.output.split())
    assert not calls


def test_a_failed_check_ends_with_2(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ModelError("exported, but not kept")

    monkeypatch.setattr(module, "export", fail)
    done = run(*COMMAND)
    assert (done.exit_code, "Error: exported, but not kept" in done.output) == (2, True)


def test_the_command_calls_the_workflow_as_it_is() -> None:
    import inspect

    parameters = inspect.signature(module.export).parameters
    assert list(parameters)[:3] == ["model", "output", "format"]
    assert {"quantize", "precision", "data", "max_length", "calibration", "batch_size"} <= set(parameters)
