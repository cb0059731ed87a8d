"""A bidirectional LSTM goes through a whole distillation, and everything that is done with a student afterwards."""

from __future__ import annotations

import copy
import csv
import json
from pathlib import Path
from typing import Any

import pytest
from killing import at_call, forked, needs_fork
from small_world import TRAINING, World, quiet
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from codir import distill, evaluate
from codir.config.config import DataConfig, DistillConfig
from codir.config.loading import load
from codir.errors import ConfigError
from codir.models.bilstm import BiLstmConfig, BiLstmForSequenceClassification
from codir.runs.predict import predict
from codir.training.trainer import DistillationTrainer

SIZES: dict[str, Any] = {
    "model_type": "codir-bilstm",
    "embedding_size": 16,
    "hidden_size": 16,
    "classifier_size": 16,
}
# The default recipe's other terms are taken out.
LOGITS = {"logit_mse": {}, "task": None, "kd": None, "crd": None}


def settings(world: World, output: Path, **changes: Any) -> dict[str, Any]:
    values = {"student": {"config": SIZES}, "objectives": LOGITS, "baseline": False}
    training = {**TRAINING, "learning_rate": 1e-2, "num_train_epochs": 4}
    return world.settings(output, **({**values, "training": training} | changes))


def test_from_the_config_in_the_recipe_to_predictions(world: World, tmp_path: Path) -> None:
    done = distill(**settings(world, tmp_path / "run", baseline=True), console=quiet())
    student = AutoModelForSequenceClassification.from_pretrained(done.output)
    assert isinstance(student, BiLstmForSequenceClassification)
    config = student.config
    assert isinstance(config, BiLstmConfig)
    tokenizer = AutoTokenizer.from_pretrained(done.output)
    assert (config.vocab_size, config.pad_token_id) == (len(tokenizer), tokenizer.pad_token_id)
    assert config.id2label == {0: "neg", 1: "pos"}
    assert not config.sentence_pairs
    row = done.comparison.row("codir")
    assert row is not None
    data = DataConfig(**{**world.data(), "train": None})
    measured = evaluate(done.output, data, quiet=True).flat_metrics()
    assert row.metrics == pytest.approx(measured)
    assert max(measured.values()) > 0.8  # one word decides: an LSTM that learns finds it
    predict(done.output, world.dev, tmp_path / "out.jsonl", text="review", quiet=True)
    labels = [json.loads(line)["label"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    with world.dev.open() as file:
        right = [row["stars"] == label for row, label in zip(csv.DictReader(file), labels, strict=True)]
    assert sum(right) / len(right) == pytest.approx(
        next(value for name, value in measured.items() if "accuracy" in name)
    )
    again = load(DistillConfig, config=done.output / "codir.yaml")
    assert again.student.config == SIZES
    assert again == load(
        DistillConfig, flags={key: (key, value) for key, value in settings(world, done.output, baseline=True).items()}
    )


@pytest.mark.parametrize("embeddings", ["random", "teacher"])
def test_pairs_are_read_one_without_the_other(world: World, tmp_path: Path, embeddings: str) -> None:
    sizes = copy.deepcopy(SIZES)
    if embeddings == "teacher":
        del sizes["embedding_size"]
    done = distill(
        **settings(
            world,
            tmp_path / "run",
            data=world.data(text_pair="reply"),
            student={"config": sizes, "embeddings": embeddings},
            training={**TRAINING, "num_train_epochs": 1},
        ),
        console=quiet(),
    )
    student = AutoModelForSequenceClassification.from_pretrained(done.output)
    assert student.config.sentence_pairs
    assert student.hidden.in_features == 4 * 16
    teacher = AutoModelForSequenceClassification.from_pretrained(world.teacher)
    width = teacher.get_input_embeddings().weight.shape[1] if embeddings == "teacher" else 16
    assert student.config.embedding_size == width
    found = predict(done.output, world.dev, tmp_path / "out.jsonl", text="review", text_pair="reply", quiet=True)
    assert found.rows == 40


def test_pooled_layers_of_an_lstm_can_be_compared_and_attention_cannot(world: World, tmp_path: Path) -> None:
    objectives = {
        "task": {},
        "crd": {"weight": 0.5, "k": 10, "dim": 8},
        "pkd": {"matching": "top", "projection": "auto"},
    }
    distill(
        **settings(world, tmp_path / "run", objectives=objectives, training={**TRAINING, "num_train_epochs": 1}),
        console=quiet(),
    )
    for name in ("attention_kl", "relations"):
        with pytest.raises(ConfigError, match=f"{name}.*student has none"):
            distill(
                **settings(world, tmp_path / name, objectives={**LOGITS, "logit_mse": None, name: {}}),
                console=quiet(),
            )


@needs_fork
def test_killed_and_resumed_it_ends_with_the_same_weights(world: World, tmp_path: Path) -> None:
    two = {"config": {**SIZES, "num_hidden_layers": 2, "hidden_dropout_prob": 0.3}}
    whole = distill(**settings(world, tmp_path / "whole", student=two), console=quiet()).output

    def begin() -> None:
        at_call(DistillationTrainer, "training_step", 31)()
        distill(**settings(world, tmp_path / "killed", student=two), console=quiet())

    assert forked(begin) == -9
    resumed = distill(**settings(world, tmp_path / "killed", student=two), resume=True, console=quiet()).output
    assert (whole / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()


def test_refusals(world: World, tmp_path: Path) -> None:
    for student, message in (
        ({"config": {"hidden_size": 8}}, "model_type"),
        ({"config": SIZES, "layers": 2}, "leave out one of the two"),
        ({"embeddings": "teacher"}, "built from a config"),
        ({"config": {**SIZES, "vocab_size": 5}}, "vocabulary of 5"),
    ):
        with pytest.raises(ConfigError, match=message):
            distill(**settings(world, tmp_path / "run", student=student), console=quiet())
