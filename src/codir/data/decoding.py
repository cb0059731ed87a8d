"""From the bytes of a file to UTF-8: which encoding they are in, and a sentence where that cannot be told."""

from __future__ import annotations

import codecs
import mmap
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from codir.data.detection import LATIN, OTHERS, detect, mixture, without_mark
from codir.errors import ConfigError, DataError, nearest

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
    if found != "utf-8":
        try:
            raw = raw.decode(found).removeprefix("\ufeff").encode()
        except UnicodeError as error:
            raise DataError(_unfit(path, raw, found, error)) from error
    elif (start := fault(raw)) is not None:
        raise DataError(_not_utf8(path, raw, start))
    elif looks := without_mark(raw):
        raise DataError(f"{path} holds zero bytes. It looks like {looks}: {_flag(looks)}.")
    return Decoded(raw, notes)


def plain_lines(text: str) -> list[str]:
    """Splits at line feeds only (other Unicode line separators are text) and drops the carriage returns before them."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if lines and not lines[-1]:
        lines.pop()
    return lines


def fault(raw: bytes | mmap.mmap, encoding: str = "utf-8") -> int | None:
    """Returns where the first byte stands that does not fit an encoding, without a copy of the whole, or None."""
    if isinstance(raw, bytes) and encoding == "utf-8" and raw.isascii():
        return None
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


def _unfit(path: Path, raw: bytes, encoding: str, error: UnicodeError) -> str:
    start = error.start if isinstance(error, UnicodeDecodeError) else 0
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
