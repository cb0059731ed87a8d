"""Candidates against a plain loop: one word at a time, the whole vocabulary, sorted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from codir.errors import ConfigError, ModelError
from codir.models.candidates import WordCandidates
from codir.models.words import Texts, find_words

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
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 66,
        "pad_token_id": 0,
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


def naive(
    model: Any, tokenizer: Any, examples: list[Texts], most: int, together: float = 0.0
) -> list[list[str]]:
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
            position = [
                i for i, token in enumerate(inputs["input_ids"][0]) if token == tokenizer.mask_token_id
            ]
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


def test_a_pair_is_context_for_its_other_text(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    proposer = WordCandidates(masked_lm(tiny_tokenizer), tiny_tokenizer, most=5)
    one = proposer.propose([("the cat", "a dog")])
    other = proposer.propose([("the cat", "two women")])
    assert not np.array_equal(one[:2], other[:2])


def test_nothing_to_ask(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    proposer = WordCandidates(masked_lm(tiny_tokenizer), tiny_tokenizer, most=5)
    assert proposer.propose([]).shape == (0, 5)
    assert proposer.propose([("12 .",)]).shape == (0, 5)


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


def test_never_the_word_itself_in_any_case(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    proposer = WordCandidates(masked_lm(tiny_tokenizer), tiny_tokenizer, most=50)
    for text in ("cat", "Cat", "CAT"):
        assert "cat" not in words_of(proposer.propose([(text,)]), proposer)[0]


def test_bf16_is_near_fp32(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    model = masked_lm(tiny_tokenizer)
    exact = WordCandidates(model, tiny_tokenizer, most=5).propose(SINGLE)
    found = WordCandidates(model, tiny_tokenizer, most=5, autocast=torch.bfloat16).propose(SINGLE)
    shared = [len(set(a) & set(b)) for a, b in zip(exact.tolist(), found.tolist(), strict=True)]
    assert np.mean(shared) > 4


def test_the_model_keeps_its_mode(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    model = masked_lm(tiny_tokenizer).train()
    first = WordCandidates(model, tiny_tokenizer, most=5).propose(SINGLE)
    assert model.training
    assert np.array_equal(first, WordCandidates(model, tiny_tokenizer, most=5).propose(SINGLE))


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
