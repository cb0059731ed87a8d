"""What encoding the bytes of a text look like, among those that files are in today."""

from __future__ import annotations

import unicodedata

# The most likely first. Without a list, detection by how odd a text looks prefers code pages nobody has had since 1995.
LATIN = ("cp1252", "cp1250", "cp1254", "cp1257", "iso8859_2", "mac_roman", "cp850")
OTHERS = (
    *("cp1251", "koi8_r", "cp1253", "cp1255", "cp1256", "cp1258", "cp874"),
    *("gb18030", "cp932", "cp949", "big5", "euc_jp"),
)
_SAMPLE = 1 << 16
_AROUND = 12
# What stands between two letters without being one
_JOINING = frozenset("’‘´`·-–—…\xa0\xad•")


def without_mark(raw: bytes) -> str | None:
    """Returns UTF-16 or UTF-32 with its order of bytes for text in it that has no mark, by where its zero bytes are."""
    head = raw[: min(len(raw) - len(raw) % 4, _SAMPLE)]
    zeros = [head[place::4].count(0) for place in range(4)]
    if sum(zeros) * 200 <= len(head):
        return None
    if zeros[2] + zeros[3] > 0.45 * len(head):
        return "utf-32-le"
    if zeros[0] + zeros[1] > 0.45 * len(head):
        return "utf-32-be"
    return "utf-16-le" if zeros[0] + zeros[2] < zeros[1] + zeros[3] else "utf-16-be"


def mixture(raw: bytes) -> tuple[int, int]:
    """Returns how many lines are UTF-8 beyond ASCII, and how many are beyond ASCII at all."""
    lines = [line for line in raw.split(b"\n") if not line.isascii()]
    return sum(_decoded(line, "utf-8") is not None for line in lines), len(lines)


def detect(raw: bytes) -> tuple[str | None, list[tuple[str, str, str]]]:
    """Returns the encoding that bytes look like, and what else they could be.

    Where most of the text is ASCII it is one of the code pages of the Latin script; which one, is told by characters in
    places where they cannot be (a sign between two letters, a capital behind a small letter), and the most widely used
    wins where that leaves several. All other texts are told apart by charset-normalizer.

    Args:
        raw: text that is not UTF-8.

    Returns:
        The encoding, None where nothing fits. Of each other one that fits as well: its name, and how the same place
        reads in the first and in this one, where they differ.
    """
    if wide := without_mark(raw):
        return wide, []
    lines = [line for line in raw[: 1 << 24].split(b"\n") if not line.isascii()]
    sample = b"\n".join(lines)[:_SAMPLE] or raw[-_SAMPLE:]
    if sum(byte >= 0x80 for byte in sample) < len(sample) / 3:
        oddness = {name: _oddness(text) for name in LATIN if (text := _decoded(sample, name)) is not None}
        least = min(oddness.values(), default=0)
        fitting = [name for name in LATIN if oddness.get(name) == least]
    else:
        fitting = _by_library(sample)
    if not fitting:
        return None, []
    found = fitting[0]
    others = [(name, *_differing(sample, found, name)) for name in fitting[1:]]
    return found, [each for each in others if each[1] != each[2]]


def _by_library(sample: bytes) -> list[str]:
    """Returns what charset-normalizer takes text for, and what it finds about as likely."""
    from charset_normalizer import from_bytes

    known = [*LATIN, *OTHERS]
    beyond = [letter for letter in _decoded(sample, "cp932") or "" if not letter.isascii()]
    if sum("\u3041" <= letter <= "\u3096" for letter in beyond) > len(beyond) / 5:
        return ["cp932"]  # it takes this for Korean, and no text but Japanese reads as hiragana by chance
    known.remove("cp932")
    matches = [each for each in from_bytes(sample, cp_isolation=known) if each.encoding in known]
    alike = [
        each.encoding
        for each in matches
        if each.chaos <= matches[0].chaos + 0.03 and each.coherence >= matches[0].coherence - 0.1
    ]
    return sorted(
        alike, key=lambda name: _capitals(sample.decode(name, "replace"))
    )  # keeps the order of others


def _capitals(text: str) -> bool:
    """Whether most letters beyond ASCII are capitals, as when a Cyrillic code page is taken for another."""
    beyond = [letter for letter in text if not letter.isascii()]
    return sum(map(str.isupper, beyond)) > len(beyond) / 2


def _decoded(sample: bytes, name: str) -> str | None:
    try:
        return sample.decode(name)
    except UnicodeDecodeError:
        return None


def _oddness(text: str) -> int:
    """Counts characters beyond ASCII in places where they cannot be."""
    odd = 0
    for place, letter in enumerate(text):
        if letter.isascii():
            continue
        before, after = text[place - 1 : place], text[place + 1 : place + 2]
        kind = unicodedata.category(letter)
        if letter.isalpha():
            odd += letter.isupper() and before.islower()
        elif kind == "Cc":
            odd += 1
        elif letter not in _JOINING:
            odd += before.isalpha() and (after.isalpha() or kind in ("Ps", "Pi"))
    return odd


def _differing(sample: bytes, one: str, other: str) -> tuple[str, str]:
    """Returns how two encodings read the first place at which they differ."""
    first, second = sample.decode(one, "replace"), sample.decode(other, "replace")
    place = next((n for n, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]), None)
    if place is None:
        return "", ""
    begin = max(0, place - _AROUND, first.rfind("\n", 0, place) + 1)
    ends = [text.find("\n", place) for text in (first, second)]
    return tuple(  # type: ignore[return-value]
        text[begin : min(place + _AROUND, end if end >= 0 else len(text))].strip()
        for text, end in zip((first, second), ends, strict=True)
    )
