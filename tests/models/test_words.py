"""Words that can be exchanged, the tokens that are one, candidates against a plain loop, and the draws of copies."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from tokenizers import decoders as tokenizers_decoders
from transformers import (
    BertConfig,
    BertForMaskedLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from codir.errors import ConfigError, ModelError
from codir.models.words import Texts, WholeWords, WordCandidates, copies_of, find_words


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


PIECES = "[PAD] [UNK] [CLS] [SEP] [MASK] [unused1] A a the The play ##ing ##play ing x2 1999 . - é t Ll y"


def wordpiece(lower: bool) -> PreTrainedTokenizerFast:
    texts = PIECES.split()
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
    # what the normaliser never produces (capitals, accents) is no candidate
    uncased = WholeWords.of(wordpiece(lower=True))
    assert not uncased.cased
    assert uncased.texts == ["a", "the", "play", "ing", "y"]


def test_whole_words_of_bytes() -> None:
    """In byte-level vocabularies only what follows a space begins a word."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    texts = ["<pad>", "<unk>", "<mask>", *alphabet, "th", "the", "Ġthe", "in", "Ġin", "Ġa", "ing", "Ġ."]
    vocabulary = {text: i for i, text in enumerate(texts)}
    pairs = ("t h", "th e", "Ġ the", "i n", "Ġ in", "Ġ a", "in g", "Ġ .")
    merges = [(left, right) for left, right in map(str.split, pairs)]
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


# --- candidates

SINGLE: list[Texts] = [
    ("The cat sees a dog.",),
    ("unbelievable film",),  # a word the tokenizer does not know
    ("!",),
    ("a",),
    ("he likes the good old song and she likes the bad new one very, very much",),
]
PAIRS: list[Texts] = [("The cat sees a dog.", "a dog is green"), ("good", "!"), ("12", "this is it")]


