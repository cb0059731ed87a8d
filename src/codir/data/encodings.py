"""From the bytes of a file to text: which encoding they are in, and a sentence where that cannot be told."""

from __future__ import annotations

import codecs
import mmap
import os
import stat
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from codir.errors import ConfigError, DataError, nearest

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


# A mark at the beginning of a file says for certain how it is encoded. That of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CHUNK = 1 << 22


@dataclass
class Decoded:
    """The content of a text file.

    Attributes:
        text: it without a byte order mark and with its line ends as they are.
        notes: sentences the user should read: that it was read as something else than was to be expected.
    """

    text: str
    notes: list[str] = field(default_factory=list)


def require_encoding(name: str) -> str:
    """Returns the name by which Python knows an encoding; raises `ConfigError` if it is none of texts."""
    try:
        codec = codecs.lookup(name)
        if not getattr(codec, "_is_text_encoding", True) or codec.name in ("undefined", "idna", "punycode"):
            raise LookupError
        return codec.name
    except (LookupError, ValueError, UnicodeError):
        usual = ("utf-8", "utf-16", "latin-1", "iso8859-15", *LATIN, *OTHERS)
        raise ConfigError(
            f"There is no encoding {name!r:.60}{nearest(name, usual)}. Usual ones are utf-8, utf-16, cp1252 (Windows, "
            "western Europe), cp1250 (central Europe), cp1251 (Cyrillic), gb18030, cp932 (Japanese), cp949 (Korean)."
        ) from None


def require_file(path: str | Path) -> Path:
    """Returns the path of something that can be read as a file, from its beginning to its end.

    Raises:
        DataError: there is no such file, its name cannot be one, or it is a folder, a pipe or a device.
    """
    path = Path(path)
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        shown = str(path) if len(str(path)) <= 300 else f"{str(path)[:300]}..."
        raise DataError(f"Cannot read {shown!a:.400}: {reason}.{_neighbour(path)}") from error
    if stat.S_ISDIR(mode):
        raise DataError(f"{path} is a folder. Give the file itself.")
    if not stat.S_ISREG(mode):
        raise DataError(f"{path} is a pipe or a device, not a file. Write what it gives to a file first.")
    return path


def _neighbour(path: Path) -> str:
    """Returns a hint at a file of a similar name in the same folder, or nothing."""
    try:
        return nearest(path.name, [entry.name for entry in path.parent.iterdir()])
    except (OSError, ValueError):
        return ""


def read_text(path: str | Path, encoding: str | None = None) -> Decoded:
    """Reads a text file.

    A byte order mark says how a file is encoded; without one it is UTF-8, or `encoding` where that is given. What is
    UTF-8 beyond doubt is not read in a code page of 256 characters, so that one setting serves files of both kinds.

    Args:
        path: the file.
        encoding: its encoding if it is not UTF-8, by the name Python has for it.

    Raises:
        ConfigError: there is no such encoding.
        DataError: it is no file that can be read, it is empty, or a byte does not fit the encoding (the line is named,
            and, where it is not UTF-8, what it looks like).
    """
    wanted = require_encoding(encoding) if encoding is not None else None
    path = require_file(path)
    try:
        raw = path.read_bytes()
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or "there is not enough memory for it"
        raise DataError(f"Cannot read {path}: {reason}.") from error
    marked = next(((mark, name) for mark, name in _MARKS if raw.startswith(mark)), None)
    notes = []
    if marked is not None:
        mark, found = marked
        raw = raw[len(mark) :]
        if found != "utf-8":
            notes.append(f"{path} is read as {found.upper()}, as the mark at its beginning says.")
    else:
        found = (wanted or "utf-8").removesuffix("-sig")
        if found != "utf-8" and _is_code_page(found) and not raw.isascii():
            if (start := fault(raw)) is None:
                notes.append(f"{path} is UTF-8, not {encoding}, and was read as UTF-8.")
                found = "utf-8"
            elif words := _mixed(path, raw, start):
                raise DataError(words)
    if not raw.strip():
        raise DataError(f"{path} is empty.")
    try:
        text = raw.decode(found).removeprefix("\ufeff" if found != "utf-8" else "")
    except UnicodeError as error:
        start = error.start if isinstance(error, UnicodeDecodeError) else 0
        said = _not_utf8(path, raw, start) if found == "utf-8" else _unfit(path, raw, found, start)
        raise DataError(said) from error
    if found == "utf-8" and (looks := without_mark(raw)):
        raise DataError(f"{path} holds zero bytes. It looks like {looks}: {_flag(looks)}.")
    return Decoded(text, notes)


