"""One class in two spellings is refused before anything is trained; one text with two labels is counted and said."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from fault_world import QUICK, refused, sentences, succeeded, write_csv


def write(path: Path, labels: Sequence[str], count: int = 24) -> Path:
    """Writes CSV with these labels, in turns."""
    return write_csv(path, sentences(count, labels=labels))


COMPOSED, DECOMPOSED = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")
TWICE = {
    "case": ("polish", "Polish"),
    "case beyond ASCII": ("ЧУДО", "чудо"),
    "Unicode form": (COMPOSED, DECOMPOSED),
    "full width": ("ＡＢＣ", "ABC"),
    "zero width space": ("good", "good\u200b"),
    "variation selector": ("❤", "❤\ufe0f"),
    "no-break space inside": ("very good", "very\u00a0good"),
    "control character": ("good", "good\x7f"),
}


@pytest.mark.parametrize("name", list(TWICE))
def test_two_spellings_of_one_class_are_refused(tmp_path: Path, tiny_model_dir: Callable[..., Path], name: str) -> None:
    first, second = TWICE[name]
    path, output = write(tmp_path / "train.csv", [first, "other", second]), tmp_path / "run"
    given = ["--train", path, "--output", output, *QUICK]
    message = refused("finetune", "--model", tiny_model_dir(layers=1), *given, leaves_nothing=output)
    assert str(path) in message
    assert "line 2" in message  # where each spelling comes first
    assert "line 4" in message
    assert message.count("8 rows") == 2


def test_the_rule_is_that_of_the_commands_that_match_models(
    tmp_path: Path, tiny_model_dir: Callable[..., Path]
) -> None:
    """A model and data may spell their classes differently; within the data each has one spelling."""
    model = tiny_model_dir(layers=2, labels=(DECOMPOSED, "Other"))
    data = write(tmp_path / "dev.csv", [COMPOSED.upper(), "other\u200b"])
    output = tmp_path / "answers.jsonl"
    succeeded("predict", model, "--input", data, "--output", output)
    answers = [json.loads(line)["label"] for line in output.read_text(encoding="utf-8").splitlines()]
    right = [(answer == "Other") == bool(number % 2) for number, answer in enumerate(answers)]
    done = succeeded("evaluate", model, "--validation", data)
    assert f"{sum(right) / len(right):.4f}" in done.text
    run = tmp_path / "run"
    succeeded(
        *("distill", "--teacher", model, "--recipe", "kd", "--train", data, "--validation", data),
        *("--student-layers", "1", "--output", run, "--cache-dir", tmp_path / "cache", *QUICK),
    )
    assert json.loads((run / "config.json").read_text(encoding="utf-8"))["id2label"]["0"] == DECOMPOSED
    message = refused("evaluate", model, validation=write(tmp_path / "b.csv", ["Other", COMPOSED, "other"]))
    assert "'Other'" in message
    assert "'other'" in message


def test_blanks_around_a_label_are_no_part_of_it_and_that_is_said(
    tmp_path: Path, tiny_model_dir: Callable[..., Path]
) -> None:
    path, output = write(tmp_path / "train.csv", ["good", "bad", "good ", "bad"]), tmp_path / "run"
    given = ["--train", path, "--validation", path, "--output", output, *QUICK]
    done = succeeded("finetune", "--model", tiny_model_dir(layers=1), *given)
    assert "6 labels in column 'label'" in done.text
    assert "'good '" in done.text
    assert sorted(json.loads((output / "config.json").read_text())["id2label"].values()) == ["bad", "good"]


@pytest.mark.parametrize("pairs", [False, True])
def test_a_text_with_two_labels_is_counted_and_said(
    tmp_path: Path, tiny_model_dir: Callable[..., Path], pairs: bool
) -> None:
    rows = sentences(24, pairs=pairs)
    copies = [
        {**rows[0], "label": "positive"},
        {**rows[5], "label": "negative"},
        {**rows[5], "text": f" {rows[5]['text']}"},
    ]
    # the same first text in another pair, and the same text with the same label, are no contradiction
    copies += [{**rows[7], "text_pair": "the cat", "label": "negative"}] if pairs else [rows[7]]
    path, output = write_csv(tmp_path / "train.csv", [*rows, *copies]), tmp_path / "run"
    dev = write_csv(tmp_path / "dev.csv", rows)
    given = ["--train", path, "--validation", dev, "--output", output, *QUICK]
    pair = "text_pair" if pairs else None
    done = succeeded("finetune", *given, model=tiny_model_dir(layers=1), text_pair=pair)
    assert re.search(
        rf"2 {'pairs of ' if pairs else ''}texts stand in \S*train.csv with more than one label", done.text
    )
    assert "(5 rows)" in done.text
    assert "line 2 ('negative') and line 26 ('positive')" in done.text
    assert "dev.csv with more" not in done.text
    card = (output / "README.md").read_text(encoding="utf-8")
    assert "more than one label" in card  # the model card has it, too


def test_scores_of_one_text_that_differ_are_counted_too(tmp_path: Path, tiny_model_dir: Callable[..., Path]) -> None:
    rows = [{**row, "label": f"{number / 7:.2f}"} for number, row in enumerate(sentences(24))]
    path = write_csv(tmp_path / "train.csv", [*rows, {**rows[3], "label": "9.5"}])
    given = ["--train", path, "--validation", path, "--output", tmp_path / "run", *QUICK]
    done = succeeded("finetune", "--model", tiny_model_dir(layers=1), *given)
    assert "One text stands in" in done.text
    assert "(2 rows)" in done.text
