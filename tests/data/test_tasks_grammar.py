from __future__ import annotations

import collections
import itertools
import random

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from codir.data import grammar as lexicon
from codir.data.grammar import SITE_WEIGHTS, Grammar, generate, load_builtin
from codir.errors import ConfigError


def test_sizes_columns_and_balance():
    data = load_builtin(train=300, validation=100)
    assert data.train is not None
    held = data.validation["validation"]
    assert (len(data.train), len(held)) == (300, 100)
    assert data.train.column_names == ["text", "label"]
    assert (sum(data.train["label"]), sum(held["label"])) == (150, 50)
    assert data.task.labels == ("unacceptable", "acceptable")
    with pytest.raises(ConfigError, match="at least 2"):
        load_builtin(train=1)


def test_the_seed_decides_everything_and_nothing_else_does():
    first = load_builtin(train=200, validation=100, seed=3)
    random.seed(0)
    np.random.seed(0)
    again = load_builtin(train=200, validation=100, seed=3)
    assert first.train is not None
    assert again.train is not None
    assert list(first.train["text"]) == list(again.train["text"])
    assert list(first.validation["validation"]["text"]) == list(again.validation["validation"]["text"])
    other = load_builtin(train=200, validation=100, seed=4)
    assert other.train is not None
    assert len(set(first.train["text"]) & set(other.train["text"])) < 20


def test_a_larger_training_split_starts_with_the_smaller_one():
    small, large = load_builtin(train=100, validation=50), load_builtin(train=200, validation=50)
    assert small.train is not None
    assert large.train is not None
    assert list(large.train["text"])[:100] == list(small.train["text"])
    assert list(large.validation["validation"]["text"]) == list(small.validation["validation"]["text"])


def test_no_sentence_and_no_partner_occurs_twice():
    taken: set[str] = set()
    held = generate(500, "a", taken)
    learned = generate(1500, "b", taken)
    texts = [text for text, _, _ in held + learned]
    assert len(set(texts)) == 2000
    assert len(taken) == 4000


def test_partners_have_the_same_length_and_differ_in_few_words():
    seen = collections.Counter()
    for (good, bad, kind), _ in zip(Grammar("x").pairs(), range(2000), strict=False):
        a, b = (text.lower().replace(".", "").replace(",", "").split() for text in (good, bad))
        assert len(a) == len(b)
        assert good != bad
        changed = sum(x != y for x, y in zip(a, b, strict=True))
        assert changed >= 1
        if kind in ("order", "polarity"):
            assert sorted(a) == sorted(b)
        seen.update(kind.split("+"))
    assert set(seen) == set(SITE_WEIGHTS)
    assert min(seen.values()) > 100


def test_word_counts_and_length_do_not_give_the_label_away():
    examples = generate(6000, "shortcut", set())
    labels = np.array([label for _, label, _ in examples])
    counts = CountVectorizer(token_pattern=r"[\w,]+")
    features = counts.fit_transform([text for text, _, _ in examples])
    for strength in (0.01, 0.1, 1.0):
        model = LogisticRegression(C=strength, max_iter=1000).fit(features[:4000], labels[:4000])
        assert model.score(features[4000:], labels[4000:]) < 0.55  # three standard deviations above one half
    lengths = np.array([len(text.split()) for text, _, _ in examples])
    assert abs(lengths[labels == 1].mean() - lengths[labels == 0].mean()) < 0.3


def test_agreement_of_the_simplest_sentences_by_hand():
    """A check of the grammar from outside: `these`/`those` is followed by a plural noun if and only if acceptable."""
    irregular = ("men", "women")
    for good, bad, kind in (pair for pair, _ in zip(Grammar("y").pairs(), range(1500), strict=False)):
        if kind != "determiner":
            continue
        for text, expected in ((good, True), (bad, False)):
            fine = True
            words = text.lower().replace(",", "").replace(".", "").split()
            for word, following in itertools.pairwise(words):
                is_noun = following not in lexicon.ADJECTIVES
                if is_noun and word in ("this", "these"):
                    plural = following.endswith("s") or following in irregular
                    fine &= plural == (word == "these")
            assert fine or not expected, text
