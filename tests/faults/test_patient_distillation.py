"""BERT-PKD as its authors' code: KD averaged over the classes, a student of the pre-trained model's first layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fault_world import QUICK, sentences, succeeded, write_csv
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

CLASSES = ("a", "b", "c", "d")
STILL = ("--learning-rate", "1e-30", "--set", "training.weight_decay=0")
LAYER = "bert.encoder.layer.{}.output.dense.weight"


@pytest.fixture
def run(tmp_path: Path, tiny_model_dir: Any) -> Any:
    """Returns a function that distils with `pkd` into two layers, moving nothing; it gives the run folder."""
    train = write_csv(tmp_path / "train.csv", sentences(16, seed=4, labels=CLASSES))
    models = {
        "teacher": tiny_model_dir(labels=CLASSES, seed=1),
        "origin": tiny_model_dir(labels=CLASSES, seed=2),
    }

    def distil(name: str, *more: Any) -> tuple[Path, dict[str, Path]]:
        given = [models["origin"] if each == "ORIGIN" else each for each in more]
        succeeded(
            "distill",
            "--recipe",
            "pkd",
            "--teacher",
            models["teacher"],
            "--train",
            train,
            "--validation",
            train,
            "--student-layers",
            "2",
            "--no-baseline",
            "--output",
            tmp_path / name,
            *QUICK,
            *STILL,
            *given,
        )
        return tmp_path / name, models

    return distil


def losses(folder: Path) -> dict[str, float]:
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return next(entry for entry in map(json.loads, lines) if "loss_kd" in entry)


def same_layers(student: Path, other: Path, layers: tuple[int, int]) -> bool:
    one, two = (AutoModelForSequenceClassification.from_pretrained(folder).state_dict() for folder in (student, other))
    return all(torch.equal(one[LAYER.format(own)], two[LAYER.format(layer - 1)]) for own, layer in enumerate(layers))


def test_kd_is_the_mean_over_the_classes(run: Any) -> None:
    as_theirs, models = run("mean")
    summed, _ = run("sum", "--set", "objectives.kd.averaged=false")
    assert losses(summed)["loss_kd"] == pytest.approx(len(CLASSES) * losses(as_theirs)["loss_kd"], rel=1e-4)
    assert losses(summed)["loss_pkd"] == pytest.approx(losses(as_theirs)["loss_pkd"], rel=1e-4)
    assert same_layers(as_theirs, models["teacher"], (1, 2)), "without a pre-trained model, the teacher's first layers"


def test_the_student_starts_from_the_first_layers_of_the_pretrained_model(run: Any) -> None:
    student, models = run("origin", "--student-origin", "ORIGIN")
    assert same_layers(student, models["origin"], (1, 2))
    spread, _ = run("spread", "--student-origin", "ORIGIN", "--student-init", "spread")
    assert same_layers(spread, models["origin"], (2, 4))
    assert isinstance(AutoModelForSequenceClassification.from_pretrained(student), BertForSequenceClassification)
