"""Tokenizers of other kinds: byte-level, slow ones, special tokens elsewhere."""

from __future__ import annotations

import pytest
from small_texts import articles
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import CanineTokenizer, PreTrainedTokenizerFast

from codir.corpora.encoder import Encoder, tokenizer_digest
from codir.corpora.sentences import sentence_pieces
from codir.errors import ModelError


@pytest.fixture(scope="module")
def byte_level() -> PreTrainedTokenizerFast:
    """A tokenizer of RoBERTa's kind: a word and the space before it are one token."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    core.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(articles(50), trainer)
    core.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))  # type: ignore[assignment]
    names = dict(
        zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), special, strict=True)
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, cls_token="<s>", sep_token="</s>", **names)


def test_sentences_encode_as_the_document_does(byte_level: PreTrainedTokenizerFast) -> None:
    encoder = Encoder(byte_level)
    assert (encoder.prefix, encoder.suffix) == ([0], [2])
    for text in articles(20, seed=3):
        pieces = [piece for piece, _ in sentence_pieces([text.replace(". ", ".\n ")])]
        joined = [token for ids in encoder.encode(pieces) for token in ids]
        assert joined == byte_level(text, add_special_tokens=False)["input_ids"]


def test_a_slow_tokenizer() -> None:
    tokenizer = CanineTokenizer()
    encoder = Encoder(tokenizer)
    assert encoder.encode(["ab", "c"]) == [[97, 98], [99]]
    assert (encoder.prefix, encoder.suffix) == ([0xE000], [0xE001])
    assert tokenizer_digest(tokenizer) == tokenizer_digest(CanineTokenizer())


def test_special_tokens_inside_the_text_are_refused(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    core = Tokenizer.from_str(tiny_tokenizer.backend_tokenizer.to_str())
    core.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )

    class Odd(PreTrainedTokenizerFast):
        def __call__(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            return {"input_ids": [2, 7, 3, 7]}

    with pytest.raises(ModelError, match="does not put its special tokens before and after"):
        Encoder(Odd(tokenizer_object=core))
