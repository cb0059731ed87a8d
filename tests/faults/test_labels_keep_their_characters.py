"""A label is text: `07` and `7` are two classes. Only what the format of a file types as a number is one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from fault_world import QUICK, Outcome, refused, sentences, succeeded, write_csv


def write(path: Path, labels: Sequence[Any], count: int = 24) -> Path:
    """Writes rows whose labels take turns, as the ending of the name says."""
    rows: list[dict[str, Any]] = list(sentences(count, labels=[str(each) for each in labels]))
    for number, row in enumerate(rows):
        row["label"] = labels[number % len(labels)]
    if path.suffix == ".csv":
        return write_csv(path, rows)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def classes(run: Path) -> list[str]:
    """Returns the classes of a model folder in the order of their ids."""
    found = json.loads((run / "config.json").read_text())["id2label"]
    return [found[number] for number in sorted(found, key=int)]


@pytest.fixture
def finetuned(tmp_path: Path, tiny_model_dir: Callable[..., Path]) -> Callable[..., tuple[Path, Outcome]]:
    """Returns a function that fine-tunes on labels and gives the run folder back."""

    def train(train: Path, validation: Path | None = None, *more: Any) -> tuple[Path, Outcome]:
        output = tmp_path / "run"
        given = ["--train", train, "--validation", validation or train, "--output", output, *QUICK, *more]
        return output, succeeded("finetune", "--model", tiny_model_dir(layers=1), *given)

    return train


LOOK_LIKE_NUMBERS = ["0115", "115", "07", "7", "1.0", "1", "+1", "1e3", "1000", "3.10", "3.1", "٣", "1.2.3"]


def test_each_spelling_in_a_text_file_is_a_class_of_its_own(tmp_path: Path, finetuned: Any) -> None:
    data = write(tmp_path / "train.csv", LOOK_LIKE_NUMBERS, count=48)
    run, _ = finetuned(data)
    assert classes(run) == sorted(LOOK_LIKE_NUMBERS)
    # later commands have the same classes: none is unknown, none is merged with another
    output = tmp_path / "answers.jsonl"
    succeeded("evaluate", run, "--validation", data)
    succeeded("predict", run, "--input", data, "--output", output)
    answers = [json.loads(line)["label"] for line in output.read_text().splitlines()]
    assert len(answers) == 48
    assert set(answers) <= set(LOOK_LIKE_NUMBERS)


def test_plain_whole_numbers_are_in_the_order_of_their_values(tmp_path: Path, finetuned: Any) -> None:
    run, _ = finetuned(write(tmp_path / "train.csv", ["2", "10", "-1"]))
    assert classes(run) == ["-1", "2", "10"]


@pytest.mark.parametrize(
    ("train", "labels", "dev", "texts", "expected"),
    [
        ("a.jsonl", [7, 12], "b.csv", ["7", "12"], ["7", "12"]),
        ("a.parquet", [1.0, 2.0], "b.csv", ["1.0", "2.0"], ["1", "2"]),
        ("a.jsonl", [True, False], "b.csv", ["True", "False"], ["false", "true"]),
        ("a.csv", ["1.0", "2.0"], "b.parquet", [1, 2], ["1.0", "2.0"]),
    ],
)
def test_one_task_in_files_of_two_formats(
    tmp_path: Path, finetuned: Any, train: str, labels: list, dev: str, texts: list, expected: list
) -> None:
    run, _ = finetuned(write(tmp_path / train, labels), write(tmp_path / dev, texts))
    assert classes(run) == expected


def test_text_is_compared_as_it_is_written(tmp_path: Path, tiny_model_dir: Callable[..., Path]) -> None:
    model, output = tiny_model_dir(layers=1), tmp_path / "run"
    train, dev = write(tmp_path / "train.csv", ["7", "12"]), write(tmp_path / "dev.csv", ["12", "07"])
    given = ["finetune", "--model", model, "--train", train, "--output", output, *QUICK]
    message = refused(*given, "--validation", dev, leaves_nothing=output)
    assert f"{dev}, line 3: the label '07' is unknown" in message
    message = refused("evaluate", tiny_model_dir(layers=1, labels=("7", "12")), "--validation", dev)
    assert f"{dev}, line 3: the label '07' is unknown" in message
    # nor is a teacher's class 7 the data's class 07
    given = ["--train", dev, "--validation", dev, "--student-layers", "1", "--output", output, *QUICK]
    message = refused("distill", "--teacher", tiny_model_dir(layers=2, labels=("7", "12")), *given)
    assert "'07'" in message


def test_a_number_of_the_format_may_be_the_one_class_that_spells_it(
    tmp_path: Path, tiny_model_dir: Callable[..., Path]
) -> None:
    numbers = write(tmp_path / "numbers.jsonl", [7, 12])
    succeeded("evaluate", tiny_model_dir(layers=1, labels=("12", "7.0")), "--validation", numbers)
    message = refused("evaluate", tiny_model_dir(layers=1, labels=("07", "7.0")), "--validation", numbers)
    assert f"{numbers}, line 1: the label '7' is unknown" in message


def test_half_stars_that_repeat_are_classes_until_scores_are_asked_for(tmp_path: Path, finetuned: Any) -> None:
    run, done = finetuned(write(tmp_path / "train.csv", ["3.5", "4.0", "4.5"]))
    assert classes(run) == ["3.5", "4.0", "4.5"]
    assert "--kind regression" in done.text  # what was read is said, with the way out
