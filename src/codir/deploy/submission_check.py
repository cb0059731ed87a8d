"""Finds everything that is wrong with an archive for GLUE's server, whoever made it."""

from __future__ import annotations

import contextlib
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from codir.deploy.submission import FILES, HEADER, HIGHEST, LOWEST, SubmissionFile
from codir.errors import DataError, nearest

# The largest official file has 4 MB. What unpacks to more than this is not read.
LARGEST_MEMBER = 32 * 2**20
MOST_MEMBERS = 1000
SHOWN = 3

# The way out, by kind of problem.
_CURES = {
    "archive": "Pack or copy it again: zip -j -D submission.zip *.tsv",
    "missing file": "The server wants all of them: `codir submit` fills in what has no model.",
    "additional file": "Leave it out: zip -d ARCHIVE NAME",
    "folder": "The files must lie at the top of the archive: zip -j -D submission.zip folder/*.tsv",
    "file twice": "Which one counts is anyone's guess: pack the archive anew, each file once.",
    "encrypted": "Pack it without a password.",
    "too large": f"No file of a submission comes near {LARGEST_MEMBER // 2**20} MB; this one was not read.",
    "damaged": "Its content does not fit its checksum: pack or copy the archive again.",
    "empty file": "It needs the header and one line for each row of the test set.",
    "encoding": "Write plain ASCII, which is UTF-8 too.",
    "byte order mark": "Write the file as UTF-8 without BOM (in Python: encoding='utf-8', not 'utf-8-sig').",
    "line ends": "Write line feeds only, as the server's sample has (in Python: newline='\\n', csv's "
    "lineterminator='\\n').",
    "header": f"The first line is `{HEADER[0]}`, a tab, `{HEADER[1]}`.",
    "separator": "Index and prediction are separated by one tab.",
    "fields": "A line is an index, a tab and a prediction, nothing else.",
    "blank line": "Leave out lines without content.",
    "index": "The index is a whole number, counted from 0.",
    "index too large": "The index is counted from 0, so the last one is the number of rows less one.",
    "index twice": "Each row of the test set gets one prediction.",
    "index order": "Write the rows in the order of the test file, so that no reader can mix them up.",
    "index missing": 'Predict every row of the test set; the server answers "not all ids present in task".',
    "number of rows": "Predict the whole official test file (gluebenchmark.com/tasks), without adding or leaving out.",
    "class id": "Write the class's name, not its number.",
    "class name": "Write the class's number, not its name.",
    "label": "Write the words exactly as the server has them.",
    "score": "Write a number with a decimal point.",
    "score range": f"Clip the scores to {LOWEST:g} to {HIGHEST:g}.",
}


@dataclass
class Problem:
    """Something that is wrong with an archive.

    Attributes:
        kind: one of a fixed set of names, for example `index twice`.
        file: the file in the archive, empty for the archive itself.
        found: the first places and what is there: `line 17: the label 'equivalent' ...`.
        count: how many places there are in all.
    """

    kind: str
    file: str
    found: list[str] = field(default_factory=list)
    count: int = 0

    @property
    def cure(self) -> str:
        """The way out."""
        return _CURES[self.kind]

    def __str__(self) -> str:
        more = f" (and {self.count - len(self.found):,} more)" if self.count > len(self.found) else ""
        return f"{self.file}{', ' if self.file else ''}{'; '.join(self.found)}{more}. {self.cure}"


class _Report:
    """Gathers problems by file and kind, the first places of each."""

    def __init__(self) -> None:
        self.problems: dict[tuple[str, str], Problem] = {}

    def add(self, kind: str, file: str, what: str, line: int | None = None) -> None:
        problem = self.problems.setdefault((file, kind), Problem(kind, file))
        problem.count += 1
        if len(problem.found) < SHOWN:
            problem.found.append(what if line is None else f"line {line}: {what}")


