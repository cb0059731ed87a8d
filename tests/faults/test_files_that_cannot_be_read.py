"""What is no file, what no reader can hold, and shares that leave nothing: one sentence each, and no waiting."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_world import flags, refused, sentences, succeeded, write_csv

import codir as package

DIGITS = "9" * 5_000
ENDINGS = ("csv", "jsonl", "parquet", "txt")


@pytest.fixture
def predicts(model: Path, tmp_path: Path) -> Callable[[Any], str]:
    """Returns what `codir predict` says of an input that it has to refuse."""
    output = tmp_path / "o.jsonl"
    return lambda input: refused("predict", model, input=input, output=output, leaves_nothing=output)


def finetunes(model: Path, tmp_path: Path, train: Any, *more: Any) -> str:
    """Returns what `codir finetune` says of training data that it has to refuse."""
    run = tmp_path / "run"
    return refused("finetune", "--model", model, "--train", train, *more, "--output", run, leaves_nothing=run)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (DIGITS, "a number with more digits than can be read"),
        (f"-{DIGITS}", "a number with more digits than can be read"),
        ("[" * 200_000 + "]" * 200_000, "too deep within one another"),
        ('{"a":' * 200_000 + "1" + "}" * 200_000, "too deep within one another"),
    ],
)
def test_json_that_python_cannot_hold(
    value: str, why: str, model: Path, predicts: Callable[[Any], str], tmp_path: Path
) -> None:
    good = '{"text": "a good film", "label": "x"}'
    for ending, between in (("jsonl", "\n"), ("json", ",\n")):
        file = tmp_path / f"a.{ending}"
        content = f'{good}{between}{{"text": "b", "label": "y", "more": {value}}}'
        file.write_text(f"[{content}]" if ending == "json" else content)
        place = f"{file}, line 2: " if ending == "jsonl" else f"{file}: "
        assert place in (message := predicts(file))
        assert why in message
        assert place in finetunes(model, tmp_path, file)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_pipe_is_not_waited_for(ending: str, model: Path, tmp_path: Path) -> None:
    pipe = tmp_path / f"a.{ending}"
    os.mkfifo(pipe)
    command = ("predict", model, "--input", pipe, "--output", tmp_path / "o.jsonl")
    assert f"{pipe} is a pipe or a device, not a file" in refused(*command)
    if ending != "txt":
        assert "is a pipe or a device" in finetunes(model, tmp_path, pipe)


def test_a_device_and_a_folder(model: Path, predicts: Callable[[Any], str], tmp_path: Path) -> None:
    for ending in ("csv", "txt", "parquet", "jsonl"):
        device = tmp_path / f"zero.{ending}"
        device.symlink_to("/dev/zero")
        assert f"{device} is a pipe or a device" in predicts(device)
        folder = tmp_path / f"folder.{ending}"
        folder.mkdir()
        assert f"{folder} is a folder. Give the file itself" in predicts(folder)
    assert "is a pipe or a device" in finetunes(model, tmp_path, tmp_path / "zero.csv")
    assert "is a pipe or a device" in finetunes(
        model, tmp_path, write_csv(tmp_path / "a.csv", sentences(20)), "--validation", tmp_path / "zero.csv"
    )


@pytest.mark.parametrize("name", ["x" * 300 + ".csv", "x" * 300, "y/" * 3_000 + "a.csv", "", "\n.csv"])
def test_names_that_no_file_can_have(name: str, model: Path, predicts: Callable[[Any], str], tmp_path: Path) -> None:
    assert len(predicts(name)) < 900
    assert len(finetunes(model, tmp_path, name)) < 900
    good = write_csv(tmp_path / "a.csv", sentences(20))
    assert len(finetunes(model, tmp_path, good, "--validation", name)) < 900
    more = ("--set", "data.unlabeled=" + json.dumps([name]))
    distilled = ("--teacher", model, "--student-layers", 1, "--train", good, "--validation", good, *more)
    refused("distill", *distilled, "--output", tmp_path / "run", leaves_nothing=tmp_path / "run")


def test_a_zero_byte_in_a_name(model: Path, tmp_path: Path) -> None:
    # no command line can hold one, but YAML and Python can
    good, output = write_csv(tmp_path / "a.csv", sentences(20)), tmp_path / "o.jsonl"
    with pytest.raises(Exception, match=r"Cannot read 'a\\x00b.csv'") as caught:
        package.predict(model, "a\0b.csv", output)
    assert type(caught.value).__name__ == "DataError"
    for key, train in (("train", "null"), ("validation", good), ("unlabeled", good)):
        config = tmp_path / "c.yaml"
        config.write_text(f'recipe: kd\ndata: {{{key}: "a\\0b.csv"}}')
        more = () if key == "train" else ("--train", train)
        run = flags(student_layers=1, teacher=model, config=config, output=tmp_path / "run")
        assert "a\\x00b.csv" in refused("distill", *run, *more, leaves_nothing=tmp_path / "run")


@pytest.mark.parametrize("share", ["0.999", "0.98"])
def test_a_share_that_leaves_nothing_to_train_on(share: str, model: Path, tmp_path: Path) -> None:
    train = write_csv(tmp_path / "a.csv", sentences(40))
    message = finetunes(model, tmp_path, train, "--holdout", share)
    assert "of 40 rows leaves no row of 2 of the 2 classes to train on. Hold out at most 0.97 (--holdout)" in message
    scores = write_csv(tmp_path / "s.csv", [{**row, "label": f"{n}.5"} for n, row in enumerate(sentences(20))])
    message = finetunes(model, tmp_path, scores, "--kind", "regression", "--holdout", share)
    assert "leaves no row to train on" in message


def test_a_class_of_one_row_is_not_held_out_whole(model: Path, tmp_path: Path) -> None:
    rows = [*sentences(40), {"text": "a rare one", "label": "rare"}]
    train = write_csv(tmp_path / "a.csv", rows)
    message = finetunes(model, tmp_path, train, "--holdout", "0.7")
    assert "leaves no row of 1 of the 3 classes to train on. Hold out at most 0.49" in message


def test_digests_of_any_kind_in_unlabelled_texts(model: Path, tmp_path: Path) -> None:
    train = write_csv(tmp_path / "a.csv", sentences(24))
    more = tmp_path / "more.jsonl"
    values = ([1, 2], {"a": 1}, 7, None, "no digest", True)
    more.write_text(
        "".join(f"{json.dumps({'text': f'a film {n}', 'source_digest': v})}\n" for n, v in enumerate(values))
    )
    flags = ("--recipe", "kd", "--no-baseline", "--epochs", 1, "--batch-size", 8, "--precision", "fp32")
    data = ("--train", train, "--validation", train, "--unlabeled", more, *flags)
    done = succeeded("distill", *data, teacher=model, student_layers=1, output=tmp_path / "run")
    assert f"6 unlabelled texts of {more}" in done.text
