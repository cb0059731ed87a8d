"""Copies of texts with words replaced (Jiao et al. 2020, Algorithm 1): which words, by what others, and the draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import regex
import torch
import xxhash
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from codir.errors import ConfigError, ModelError
from codir.models.check import evaluation_mode
from codir.models.config_file import position_limit
from codir.models.inference import Padding, pad_batch, precision
from codir.models.representations import represent

Texts = tuple[str, ...]
"""One text, or the two of a pair."""

# From one boundary to the next, as Unicode's rules for words have them (UAX 29): a letter keeps its marks, and what
# joins letters within a word (an apostrophe, a joiner, l·l) is a part of it.
_SEGMENT = regex.compile(r"(?sw)\b.+?\b")
# Unicode joins an address to one word; its parts can be exchanged. Quotation marks about a word are none of it.
_PART = regex.compile(r"[^._:'’]+(?:['’][^._:'’]+)*")
# Scripts without blanks whose words only a dictionary can tell: Unicode's rules end at the letter there.
_NO_BOUNDARIES = regex.compile(r"[\p{LB=SA}]")
# English endings that stay when the word before them is exchanged, also where a text writes them apart: it 's.
_ENDINGS = ("s", "m", "d", "re", "ve", "ll")
_ENDING = regex.compile(rf"['’](?:{'|'.join(_ENDINGS)})$", flags=regex.IGNORECASE)
# What a model has learnt as a token by itself because it follows an apostrophe ("don ' t"), or as an initial.
_NO_WORD = regex.compile(rf"{'|'.join(_ENDINGS)}|[b-df-hj-np-tv-xz]", flags=regex.IGNORECASE | regex.ASCII)
_PLAIN = regex.compile(r"\p{L}[\p{L}\p{M}\u200c\u200d]*")


def find_words(text: str) -> list[tuple[int, int]]:
    """Returns where the words of a text stand: (start, end), in order, not overlapping.

    A word is what Unicode says (UAX 29), if there is a letter in it: letters with their marks, in every script, also
    with digits. Numbers are none, nor are the letters of "U.S." and "J. Doe". "don't" is one word; of "Bob's", "it's"
    and "it 's" the ending stays outside. A Chinese character is a word; in Thai and other scripts whose words only a
    dictionary can tell there are none.
    """
    found: list[tuple[int, int]] = []
    for segment in _SEGMENT.finditer(text):
        for start, end in (part.span() for part in _PART.finditer(text, *segment.span())):
            word = text[start:end]
            if start and text[start - 1] in "'’" and word.lower() in _ENDINGS:
                continue
            if ending := _ENDING.search(word):
                end -= len(ending[0])
            if end - start == 1 and "." in (text[start - 1 : start], text[end : end + 1]):
                continue
            if any(letter.isalpha() for letter in text[start:end]) and not _NO_BOUNDARIES.search(word):
                found.append((start, end))
    return found


def places_of(texts: Texts) -> list[tuple[int, int, int]]:
    """Returns the words of an example that can be replaced: the text's number, start and end."""
    return [(number, *place) for number, each in enumerate(texts) for place in find_words(each)]


@dataclass(frozen=True)
class WholeWords:
    """The tokens of a tokenizer that are a word by themselves."""

    ids: list[int]  # ascending
    texts: list[str]  # in the same order
    cased: bool  # whether the tokenizer tells capitals from small letters

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> WholeWords:
        """Reads them off a tokenizer.

        A token is a whole word if it is one (`find_words`) of nothing but letters and their marks, and if its text,
        behind a space, becomes this token again. That leaves out pieces that go on a word (`##ing`), special and unused
        tokens, punctuation and numbers, in every family of tokenizers. Single consonants (a to z) and English endings
        (`ll`, `ve`) are left out, too.
        """

        def encoded(texts: list[str]) -> list[list[int]]:
            return list(tokenizer(texts, add_special_tokens=False)["input_ids"]) if texts else []  # type: ignore[arg-type]

        ids = sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids))
        texts = [str(tokenizer.decode([number])).strip() for number in ids]
        plain = [
            (number, text)
            for number, text in zip(ids, texts, strict=True)
            if _PLAIN.fullmatch(text) and not _NO_WORD.fullmatch(text) and find_words(text) == [(0, len(text))]
        ]
        again = encoded([f" {text}" for _, text in plain])
        kept = [each for each, tokens in zip(plain, again, strict=True) if list(tokens) == [each[0]]]
        large, small = encoded(["A", "a"])
        return cls([number for number, _ in kept], [text for _, text in kept], large != small)


