"""Whole fine-tunings on tiny models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_world import TRAINING, World, quiet
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

from codir import evaluate, finetune
from codir.cli.main import app
from codir.config.config import DataConfig, FinetuneConfig
from codir.config.loading import load


def test_the_run_folder_is_the_model(world: World) -> None:
    run = world.teacher
    model = AutoModelForSequenceClassification.from_pretrained(run)
    assert model.config.id2label == {0: "neg", 1: "pos"}
    assert model.config.label2id == {"neg": 0, "pos": 1}
    names = {path.name for path in run.iterdir()}
    assert {"codir.yaml", "environment.json", "metrics.json", "log.jsonl", "README.md", "run.json"} <= names
    assert not {"checkpoints", "comparison"} & names
    assert AutoTokenizer.from_pretrained(run)("good").input_ids[0] == 2
    content = json.loads((run / "metrics.json").read_text())
    assert content["metrics"]["accuracy"] > 0.8  # it has learnt something
    data = DataConfig(**{**world.data(), "train": None})
    assert evaluate(run, data, quiet=True).flat_metrics() == pytest.approx(content["metrics"])
    again = load(FinetuneConfig, config=run / "codir.yaml")
    assert again.output == run
    assert again.data.text == "review"
    assert again.training.num_train_epochs == 6


def test_regression_has_one_output(world: World) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(world.regression)
    assert model.config.num_labels == 1
    assert model.config.problem_type == "regression"
    assert json.loads((world.regression / "metrics.json").read_text())["metrics"]["pearson"] > 0.5


def test_the_seed_decides_everything(world: World, tmp_path: Path) -> None:
    def run(name: str, seed: int) -> torch.Tensor:
        training = {**TRAINING, "seed": seed}
        model = str(world.folder / "encoder")
        finetune(model=model, data=world.data(), training=training, output=tmp_path / name, console=quiet())
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / name)
        return loaded.classifier.weight

    one = run("one", 1)
    torch.rand(3)
    assert torch.equal(one, run("again", 1))
    assert not torch.equal(one, run("two", 2))


def test_command_line_and_early_stopping(world: World, tmp_path: Path) -> None:
    arguments = ["finetune", "--model", str(world.folder / "encoder"), "--train", str(world.train)]
    arguments += [
        "--validation",
        str(world.dev),
        "--text",
        "review",
        "--label",
        "stars",
        "--max-length",
        "32",
    ]
    arguments += ["--epochs", "6", "--batch-size", "32", "--learning-rate", "1e-9", "--precision", "fp32"]
    arguments += ["--set", "training.early_stopping_patience=2", "--output", str(tmp_path / "run")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "Fine-tuned on" in done.output
    # nothing is learnt at this rate: the second and third evaluation are no better than the first
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["cost"]["steps"] == 9
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2
    assert "already holds a run (finished)" in again.output