def check_archive(archive: str | Path | BinaryIO) -> list[Problem]:
    """Returns all that is wrong with an archive, nothing if it can be submitted.

    Stricter than the server is known to be in three points, where a sloppy file may or may not pass: rows in order,
    line feeds only, no folders.

    Args:
        archive: path, or an open file.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    report = _Report()
    if isinstance(archive, (str, Path)):
        path = Path(archive)
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            raise DataError(f"The archive {path} {what}. Give the .zip file to be checked.")
        with open(path, "rb") as opened:
            _check(opened, report)
    else:
        _check(archive, report)
    return list(report.problems.values())


def _check(file: BinaryIO, report: _Report) -> None:
    start = file.read(8)
    file.seek(0)
    if not start:
        report.add("archive", "", "the archive is empty (0 bytes)")
        return
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        what = "is damaged" if start.startswith(b"PK") else "is not a zip archive"
        report.add("archive", "", f"the archive {what} ({error})")
        return
    with archive:
        members = [info for info in archive.infolist() if not info.is_dir()]
        if len(members) > MOST_MEMBERS:
            report.add("archive", "", f"the archive has {len(members):,} files, expected {len(FILES)}")
            return
        for info in archive.infolist():
            if info.is_dir():
                report.add("folder", info.filename, "is a folder")
        seen: dict[str, str] = {}
        for info in members:
            name = info.filename
            base = re.split(r"[/\\]", name)[-1]
            wanted = FILES.get(base) if not name.startswith("__MACOSX/") else None
            if wanted is None:
                hint = next(
                    (f" (did you mean {known!r}?)" for known in FILES if known.lower() == base.lower()), None
                )
                hint = hint or nearest(base, FILES)
                report.add("additional file", name, f"is not a file of the submission{hint}")
                continue
            if base != name:
                report.add("folder", name, "lies in a folder")
            if base in seen:
                report.add("file twice", name, f"is there more than once (also as {seen[base]})")
            seen[base] = name
            raw = _read(archive, info, report)
            if raw is not None:
                _check_file(wanted, name, raw, report)
        for name in FILES:
            if name not in seen:
                report.add("missing file", name, "is missing")


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, report: _Report) -> bytes | None:
    """Returns a member's content; None, and a problem, if that cannot or should not be had."""
    name = info.filename
    if info.flag_bits & 0x1:
        report.add("encrypted", name, "is encrypted")
        return None
    if info.file_size > LARGEST_MEMBER:
        report.add("too large", name, f"unpacks to {info.file_size:,} bytes")
        return None
    try:
        with archive.open(info) as member:
            raw = member.read(LARGEST_MEMBER + 1)  # the size in the directory need not be true
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError) as error:
        report.add("damaged", name, f"cannot be unpacked ({error})")
        return None
    if len(raw) > LARGEST_MEMBER:
        report.add("too large", name, f"unpacks to more than {LARGEST_MEMBER:,} bytes")
        return None
    return raw


def _check_file(file: SubmissionFile, name: str, raw: bytes, report: _Report) -> None:
    if not raw.strip():
        report.add("empty file", name, "is empty")
        return
    lines = _lines(name, raw, report)
    start = _check_header(name, lines[0], report)
    seen = bytearray(file.rows)
    rows, last, disorder = 0, -1, False
    for number, line in enumerate(lines[start:], start + 1):
        if not line.strip():
            report.add("blank line", name, "is blank", number)
            continue
        rows += 1
        fields = line.split("\t")
        if len(fields) != 2:
            fields = _other_fields(name, line, number, report)
            if fields is None:
                continue
        index = _index(file, name, fields[0], number, report)
        if index is not None:
            if seen[index]:
                report.add("index twice", name, f"the index {index} was there before", number)
            elif index < last and not disorder:
                disorder = True  # one place says it: after it, most others are out of order as well
                report.add("index order", name, f"the index {index} comes after {last}", number)
            seen[index], last = 1, index
        _check_prediction(file, name, fields[1], number, report)
    if rows != file.rows:
        report.add("number of rows", name, f"has {rows:,} rows, the test set {file.rows:,}")
    absent = seen.count(0)
    if absent:
        first = [str(place) for place in _places(seen, SHOWN)]
        more = ", ..." if absent > len(first) else ""
        report.add(
            "index missing", name, f"{absent:,} of {file.rows:,} are missing: {', '.join(first)}{more}"
        )


