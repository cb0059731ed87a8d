"""`load_data`: which source a configuration means, and what the limits do."""

from __future__ import annotations

from pathlib import Path

import pytest

from codir.config.config import DataConfig
from codir.errors import ConfigError, DataError
from codir.record.data import load_data


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    train, validation = tmp_path / "train.csv", tmp_path / "dev.csv"
    train.write_text("review,stars\n" + "".join(f"text {i},{'good' if i % 2 else 'bad'}\n" for i in range(40)))
    validation.write_text("review,stars\n" + "".join(f"dev {i},{'good' if i % 3 else 'bad'}\n" for i in range(12)))
    return str(train), str(validation)


def test_files_with_limits_and_notes(files: tuple[str, str]) -> None:
    config = DataConfig(train=files[0], validation=files[1], text="review", label="stars", limit_train=10)
    data = load_data(config)
    assert data.train is not None
    assert len(data.train) == 10
    assert len(data.validation["validation"]) == 12
    assert data.task.labels == ("bad", "good")
    assert any("Of 40 training examples 10 are used" in note for note in data.notes)
    again = load_data(config)
    assert again.train is not None
    assert list(again.train["text"]) == list(data.train["text"])
    shorter = load_data(config.model_copy(update={"limit_validation": 5}))
    assert len(shorter.validation["validation"]) == 5


def test_validation_alone_takes_the_models_classes(files: tuple[str, str]) -> None:
    config = DataConfig(validation=files[1], text="review", label="stars")
    data = load_data(config, train=False, labels=["good", "bad"])
    assert data.train is None
    assert data.task.labels == ("good", "bad")
    assert data.validation["validation"]["label"][0] == 1


def test_training_file_alone_is_held_out_from_also_without_training(files: tuple[str, str]) -> None:
    config = DataConfig(train=files[0], text="review", label="stars")
    data = load_data(config, train=False)
    assert data.train is None
    assert len(data.validation["validation"]) == 4


def test_default_columns_and_scores(tmp_path: Path) -> None:
    path = tmp_path / "dev.tsv"
    path.write_text("text\tlabel\na\t1.5\nb\t2\n")
    data = load_data(DataConfig(validation=str(path)), train=False, labels=["score"], kind="regression")
    assert data.task.kind == "regression"
    with pytest.raises(DataError, match="has no column 'review'"):
        load_data(DataConfig(validation=str(path), text="review"), train=False, kind="regression")


def test_built_in_task_makes_as_many_as_asked_for() -> None:
    data = load_data(DataConfig(task="acceptability", limit_train=30, limit_validation=12))
    assert data.train is not None
    assert (len(data.train), len(data.validation["validation"])) == (30, 12)
    with pytest.raises(ConfigError, match="leave out data_dir"):
        load_data(DataConfig(task="acceptability", data_dir=Path("x")))


def test_glue_folder(shared_data: Path) -> None:
    config = DataConfig(task="mnli", data_dir=shared_data / "glue", limit_validation=20)
    data = load_data(config, train=False)
    assert data.train is None
    assert {name: len(split) for name, split in data.validation.items()} == {
        "validation_matched": 20,
        "validation_mismatched": 20,
    }
