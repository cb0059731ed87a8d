"""Dynamic masking and its batches: BERT's shares, a function of seed, epoch and block, whoever makes the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from codir.errors import ConfigError, DataError, ModelError
from codir.training.collators import MaskedBlockCollator
from codir.training.masking import EVALUATION_EPOCH, TokenMasking

PAD, UNK, CLS, SEP, MASK = range(5)
LENGTH = 200


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Returns a tokenizer of 5 special and 995 ordinary tokens, and two that were added later."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(995))]
    core = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    made.add_tokens(["added1", "added2"])
    made.add_tokens(["<special>"], special_tokens=True)
    return made


def block(number: int = 0, ordinary: int = LENGTH) -> np.ndarray:
    tokens = np.random.default_rng(number).integers(5, 1000, ordinary)
    return np.concatenate([[CLS], tokens, [SEP]])


def test_the_shares_are_those_of_bert(tokenizer):
    masking = TokenMasking(tokenizer, seed=1)
    blocks = 2000
    masked = stayed = replaced = 0
    places = np.zeros(LENGTH)
    drawn = []
    for number in range(blocks):
        ids = block(number)
        inputs, labels = masking.mask(ids, number, 0)
        predicted = labels != -100
        assert predicted.sum() == 30  # 15 % of 200, no more and no less
        places += predicted[1:-1]
        hidden = predicted & (inputs == MASK)
        same = predicted & (inputs == ids)
        masked, stayed = masked + hidden.sum(), stayed + same.sum()
        replaced += (predicted & ~hidden & ~same).sum()
        drawn.append(inputs[predicted & ~hidden & ~same])
    total = blocks * 30
    # a random token is the original one once in 995 times
    expected = np.array([0.8, 0.1 + 0.1 / 995, 0.1 - 0.1 / 995]) * total
    found = np.array([masked, stayed, replaced])
    assert ((found - expected) ** 2 / expected).sum() < 13.8  # chi-square, 2 degrees of freedom, 1 in 1000
    chi = ((places - total / LENGTH) ** 2 / (total / LENGTH)).sum() / (1 - 0.15)
    assert chi < 271  # 199 degrees of freedom, 1 in 2000: every place is as likely as any other
    tokens = np.bincount(np.concatenate(drawn), minlength=1003)
    assert tokens[:5].sum() == 0
    assert tokens[1000:].sum() == 0
    mean = replaced / 995
    assert ((tokens[5:1000] - mean) ** 2 / mean).sum() < 1140  # 994 degrees of freedom, 1 in 1000


def test_the_number_is_right_on_average_at_every_length(tokenizer):
    """10 tokens of which 15 % are predicted: one or two, 1.5 in the mean."""
    masking = TokenMasking(tokenizer)
    counts = np.array([(masking.mask(block(0, 10), number, 0)[1] != -100).sum() for number in range(2000)])
    assert set(counts) == {1, 2}
    assert abs(counts.mean() - 1.5) < 0.05  # four and a half standard errors


def test_all_masked_all_random_and_all_kept(tokenizer):
    ids = block()
    before = ids.copy()
    inputs, labels = TokenMasking(tokenizer, masked=1.0, random=0.0).mask(ids, 0, 0)
    predicted = labels != -100
    assert inputs.dtype == labels.dtype == np.int64
    assert (inputs[predicted] == MASK).all()
    assert (labels[predicted] == before[predicted]).all()
    assert (inputs[~predicted] == before[~predicted]).all()
    assert (ids == before).all()  # the block itself is not touched
    inputs, labels = TokenMasking(tokenizer, masked=0.0, random=1.0, probability=1.0).mask(ids, 0, 0)
    assert (labels[1:-1] == ids[1:-1]).all()
    assert (inputs[1:-1] != ids[1:-1]).mean() > 0.95
    assert MASK not in inputs
    inputs, labels = TokenMasking(tokenizer, masked=0.0, random=0.0).mask(ids, 0, 0)
    assert (inputs == ids).all()
    assert (labels != -100).sum() == 30


def test_special_tokens_and_padding_are_never_predicted(tokenizer):
    special = [PAD, UNK, CLS, SEP, MASK, tokenizer.convert_tokens_to_ids("<special>")]
    ids = np.concatenate([block(), np.full(40, PAD), special])
    chosen = np.zeros(len(ids), dtype=bool)
    masking = TokenMasking(tokenizer, probability=0.9)
    for epoch in range(20):
        inputs, labels = masking.mask(ids, 0, epoch)
        chosen |= labels != -100
        untouched = np.isin(ids, special)
        assert (inputs[untouched] == ids[untouched]).all()
    assert not chosen[np.isin(ids, special)].any()
    assert chosen[1 : LENGTH + 1].all()


def test_an_added_token_is_predicted_but_never_drawn(tokenizer):
    added = tokenizer.convert_tokens_to_ids("added1")
    masking = TokenMasking(tokenizer, probability=1.0)
    assert masking.mask(np.array([added]), 0, 0)[1].tolist() == [added]
    assert added not in masking.ordinary
    assert masking.ordinary.tolist() == list(range(5, 1000))


@pytest.mark.parametrize("ordinary", [0, 1, 2, 6])
@pytest.mark.parametrize("probability", [0.01, 0.15, 1.0])
def test_short_blocks(tokenizer, ordinary, probability):
    for number in range(20):
        ids = block(number, ordinary)
        _, labels = TokenMasking(tokenizer, probability=probability).mask(ids, number, 0)
        count = (labels != -100).sum()
        assert count == 0 if ordinary == 0 else 1 <= count <= ordinary


def test_a_function_of_seed_epoch_and_block_alone(tokenizer):
    ids = block()
    one, other = TokenMasking(tokenizer, seed=3), TokenMasking(tokenizer, seed=3)
    other.mask(block(9), 9, 4)  # whatever was asked before does not matter
    np.random.seed(7)
    assert all(np.array_equal(a, b) for a, b in zip(one.mask(ids, 8, 2), other.mask(ids, 8, 2), strict=True))
    assert other.mask(ids.astype(np.int32), 8, 2)[0].tolist() == one.mask(ids, 8, 2)[0].tolist()
    seen = {one.mask(ids, number, epoch)[1].tobytes() for number in range(10) for epoch in range(-1, 10)}
    seen |= {TokenMasking(tokenizer, seed=seed).mask(ids, 0, 0)[1].tobytes() for seed in (0, 1, -1, 2**64 - 2)}
    assert len(seen) == 114


def test_the_masks_are_those_of_every_version(tokenizer):
    """A resume in a year must find the same masks: these numbers may not change."""
    inputs, labels = TokenMasking(tokenizer, seed=5).mask(np.arange(5, 45), 3, 7)
    assert {place: int(inputs[place]) for place in np.flatnonzero(labels != -100).tolist()} == FROZEN


FROZEN = {2: 4, 8: 4, 9: 4, 19: 24, 22: 4, 33: 38}


def test_the_masks_of_an_evaluation_are_the_same_for_every_seed(tokenizer):
    """Held-out losses of runs with different seeds are compared in tables."""
    one, other = (TokenMasking(tokenizer, seed=seed).mask(block(), 3, EVALUATION_EPOCH) for seed in (1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    trained = TokenMasking(tokenizer, seed=1).mask(block(), 3, 0)
    assert not np.array_equal(one[1], trained[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"probability": 0.0}, "masking probability is 0.0"),
        ({"probability": 1.5}, "masking probability is 1.5"),
        ({"masked": -0.1}, "-0.1 are to be masked"),
        ({"masked": 0.8, "random": 0.3}, "sum at most 1"),
        ({"random": float("nan")}, "sum at most 1"),
    ],
)
def test_shares_out_of_range(tokenizer, settings, message):
    with pytest.raises(ConfigError, match=message):
        TokenMasking(tokenizer, **settings)


def test_no_mask_token():
    core = Tokenizer(WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    with pytest.raises(ModelError, match="no mask token"):
        TokenMasking(PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]"))


@pytest.mark.parametrize("token", [1003, 50_000, -1])
def test_a_corpus_of_another_tokenizer(tokenizer, token):
    with pytest.raises(DataError, match=f"Block 6 holds the token {token}.*another tokenizer"):
        TokenMasking(tokenizer).mask(np.array([5, token, 6]), 6, 0)


# ---- batches ---------------------------------------------------------------------------------------------------------

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


def test_padding_goes_to_the_right_whatever_the_tokenizer_says_and_to_a_multiple(tiny_tokenizer, masking, monkeypatch):
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


def test_epochs_and_evaluation(tiny_tokenizer, masking, collator):
    for short in (MaskedBlockCollator(tiny_tokenizer, masking, max_length=20),):
        for each in (short, short.evaluation()):
            with pytest.raises(DataError, match="Block 4 has 25 tokens and the model takes at most 20"):
                each(ROWS)
    first = collator(ROWS)["labels"]
    assert torch.equal(collator(ROWS)["labels"], first)
    evaluation = collator.evaluation()
    fixed = evaluation(ROWS)["labels"]
    collator.set_epoch(1)
    second = collator(ROWS)["labels"]
    assert not torch.equal(first, second)
    assert torch.equal(evaluation(ROWS)["labels"], fixed)
    assert not torch.equal(fixed, first)
    assert not torch.equal(fixed, second)
    collator.set_epoch(0)
    assert torch.equal(collator(ROWS)["labels"], first)


def test_workers_make_the_same_batches_in_every_epoch(collator):
    alone = DataLoader(ROWS, batch_size=5, collate_fn=collator)  # type: ignore[arg-type]
    workers = DataLoader(
        ROWS,  # type: ignore[arg-type]
        batch_size=5,
        collate_fn=collator,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context="fork",
    )
    seen = []
    for epoch in range(3):
        collator.set_epoch(epoch)
        for one, other in zip(alone, workers, strict=True):
            assert torch.equal(one["labels"], other["labels"])
            assert torch.equal(one["inputs"]["input_ids"], other["inputs"]["input_ids"])
            seen.append(one["labels"].numpy().tobytes())
    assert len(set(seen)) == len(seen)
