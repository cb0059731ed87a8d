"""From the bytes of a file to text: UTF-8, what a byte order mark says, or the encoding that the user names."""

from __future__ import annotations

import codecs
import io
import os
import stat
from pathlib import Path

from codir.errors import ConfigError, DataError, nearest

_MARKS = (  # that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_USUAL = ("utf-8", "utf-16", "cp1252", "cp1250", "cp1251", "latin-1", "gb18030", "cp932", "cp949", "koi8_r")


def require_encoding(name: str) -> str:
    """Returns the name by which Python knows an encoding; raises `ConfigError` if it is none of texts."""
    try:
        "a text".encode(name)
        return codecs.lookup(name).name
    except (LookupError, ValueError):
        raise ConfigError(
            f"There is no encoding {name!r:.60}{nearest(name, _USUAL)}. Usual ones are utf-8, utf-16, cp1252 (Windows, "
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
        try:
            near = nearest(path.name, [entry.name for entry in path.parent.iterdir()])
        except (OSError, ValueError):
            near = ""
        raise DataError(f"Cannot read {str(path)[:300]!a:.400}: {reason}.{near}") from error
    if stat.S_ISDIR(mode):
        raise DataError(f"{path} is a folder. Give the file itself.")
    if not stat.S_ISREG(mode):
        raise DataError(f"{path} is a pipe or a device, not a file. Write what it gives to a file first.")
    return path


def encoding_of(path: Path, encoding: str | None = None) -> str:
    """Reads a text file through and returns its encoding: what its mark says, else UTF-8, else the given one.

    So one setting serves files of both kinds: what is UTF-8 is never read as anything else.

    Raises:
        DataError: bytes of it do not fit; names the line.
    """
    other = "cp1252" if encoding is None else "gb18030"
    flag = f"Give the file's own encoding, for example --encoding {other}."
    with path.open("rb") as file:
        head = file.read(1 << 16)
        file.seek(0)
        marked = next((name for mark, name in _MARKS if head.startswith(mark)), None)
        wide = encoding is not None and "\n".encode(encoding) != b"\n"
        if wide and b"\0" not in head:  # nobody writes so much of UTF-16 without a zero byte
            wide, encoding = False, None
        if (name := marked or (encoding if wide else None)) is not None:
            try:
                for _ in io.TextIOWrapper(file, encoding=name, newline="\n"):
                    pass
            except UnicodeError as error:
                raise DataError(f"{path} is not {name.upper()} to its end. {flag}") from error
            return name
        beyond = utf8 = 0  # lines with more than ASCII, and those of them that are UTF-8
        foreign = 0  # the first that is not
        fault: str | None = None
        for number, line in enumerate(file, 1):
            if b"\0" in line:
                raise DataError(
                    f"{path}, line {number}: a zero byte. It is no text, or it is UTF-16 without its mark: then add "
                    "--encoding utf-16-le."
                )
            if line.isascii():
                continue
            beyond += 1
            if (place := _misfit(line, "utf-8")) is None:
                utf8 += 1
                continue
            foreign = foreign or number
            place = place if encoding is None else _misfit(line, encoding)
            if fault is None and place is not None:
                name = encoding or "UTF-8"
                fault = f"{path}, line {number}: the byte 0x{line[place]:02x} is not {name}. {flag}"
    if not foreign:
        return "utf-8" if encoding is None or beyond else encoding
    if 3 * utf8 >= beyond:
        raise DataError(
            f"{path}, line {foreign} is not UTF-8, and of the {beyond:,} lines with more than ASCII {utf8:,} are. Mend "
            "the others: no one encoding reads them all."
        )
    if fault is not None or encoding is None:
        raise DataError(fault)
    return encoding


def _misfit(line: bytes, encoding: str) -> int | None:
    """Returns where the first byte stands that does not fit an encoding, None if all fit."""
    try:
        line.decode(encoding)
    except UnicodeDecodeError as error:
        return min(error.start, len(line) - 1)
    return None


def read_text(path: str | Path, encoding: str | None = None) -> str:
    """Reads a text file, without its byte order mark and with its line ends as they are.

    Raises:
        ConfigError: there is no such encoding.
        DataError: it is no file that can be read, it is empty, or a byte does not fit; names the line.
    """
    wanted = require_encoding(encoding) if encoding is not None else None
    path = require_file(path)
    try:
        text = path.read_bytes().decode(encoding_of(path, wanted)).removeprefix("\ufeff")
    except (OSError, MemoryError, UnicodeError) as error:
        raise DataError(f"Cannot read {path}: {getattr(error, 'strerror', None) or error}.") from error
    if not text.strip():
        raise DataError(f"{path} is empty.")
    return text


def plain_lines(text: str) -> list[str]:
    """Splits at line feeds only (other Unicode line separators are text) and drops the carriage returns before them."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines if lines[-1] else lines[:-1]
