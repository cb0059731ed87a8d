"""The run folder: who may use it, what it says of itself, and that a model in it is whole."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_world import quiet
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from codir.config.config import FinetuneConfig
from codir.errors import InterruptedRunError, RunError
from codir.record.fingerprint import begin, opened
from codir.record.runfolder import RunFolder


def started(path: Path) -> RunFolder:
    """Leaves a run that stopped after its configuration was written."""
    with contextlib.suppress(KeyboardInterrupt), RunFolder.open(path) as run:
        run.config.write_text("task: sst2\n")
        raise KeyboardInterrupt
    return RunFolder(path)


def refused(path: Path, words: str, resume: bool = False) -> None:
    with pytest.raises(RunError, match=words), RunFolder.open(path, resume):
        pass


def test_a_run_that_ends_well_is_finished_and_stays_so(tmp_path: Path) -> None:
    started(tmp_path)
    leftover = tmp_path / ".codir-tmp-dead"
    leftover.mkdir()
    with RunFolder.open(tmp_path, resume=True) as run:
        assert (run.state, run.finished) == ("running", False)
        assert not leftover.exists()
        with run.comparison("finetune").running():
            assert run.comparison("finetune").state == "running"
    status = json.loads((tmp_path / "run.json").read_text())
    assert status["state"] == run.comparison("finetune").state == "finished"
    assert [attempt["state"] for attempt in status["attempts"]] == ["interrupted", "finished"]
    assert status["attempts"][0]["ended"] >= status["started"]
    with RunFolder.open(tmp_path, resume=True) as run:
        assert run.finished
    assert run.status == status


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (InterruptedRunError("x"), "interrupted"),
        (ValueError("bad"), "failed"),
    ],
)
def test_a_run_that_did_nothing_counts_as_empty(tmp_path: Path, error: BaseException, state: str) -> None:
    with pytest.raises(type(error)), RunFolder.open(tmp_path) as run:
        raise error
    assert run.state == state
    with RunFolder.open(tmp_path) as run:
        assert len(run.status["attempts"]) == 2


def test_what_may_not_be_used_is_refused_and_left_alone(tmp_path: Path) -> None:
    started(tmp_path / "run")
    refused(tmp_path / "run", r"run already holds a run \(interrupted\).*--resume.*--output")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("mine")
    refused(tmp_path / "thesis", r"thesis\.txt")
    refused(tmp_path / "thesis", "holds no run", resume=True)
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["thesis.txt"]
    refused(tmp_path / "none", "Nothing to resume", resume=True)
    assert not (tmp_path / "none").exists()
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "is a file")
    refused(tmp_path / "file" / "run", "Cannot write to the folder")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        refused(tmp_path / "run", "Cannot write to the folder")
    finally:
        tmp_path.chmod(0o755)


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    code = "import sys; from codir.record.runfolder import RunFolder\nwith RunFolder.open(sys.argv[1]): pass"
    with RunFolder.open(tmp_path / "run"):
        answer = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "run")], capture_output=True, text=True, check=False
        )
    assert answer.returncode != 0
    assert "Another process is working in" in answer.stderr


def test_a_resume_with_other_settings_names_every_key(tmp_path: Path) -> None:
    def configured(path: Path, **training: Any) -> FinetuneConfig:
        data: Any = {"task": "sst2"}
        return FinetuneConfig(model="m", data=data, training=training, output=path, resume=path.exists())  # type: ignore[arg-type]

    first = configured(tmp_path / "run", learning_rate=1e-5)
    with contextlib.suppress(KeyboardInterrupt), opened(first, dict, quiet()) as run:
        begin(run, first, {"model": {"from": "m"}})
        raise KeyboardInterrupt
    with opened(configured(tmp_path / "run", learning_rate=1e-5, report_to=["mlflow"]), dict, quiet()):
        pass
    changed = configured(tmp_path / "run", learning_rate=2e-5, data_seed=7)
    with pytest.raises(RunError) as caught, opened(changed, dict, quiet()):
        pass
    assert "training.learning_rate: 1e-05 there, 2e-05 now" in str(caught.value)
    assert "training.data_seed: '(not set)' there, 7 now" in str(caught.value)
    assert "epochs" not in str(caught.value)
    (tmp_path / "run" / "codir.yaml").write_text("a: [1,")
    with (
        pytest.raises(RunError, match="damaged"),
        opened(first.model_copy(update={"resume": True}), dict, quiet()),
    ):
        pass


def test_publish_loads_as_a_plain_model_and_replaces_an_older_one(
    tmp_path: Path, tiny_classifier: Any, tiny_tokenizer: Any
) -> None:
    tiny_classifier(layers=4).save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    model = tiny_classifier(layers=2)
    RunFolder(tmp_path).publish(model, tiny_tokenizer)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not [name for name in names if name.startswith((".", "model-", "model.safetensors.index"))]
    # others than the owner may load it, too
    assert all((tmp_path / name).stat().st_mode & 0o044 == 0o044 for name in names)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert AutoTokenizer.from_pretrained(tmp_path)("the cat").input_ids[0] == 2


def test_publish_that_dies_half_way_leaves_no_loadable_half(
    tmp_path: Path, tiny_classifier: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path)
    run.publish(tiny_classifier(seed=0), tiny_tokenizer)
    before = (tmp_path / "model.safetensors").read_bytes()

    # while it is being written, the old model stays whole
    def full(*_: Any) -> None:
        raise OSError(28, "full")

    monkeypatch.setattr(type(tiny_tokenizer), "save_pretrained", full)
    with pytest.raises(RunError, match="could not be written"):
        run.publish(tiny_classifier(seed=1), tiny_tokenizer)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    AutoModelForSequenceClassification.from_pretrained(tmp_path)
    monkeypatch.undo()

    # while it is being moved, nothing loads
    real, moved = os.replace, []

    def dying(source: Any, target: Any) -> None:
        if moved:
            raise OSError(5, "dead")
        moved.append(target)
        real(source, target)

    monkeypatch.setattr("codir.record.runfolder.os.replace", dying)
    with pytest.raises(RunError, match="could not be written"):
        run.publish(tiny_classifier(seed=1), tiny_tokenizer)
    assert not (tmp_path / "config.json").exists()
    assert not list(tmp_path.glob(".codir-tmp-*"))
