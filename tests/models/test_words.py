"""Words that can be exchanged: where they stand, which tokens are one, how a replacement is written."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from tokenizers import decoders as tokenizers_decoders
from transformers import PreTrainedTokenizerFast

from codir.models.words import WholeWords, find_words, written_like


def found(text: str) -> list[str]:
    return [text[start:end] for start, end in find_words(text)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The cat, (the) dog!", ["The", "cat", "the", "dog"]),
        ("I don't know", ["I", "don't", "know"]),
        ("Bob's book, it's mine; we’ll see", ["Bob", "book", "it", "mine", "we", "see"]),
        ("it 's a film that does n't work", ["it", "a", "film", "that", "does", "n't", "work"]),
        ("well-known in 1999, the 2nd snake_case", ["well", "known", "in", "the", "2nd", "snake", "case"]),
        ("Čeština für alle", ["Čeština", "für", "alle"]),
        ("'quoted' rock 'n' roll", ["quoted", "rock", "n", "roll"]),
        ("J. Doe of the U.S. said so. A man did.", ["Doe", "of", "the", "said", "so", "A", "man", "did"]),
        ("12 % ... !", []),
        ("", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert found(text) == words


def wordpiece(lower: bool) -> PreTrainedTokenizerFast:
    texts = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "[unused1]",
        "A",
        "a",
        "the",
        "The",
        "play",
        "##ing",
    ]
    texts += ["##play", "ing", "x2", "1999", ".", "-", "é", "t", "Ll", "y"]
    core = Tokenizer(models.WordPiece({text: i for i, text in enumerate(texts)}, unk_token="[UNK]"))
    if lower:
        core.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)  # type: ignore[assignment]
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    core.decoder = tokenizers_decoders.WordPiece()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="[UNK]", pad_token="[PAD]", mask_token="[MASK]", cls_token="[CLS]"
    )


def test_whole_words_of_word_pieces() -> None:
    cased = WholeWords.of(wordpiece(lower=False))
    assert cased.cased
    assert cased.texts == ["A", "a", "the", "The", "play", "ing", "é", "y"]
    assert cased.ids == [6, 7, 8, 9, 10, 13, 18, 21]
    assert cased.folded == ["a", "a", "the", "the", "play", "ing", "é", "y"]
    # what the normaliser never produces (capitals, accents) is no candidate
    uncased = WholeWords.of(wordpiece(lower=True))
    assert not uncased.cased
    assert uncased.texts == ["a", "the", "play", "ing", "y"]


def test_whole_words_of_bytes() -> None:
    """In byte-level vocabularies only what follows a space begins a word."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    texts = ["<pad>", "<unk>", "<mask>", *alphabet, "th", "the", "Ġthe", "in", "Ġin", "Ġa", "ing", "Ġ."]
    vocabulary = {text: i for i, text in enumerate(texts)}
    merges = [
        ("t", "h"),
        ("th", "e"),
        ("Ġ", "the"),
        ("i", "n"),
        ("Ġ", "in"),
        ("Ġ", "a"),
        ("in", "g"),
        ("Ġ", "."),
    ]
    core = Tokenizer(models.BPE(vocabulary, merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    core.decoder = tokenizers_decoders.ByteLevel()  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", pad_token="<pad>", mask_token="<mask>"
    )
    words = WholeWords.of(tokenizer)
    assert words.texts == ["the", "in", "a"]
    assert words.ids == [vocabulary["Ġthe"], vocabulary["Ġin"], vocabulary["Ġa"]]
    assert words.cased


@pytest.mark.parametrize(
    ("candidate", "word", "first", "written"),
    [
        ("dog", "Cat", True, "Dog"),
        ("dog", "Cat", False, "Dog"),
        ("dog", "CAT", False, "Dog"),
        ("dog", "cat", True, "dog"),
        ("you", "I", False, "you"),
        ("you", "I", True, "You"),
        ("élan", "Cat", True, "Élan"),
        ("dog", "1st", True, "dog"),
    ],
)
def test_case(candidate: str, word: str, first: bool, written: str) -> None:
    assert written_like(candidate, word, first=first) == written
