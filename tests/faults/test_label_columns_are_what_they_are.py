"""A label column is read as the file types it; what cannot be meant is refused, and what was read is said."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from fault_world import QUICK, flags, refused, sentences, succeeded, write_csv

ROWS = 30


def table(path: Path, labels: Sequence[Any]) -> Path:
    """Writes CSV, JSON lines or Parquet with these labels, in turns."""
    rows: list[dict[str, Any]] = list(sentences(ROWS))
    for number, row in enumerate(rows):
        row["label"] = labels[number % len(labels)]
    if path.suffix == ".csv":
        return write_csv(path, rows)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


NOON = datetime.datetime(2026, 1, 1, 12)
REFUSED = {
    "bytes": (
        "a.parquet",
        [b"good", b"bad"],
        "row 1: the label b'good' in column 'label' is of the type bytes",
    ),
    "timestamps": ("a.parquet", [NOON, NOON.replace(hour=13)], "row 1: .* is of the type datetime"),
    "dates": ("a.parquet", [NOON.date(), datetime.date(2027, 1, 1)], "row 1: .* is of the type date"),
    "durations": (
        "a.parquet",
        [datetime.timedelta(1), datetime.timedelta(2)],
        "row 1: .* of the type timedelta",
    ),
    "lists": ("a.parquet", [["a"], ["b"]], "row 1: .* is of the type list"),
    "a record among texts": ("a.jsonl", ["a", "b", {"c": 1}], "line 3: .* is of the type dict"),
    "decimal commas": ("a.csv", ["4,5", "3,0"], "line 2: the label '4,5' .*4.5.*--kind regression"),
    "percentages": ("a.csv", ["90%", "5 %"], "line 2: the label '90%' .*--kind regression"),
    "thousands": ("a.csv", ["900", "1.234,50"], r"line 3: the label '1.234,50' .*1234\.50"),
    "amounts": ("a.csv", ["$4.50", "$3"], r"line 2: the label '\$4.50' .*4\.50"),
    "one example each": (
        "a.csv",
        [f"c{n}" for n in range(ROWS)],
        "30 different values in 30 rows.*each of them once",
    ),
    "ids": ("a.parquet", list(range(ROWS)), "30 different values in 30 rows.*--kind regression"),
    "more than a third": ("a.csv", [f"c{n}" for n in range(11)], "11 different values in 30 rows"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_cannot_be_meant_is_refused(tmp_path: Path, tiny_model_dir: Callable[..., Path], name: str) -> None:
    file, labels, expected = REFUSED[name]
    path, output = table(tmp_path / file, labels), tmp_path / "run"
    given = flags(model=tiny_model_dir(layers=1), train=path, output=output)
    message = refused("finetune", *given, *QUICK, leaves_nothing=output)
    assert re.search(expected, message), message
    assert str(path) in message


@pytest.mark.parametrize(
    ("file", "labels", "more", "outputs", "said"),
    [
        ("a.parquet", [Decimal("4.5"), Decimal("3.25")], (), 1, "read as scores"),
        ("a.jsonl", [0.5, 1], (), 1, "read as scores"),
        ("a.csv", [f"{n / 7:.3f}" for n in range(ROWS)], (), 1, "read as scores"),
        ("a.parquet", [Decimal("4"), Decimal("3"), Decimal("2")], (), 3, "read as 3 classes"),
        ("a.jsonl", [10**400, 2, 3], (), 3, "read as 3 classes"),
        ("a.csv", ["01.02.2024", "1.2.3"], (), 2, ""),
        ("a.csv", ["4,5", "3,0"], ("--kind", "classification"), 2, ""),
        ("a.csv", ["3.5", "4.0"], ("--kind", "regression"), 1, ""),
        ("a.csv", [f"c{n}" for n in range(11)], ("--kind", "classification"), 11, ""),
    ],
)
def test_what_was_read_is_said_and_the_way_out_works(
    tmp_path: Path,
    tiny_model_dir: Callable[..., Path],
    file: str,
    labels: list,
    more: tuple,
    outputs: int,
    said: str,
) -> None:
    path, output = table(tmp_path / file, labels), tmp_path / "run"
    given = flags(model=tiny_model_dir(layers=1), train=path, validation=path, output=output)
    done = succeeded("finetune", *given, *QUICK, *more)
    assert said in done.text
    config = json.loads((output / "config.json").read_text())
    assert len(config["id2label"]) == outputs


def test_a_score_that_is_no_number_says_how_to_write_it(tmp_path: Path, tiny_model_dir: Callable[..., Path]) -> None:
    path, output = table(tmp_path / "a.csv", ["4.5", "3,25"]), tmp_path / "run"
    given = ["--train", path, "--kind", "regression", "--output", output, *QUICK]
    message = refused("finetune", "--model", tiny_model_dir(layers=1), *given, leaves_nothing=output)
    assert "line 3: the label '3,25' is not a finite number" in message
    assert "3.25" in message


def test_a_teacher_of_scores_is_no_teacher_of_classes(tmp_path: Path, tiny_model_dir: Callable[..., Path]) -> None:
    path = table(tmp_path / "a.csv", ["3.5", "4.0"])
    given = ["--train", path, "--teacher", tiny_model_dir(layers=2, regression=True), "--student-layers", "1"]
    given += ["--output", tmp_path / "run", "--cache-dir", tmp_path / "cache", "--recipe", "kd", *QUICK]
    assert "--kind regression" in refused("distill", *given, leaves_nothing=tmp_path / "run")
    succeeded("distill", *given, "--kind", "regression")
