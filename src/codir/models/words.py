"""Words of a text that can be exchanged, those a tokenizer knows as one token, and copies with some exchanged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import regex
import xxhash
from transformers import PreTrainedTokenizerBase

Texts = tuple[str, ...]
"""One text, or the two of a pair."""

# From one boundary to the next, as Unicode's rules for words have them (UAX 29): a letter keeps its marks, and what
# joins letters within a word (an apostrophe, a joiner, l·l) is a part of it.
_SEGMENT = regex.compile(r"(?sw)\b.+?\b")
# Unicode joins an address to one word; its parts can be exchanged. Quotation marks about a word are none of it.
_PART = regex.compile(r"[^._:'’]+(?:['’][^._:'’]+)*")
# The same for ASCII, without the look at Unicode's tables for every character
_ASCII = regex.compile(r"[a-z0-9]+(?:'[a-z0-9]+)*", flags=regex.IGNORECASE)
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
    for start, end in _spans(text):
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


def _spans(text: str) -> Iterator[tuple[int, int]]:
    if text.isascii():
        yield from (match.span() for match in _ASCII.finditer(text))
        return
    for segment in _SEGMENT.finditer(text):
        yield from (part.span() for part in _PART.finditer(text, *segment.span()))


def written_like(candidate: str, word: str, *, first: bool) -> str:
    """Gives a lower-cased candidate the first letter's case of the word whose place it takes.

    Args:
        candidate: of a tokenizer that knows no capitals.
        word: what stands in the text.
        first: the word is the text's first. Elsewhere a single capital ("I") says nothing about its successor.
    """
    if word[0].isupper() and (first or len(word) > 1):
        return candidate[0].upper() + candidate[1:]
    return candidate


@dataclass(frozen=True)
class WholeWords:
    """The tokens of a tokenizer that are a word by themselves.

    Attributes:
        ids: their token ids, ascending.
        texts: the words, in the same order.
        cased: whether the tokenizer tells capitals from small letters.
    """

    ids: list[int]
    texts: list[str]
    cased: bool

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> WholeWords:
        """Reads them off a tokenizer.

        A token is a whole word if it is one (`find_words`) of nothing but letters and their marks, and if its text,
        behind a space, becomes this token again. That leaves out pieces that go on a word (`##ing`), special and unused
        tokens, punctuation and numbers, in every family of tokenizers. Single consonants (a to z) and English endings
        (`ll`, `ve`) are left out, too.
        """
        special = set(tokenizer.all_special_ids)
        ids = [number for number in range(len(tokenizer)) if number not in special]
        texts = [str(tokenizer.decode([number])).strip() for number in ids]
        plain = [
            (number, text)
            for number, text in zip(ids, texts, strict=True)
            if _PLAIN.fullmatch(text)
            and not _NO_WORD.fullmatch(text)
            and find_words(text) == [(0, len(text))]
        ]
        again = (
            tokenizer([f" {text}" for _, text in plain], add_special_tokens=False)["input_ids"]
            if plain
            else []
        )
        kept = [
            (number, text)
            for (number, text), tokens in zip(plain, again, strict=True)
            if list(tokens) == [number]
        ]
        cased = (
            tokenizer("A", add_special_tokens=False)["input_ids"]
            != (tokenizer("a", add_special_tokens=False)["input_ids"])
        )
        return cls([number for number, _ in kept], [text for _, text in kept], cased)

    @cached_property
    def folded(self) -> list[str]:
        """The words without their case, to compare them."""
        return [text.casefold() for text in self.texts]


def count_words(texts: Texts) -> int:
    """Returns how many words of an example can be replaced: its rows among the candidates."""
    return sum(len(find_words(each)) for each in texts)


def copies_of(
    texts: Texts, candidates: np.ndarray, words: WholeWords, *, copies: int, probability: float, seed: int
) -> Iterator[Texts]:
    """Yields copies of an example; in each, every word is replaced with a probability by one of its candidates.

    The draws depend on the seed and on the texts alone: not on the row, not on other rows. The first copies are the
    same however many are asked for. A copy may equal the original or another copy.

    Args:
        texts: one text or a pair.
        candidates: [words of the example, K], numbers in `words`, -1 where there is none.
        words: what the numbers stand for.
        copies: how many.
        probability: p_t, of a word being replaced.
        seed: of the draws.
    """
    places = [(number, *place) for number, each in enumerate(texts) for place in find_words(each)]
    known = (candidates >= 0).sum(axis=1)
    digest = xxhash.xxh3_64_intdigest("\0".join(texts).encode())
    random = np.random.default_rng([seed, digest])
    for _ in range(copies):
        replaced = random.random(len(places)) < probability
        chosen = random.integers(0, np.maximum(known, 1))
        parts: list[list[str]] = [[] for _ in texts]
        last = [0] * len(texts)
        for word, (number, start, end) in enumerate(places):
            if not (replaced[word] and known[word]):
                continue
            new, old = words.texts[candidates[word, chosen[word]]], texts[number][start:end]
            if not words.cased:
                new = written_like(new, old, first=not texts[number][:start].strip())
            parts[number] += [texts[number][last[number] : start], new]
            last[number] = end
        yield tuple("".join(parts[number]) + each[last[number] :] for number, each in enumerate(texts))


def changed_words(original: str, copy: str) -> list[tuple[int, int]]:
    """Returns where the words of a copy stand that differ from the original's."""
    before, after = find_words(original), find_words(copy)
    if len(before) != len(after):  # a candidate that reads as an ending, say
        return []
    pairs = zip(before, after, strict=True)
    return [new for old, new in pairs if original[slice(*old)] != copy[slice(*new)]]
