"""Splits text into sentences with a few fixed rules: the same sentences everywhere, in time linear in the text.

A sentence ends at a full stop, question or exclamation mark (with the quotes and brackets that close after it) that is
followed by white space and by something that can begin a sentence; at a Chinese or Japanese full stop; and at a blank
line. It does not end after an abbreviation or an initial. A single line end is white space, so that hard-wrapped text
reads as what it is. Where the rules err, a sentence is too long or too short, and no text is lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

LONGEST_PIECE = 8192
"""Characters after which a text without an end of sentence is cut, at white space if there is any."""

# Every part that can fail is bounded, so that no run of the same character costs quadratic time.
_CANDIDATE = re.compile(
    r"[.!?…][\"'”’»)\]]{0,4}\s+"
    r"|[。！？][”’」』）]{0,4}"
    r"|\n[^\S\n]*\n\s*"  # blank line
)
_OPENERS = "\"'“‘«([{_*—-"
_TITLES = "mr mrs ms messrs mme dr prof rev hon st mt gen col capt lt sgt sen rep gov pres supt esq jr sr"
_SHORTENED = (
    "vs cf eg ie viz approx ca al inc ltd corp dept univ assn bros fig figs eq eqs vol vols ed eds pp"
)
_MONTHS = "jan feb mar apr jun jul aug sept sep oct nov dec"
_ABBREVIATIONS = frozenset(f"{_TITLES} {_SHORTENED} {_MONTHS}".split())
# Abbreviations only where a number follows: "No. 5", but "She said no. Then ..."
_BEFORE_NUMBERS = frozenset({"no", "nos", "p", "art", "sec", "ch", "op"})


def split_sentences(text: str) -> list[str]:
    """Returns the sentences of a text, with every run of white space made one space."""
    sentences: list[str] = []
    for piece, begins in sentence_pieces([text]):
        if begins:
            sentences.append(piece.removeprefix(" "))
        else:
            sentences[-1] += piece
    return sentences


def sentence_pieces(segments: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Yields (piece, whether it begins a sentence) for one document that comes in segments.

    The pieces joined are the document with every run of white space made one space: a piece starts with the space
    before it, because byte-level tokenizers encode a word together with that. A sentence is one piece unless it is
    longer than `LONGEST_PIECE` characters. Memory is a segment and a few pieces, however long the document.
    """
    begins = space = anything = False
    for raw, first in _raw_pieces(segments):
        begins = begins or first
        words = " ".join(raw.split())
        if words:
            yield (" " + words if anything and (space or raw[0].isspace()) else words), begins
            begins, space, anything = False, raw[-1].isspace(), True
        else:
            space = space or bool(raw)


def _raw_pieces(segments: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Yields slices of the text as it stands, at most `LONGEST_PIECE` characters long."""
    tail, begins = "", True
    for segment in segments:
        buffer, start = tail + segment, 0
        for match in _CANDIDATE.finditer(buffer):
            if match.end() == len(buffer):
                break  # what follows decides, and that is in the next segment
            if _ends_sentence(buffer, start, match):
                for part in _cut(buffer[start : match.end()]):
                    yield part, begins
                    begins = False
                begins, start = True, match.end()
        tail = buffer[start:]
        if len(tail) > 2 * LONGEST_PIECE:  # no end in sight: reading it again and again would be quadratic
            *ready, tail = _cut(tail)
            for part in ready:
                yield part, begins
                begins = False
    for part in _cut(tail):
        yield part, begins
        begins = False


def _cut(text: str) -> list[str]:
    """Cuts a text into slices of at most `LONGEST_PIECE` characters, before white space if there is any."""
    parts = []
    start = 0
    while len(text) - start > LONGEST_PIECE:
        end = start + LONGEST_PIECE
        space = max(text.rfind(" ", start + 1, end), text.rfind("\n", start + 1, end))
        end = space if space > 0 else end
        parts.append(text[start:end])
        start = end
    parts.append(text[start:])
    return parts


def _ends_sentence(text: str, start: int, match: re.Match[str]) -> bool:
    """Says whether a candidate ends the sentence that began at `start`."""
    mark = text[match.start()]
    if mark in "\n。！？":
        return True
    following = text[match.end()]
    if following.islower():
        return False
    if mark != "." or text[match.start() - 1 : match.start()].isspace():
        return True
    before = text[max(start, match.start() - 24) : match.start()].split()
    word = before[-1].lstrip(_OPENERS) if before else ""
    if len(word) == 1 and word.isupper():
        return False  # an initial: "J. Austen"
    word = word.lower()
    if word in _ABBREVIATIONS or (word in _BEFORE_NUMBERS and following.isdigit()):
        return False
    return not ("." in word and all(len(part) == 1 for part in word.split(".")))  # "U.S.", "e.g."
