"""Words of the built-in grammar, written for it."""

from __future__ import annotations

from typing import NamedTuple


class Verb(NamedTuple):
    """A transitive verb that takes persons and things alike."""

    base: str
    third: str
    participle: str
    progressive: str


def _verb(base: str, participle: str = "") -> Verb:
    stem = base.removesuffix("e")
    stem = base if base.endswith("ee") else stem
    third = base + ("es" if base.endswith(("ch", "sh", "s")) else "s")
    return Verb(base, third, participle or stem + "ed", stem + "ing")


VERBS = (
    *map(_verb, ["admire", "follow", "watch", "protect", "remember", "need"]),
    *(
        _verb(base, participle)
        for base, participle in (("see", "seen"), ("choose", "chosen"), ("draw", "drawn"))
    ),
    _verb("know", "known"),
)

_IRREGULAR = {"man": "men", "woman": "women", "wolf": "wolves", "knife": "knives", "shelf": "shelves"}


def _nouns(words: str) -> tuple[tuple[str, str], ...]:
    def plural(word: str) -> str:
        if word in _IRREGULAR:
            return _IRREGULAR[word]
        if word.endswith(("s", "x", "ch", "sh")):
            return word + "es"
        return word + "s"

    return tuple((word, plural(word)) for word in words.split())


# By gender: masculine, feminine, a person of no stated gender, a thing. Each as (singular, plural).
NOUNS = {
    "m": _nouns("boy man father king brother"),
    "f": _nouns("girl woman mother queen sister"),
    "n": _nouns("teacher doctor pilot farmer author student nurse guard"),
    "": _nouns("key box lamp letter map painting chair bottle garden bridge tower church"),
}

ADJECTIVES = ("old", "new", "small", "large", "famous", "quiet", "strange", "red")
ADVERBS = ("often", "clearly", "always", "never", "really")
PREPOSITIONS = ("near", "behind", "beside", "with")
DETERMINERS = ("the", "the", "the", "some", "my", "her", "our")
DEMONSTRATIVES = (("this", "these"), ("that", "those"))
MODALS = ("can", "will", "must", "should")
CONJUNCTIONS = ("and", "but")
REFLEXIVES = ("himself", "herself", "themselves")
