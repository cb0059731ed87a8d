"""The run folder: who may use it, what it says of itself, and that a model in it is whole."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from codir.config.loading import complete_objectives
from codir.errors import InterruptedRunError, RunError
from codir.record.runfolder import RunFolder

CONFIG = "task: sst2\ntraining:\n  learning_rate: 1.0e-05\n  num_train_epochs: 3\noutput: a\n"


def started(path: Path) -> RunFolder:
    """Leaves a run that stopped after its configuration was written."""
    with contextlib.suppress(KeyboardInterrupt), RunFolder.open(path) as run:
        run.save_config(CONFIG)
        raise KeyboardInterrupt
    return RunFolder(path)


def test_new_run_states_and_paths(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "run") as run:
        assert run.state == "running"
        assert not run.finished
        run.save_config(CONFIG)
    assert run.finished
    status = json.loads((tmp_path / "run" / "run.json").read_text())
    assert status["state"] == "finished"
    assert status["attempts"][0]["ended"] >= status["started"]
    names = [p.name for p in (run.checkpoints, run.config, run.environment, run.metrics, run.log, run.card)]
    assert names == [
        "checkpoints",
        "codir.yaml",
        "environment.json",
        "metrics.json",
        "log.jsonl",
        "README.md",
    ]
    assert run.comparison("kd").path == tmp_path / "run" / "comparison" / "kd"


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (InterruptedRunError("x"), "interrupted"),
        (ValueError("bad"), "failed"),
    ],
)
def test_state_after_an_error(tmp_path: Path, error: BaseException, state: str) -> None:
    with pytest.raises(type(error)), RunFolder.open(tmp_path) as run:
        raise error
    assert run.state == state


def test_existing_run_is_refused_with_the_way_out(tmp_path: Path) -> None:
    started(tmp_path / "run")
    with pytest.raises(RunError, match=r"run already holds a run \(interrupted\).*--resume.*--output"):
        RunFolder.open(tmp_path / "run").__enter__()


def test_foreign_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(RunError, match=r"thesis\.txt|holds no run"):
            RunFolder.open(tmp_path, resume=resume).__enter__()
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_nothing_to_resume_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="Nothing to resume"):
        RunFolder.open(tmp_path / "none", resume=True).__enter__()
    assert not (tmp_path / "none").exists()


def test_run_that_failed_before_it_did_anything_counts_as_empty(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="early"), RunFolder.open(tmp_path):
        raise ValueError("early")
    with RunFolder.open(tmp_path) as run:
        assert len(run.status["attempts"]) == 2


def test_resume_goes_on_and_finished_stays_finished(tmp_path: Path) -> None:
    started(tmp_path)
    leftover = tmp_path / ".publish-dead"
    leftover.mkdir()
    with RunFolder.open(tmp_path, resume=True) as run:
        assert run.state == "running"
        assert not leftover.exists()
    status = run.status
    assert [attempt["state"] for attempt in status["attempts"]] == ["interrupted", "finished"]
    with RunFolder.open(tmp_path, resume=True) as run:
        assert run.finished
    assert run.status == status


def test_sub_run_has_its_own_state(tmp_path: Path) -> None:
    with contextlib.suppress(KeyboardInterrupt), RunFolder.open(tmp_path) as run:
        run.save_config(CONFIG)
        with run.comparison("finetune").running() as plain:
            plain.save_config(CONFIG)
        with run.comparison("kd").running():
            raise KeyboardInterrupt
    assert run.comparison("finetune").finished
    assert run.comparison("kd").state == "interrupted"
    assert run.state == "interrupted"


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    code = "import sys; from codir.record.runfolder import RunFolder\nwith RunFolder.open(sys.argv[1]): pass"
    with RunFolder.open(tmp_path / "run"):
        answer = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "run")], capture_output=True, text=True, check=False
        )
    assert answer.returncode != 0
    assert "Another process is working in" in answer.stderr


def test_file_in_the_way_and_unwritable_parent(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file"):
        RunFolder.open(tmp_path / "file").__enter__()
    with pytest.raises(RunError, match="Cannot write to the folder"):
        RunFolder.open(tmp_path / "file" / "run").__enter__()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(RunError, match="Cannot write to the folder"):
            RunFolder.open(tmp_path / "run").__enter__()
    finally:
        tmp_path.chmod(0o755)


def test_check_same_names_every_differing_key(tmp_path: Path) -> None:
    run = started(tmp_path)
    run.check_same(CONFIG.replace("output: a", "output: b"))
    changed = CONFIG.replace("1.0e-05", "2.0e-05") + "seed: 7\n"
    with pytest.raises(RunError) as caught:
        run.check_same(changed)
    text = str(caught.value)
    assert "training.learning_rate: 1e-05 there, 2e-05 now" in text
    assert "seed: '(not set)' there, 7 now" in text
    assert "epochs" not in text
    with pytest.raises(RunError, match="another configuration"):
        run.save_config(changed)
    assert run.config.read_text() == CONFIG


def test_a_run_of_a_version_with_fewer_settings_of_an_objective_goes_on(tmp_path: Path) -> None:
    run = started(tmp_path)
    old = "command: distill\nobjectives:\n  kd:\n    weight: 0.5\n  crd:\n    k: 100\n"
    run.config.write_text(old)
    now = yaml.safe_load(old)
    now["objectives"] = complete_objectives(now["objectives"], {})
    assert now["objectives"]["crd"]["negatives_gradient"] is False
    run.check_same(yaml.safe_dump(now))
    now["objectives"]["crd"]["negatives_gradient"] = True
    with pytest.raises(RunError, match=r"objectives\.crd\.negatives_gradient: False there, True now"):
        run.check_same(yaml.safe_dump(now))
    run.config.write_text(old.replace("k: 100", "gone: 1"))
    with pytest.raises(RunError, match=r"objectives\.crd\.gone: 1 there, '\(not set\)' now"):
        run.check_same(yaml.safe_dump(now))


def test_damaged_config_and_status(tmp_path: Path) -> None:
    run = started(tmp_path)
    run.config.write_text("a: [1,")
    with pytest.raises(RunError, match="damaged"):
        run.check_same(CONFIG)
    (tmp_path / "run.json").write_text('{"state": ')
    with pytest.raises(RunError, match="damaged"):
        RunFolder.open(tmp_path, resume=True).__enter__()


def test_publish_loads_as_a_plain_model(tmp_path: Path, tiny_classifier, tiny_tokenizer) -> None:
    model = tiny_classifier()
    with RunFolder.open(tmp_path) as run:
        run.publish(model, tiny_tokenizer)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not [n for n in names if n.endswith(".bin") or n.startswith(".publish-")]
    # others than the owner may load it, too
    assert all(
        (tmp_path / name).stat().st_mode & 0o044 == 0o044 for name in ("config.json", "model.safetensors")
    )
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    batch = AutoTokenizer.from_pretrained(tmp_path)(["the cat sees a dog"], return_tensors="pt")
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)


def test_publish_replaces_a_model_and_its_old_shards(tmp_path: Path, tiny_classifier, tiny_tokenizer) -> None:
    run = RunFolder(tmp_path)
    tiny_classifier(layers=4).save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    run.publish(tiny_classifier(layers=2), tiny_tokenizer)
    assert [path.name for path in tmp_path.glob("*safetensors*")] == ["model.safetensors"]
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path).config.num_hidden_layers == 2


def test_publish_that_dies_half_way_leaves_no_loadable_half(
    tmp_path: Path, tiny_classifier, tiny_tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path)
    run.publish(tiny_classifier(seed=0), tiny_tokenizer)
    before = (tmp_path / "model.safetensors").read_bytes()

    # while it is being written, the old model stays whole
    monkeypatch.setattr(
        type(tiny_tokenizer), "save_pretrained", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.raises(RunError, match="could not be written"):
        run.publish(tiny_classifier(seed=1), tiny_tokenizer)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    AutoModelForSequenceClassification.from_pretrained(tmp_path)
    monkeypatch.undo()

    # while it is being moved, nothing loads
    real, moved = os.replace, []

    def dying(source, target):
        if moved:
            raise OSError(5, "dead")
        moved.append(target)
        real(source, target)

    monkeypatch.setattr("codir.record.runfolder.os.replace", dying)
    with pytest.raises(RunError, match="could not be written"):
        run.publish(tiny_classifier(seed=1), tiny_tokenizer)
    assert not (tmp_path / "config.json").exists()
    assert not list(tmp_path.glob(".publish-*"))
