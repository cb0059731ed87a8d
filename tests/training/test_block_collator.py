"""Batches of masked blocks: shapes, padding, and the same masks whoever makes the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from codir.errors import DataError
from codir.training.collators import MaskedBlockCollator
from codir.training.masking import TokenMasking

ROWS = [
    {
        "input_ids": [2, *np.random.default_rng(number).integers(5, 60, 3 + 5 * number).tolist(), 3],
        "example_id": number,
    }
    for number in range(12)
]


@pytest.fixture
def masking(tiny_tokenizer) -> TokenMasking:
    return TokenMasking(tiny_tokenizer, seed=4)


@pytest.fixture
def collator(tiny_tokenizer, masking) -> MaskedBlockCollator:
    return MaskedBlockCollator(tiny_tokenizer, masking)


def test_a_batch(collator, masking):
    batch = collator(ROWS[2:5])
    lengths = [len(row["input_ids"]) for row in ROWS[2:5]]
    assert set(batch) == {"inputs", "labels", "example_id"}
    assert set(batch["inputs"]) == {"input_ids", "attention_mask", "token_type_ids"}
    assert batch["example_id"].tolist() == [2, 3, 4]
    for tensor in (*batch["inputs"].values(), batch["labels"]):
        assert tensor.shape == (3, max(lengths))
        assert tensor.dtype == torch.int64
    for index, (row, length) in enumerate(zip(ROWS[2:5], lengths, strict=True)):
        inputs, labels = masking.mask(np.array(row["input_ids"]), row["example_id"], 0)
        assert batch["inputs"]["input_ids"][index].tolist() == [*inputs, *[0] * (max(lengths) - length)]
        assert batch["labels"][index].tolist() == [*labels, *[-100] * (max(lengths) - length)]
        assert batch["inputs"]["attention_mask"][index].sum() == length
    assert batch["inputs"]["token_type_ids"].sum() == 0


def test_padding_goes_to_the_right_whatever_the_tokenizer_says_and_to_a_multiple(
    tiny_tokenizer, masking, monkeypatch
):
    monkeypatch.setattr(tiny_tokenizer, "padding_side", "left")
    monkeypatch.setattr(tiny_tokenizer, "model_input_names", ["input_ids", "attention_mask"])
    batch = MaskedBlockCollator(tiny_tokenizer, masking, pad_to_multiple_of=8)(ROWS[:3])
    assert set(batch["inputs"]) == {"input_ids", "attention_mask"}
    assert batch["labels"].shape == batch["inputs"]["input_ids"].shape == (3, 16)
    hidden = batch["labels"] != -100
    assert hidden[:, 0].sum() == 0  # [CLS]
    for index, row in enumerate(ROWS[:3]):
        original = torch.tensor(row["input_ids"] + [0] * (16 - len(row["input_ids"])))
        assert torch.equal(batch["labels"][index][hidden[index]], original[hidden[index]])
        assert torch.equal(batch["inputs"]["input_ids"][index][~hidden[index]], original[~hidden[index]])


def test_the_masks_do_not_depend_on_the_batch(collator):
    width = len(ROWS[-1]["input_ids"])
    together = collator(ROWS)
    for number in (0, 5, 11):
        for rows in ([ROWS[number]], [ROWS[11], ROWS[number]], [ROWS[number], ROWS[3]]):
            batch = collator(rows)
            place = batch["example_id"].tolist().index(number)
            length = len(ROWS[number]["input_ids"])
            assert torch.equal(batch["labels"][place, :length], together["labels"][number, :length])
            mine = batch["inputs"]["input_ids"][place, :length]
            assert torch.equal(mine, together["inputs"]["input_ids"][number, :length])
    assert together["labels"].shape == (12, width)


def test_epochs_and_evaluation(collator):
    first = collator(ROWS)["labels"]
    assert torch.equal(collator(ROWS)["labels"], first)
    evaluation = collator.evaluation()
    fixed = evaluation(ROWS)["labels"]
    collator.epoch = 1
    second = collator(ROWS)["labels"]
    assert not torch.equal(first, second)
    assert torch.equal(evaluation(ROWS)["labels"], fixed)
    assert not torch.equal(fixed, first)
    assert not torch.equal(fixed, second)
    collator.set_epoch(0)
    assert torch.equal(collator(ROWS)["labels"], first)


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_make_the_same_batches_in_every_epoch(collator, persistent):
    alone = DataLoader(ROWS, batch_size=5, collate_fn=collator)  # type: ignore[arg-type]
    workers = DataLoader(
        ROWS,  # type: ignore[arg-type]
        batch_size=5,
        collate_fn=collator,
        num_workers=2,
        persistent_workers=persistent,
        multiprocessing_context="fork",
    )
    seen = []
    for epoch in range(3):
        collator.epoch = epoch
        for one, other in zip(alone, workers, strict=True):
            assert torch.equal(one["labels"], other["labels"])
            assert torch.equal(one["inputs"]["input_ids"], other["inputs"]["input_ids"])
            seen.append(one["labels"].numpy().tobytes())
    assert len(set(seen)) == len(seen)


def test_arrays_and_lists_are_the_same(collator):
    arrays = [{**row, "input_ids": np.array(row["input_ids"], dtype=np.int32)} for row in ROWS]
    assert torch.equal(collator(arrays)["labels"], collator(ROWS)["labels"])


def test_too_long_a_block(tiny_tokenizer, masking):
    collator = MaskedBlockCollator(tiny_tokenizer, masking, max_length=20)
    assert collator(ROWS[:4])["labels"].shape == (4, 20)
    with pytest.raises(DataError, match="Block 4 has 25 tokens and the model takes at most 20"):
        collator(ROWS)
    with pytest.raises(DataError, match="at most 20"):
        collator.evaluation()(ROWS)
