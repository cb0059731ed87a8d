"""Small texts for the tests of corpora."""

from __future__ import annotations

import random

_TEXT = "the a one this that good bad great film movie book song was is cat dog bird man woman sees likes and or"
WORDS = _TEXT.split()


def article(generator: random.Random, sentences: int) -> str:
    """Returns a document of sentences of 3 to 13 tokens on one line."""
    made = [" ".join(generator.choices(WORDS, k=generator.randint(2, 12))) + " ." for _ in range(sentences)]
    return " ".join(sentence.capitalize() for sentence in made)


def articles(count: int, seed: int = 0, most: int = 12) -> list[str]:
    """Returns documents of 1 to `most` sentences."""
    generator = random.Random(seed)
    return [article(generator, generator.randint(1, most)) for _ in range(count)]
