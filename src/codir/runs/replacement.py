"""Copies of texts in which words are replaced by candidates: the drawing of Algorithm 1 of Jiao et al. 2020."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import xxhash

from codir.models.candidates import Texts
from codir.models.words import WholeWords, find_words, written_like


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
    pairs: Sequence[tuple[tuple[int, int], tuple[int, int]]] = list(zip(before, after, strict=True))
    return [new for old, new in pairs if original[slice(*old)] != copy[slice(*new)]]
