"""The draws of the copies: rates, ranges, independence of rows and of the number of copies."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from codir.models.words import WholeWords, changed_words, copies_of, count_words

UNCASED = WholeWords(list(range(6)), ["dog", "bird", "man", "sees", "likes", "two"], cased=False)
TEXTS = ("The cat, (a cat) sleeps.",)
# One row a word: The, cat, a, cat, sleeps. `a` has two, the second `cat` none.
CANDIDATES = np.array([[5, 0, 1], [0, 1, 2], [5, 0, -1], [-1, -1, -1], [3, 4, 0]], dtype=np.int32)


def copies(number: int = 8, probability: float = 0.5, seed: int = 0, **more: object) -> list[tuple[str, ...]]:
    settings: dict = {"texts": TEXTS, "candidates": CANDIDATES, "words": UNCASED, **more}
    texts, candidates, words = settings["texts"], settings["candidates"], settings["words"]
    return list(copies_of(texts, candidates, words, copies=number, probability=probability, seed=seed))


def test_rates_and_candidates() -> None:
    words: list[Counter[str]] = [Counter() for _ in range(5)]
    for (copy,) in copies(6000, probability=0.4):
        first, second, third, fourth, fifth = (
            copy.replace(",", "").replace("(", "").replace(")", "")[:-1].split()
        )
        for counter, word in zip(words, (first, second, third, fourth, fifth), strict=True):
            counter[word] += 1
    assert set(words[0]) == {"The", "Two", "Dog", "Bird"}  # the first letter's case is the original's
    assert set(words[1]) == {"cat", "dog", "bird", "man"}
    assert set(words[2]) == {"a", "two", "dog"}
    assert set(words[3]) == {"cat"}
    assert set(words[4]) == {"sleeps", "sees", "likes", "dog"}
    for counter, original in zip(words, ("The", "cat", "a", "cat", "sleeps"), strict=True):
        if len(counter) == 1:
            continue
        assert counter[original] / 6000 == pytest.approx(0.6, abs=0.03)
        for word in set(counter) - {original}:
            assert counter[word] / 6000 == pytest.approx(0.4 / (len(counter) - 1), abs=0.03)


def test_words_are_replaced_independently() -> None:
    both = sum(
        not copy.startswith("The cat") and not copy.startswith("The") and "cat," not in copy
        for (copy,) in copies(6000)
    )
    assert both / 6000 == pytest.approx(0.25, abs=0.03)


def test_always_and_what_surrounds_words_stays() -> None:
    for (copy,) in copies(20, probability=1.0):
        kept = copy
        for start, end in reversed(changed_words(TEXTS[0], copy)):
            kept = kept[:start] + "_" + kept[end:]
        assert kept == "_ _, (_ cat) _."


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
    assert count_words(pair) == 4


def test_a_cased_vocabulary_keeps_its_own_case() -> None:
    cased = WholeWords([0, 1], ["Two", "dog"], cased=True)
    rows = np.array([[1], [0]], dtype=np.int32)
    assert copies(1, probability=1.0, texts=("The cat",), candidates=rows, words=cased) == [("dog Two",)]


def test_a_text_without_words() -> None:
    assert copies(2, texts=("12 !",), candidates=np.zeros((0, 3), dtype=np.int32)) == [("12 !",)] * 2
