"""A command that a message gives can be pasted, whatever blanks and signs stand in the names of folders."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from fault_world import QUICK, refused, sentences, succeeded, write_csv


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_classifier: Any, tiny_tokenizer: Any) -> Path:
    folder = tmp_path_factory.mktemp("model") / "my model [1] (new) & it's"
    tiny_classifier(layers=2, width=16).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


def words(message: str, command: str) -> list[str]:
    """Returns the words that a shell makes of the command in a message."""
    found = re.search(rf"codir {command} [^`]*", message)
    assert found is not None, message
    return shlex.split(found[0])


def test_an_encoder_without_a_head(model: Path, tmp_path: Path, tiny_classifier: Any, tiny_tokenizer: Any) -> None:
    folder = tmp_path / "my encoder (2)"
    tiny_classifier(layers=1, width=16).base_model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    message = refused("evaluate", folder, "--validation", write_csv(tmp_path / "t.csv", sentences(4)))
    assert words(message, "finetune")[:4] == ["codir", "finetune", "--model", str(folder)]


def test_a_folder_of_runs(model: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs of may (2)" / "a b"
    run.mkdir(parents=True)
    (run / "codir.yaml").write_text("{}")
    assert words(refused("report", run.parent, "--output", tmp_path / "r.html"), "report")[2] == str(run)


def test_times_that_a_report_has_not(model: Path, tmp_path: Path) -> None:
    run, file = tmp_path / "run [x] (1)", write_csv(tmp_path / "t.csv", sentences(24))
    succeeded("finetune", "--model", model, "--train", file, "--validation", file, *QUICK, "--output", run)
    said = succeeded("report", run).text
    assert words(said, "latency") == ["codir", "latency", str(run), "--output", str(run / "latency.json")]


def test_predictions_are_said_to_be_json_lines(model: Path, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "t.csv", sentences(4))
    for name, told in (("p.csv", True), ("p.jsonl", False)):
        output = tmp_path / name
        said = succeeded("predict", model, "--input", file, "--output", output).text
        assert ("JSON lines" in said) == told
        assert [*json.loads(output.read_text().splitlines()[0])][:2] == ["text", "label"]