def plain_lines(text: str) -> list[str]:
    """Splits at line feeds only (other Unicode line separators are text) and drops the carriage returns before them."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if lines and not lines[-1]:
        lines.pop()
    return lines


def fault(raw: bytes | mmap.mmap, encoding: str = "utf-8") -> int | None:
    """Returns where the first byte stands that does not fit an encoding, without a copy of the whole, or None."""
    decoder, start = codecs.getincrementaldecoder(encoding)(), 0
    while start < len(raw):
        held = len(decoder.getstate()[0])
        try:
            decoder.decode(raw[start : start + _CHUNK], final=start + _CHUNK >= len(raw))
        except UnicodeDecodeError as error:
            return start - held + error.start
        start += _CHUNK
    return None


def _is_code_page(name: str) -> bool:
    """Whether every byte is a character by itself in an encoding."""
    try:
        return len(bytes(range(256)).decode(name, "replace")) == 256
    except UnicodeError:
        return False


def _flag(encoding: str) -> str:
    return f"add --encoding {encoding} (data.encoding in YAML)"


def _unfit(path: Path, raw: bytes, encoding: str, start: int) -> str:
    line = raw.count(b"\n", 0, start) + 1
    byte = f"the byte 0x{raw[start]:02x}" if start < len(raw) else "its end"
    return f"{path}, line {line}: {byte} is not {encoding}. Give the file's own encoding with --encoding."


def _not_utf8(path: Path, raw: bytes, start: int) -> str:
    """Returns what is wrong, what the file looks like, and the flag that reads it so."""
    if mixed := _mixed(path, raw, start):
        return mixed
    line = raw.count(b"\n", 0, start) + 1
    words = f"{path}, line {line}: the byte 0x{raw[start]:02x} is not UTF-8."
    found, others = detect(raw)
    if found is None:
        return f"{words} The file is in no encoding that could be told. If you know it, give --encoding NAME."
    reads = "" if found.startswith("utf") else f", in which this reads {_shown(raw, start, found)!r}"
    doubt = "".join(
        f" If {ours!r} is wrong and {theirs!r} is right, it is {other}." for other, ours, theirs in others[:2]
    )
    return f"{words} The file looks like {found}{reads}: {_flag(found)}.{doubt}"


def _shown(raw: bytes, place: int, encoding: str) -> str:
    """Returns how a place of a line reads in an encoding."""
    end = raw.find(b"\n", place)
    begin = max(raw.rfind(b"\n", 0, place) + 1, place - 40)
    return raw[begin : place + 40 if end < 0 else min(end, place + 40)].decode(encoding, "replace").strip()


def _mixed(path: Path, raw: bytes, start: int) -> str | None:
    """Says so if a part of the lines is UTF-8 and others are not: no one encoding reads such a file."""
    fit, lines = mixture(raw[: 1 << 26])
    if 3 * fit < lines:
        return None
    line = raw.count(b"\n", 0, start) + 1
    return (
        f"{path}, line {line}: the byte 0x{raw[start]:02x} is not UTF-8, and of the "
        f"{lines:,} lines with more than ASCII {fit:,} are. Mend the others: no one encoding reads them all."
    )


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
