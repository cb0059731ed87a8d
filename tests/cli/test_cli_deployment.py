"""`codir export` and `codir latency`: flags reach the workflow, and what makes no sense is refused at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from codir.cli.main import app
from codir.deploy import export as export_module
from codir.deploy import latency as latency_module
from codir.errors import ModelError

EXPORT = ["export", "runs/student", "--format", "onnx", "--output", "deploy/student"]
LATENCY = ["latency", "runs/teacher"]


def run(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).invoke(app, list(arguments))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Replaces the workflows by ones that note what they were called with."""
    noted: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    for module, name in ((export_module, "export"), (latency_module, "latency")):
        monkeypatch.setattr(module, name, lambda *args, **settings: noted.append((args, settings)))
    return noted


def test_defaults_of_export(calls: list[Any]) -> None:
    assert run(*EXPORT).exit_code == 0
    ((args, settings),) = calls
    assert args == ("runs/student", Path("deploy/student"), "onnx")
    unset = ("quantize", "precision", "data", "max_length", "max_difference", "min_agreement", "max_drop")
    others = {"use_run_data": True, "calibration": 300, "batch_size": 32}
    assert settings == {**dict.fromkeys(unset), **others}


def test_flags_of_export(calls: list[Any]) -> None:
    limits = "--max-difference 0.1 --min-agreement 0.9 --max-drop 1 --calibration 50 --batch-size 4"
    data = "--task mrpc --data-dir glue --max-length 64 --limit-validation 9"
    done = run(*EXPORT, "--quantize", "int8", *limits.split(), *data.split())
    assert done.exit_code == 0, done.output
    ((_, settings),) = calls
    given = settings["data"]
    assert (given.task, given.data_dir, given.max_length) == ("mrpc", Path("glue"), 64)
    assert (given.limit_validation, settings["quantize"]) == (9, "int8")
    assert (settings["max_difference"], settings["min_agreement"], settings["max_drop"]) == (0.1, 0.9, 1.0)
    assert (settings["calibration"], settings["batch_size"], settings["max_length"]) == (50, 4, 64)


def test_files_and_a_length_alone(calls: list[Any]) -> None:
    files = ["--train", "a.csv", "--validation", "b.csv", "--text", "review", "--label", "stars"]
    assert run(*EXPORT, *files).exit_code == 0
    assert run(*EXPORT, "--max-length", "40").exit_code == 0
    data = calls[0][1]["data"]
    assert (data.train, data.validation, data.text, data.label) == ("a.csv", "b.csv", "review", "stars")
    assert calls[1][1]["data"] == {"max_length": 40}  # over what the run says
    assert calls[1][1]["max_length"] == 40


def test_defaults_of_latency_are_the_paper_s(calls: list[Any]) -> None:
    assert run(*LATENCY).exit_code == 0
    (((models, data, engines), settings),) = calls
    assert (models, data, engines) == (["runs/teacher"], None, None)
    sizes = {"batch": 32, "rounds": 3, "sequences": 256}
    unset = dict.fromkeys(("max_length", "threads", "output"))  # max_length: as in the first run, else 128
    others = {"use_run_data": True, "device": "cpu", "memory": True, "overwrite": False}
    assert settings == {**sizes, **unset, **others}


def test_flags_of_latency(calls: list[Any]) -> None:
    flags = "--engines torch,openvino-int8 --validation dev.csv --text review --batch 8 --max-length 64 --rounds 5"
    flags += " --sequences 100 --threads 2 --device cuda --no-memory --output latency.json --overwrite"
    done = run(*LATENCY, "runs/student", *flags.split())
    assert done.exit_code == 0, done.output
    (((models, data, engines), settings),) = calls
    assert (models, engines) == (["runs/teacher", "runs/student"], ["torch", "openvino-int8"])
    assert (data.validation, data.text) == ("dev.csv", "review")
    sizes = {"batch": 8, "max_length": 64, "rounds": 5, "sequences": 100, "threads": 2}
    others = {"use_run_data": True, "device": "cuda", "memory": False}
    assert settings == {**sizes, **others, "output": Path("latency.json"), "overwrite": True}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "m", "--format", "onnx"], "Missing option '--output'"),
        (["export", "m", "--format", "onxx", "--output", "o"], "did you mean 'onnx'"),
        ([*EXPORT, "--quantize", "int4"], "did you mean 'int8'"),
        ([*EXPORT, "--precision", "bf16"], "onnx has no bf16"),
        ([*EXPORT, "--task", "mrpc", "--no-data"], "--task names data and --no-data leaves them out"),
        ([*EXPORT, "--task", "mrpc", "--train", "a.csv"], "exclude each other"),
        ([*LATENCY, "--task", "mrpc", "--validation", "dev.csv"], "exclude each other"),
        ([*LATENCY, "--task", "mrpc", "--no-data"], "--no-data"),
        ([*LATENCY, "--batch", "many"], "'--batch'"),
        (["latency"], "Missing argument"),
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

    monkeypatch.setattr(export_module, "export", fail)
    done = run(*EXPORT)
    assert (done.exit_code, "Error: exported, but not kept" in done.output) == (2, True)


def test_latency_from_the_command_line_to_the_table(tiny_model_dir: Any, tmp_path: Path) -> None:
    output = tmp_path / "latency.json"
    flags = f"--batch 2 --max-length 16 --rounds 1 --sequences 4 --threads 1 --no-memory --output {output}"
    found = run("latency", str(tiny_model_dir()), str(tiny_model_dir(layers=2)), *flags.split())
    assert found.exit_code == 0, found.output
    assert "Padded: batches of 2 sequences of 16 tokens" in found.output
    assert output.is_file()
    again = run("latency", str(tiny_model_dir()), *flags.split())
    assert again.exit_code == 2
    assert "exists already" in again.output
    assert "--overwrite" in again.output
    unknown = run("latency", str(tiny_model_dir()), "--engines", "onnxrumtime")
    assert unknown.exit_code == 2
    assert "did you mean 'onnxruntime'?" in unknown.output