def _places(seen: bytearray, most: int) -> Iterator[int]:
    place = -1
    for _ in range(most):
        place = seen.find(0, place + 1)
        if place < 0:
            return
        yield place


def _lines(name: str, raw: bytes, report: _Report) -> list[str]:
    """Returns the lines as they would be if encoding and line ends were right, after saying that they are not."""
    encoding = "utf-8"
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
        report.add("encoding", name, "is UTF-16")
    elif raw.startswith(b"\xef\xbb\xbf"):
        report.add("byte order mark", name, "starts with a byte order mark")
        raw = raw[3:]
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        report.add("encoding", name, f"the byte 0x{raw[error.start]:02x} is not UTF-8", line)
        text = raw.decode(encoding, errors="replace")
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    if "\r" in text:
        first = next(number for number, line in enumerate(lines, 1) if "\r" in line)
        count = text.count("\r")
        report.add("line ends", name, f"a carriage return ({count:,} in all)", first)
        lines = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")
    return lines


def _check_header(name: str, line: str, report: _Report) -> int:
    """Returns the number of lines that the header takes: 1, or 0 if there is none."""
    if line == "\t".join(HEADER):
        return 1
    if re.match(r"\d+\s*[\t,; ]", line):
        report.add("header", name, f"there is no header, but {line!r:.60}", 1)
        return 0
    if tuple(re.split(r"[,; |]+|\t+", line)) == HEADER:
        report.add("separator", name, f"the header {line!r:.60} has no single tab", 1)
    else:
        report.add("header", name, f"the header is {line!r:.60}", 1)
    return 1


def _other_fields(name: str, line: str, number: int, report: _Report) -> list[str] | None:
    """Returns the two fields of a line that has not one tab, if it is plain what they are; says what is wrong."""
    if "\t" not in line:
        fields = re.split(r"[,;|]| +", line.strip())
        if len(fields) == 2:
            report.add("separator", name, f"{line!r:.60} has no tab", number)
            return fields
    count = line.count("\t") + 1
    report.add("fields", name, f"{line!r:.60} has {count} field{'s' * (count > 1)}, expected 2", number)
    return None


def _index(file: SubmissionFile, name: str, raw: str, number: int, report: _Report) -> int | None:
    if not re.fullmatch(r"[0-9]{1,12}", raw):
        report.add("index", name, f"the index {raw!r:.40} is not a whole number", number)
        with contextlib.suppress(ValueError):
            if float(raw) in range(file.rows):  # 17.0 from a table of floats: one complaint is enough
                return int(float(raw))
        return None
    index = int(raw)
    if index >= file.rows:
        report.add("index too large", name, f"the index {index} is not below {file.rows:,}", number)
        return None
    return index


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def _check_prediction(file: SubmissionFile, name: str, raw: str, number: int, report: _Report) -> None:
    if file.words is None:
        if not _NUMBER.fullmatch(raw):
            report.add("score", name, f"{raw!r:.40} is not a finite number", number)
        elif not LOWEST <= float(raw) <= HIGHEST:
            report.add("score range", name, f"{raw} is not from {LOWEST:g} to {HIGHEST:g}", number)
        return
    if raw in file.words:
        return
    numbers = all(word.isdigit() for word in file.words)
    names = file.glue.labels or ()
    if not numbers and re.fullmatch(r"\d+", raw):
        report.add("class id", name, f"{raw!r:.40} is a number, expected {file.wanted}", number)
    elif numbers and raw in names:
        word = file.words[names.index(raw)]
        report.add("class name", name, f"{raw!r} is the name of class {word}, expected {file.wanted}", number)
    else:
        report.add("label", name, f"{raw!r:.40} is unknown, expected {file.wanted}", number)