class WordCandidates:
    """Proposes other words for each word of a text: the most probable at its place, with the word masked.

    A word is masked as one token however many pieces it has; of a pair, the other text is context, too. Only whole
    words are candidates (`WholeWords`), and never the word itself.

    Args:
        model: a masked language model, on the device to compute on.
        tokenizer: its tokenizer.
        most: K, candidates of a word.
        together: share of an example's words that are masked in one pass, evenly spread; 0 masks one at a time, as the
            paper.
        max_length: longer inputs are cut to this many tokens, and the words cut off have no candidates.
        batch_size: inputs run at a time.
        autocast: `torch.bfloat16` for mixed precision; None computes in fp32.

    Raises:
        ModelError: the tokenizer has no mask token, or too few whole words.
        ConfigError: a setting is out of range.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        most: int = 15,
        together: float = 0.0,
        max_length: int | None = None,
        batch_size: int = 64,
        autocast: torch.dtype | None = None,
    ) -> None:
        if most < 1:
            raise ConfigError(f"{most} candidates for a word are too few: give at least 1.")
        if not 0.0 <= together <= 0.5:
            raise ConfigError(
                f"The share of words masked together must lie between 0 (one at a time) and 0.5, not {together}."
            )
        name = tokenizer.name_or_path or type(tokenizer).__name__
        if tokenizer.mask_token_id is None:
            raise ModelError(f"The tokenizer {name} has no mask token. Take a masked language model and its own one.")
        self.words = WholeWords.of(tokenizer)
        if len(self.words.ids) <= most:
            raise ModelError(
                f"The tokenizer {name} has {len(self.words.ids)} whole words, too few for {most} candidates each. Ask "
                "for fewer, or take another model."
            )
        self.model, self.tokenizer = model, tokenizer
        self.most, self.together, self.batch_size, self.autocast = most, together, batch_size, autocast
        limits = [limit for limit in (max_length, position_limit(model.config)) if limit is not None]
        self.max_length = min(limits, default=None)
        self._padding = Padding.of(tokenizer)
        self._mask, self._mask_id = str(tokenizer.mask_token), int(cast(int, tokenizer.mask_token_id))

    @torch.no_grad()
    def propose(
        self, examples: Sequence[Texts], progress: Callable[[int, int], Any] = lambda done, in_all: None
    ) -> np.ndarray:
        """Returns the candidates of all words, [W, K] int32: numbers in `self.words`, the most probable first.

        The rows are the words of all examples in the order of `places_of`; -1 fills what there is not (a word that was
        cut off has none). Equal calls on one machine give equal results.

        Args:
            examples: all single texts, or all pairs.
            progress: called with (words done, words in all) after each batch.

        Raises:
            ModelError: the model predicts NaN or infinity.
        """
        words = [texts[of][start:end].casefold() for texts in examples for of, start, end in places_of(texts)]
        folded = [text.casefold() for text in self.words.texts]
        result = np.full((len(words), self.most), -1, dtype=np.int32)
        head: Any = self.model.get_output_embeddings()
        ids = torch.tensor(self.words.ids, device=head.weight.device)
        weight, bias = (
            None if every is None else every[ids].to(self.autocast or head.weight.dtype)
            for every in (head.weight, head.bias)
        )
        asked = sorted(self._inputs(examples), key=lambda each: -len(each[0]["input_ids"]))
        done = 0
        with evaluation_mode(self.model):
            for start in range(0, len(asked), self.batch_size):
                batch = asked[start : start + self.batch_size]
                padded = pad_batch([tokens for tokens, _ in batch], self._padding)
                inputs = {name: tensor.to(self.model.device) for name, tensor in padded.items()}
                with precision(self.model.device, self.autocast):
                    masked = represent(self.model, inputs, (), torch.eq(inputs["input_ids"], self._mask_id)).masked
                    assert masked is not None
                    logits = functional.linear(masked.hidden, cast(torch.Tensor, weight), bias).float()
                if not bool(torch.isfinite(logits).all()):
                    raise ModelError("The masked language model predicts NaN or infinity. Take another one.")
                # more than K: the word itself may be among them, in a cased vocabulary in several spellings
                best = logits.topk(min(self.most + 4, logits.shape[1]), dim=1).indices.tolist()
                rows = [row for _, of_input in batch for row in of_input]
                for row, numbers in zip(rows, best, strict=True):
                    others = [number for number in numbers if folded[number] != words[row]][: self.most]
                    result[row, : len(others)] = others
                done += len(rows)
                progress(done, len(words))
        return result

    def _inputs(self, examples: Sequence[Texts]) -> list[tuple[dict[str, Any], list[int]]]:
        """Returns the masked inputs, each with the rows of the words it asks for, in the order of its masks."""
        # a mask that the text itself spells out is none
        spelt = self._mask.translate(dict.fromkeys(map(ord, "[]<>"), " "))
        masked: list[list[str]] = []
        asked: list[list[tuple[int, int]]] = []  # of each input: the number of the text, and the row
        before = 0
        for texts in examples:
            places = places_of(texts)
            passes = math.ceil(len(places) / max(1, math.floor(self.together * len(places))))
            for first in range(passes):
                hidden = [each.replace(self._mask, spelt) for each in texts]
                chosen = list(enumerate(places))[first::passes]
                for _, (number, start, end) in reversed(chosen):
                    hidden[number] = hidden[number][:start] + self._mask + hidden[number][end:]
                masked.append(hidden)
                asked.append([(number, before + row) for row, (number, _, _) in chosen])
            before += len(places)
        if not masked:
            return []
        encoded = self.tokenizer(
            *map(list, zip(*masked, strict=True)),  # type: ignore[arg-type]
            truncation=self.max_length is not None,
            max_length=self.max_length,
        )
        found: list[tuple[dict[str, Any], list[int]]] = []
        for number, rows in enumerate(asked):
            tokens = {name: values[number] for name, values in encoded.items()}
            masks = [place for place, token in enumerate(tokens["input_ids"]) if token == self._mask_id]
            kept = [row for _, row in rows]
            if len(masks) < len(rows):  # cut off; a tokenizer written in Python does not say of which text
                texts_of = encoded.sequence_ids(number) if encoded.is_fast else [None] * len(tokens["input_ids"])
                kept = []
                for text in range(len(masked[number])):
                    own, count = (
                        [row for of, row in rows if of == text],
                        sum(texts_of[mask] == text for mask in masks),
                    )
                    kept += own[:count] if self.tokenizer.truncation_side == "right" else own[len(own) - count :]
            if kept:
                found.append((tokens, kept))
        return found


def copies_of(
    texts: Texts, candidates: np.ndarray, words: WholeWords, *, copies: int, probability: float, seed: int
) -> Iterator[Texts]:
    """Yields copies of an example; in each, every word is replaced with a probability by one of its candidates.

    The draws depend on the seed and on the texts alone: not on the row, not on other rows. The first copies are the
    same however many are asked for. A copy may equal the original or another copy. A candidate of a tokenizer that
    knows no capitals gets that of the word whose place it takes.

    Args:
        texts: one text or a pair.
        candidates: [words of the example, K], numbers in `words`, -1 where there is none.
        words: what the numbers stand for.
        copies: how many.
        probability: p_t, of a word being replaced.
        seed: of the draws.
    """
    places = places_of(texts)
    known = (candidates >= 0).sum(axis=1)
    random = np.random.default_rng([seed, xxhash.xxh3_64_intdigest("\0".join(texts).encode())])
    for _ in range(copies):
        replaced = random.random(len(places)) < probability
        chosen = random.integers(0, np.maximum(known, 1))
        made = list(texts)
        for word in reversed(np.flatnonzero(replaced & (known > 0))):
            number, start, end = places[word]
            new, old = words.texts[candidates[word, chosen[word]]], texts[number][start:end]
            # a single capital ("I") says nothing about its successor, unless it begins the text
            if not words.cased and old[0].isupper() and (len(old) > 1 or not texts[number][:start].strip()):
                new = new[0].upper() + new[1:]
            made[number] = made[number][:start] + new + made[number][end:]
        yield tuple(made)
