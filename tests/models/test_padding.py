from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from codir.errors import DataError, ModelError
from codir.models.check import settle_side
from codir.models.inference import Padding, pad_batch

ROWS = [
    {"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1], "token_type_ids": [0, 1, 1], "labels": 1},
    {
        "input_ids": np.array([8]),
        "attention_mask": np.array([1]),
        "token_type_ids": np.array([0]),
        "labels": 0,
    },
]


def test_right_and_left():
    batch = pad_batch(ROWS, Padding(9, token_type_id=3))
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[5, 6, 7], [8, 9, 9]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "token_type_ids": [[0, 1, 1], [0, 3, 3]],
    }
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
    left = pad_batch(ROWS, Padding(9, side="left"))
    assert left["input_ids"].tolist() == [[5, 6, 7], [9, 9, 8]]
    assert left["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_as_the_tokenizer_pads_but_for_the_side(tiny_tokenizer, side: str, monkeypatch):
    """Positions are counted from the left: whatever the tokenizer says, padding goes to the right."""
    rows = [dict(tiny_tokenizer("the cat sees a dog", "it is red")), dict(tiny_tokenizer("a bird"))]
    expected = tiny_tokenizer.pad(rows, return_tensors="pt")
    monkeypatch.setattr(tiny_tokenizer, "padding_side", side)
    batch = pad_batch(rows, tiny_tokenizer)
    assert set(batch) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(batch[name], tensor), name


def test_a_model_that_wants_it_on_the_left(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    settle_side(tokenizer, "left")
    assert pad_batch(ROWS, tokenizer)["input_ids"].tolist() == [[5, 6, 7], [0, 0, 8]]
    assert copy.deepcopy(tokenizer).padding_side == "left"
    settle_side(tokenizer, "right")
    assert pad_batch(ROWS, tokenizer)["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]


def test_teacher_columns_and_a_missing_mask():
    rows = [
        {"input_ids": [1], "teacher_input_ids": [2, 3]},
        {"input_ids": [1, 1, 1], "teacher_input_ids": [4]},
    ]
    batch = pad_batch(rows, Padding(0), prefix="teacher_")
    assert batch["input_ids"].tolist() == [[2, 3], [4, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert set(batch) == {"input_ids", "attention_mask"}


def test_multiples_and_one_row():
    assert pad_batch(ROWS, Padding(0), pad_to_multiple_of=8)["input_ids"].shape == (2, 8)
    assert pad_batch(ROWS[:1], Padding(0))["input_ids"].shape == (1, 3)


def test_errors(tiny_tokenizer):
    with pytest.raises(DataError, match="'teacher_input_ids'"):
        pad_batch(ROWS, Padding(0), prefix="teacher_")
    with pytest.raises(DataError, match="none"):
        pad_batch([], Padding(0))
    with pytest.raises(DataError, match="2 entries"):
        pad_batch([{"input_ids": [1], "attention_mask": [1, 1]}], Padding(0))
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.pad_token = None
    with pytest.raises(ModelError, match="padding token"):
        pad_batch(ROWS, tokenizer)