def masked_lm(tokenizer: Any, family: str = "bert") -> Any:
    shape: dict[str, Any] = {
        **{"vocab_size": len(tokenizer), "max_position_embeddings": 66, "pad_token_id": 0},
        **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if family == "bert":
            model = BertForMaskedLM(BertConfig(**shape))
        else:
            model = RobertaForMaskedLM(RobertaConfig(**shape, type_vocab_size=2))
        for parameter in model.parameters():
            if parameter.dim() > 1:  # the default is too small for the context to matter
                parameter.data.normal_(0.0, 0.4)
    return model.eval()


def naive(model: Any, tokenizer: Any, examples: list[Texts], most: int, together: float = 0.0) -> list[list[str]]:
    """The most probable words at each place, in words."""
    special = set(tokenizer.all_special_ids)
    rows: list[list[str]] = []
    for texts in examples:
        places = [(number, span) for number, each in enumerate(texts) for span in find_words(each)]
        at_once = max(1, int(together * len(places)))
        passes = -(-len(places) // at_once) if places else 0
        for word, (of, (start, end)) in enumerate(places):
            masked = list(texts)
            for other, (number, (a, b)) in reversed(list(enumerate(places))):
                if other % passes == word % passes:
                    masked[number] = masked[number][:a] + "[MASK]" + masked[number][b:]
            inputs = tokenizer(*masked, return_tensors="pt")
            position = [i for i, token in enumerate(inputs["input_ids"][0]) if token == tokenizer.mask_token_id]
            with torch.no_grad():
                logits = model(**inputs).logits[0, position[word // passes]].double()
            order = sorted(range(len(tokenizer)), key=lambda token: -logits[token])
            names = [tokenizer.convert_ids_to_tokens(token) for token in order if token not in special]
            names = [name for name in names if name.isalpha() and name != texts[of][start:end].lower()]
            rows.append(names[:most])
    return rows


def words_of(found: np.ndarray, proposer: WordCandidates) -> list[list[str]]:
    return [[proposer.words.texts[number] for number in row if number >= 0] for row in found]


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("together", [0.0, 0.3])
@pytest.mark.parametrize("examples", [SINGLE, PAIRS])
def test_against_a_plain_loop(
    tiny_tokenizer: PreTrainedTokenizerFast, family: str, together: float, examples: list[Texts]
) -> None:
    model = masked_lm(tiny_tokenizer, family)
    proposer = WordCandidates(model, tiny_tokenizer, most=5, together=together, batch_size=3)
    steps: list[tuple[int, int]] = []
    found = proposer.propose(examples, lambda done, in_all: steps.append((done, in_all)))
    assert found.dtype == np.int32
    assert words_of(found, proposer) == naive(model, tiny_tokenizer, examples, 5, together)
    assert steps[-1] == (len(found), len(found))
    assert np.array_equal(found, proposer.propose(examples))


def test_a_mask_in_the_text_is_not_one(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    proposer = WordCandidates(masked_lm(tiny_tokenizer), tiny_tokenizer, most=5)
    found = proposer.propose([("the [MASK] cat",)])
    assert len(found) == 3  # "MASK" is a word like others
    assert (found >= 0).all()


@pytest.mark.parametrize("side", ["right", "left"])
def test_words_cut_off_have_none(tiny_tokenizer: PreTrainedTokenizerFast, side: str) -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer.backend_tokenizer,
        **{name: str(token) for name, token in tiny_tokenizer.special_tokens_map.items()},
        truncation_side=side,
    )
    model = masked_lm(tokenizer)
    text = "the cat sees a dog and the dog sees a cat"
    proposer = WordCandidates(model, tokenizer, most=5, max_length=6, batch_size=4)
    found = proposer.propose([(text,)])
    kept = [number for number, row in enumerate(found) if row[0] >= 0]
    assert kept == ([0, 1, 2, 3] if side == "right" else [7, 8, 9, 10])
    pair = proposer.propose([("the cat sees a dog", "a man")])
    assert [row[0] >= 0 for row in pair].count(True) == 3  # 6 tokens, 3 of them special
    both = WordCandidates(model, tokenizer, most=5, max_length=6, together=0.5)
    assert np.array_equal(both.propose([(text,)])[:, 0] >= 0, found[:, 0] >= 0)
    assert np.array_equal(both.propose([("the cat sees a dog", "a man")])[:, 0] >= 0, pair[:, 0] >= 0)


def test_bf16_is_near_fp32(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    model = masked_lm(tiny_tokenizer)
    exact = WordCandidates(model, tiny_tokenizer, most=5).propose(SINGLE)
    found = WordCandidates(model, tiny_tokenizer, most=5, autocast=torch.bfloat16).propose(SINGLE)
    shared = [len(set(a) & set(b)) for a, b in zip(exact.tolist(), found.tolist(), strict=True)]
    assert np.mean(shared) > 4


def test_refusals(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    model = masked_lm(tiny_tokenizer)
    with pytest.raises(ConfigError, match="0 candidates"):
        WordCandidates(model, tiny_tokenizer, most=0)
    with pytest.raises(ConfigError, match=r"0\.5, not 0\.9"):
        WordCandidates(model, tiny_tokenizer, together=0.9)
    with pytest.raises(ModelError, match="too few for 100 candidates"):
        WordCandidates(model, tiny_tokenizer, most=100)
    unmasked = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer.backend_tokenizer, pad_token="[PAD]")
    with pytest.raises(ModelError, match="no mask token"):
        WordCandidates(model, unmasked)
    model.get_output_embeddings().bias.data.fill_(float("nan"))
    with pytest.raises(ModelError, match="NaN"):
        WordCandidates(model, tiny_tokenizer).propose(SINGLE)


# --- copies

UNCASED = WholeWords(list(range(6)), ["dog", "bird", "man", "sees", "likes", "two"], cased=False)
TEXTS = ("The cat, (a cat) sleeps.",)
# One row a word: The, cat, a, cat, sleeps. `a` has two, the second `cat` none.
CANDIDATES = np.array([[5, 0, 1], [0, 1, 2], [5, 0, -1], [-1, -1, -1], [3, 4, 0]], dtype=np.int32)


def copies(number: int = 8, probability: float = 0.5, seed: int = 0, **more: object) -> list[tuple[str, ...]]:
    settings: dict = {"texts": TEXTS, "candidates": CANDIDATES, "words": UNCASED, **more}
    texts, candidates, words = settings["texts"], settings["candidates"], settings["words"]
    return list(copies_of(texts, candidates, words, copies=number, probability=probability, seed=seed))


def test_rates_and_candidates() -> None:
    """Of five words one has no candidates; the first letter's case is the original's."""
    made = [re.findall(r"\w+", copy) for (copy,) in copies(6000, probability=0.4)]
    candidates: list[set[str]] = [{"Two", "Dog", "Bird"}, {"dog", "bird", "man"}, {"two", "dog"}, set()]
    candidates.append({"sees", "likes", "dog"})
    for number, original in enumerate(("The", "cat", "a", "cat", "sleeps")):
        counts, others = Counter(words[number] for words in made), candidates[number]
        assert set(counts) == {original, *others}
        for word in others:
            assert counts[word] / 6000 == pytest.approx(0.4 / len(others), abs=0.03)
    both = sum(words[0] != "The" and words[1] != "cat" for words in made)
    assert both / 6000 == pytest.approx(0.4 * 0.4, abs=0.03)  # each by itself


def test_always_and_what_surrounds_words_stays() -> None:
    for (copy,) in copies(20, probability=1.0):
        assert re.fullmatch(r"(Two|Dog|Bird) (dog|bird|man), \((two|dog) cat\) (sees|likes|dog)\.", copy)


def test_the_first_copies_do_not_depend_on_how_many() -> None:
    assert copies(3) == copies(20)[:3]
    assert copies(20) != copies(20, seed=1)
    assert len(set(copies(20))) > 5


def test_a_pair_changes_in_both_texts() -> None:
    pair = ("a cat", "a cat")
    rows = np.array([[0, 1], [1, 2], [3, 4], [4, 5]], dtype=np.int32)
    made = copies(50, probability=1.0, texts=pair, candidates=rows)
    assert {word for first, _ in made for word in first.split()} == {"dog", "bird", "man"}
    assert {word for _, second in made for word in second.split()} == {"sees", "likes", "two"}


def test_a_cased_vocabulary_keeps_its_own_case() -> None:
    cased = WholeWords([0, 1], ["Two", "dog"], cased=True)
    rows = np.array([[1], [0]], dtype=np.int32)
    assert copies(1, probability=1.0, texts=("The cat",), candidates=rows, words=cased) == [("dog Two",)]


@pytest.mark.parametrize(
    ("text", "copy"),
    [("CAT", "Dog"), ("cat", "dog"), ("I", "Dog"), ("12 I", "12 dog"), ("12 Cat", "12 Dog"), ("1st", "dog")],
)
def test_a_vocabulary_without_capitals_takes_the_words_first_letter(text: str, copy: str) -> None:
    """But not that of a single capital, unless it begins the text."""
    rows = np.array([[0]], dtype=np.int32)
    assert copies(1, probability=1.0, texts=(text,), candidates=rows) == [(copy,)]
