"""From the bytes of a file to UTF-8: which encoding they are in, and a sentence where that cannot be told."""

from __future__ import annotations

import codecs
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from codir.errors import ConfigError, DataError, nearest

# A mark at the beginning of a file says for certain how it is encoded. That of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# What people's files are in, with the most likely first. Without this list the detection, which goes by how odd the
# text looks, prefers code pages that nobody has had since 1995.
_LATIN = ("cp1252", "cp1250", "cp1254", "cp1257", "iso8859_2", "cp850", "mac_roman")
_OTHERS = (
    *("cp1251", "koi8_r", "cp1253", "cp1255", "cp1256", "cp1258", "cp874"),
    *("gb18030", "cp932", "cp949", "big5", "euc_jp"),
)
_OLD = ("iso8859_2", "cp850", "mac_roman")
_SAMPLE = 1 << 16
_CHUNK = 1 << 22


@dataclass
class Decoded:
    """The content of a text file.

    Attributes:
        utf8: it as UTF-8, without a byte order mark and with its line ends as they are.
        notes: sentences the user should read: that it was read as something else than was to be expected.
    """

    utf8: bytes
    notes: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The content as text."""
        return self.utf8.decode()


def require_encoding(name: str) -> str:
    """Returns the name by which Python knows an encoding; raises `ConfigError` if it is none of texts."""
    try:
        codec = codecs.lookup(name)
        if not getattr(codec, "_is_text_encoding", True) or codec.name in ("undefined", "idna", "punycode"):
            raise LookupError
        return codec.name
    except (LookupError, ValueError, UnicodeError):
        usual = ("utf-8", "utf-16", "latin-1", "iso8859-15", *(each for each in (*_LATIN, *_OTHERS)))
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
        reason = (getattr(error, "strerror", None) or str(error)).lower()
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
        if _is_code_page(found) and not raw.isascii():
            if (start := _fault(raw)) is None:
                notes.append(f"{path} is UTF-8, not {encoding}, and was read as UTF-8.")
                found = "utf-8"
            elif words := _mixed(path, raw, start):
                raise DataError(words)
    if not raw.strip():
        raise DataError(f"{path} is empty.")
    if found != "utf-8":
        try:
            raw = raw.decode(found).removeprefix("\ufeff").encode()
        except UnicodeError as error:
            raise DataError(_unfit(path, raw, found, error)) from error
    elif (start := _fault(raw)) is not None:
        raise DataError(_not_utf8(path, raw, start))
    elif looks := _wide(raw):
        raise DataError(f"{path} holds zero bytes. It looks like {looks}: {_flag(looks)}.")
    return Decoded(raw, notes)


def plain_lines(text: str) -> list[str]:
    """Splits at line feeds only (other Unicode line separators are text) and drops the carriage returns before them."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if lines and not lines[-1]:
        lines.pop()
    return lines


def _fault(raw: bytes) -> int | None:
    """Returns where the first byte stands that is not UTF-8, without a copy of the whole; None if all is well."""
    if raw.isascii():
        return None
    decoder, start = codecs.getincrementaldecoder("utf-8")(), 0
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


def _wide(raw: bytes) -> str | None:
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


def _flag(encoding: str) -> str:
    return f"add --encoding {encoding} (in YAML: `data: {{encoding: {encoding}}}`)"


def _unfit(path: Path, raw: bytes, encoding: str, error: UnicodeError) -> str:
    start = error.start if isinstance(error, UnicodeDecodeError) else 0
    line = raw.count(b"\n", 0, start) + 1
    byte = f"the byte 0x{raw[start]:02x}" if start < len(raw) else "its end"
    return f"{path}, line {line}: {byte} is not {encoding}. Give the file's own encoding with --encoding."


def _not_utf8(path: Path, raw: bytes, start: int) -> str:
    """Returns what is wrong, what the file looks like, and the flag that reads it so."""
    line = raw.count(b"\n", 0, start) + 1
    if mixed := _mixed(path, raw, start):
        return mixed
    found, others = detect(raw)
    words = f"{path}, line {line}: the byte 0x{raw[start]:02x} is not UTF-8."
    if found is None:
        return f"{words} The file is in no encoding that could be told. If you know it, give --encoding NAME."
    if found.startswith("utf"):
        return f"{words} The file looks like {found}: {_flag(found)}."
    shown = _around(raw, start).decode(found, "replace").strip()
    doubt = f" (or {' or '.join(others)})" if others else ""
    return f"{words} The file looks like {found}{doubt}, in which this reads {shown!r}: {_flag(found)}."


def _around(raw: bytes, place: int) -> bytes:
    """Returns what stands about a place, of its line only."""
    end = raw.find(b"\n", place)
    begin = max(raw.rfind(b"\n", 0, place) + 1, place - 40)
    return raw[begin : place + 40 if end < 0 else min(end, place + 40)]


def _mixed(path: Path, raw: bytes, start: int) -> str | None:
    """Says so if a part of the lines is UTF-8 and others are not: no one encoding reads such a file."""
    lines = [line for line in raw[: 1 << 26].split(b"\n") if not line.isascii()]
    fit = sum(_fault(line) is None for line in lines)
    if 3 * fit < len(lines):
        return None
    line = raw.count(b"\n", 0, start) + 1
    return (
        f"{path}, line {line}: the byte 0x{raw[start]:02x} is not UTF-8, and of the "
        f"{len(lines):,} lines with more than ASCII {fit:,} are. Mend the others: no one encoding reads them all."
    )


def detect(raw: bytes) -> tuple[str | None, list[str]]:
    """Returns the encoding that bytes look like, and others they could be, in which they read differently.

    Only a few candidates are tried, all of them in use today; those with 256 characters of the Latin script if most of
    the text is ASCII.
    """
    from charset_normalizer import from_bytes

    if wide := _wide(raw):
        return wide, []
    lines = [line for line in raw[: 1 << 24].split(b"\n") if not line.isascii()]
    sample = b"\n".join(lines)[:_SAMPLE] or raw[-_SAMPLE:]
    high = sum(byte >= 0x80 for byte in sample)
    candidates = _LATIN if high < len(sample) / 4 else (*_LATIN, *_OTHERS)
    matches = [
        each for each in from_bytes(sample, cp_isolation=list(candidates)) if each.encoding in candidates
    ]
    if not matches:
        return None, []
    best = matches[0]
    if best.encoding in _OLD:  # these win by nothing against Windows
        rivals = [each for each in matches if each.encoding not in _OLD and each.chaos <= best.chaos + 0.05]
        best = max(rivals, key=lambda each: each.coherence, default=best)
    # Of those that look alike, the one that most files are in
    usual = [each for each in matches if {"cp1252", "cp932"} & {each.encoding, *each.could_be_from_charset}]
    chosen = next(
        (
            each
            for each in usual
            if each.chaos <= best.chaos + 0.06 and each.coherence >= best.coherence - 0.01
        ),
        best,
    )
    found = next(name for name in candidates if name in (chosen.encoding, *chosen.could_be_from_charset))
    others = [
        each.encoding
        for each in matches
        if str(each) != str(chosen)
        and each.chaos <= chosen.chaos + 0.03
        and each.coherence >= chosen.coherence - 0.1
    ]
    return found, others[:2]
