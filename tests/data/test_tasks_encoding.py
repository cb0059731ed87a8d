from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    MPNetConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    T5Config,
)

from codir.data.encoding import encode, encode_split, length_limit, position_limit, same_tokenizer
from codir.data.task import make_split
from codir.errors import ConfigError, DataError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghij"]


def tokenizer(words=WORDS, lower=True, types=True) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    if lower:
        core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [(token, words.index(token)) for token in ("[CLS]", "[SEP]")]
    core.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", special)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    inputs = ["input_ids", *(["token_type_ids"] if types else []), "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=core, model_input_names=inputs, **names)


SPLIT = make_split("classification", ["a b c", "A", "d e f g h"], None, [0, 1, 1])
PAIRS = make_split("regression", ["a b", "c"], ["d", "e f g h i"], [0.5, 2.0])


def test_columns_and_values():
    encoded = encode(SPLIT, tokenizer())
    assert set(encoded.column_names) == {
        "input_ids",
        "attention_mask",
        "token_type_ids",
        "labels",
        "example_id",
    }
    assert encoded[0] == {
        "input_ids": [2, 4, 5, 6, 3],
        "attention_mask": [1] * 5,
        "token_type_ids": [0] * 5,
        "labels": 0,
        "example_id": 0,
    }
    assert list(encoded["example_id"]) == [0, 1, 2]
    assert "token_type_ids" not in encode(SPLIT, tokenizer(types=False)).column_names


def test_pairs_and_scores():
    encoded = encode(PAIRS, tokenizer())
    assert encoded[0]["input_ids"] == [2, 4, 5, 3, 7, 3]
    assert encoded[0]["token_type_ids"] == [0, 0, 0, 0, 1, 1]
    assert list(encoded["labels"]) == [0.5, 2.0]
    assert encoded.features["labels"].dtype == "float32"


def test_unlabelled():
    split = make_split(None, ["a", "b"])
    assert "labels" not in encode(split, tokenizer()).column_names


def test_classes_are_mapped_to_the_models():
    assert list(encode(SPLIT, tokenizer(), label_ids=[2, 0])["labels"]) == [2, 0, 0]
    with pytest.raises(DataError, match="class 1, but only 1"):
        encode(SPLIT, tokenizer(), label_ids=[0])


def test_longer_texts_are_cut_and_counted(caplog):
    exact = encode_split(SPLIT, tokenizer(), max_length=7)
    assert (exact.truncated, exact.max_length) == (0, 7)  # the longest one has exactly 7 tokens
    assert not caplog.records
    cut = encode_split(SPLIT, tokenizer(), max_length=5)
    assert (cut.truncated, cut.max_length) == (1, 5)
    assert cut.dataset[2]["input_ids"] == [2, 7, 8, 9, 3]
    assert cut.dataset[0]["input_ids"] == [2, 4, 5, 6, 3]  # exactly 5 tokens: nothing lost
    assert "1 of 3 texts is longer than 5 tokens and was cut" in caplog.text
    pairs = encode_split(PAIRS, tokenizer(), max_length=6)
    assert pairs.truncated == 1
    assert pairs.dataset[1]["input_ids"] == [2, 6, 3, 8, 9, 3]  # the longer text loses


def test_the_models_positions_limit_the_length():
    config = BertConfig(max_position_embeddings=6)
    assert encode_split(SPLIT, tokenizer(), config=config).truncated == 1
    assert encode_split(SPLIT, tokenizer(), max_length=100, config=config).max_length == 6
    assert encode_split(SPLIT, tokenizer(), max_length=5, config=config).max_length == 5
    assert encode_split(SPLIT, tokenizer()).max_length is None
    with pytest.raises(ConfigError, match="at least 4"):
        length_limit(3, None)


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (BertConfig(), 512),
        (DistilBertConfig(), 512),
        (RobertaConfig(max_position_embeddings=514, pad_token_id=1), 512),
        (RobertaConfig(max_position_embeddings=514, pad_token_id=0), 513),
        (MPNetConfig(max_position_embeddings=514, pad_token_id=1), 512),
        (DebertaV2Config(position_biased_input=False, relative_attention=True), None),
        (DebertaV2Config(position_biased_input=True), 512),
        (T5Config(), None),
    ],
)
def test_position_limit(config, limit):
    assert position_limit(config) == limit


def test_the_teachers_own_columns_come_only_where_they_differ():
    other = tokenizer(words=[*WORDS[:4], *reversed(WORDS[4:])], types=False)
    encoded = encode_split(SPLIT, tokenizer(), teacher_tokenizer=other, teacher_max_length=6)
    assert encoded.dataset[0]["teacher_input_ids"] == [2, 13, 12, 11, 3]
    assert encoded.dataset[0]["input_ids"] == [2, 4, 5, 6, 3]
    assert "teacher_token_type_ids" not in encoded.dataset.column_names
    assert (encoded.truncated, max(map(len, encoded.dataset["teacher_input_ids"]))) == (0, 6)
    same = encode(SPLIT, tokenizer(), teacher_tokenizer=tokenizer())
    assert not any(name.startswith("teacher_") for name in same.column_names)


def test_one_tokenizer_with_two_limits():
    """The same tokenizer still needs columns of its own where the limits cut differently, and only there."""
    for student, teacher, own in ((5, 100, True), (100, 5, True), (100, 50, False), (5, 5, False)):
        encoded = encode(SPLIT, tokenizer(), student, None, tokenizer(), teacher)
        assert ("teacher_input_ids" in encoded.column_names) is own, (student, teacher)


def test_same_tokenizer():
    used = tokenizer()
    # leaves its padding and truncation in the backend
    used(["a b c"], padding=True, truncation=True, max_length=4)
    assert same_tokenizer(used, tokenizer())
    assert not same_tokenizer(tokenizer(), tokenizer(lower=False))
    assert not same_tokenizer(tokenizer(), tokenizer(types=False))
    assert not same_tokenizer(tokenizer(), tokenizer(words=[*WORDS, "k"]))


def test_same_tokenizer_after_saving(tmp_path):
    tokenizer().save_pretrained(tmp_path)
    assert same_tokenizer(tokenizer(), PreTrainedTokenizerFast.from_pretrained(tmp_path))


def test_many_rows_go_in_batches_and_come_out_in_order():
    split = make_split("classification", ["a " * (i % 5 + 1) for i in range(2500)], None, [i % 2 for i in range(2500)])
    encoded = encode_split(split, tokenizer(), max_length=5)
    assert [len(ids) for ids in encoded.dataset["input_ids"]] == [min(i % 5 + 3, 5) for i in range(2500)]
    assert encoded.truncated == 1000
