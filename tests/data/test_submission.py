"""The format of GLUE's server is known in one place; the check finds every kind of damage and says where it is."""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from codir.data.glue import GLUE
from codir.deploy import submission, submission_check
from codir.deploy.submission import FILES, ROWS, archive_bytes, member_bytes, score_word
from codir.deploy.submission_check import _CURES, Problem, check_archive
from codir.errors import DataError

Members = dict[str, bytes]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test sets of 12 rows."""
    for name in ROWS:
        monkeypatch.setitem(ROWS, name, 12)


def filled() -> Members:
    return {name: member_bytes(file.filled()) for name, file in FILES.items()}


def packed(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def problems(content: bytes) -> dict[tuple[str, str], Problem]:
    return {(problem.file, problem.kind): problem for problem in check_archive(io.BytesIO(content))}


# --- the format ---------------------------------------------------------------------------------------------------


def test_official_numbers_of_rows() -> None:
    # `wc -l` of a submission that the server took, as printed in the README of BERT on STILTs, headers included
    lines = (
        "1105 AX 1064 CoLA 9848 MNLI-mm 9797 MNLI-m 1726 MRPC 5464 QNLI 390966 QQP 3001 RTE 1822 SST-2 1380 STS-B "
        "147 WNLI"
    )
    words = lines.split()
    assert {
        f"{name}.tsv": int(count) - 1 for count, name in zip(words[::2], words[1::2], strict=True)
    } == ROWS
    assert list(ROWS) == list(FILES)


def test_words_stand_for_the_classes_of_the_task() -> None:
    written = {
        name: dict(zip(file.glue.labels or (), file.words or (), strict=True)) for name, file in FILES.items()
    }
    assert written["CoLA.tsv"] == {"unacceptable": "0", "acceptable": "1"}
    assert written["SST-2.tsv"] == {"negative": "0", "positive": "1"}
    assert written["MRPC.tsv"] == {"not_equivalent": "0", "equivalent": "1"}
    assert written["QQP.tsv"] == {"not_duplicate": "0", "duplicate": "1"}
    assert written["WNLI.tsv"] == {"not_entailment": "0", "entailment": "1"}
    assert written["STS-B.tsv"] == {}
    for name in ("MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv", "QNLI.tsv", "RTE.tsv"):
        assert all(label == word for label, word in written[name].items())
    assert {file.task for file in FILES.values()} == set(GLUE)
    for file in FILES.values():
        assert file.words is None or set(file.fill) <= set(file.words)


def test_member_and_scores() -> None:
    assert member_bytes(["1", "0"]) == b"index\tprediction\n0\t1\n1\t0\n"
    assert [score_word(x) for x in (-0.2, 0.0, 3.14159265, 5.0, 7)] == [
        "0.000000", "0.000000", "3.141593", "5.000000", "5.000000",
    ]  # fmt: skip


def test_archive_is_flat_ordered_and_the_same_every_time(small: None) -> None:
    members = filled()
    first = archive_bytes(members)
    assert first == archive_bytes(dict(reversed(members.items())))
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert archive.namelist() == list(FILES)
        assert archive.testzip() is None
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.read("WNLI.tsv") == members["WNLI.tsv"]


# --- the check ----------------------------------------------------------------------------------------------------


def test_official_size_passes(tmp_path: Path) -> None:
    path = tmp_path / "s.zip"
    path.write_bytes(archive_bytes(filled()))
    assert check_archive(path) == []
    assert check_archive(str(path)) == []


def test_other_ways_of_packing_pass(small: None) -> None:
    members = filled()
    members["STS-B.tsv"] = b"index\tprediction\n" + b"".join(
        f"{row}\t{score}\n".encode()
        for row, score in enumerate(
            ["0", "5", "2.5", ".5", "3.", "1e0", "+4", "0.0", "5.0", "4.99", "1E-3", "05"]
        )
    )
    members["CoLA.tsv"] = members["CoLA.tsv"].rstrip(b"\n")  # no line feed at the end
    assert not problems(packed(members))
    assert not problems(packed(dict(reversed(members.items()))))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert not problems(buffer.getvalue())


def line(number: int, new: str, name: str = "MRPC.tsv") -> Callable[[Members], None]:
    """Replaces a line (counted from 1)."""

    def damage(members: Members) -> None:
        lines = members[name].decode().split("\n")
        lines[number - 1] = new
        members[name] = "\n".join(lines).encode()

    return damage


def text(function: Callable[[bytes], bytes], name: str = "MRPC.tsv") -> Callable[[Members], None]:
    def damage(members: Members) -> None:
        members[name] = function(members[name])

    return damage


def rename(old: str, new: str) -> Callable[[Members], None]:
    def damage(members: Members) -> None:
        members[new] = members.pop(old)

    return damage


M = "MRPC.tsv"
DAMAGED: list[tuple[str, Callable[[Members], object], str, str, str]] = [
    # what, how, file, kind, message
    ("missing file", lambda m: m.pop(M), M, "missing file", "is missing.*wants all"),
    ("additional file", lambda m: m.update({"notes.txt": b"x"}), "notes.txt", "additional file", "zip -d"),
    ("wrong name", rename(M, "mrpc.tsv"), "mrpc.tsv", "additional file", "did you mean 'MRPC.tsv'"),
    ("wrong name too", rename("MNLI-m.tsv", "MNLI.tsv"), "MNLI-m.tsv", "missing file", "is missing"),
    ("in a folder", rename(M, "out/MRPC.tsv"), "out/MRPC.tsv", "folder", "top of the archive.*zip -j"),
    ("backslashes", rename(M, "out\\MRPC.tsv"), "out\\MRPC.tsv", "folder", "lies in a folder"),
    ("a folder", lambda m: m.update({"out/": b""}), "out/", "folder", "is a folder"),
    ("macOS", lambda m: m.update({"__MACOSX/._MRPC.tsv": b"x"}), "__MACOSX/._MRPC.tsv", "additional file", "Leave"),
    ("empty", text(lambda raw: b""), M, "empty file", "is empty"),
    ("white", text(lambda raw: b"\n \n"), M, "empty file", "is empty"),
    ("no header", text(lambda raw: raw.split(b"\n", 1)[1]), M, "header", r"line 1: there is no header, but '0\\t1'"),
    ("other header", line(1, "id\tlabel"), M, "header", "line 1: the header is"),
    ("header in capitals", line(1, "Index\tPrediction"), M, "header", "line 1"),
    ("header order", line(1, "prediction\tindex"), M, "header", "line 1"),
    ("commas", text(lambda raw: raw.replace(b"\t", b",")), M, "separator", r"line 1: .*; line 2: .*10 more"),
    ("spaces", text(lambda raw: raw.replace(b"\t", b"  ")), M, "separator", "one tab"),
    ("header with comma", line(1, "index,prediction"), M, "separator", "no single tab"),
    ("one column", line(3, "1"), M, "fields", "line 3: '1' has 1 field,"),
    ("three columns", line(3, "1\t1\t0.8"), M, "fields", "line 3: .* has 3 fields, expected 2"),
    ("quoted words", line(3, '1\t"1"'), M, "label", "line 3: '\"1\"' is unknown, expected 0 or 1"),
    ("row short", text(lambda raw: raw[: raw.rindex(b"11\t")]), M, "number of rows", "has 11 rows, the test set 12"),
    ("index missing", text(lambda raw: raw[: raw.rindex(b"11\t")]), M, "index missing", "1 of 12 are missing: 11"),
    ("row more", text(lambda raw: raw + b"12\t1\n"), M, "index too large", "line 14: the index 12 is not below 12"),
    ("row more, counted", text(lambda raw: raw + b"12\t1\n"), M, "number of rows", "has 13 rows"),
    ("header only", text(lambda raw: raw.split(b"\n")[0]), M, "index missing", "12 of 12 .*: 0, 1, 2, ..."),
    ("index twice", line(4, "1\t1"), M, "index twice", "line 4: the index 1 was there before"),
    ("index twice, one gone", line(4, "1\t1"), M, "index missing", "1 of 12 are missing: 2"),
    ("order", lambda m: (line(3, "2\t1")(m), line(4, "1\t1")(m)), M, "index order", "line 4: the index 1 comes after"),
    ("counted from 1", text(lambda raw: b"index\tprediction\n" + b"".join(b"%d\t1\n" % i for i in range(1, 13))),
     M, "index too large", "line 13"),
    ("index in words", line(4, "two\t1"), M, "index", "line 4: the index 'two'"),
    ("index a float", line(4, "2.0\t1"), M, "index", "'2.0' is not a whole number"),
    ("index negative", line(4, "-1\t1"), M, "index", "'-1'"),
    ("index in other digits", line(4, "٢\t1"), M, "index", "whole number"),
    ("index huge", line(4, "9" * 40 + "\t1"), M, "index", "whole number"),
    ("label", line(5, "3\t2"), M, "label", "line 5: '2' is unknown, expected 0 or 1"),
    ("label empty", line(5, "3\t"), M, "label", "line 5: '' is unknown"),
    ("label a float", line(5, "3\t1.0"), M, "label", "line 5: '1.0'"),
    ("label with a blank", line(5, "3\t1 "), M, "label", "line 5: '1 '"),
    ("name for number", line(5, "3\tequivalent"), M, "class name", "is the name of class 1, expected 0 or 1"),
    ("number for name", line(5, "3\t0", "RTE.tsv"), "RTE.tsv", "class id", "expected entailment or not_entailment"),
    ("other word", line(5, "3\tnot entailment", "QNLI.tsv"), "QNLI.tsv", "label", "line 5"),
    ("capitals", line(5, "3\tNeutral", "AX.tsv"), "AX.tsv", "label", "entailment, neutral or contradiction"),
    ("score too high", line(2, "0\t5.01", "STS-B.tsv"), "STS-B.tsv", "score range", "line 2: 5.01 is not from 0 to 5"),
    ("score negative", line(2, "0\t-0.01", "STS-B.tsv"), "STS-B.tsv", "score range", "Clip"),
    ("score infinite", line(2, "0\t1e999", "STS-B.tsv"), "STS-B.tsv", "score range", "1e999"),
    ("score NaN", line(2, "0\tnan", "STS-B.tsv"), "STS-B.tsv", "score", "'nan' is not a finite number"),
    ("score in words", line(2, "0\tfive", "STS-B.tsv"), "STS-B.tsv", "score", "'five'"),
    ("score with comma", line(2, "0\t2,5", "STS-B.tsv"), "STS-B.tsv", "score", "decimal point"),
    ("blank line", line(4, ""), M, "blank line", "line 4: is blank"),
    ("blank at the end", text(lambda raw: raw + b"\n"), M, "blank line", "line 14"),
    ("CRLF", text(lambda raw: raw.replace(b"\n", b"\r\n")), M, "line ends", r"line 1: a carriage return \(13 in all\)"),
    ("CR", text(lambda raw: raw.replace(b"\n", b"\r")), M, "line ends", "13 in all"),
    ("BOM", text(lambda raw: b"\xef\xbb\xbf" + raw), M, "byte order mark", "without BOM"),
    ("UTF-16", text(lambda raw: raw.decode().encode("utf-16")), M, "encoding", "is UTF-16"),
    ("Latin-1", text(lambda raw: raw.replace(b"1\t1\n2", b"1\t\xe9\n2")), M, "encoding", "line 3: the byte 0xe9"),
    ("binary", text(lambda raw: bytes(range(256))), M, "encoding", "not UTF-8"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "file", "kind", "message"), [row[1:] for row in DAMAGED], ids=[r[0] for r in DAMAGED]
)
def test_damaged_members_are_found(
    small: None, damage: Callable[[Members], object], file: str, kind: str, message: str
) -> None:
    members = filled()
    assert not problems(packed(members))
    damage(members)
    found = problems(packed(members))
    assert (file, kind) in found, found.keys()
    said = str(found[file, kind])
    assert re.search(message, said), said
    assert said.startswith(file)
    assert said.endswith(_CURES[kind])


@pytest.mark.parametrize(
    ("what", "alone"),
    [("CRLF", True), ("CR", True), ("BOM", True), ("UTF-16", True), ("commas", True), ("spaces", True),
     ("in a folder", True), ("index a float", True), ("no header", True), ("label", True), ("order", True)],
)  # fmt: skip
def test_one_fault_is_one_problem(small: None, what: str, alone: bool) -> None:
    members = filled()
    next(row[1] for row in DAMAGED if row[0] == what)(members)
    assert len(problems(packed(members))) == 1


def test_all_problems_are_listed_the_first_places_of_each(small: None) -> None:
    members = filled()
    members["MRPC.tsv"] = member_bytes(["yes"] * 12)
    members["RTE.tsv"] = member_bytes(["1"] * 12)
    del members["AX.tsv"]
    found = problems(packed(members))
    assert set(found) == {("MRPC.tsv", "label"), ("RTE.tsv", "class id"), ("AX.tsv", "missing file")}
    assert found["MRPC.tsv", "label"].count == 12
    said = str(found["MRPC.tsv", "label"])
    assert re.search(r"line 2: .*; line 3: .*; line 4: .* \(and 9 more\)\.", said)
    assert "line 5" not in said


def test_no_zip_archive(small: None) -> None:
    assert "not a zip archive" in str(problems(b"index\tprediction\n")["", "archive"])
    assert "empty (0 bytes)" in str(problems(b"")["", "archive"])
    whole = archive_bytes(filled())
    assert "is damaged" in str(problems(whole[: len(whole) // 2])["", "archive"])


def test_damaged_content_is_found_by_its_checksum(small: None) -> None:
    whole = packed(filled())  # stored, so that the text is there to be changed
    place = whole.index(b"index\tprediction\n0\t1")
    changed = whole[: place + 19] + b"0" + whole[place + 20 :]
    found = problems(changed)
    assert set(found) == {("CoLA.tsv", "damaged")}
    assert "CRC" in str(found["CoLA.tsv", "damaged"])


def test_damaged_compression(small: None) -> None:
    members = filled()
    members["QQP.tsv"] = member_bytes(str(i % 2) for i in range(12))
    whole = bytearray(archive_bytes(members))
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        start = archive.getinfo("QQP.tsv").header_offset + 30 + len("QQP.tsv")
    whole[start : start + 12] = b"\xff" * 12
    assert ("QQP.tsv", "damaged") in problems(bytes(whole))


def test_a_file_twice(small: None) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in filled().items():
            archive.writestr(name, content)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("MRPC.tsv", b"index\tprediction\n")
    assert "more than once" in str(problems(buffer.getvalue())["MRPC.tsv", "file twice"])
    members = {**filled(), "copy/MRPC.tsv": filled()["MRPC.tsv"]}
    assert "also as MRPC.tsv" in str(problems(packed(members))["copy/MRPC.tsv", "file twice"])


def test_encrypted_members(small: None) -> None:
    whole = bytearray(packed(filled()))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = whole.index(signature) + offset
        struct.pack_into("<H", whole, place, struct.unpack_from("<H", whole, place)[0] | 1)
    assert ("CoLA.tsv", "encrypted") in problems(bytes(whole))


def test_bombs_are_not_unpacked(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in filled().items():
            archive.writestr(
                name, bytes(submission_check.LARGEST_MEMBER + 1) if name == "RTE.tsv" else content
            )
    whole = buffer.getvalue()
    assert len(whole) < 100_000
    assert "unpacks to 33,554,433 bytes" in str(problems(whole)["RTE.tsv", "too large"])
    # the same with a directory that says it is small: no more than was promised is unpacked, and the checksum is off
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        size = struct.pack("<L", archive.getinfo("RTE.tsv").file_size)
    found = problems(whole.replace(size, struct.pack("<L", 100)))
    assert ("RTE.tsv", "damaged") in found or ("RTE.tsv", "too large") in found
    monkeypatch.setattr(submission_check, "MOST_MEMBERS", 20)
    many = packed({f"{number}.tsv": b"" for number in range(21)})
    assert "has 21 files, expected 11" in str(problems(many)["", "archive"])


def test_what_is_no_archive_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.zip does not exist"):
        check_archive(tmp_path / "none.zip")
    with pytest.raises(DataError, match="is a folder"):
        check_archive(tmp_path)


def test_every_kind_has_a_way_out_and_a_test() -> None:
    tested = {row[3] for row in DAMAGED} | {"archive", "damaged", "file twice", "encrypted", "too large"}
    assert tested == set(_CURES)
    assert submission.FILES is submission_check.FILES
