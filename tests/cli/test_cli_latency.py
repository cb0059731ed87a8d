"""`codir latency`: flags reach the workflow, mistakes become one sentence."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import codir.runs
from codir.cli.main import app


def run(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).invoke(app, list(arguments))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Replaces the workflow by one that notes what it was called with."""
    noted: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def latency(*args: Any, **kwargs: Any) -> None:
        noted.append((args, kwargs))

    monkeypatch.setattr(codir.deploy, "latency", SimpleNamespace(latency=latency), raising=False)
    return noted


def test_defaults_are_the_paper_s(calls) -> None:
    assert run("latency", "runs/teacher").exit_code == 0
    (((models, data, engines), settings),) = calls
    assert (models, data, engines) == (["runs/teacher"], None, None)
    assert settings == {
        "use_run_data": True,
        "batch": 32,
        "max_length": None,  # as in the first model's run, else the paper's 128
        "rounds": 3,
        "sequences": 256,
        "threads": None,
        "device": "cpu",
        "memory": True,
        "output": None,
        "overwrite": False,
    }


def test_every_flag(calls) -> None:
    flags = "--engines torch,openvino-int8 --task mrpc --data-dir glue --batch 8 --max-length 64 --rounds 5"
    flags += " --sequences 100 --threads 2 --device cuda --no-memory --output latency.json --overwrite"
    found = run("latency", "runs/teacher", "runs/student", *flags.split())
    assert found.exit_code == 0, found.output
    (((models, data, engines), settings),) = calls
    assert models == ["runs/teacher", "runs/student"]
    assert (data.task, data.data_dir) == ("mrpc", Path("glue"))
    assert engines == ["torch", "openvino-int8"]
    assert settings == {
        "use_run_data": True,
        "batch": 8,
        "max_length": 64,
        "rounds": 5,
        "sequences": 100,
        "threads": 2,
        "device": "cuda",
        "memory": False,
        "output": Path("latency.json"),
        "overwrite": True,
    }


def test_a_file_of_texts(calls) -> None:
    flags = ("--validation", "dev.csv", "--text", "review", "--text-pair", "reply")
    assert run("latency", "runs/teacher", *flags).exit_code == 0
    data = calls[0][0][1]
    assert (data.validation, data.text, data.text_pair) == ("dev.csv", "review", "reply")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("runs/t", "--task", "mrpc", "--validation", "dev.csv"), "exclude each other"),
        (("runs/t", "--task", "mrpc", "--no-data"), "--no-data"),
        (("runs/t", "--task", "mrpc", "--batch", "many"), "'--batch'"),
        ((), "Missing argument"),
    ],
)
def test_mistakes(calls, arguments, expected) -> None:
    found = run("latency", *arguments)
    assert found.exit_code == 2
    assert expected in found.output
    assert not calls


def test_from_the_command_line_to_the_table(tiny_model_dir, tmp_path) -> None:
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
