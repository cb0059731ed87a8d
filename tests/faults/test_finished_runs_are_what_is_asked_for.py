"""`--resume` of a finished run gives its results only for the settings, data and models that they are of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_world import QUICK, refused, sentences, succeeded, write_csv


class World:
    """A finished fine-tuning, and what it was made of."""

    def __init__(self, folder: Path, base: Path):
        self.rows = sentences(24, seed=1)
        self.train = write_csv(folder / "train.csv", self.rows)
        self.dev = write_csv(folder / "dev.csv", sentences(8, seed=2))
        self.base = base
        self.run = folder / "run"
        succeeded(*self.command())

    def command(self, **other: Path) -> list[object]:
        files = {"model": self.base, "train": self.train, "validation": self.dev, "output": self.run} | other
        return ["finetune", *QUICK, *(each for name, file in files.items() for each in (f"--{name}", file))]


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, tiny_classifier: Callable[..., Any], tiny_tokenizer: Any
) -> World:
    base = tmp_path_factory.mktemp("base")
    tiny_classifier(layers=1, width=16).save_pretrained(base)
    tiny_tokenizer.save_pretrained(base)
    return World(tmp_path_factory.mktemp("world"), base)


def test_other_data_are_not_said_to_have_its_scores(world: World, tmp_path: Path) -> None:
    other = [row | {"label": "negative" if row["label"] == "positive" else "positive"} for row in world.rows]
    flipped = write_csv(tmp_path / "flipped.csv", other)
    message = refused(*world.command(train=flipped), "--resume", leaves_nothing=world.run)
    assert "other labels" in message
    assert "flipped.csv" in message


def test_nor_another_model(world: World, tmp_path: Path, tiny_model_dir: Callable[..., Path]) -> None:
    other = tiny_model_dir(layers=1, width=16, seed=7)
    assert "other weights" in refused(*world.command(model=other), "--resume", leaves_nothing=world.run)


def test_nor_other_settings(world: World) -> None:
    message = refused(*world.command(), "--learning-rate", "0.5", "--resume", leaves_nothing=world.run)
    assert "training.learning_rate" in message
    assert "0.5 now" in message


def test_data_that_were_moved_or_are_gone_are_no_hindrance(world: World, tmp_path: Path) -> None:
    moved = Path(shutil.copy(world.train, tmp_path / "moved.csv"))
    copy = shutil.copytree(world.run, tmp_path / "run")
    assert "nothing to resume" in succeeded(*world.command(train=moved, output=copy), "--resume").text
    moved.unlink()
    # its configuration is as it was begun, and now names what is gone
    assert "gone.csv" in refused(*world.command(train=tmp_path / "gone.csv", output=copy), "--resume")
    hidden = world.train.rename(tmp_path / "hidden.csv")
    try:
        assert "nothing to resume" in succeeded(*world.command(), "--resume").text
    finally:
        hidden.rename(world.train)


def test_a_study_does_not_go_on_with_other_data(world: World, tmp_path: Path) -> None:
    train = Path(shutil.copy(world.train, tmp_path / "train.csv"))
    study = tmp_path / "study.yaml"
    study.write_text(
        json.dumps(
            {
                "recipes": ["finetune"],
                "tasks": {"toy": {"train": str(train), "validation": str(world.dev), "max_length": 16}},
                "teachers": {"toy": str(world.run)},
                "students": {"one": {"layers": 1}},
                "seeds": [1],
                "training": {"max_steps": 1, "per_device_train_batch_size": 8, "precision": "fp32"},
                "workers": 0,
            }
        )
    )
    command = ["study", study, "--output", tmp_path / "out"]
    succeeded(*command)
    succeeded(*command, "--resume")
    write_csv(train, world.rows[:16])
    message = refused(*command, "--resume", leaves_nothing=tmp_path / "out")
    assert "training data" in message
    assert "24 examples then, 16 now" in message
