"""Texts without labels: which are used, what is said, and how they join the training split."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from codir.data.encoding import encode
from codir.data.files import SOURCE_DIGEST, load_unlabeled, source_digest, united
from codir.data.task import make_split
from codir.errors import DataError


@pytest.fixture
def train() -> Dataset:
    return make_split("classification", ["a good film", "a bad film", "the cat"], None, [1, 0, 1])


@pytest.fixture
def validation() -> dict[str, Dataset]:
    return {
        "matched": make_split("classification", ["The Dog is great"], None, [1]),
        "mismatched": make_split("classification", ["awful  song"], None, [0]),
    }


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_texts_of_the_validation_data_and_repeats_are_left_out(train, validation, tmp_path: Path) -> None:
    path = write(
        tmp_path / "more.txt",
        "new one",
        "THE dog   is great",  # in validation, spelt otherwise
        " awful song ",
        "a good film",  # repeats a training text
        "A good film",  # does not: only exact repeats are left out
        "new one",  # repeats itself
        "another",
    )
    split, notes = load_unlabeled([path], train, validation)
    assert list(split["text"]) == ["new one", "A good film", "another"]
    assert "label" not in split.column_names
    (note,) = notes
    assert note.startswith(
        f"3 unlabelled texts of {path} without 2 that repeat a training text or each other and 2 that stand in"
    )


def test_copies_of_validation_texts_are_left_out(train, validation, tmp_path: Path) -> None:
    """A copy names its original by a digest of the text, however that is spelt, and not by its row."""
    lines = [
        {"text": "the cat is great", "source": 0, SOURCE_DIGEST: source_digest(("the dog IS great",))},
        {"text": "a fine film", "source": 0, SOURCE_DIGEST: source_digest(("a good film",))},
        {"text": "my own"},
    ]
    path = write(tmp_path / "copies.jsonl", *map(json.dumps, lines))
    split, notes = load_unlabeled([path], train, validation)
    assert list(split["text"]) == ["a fine film", "my own"]
    (note,) = notes
    assert "2 unlabelled texts of" in note
    assert "without 1 that are copies of validation texts: the teacher" in note


def test_several_files_and_columns_and_a_subset(train, tmp_path: Path) -> None:
    one = write(tmp_path / "one.csv", "stars,review", "9,first", "no label at all,second")
    two = write(tmp_path / "two.jsonl", '{"review": "second", "x": 1}', '{"review": "third"}')
    split, notes = load_unlabeled([one, two], train, {}, text="review")
    assert list(split["text"]) == ["first", "second", "third"]
    assert [note.split(" unlabelled")[0] for note in notes] == ["2", "1"]
    part, notes = load_unlabeled([one, two], train, {}, text="review", most=2)
    assert len(part) == 2
    assert set(part["text"]) < {"first", "second", "third"}
    assert "Of 3 unlabelled texts 2 are used" in notes[-1]
    assert list(load_unlabeled([one, two], train, {}, text="review", most=2)[0]["text"]) == list(part["text"])


def test_pairs_count_in_either_order(tmp_path: Path) -> None:
    train = make_split("regression", ["a", "b"], ["x", "y"], [0.5, 1.5])
    validation = {"validation": make_split("regression", ["c"], ["z"], [1.0])}
    path = write(tmp_path / "more.tsv", "text\ttext_pair", "Z\tC", "a\tx", "x\ta", "a\ty")
    split, _ = load_unlabeled([path], train, validation, text_pair="text_pair")
    assert list(zip(split["text"], split["text_pair"], strict=True)) == [("x", "a"), ("a", "y")]


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("empty.txt", [], r"empty\.txt is empty"),
        ("hole.txt", ["a", " ", "b"], r"hole\.txt, line 2: .* empty"),
        ("columns.csv", ["sentence,label", "a,1"], r"columns\.csv has no column 'text'.* 'sentence'"),
        (
            "known.txt",
            ["the cat", "awful song"],
            "none of its 2 texts can be used: 1 that repeat .* and 1 that stand",
        ),
        ("missing.txt", None, "Cannot read"),
    ],
)
def test_what_is_wrong_is_said_with_the_place(train, validation, tmp_path: Path, name, lines, message) -> None:
    if lines is not None:
        write(tmp_path / name, *lines)
    with pytest.raises(DataError, match=message):
        load_unlabeled([tmp_path / name], train, validation)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_labelled_rows_come_first_and_ids_go_on(kind, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    labels = [1, 0] if kind == "classification" else [1.5, 0.25]
    train = make_split(kind, ["good film", "bad film"], None, labels)
    both = united(train, make_split(None, ["the cat", "a dog", "a song"]), kind)
    assert list(both["text"]) == ["good film", "bad film", "the cat", "a dog", "a song"]
    assert list(both["label"]) == [*labels, None, None, None]
    encoded = encode(both, tiny_tokenizer, 16, None if kind == "regression" else [1, 0])
    assert encoded["example_id"][:] == [0, 1, 2, 3, 4]
    if kind == "classification":  # the model numbers the two classes the other way
        assert encoded["labels"][:] == [0, 1, -100, -100, -100]
    else:
        assert encoded["labels"][:2] == [1.5, 0.25]
        assert all(value != value for value in encoded["labels"][2:])
    assert encoded.features["labels"].dtype == ("int64" if kind == "classification" else "float32")
    assert united(train, None, kind) is train
