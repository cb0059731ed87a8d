"""Inputs: what is found, what is skipped and why, how documents are told apart, how work is divided."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from codir.corpora.documents import Bad, End, place, read_documents
from codir.corpora.planning import Part, plan_shards
from codir.corpora.scanning import decide_documents, scan
from codir.corpora.sources import Source, find_sources
from codir.errors import ConfigError, DataError

WRAPPED = (
    "It was the best of times, it was the worst of\n"
    "times, it was the age of wisdom. It was\nthe age of foolishness.\n"
)
WIKITEXT = (
    " \n = Robert = \n \n Robert is . \n He was . \n \n = = Career = = \n \n In 2000 . \n"
    " \n = Du Fu = \n Poet . \n"
)


def found(path: Path, text: str = "text", documents: str = "auto") -> Source:
    (source,) = find_sources([str(path)], text, path.parent / "scratch")
    return scan(source, text, documents)


def texts(source: Source, part: Part | None = None, text: str = "text") -> list[str]:
    """Returns the documents of a source, white space collapsed."""
    made, held = [], []
    for event in read_documents(source, part or Part(0, 0, source.bytes), text):
        if isinstance(event, str):
            held.append(event)
        elif isinstance(event, End):
            made.append(" ".join("".join(held).split()))
            held = []
    assert not held
    return made


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# --- finding ---------------------------------------------------------------------------------------------------------


def test_folders_patterns_and_files_each_once(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "deep/c.jsonl", "deep/d.parquet", "picture.png", ".hidden/e.txt"):
        write(tmp_path / name, "x")
    sources = find_sources(
        [str(tmp_path / "b.txt"), str(tmp_path), str(tmp_path / "*.txt")], "text", tmp_path / "s"
    )
    assert [Path(source.path).name for source in sources] == ["b.txt", "a.txt", "c.jsonl", "d.parquet"]
    assert [source.kind for source in sources] == ["text", "text", "jsonl", "parquet"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("artcles.txt", "did you mean 'articles.txt'"),
        ("*.md", "No file fits the pattern"),
        ("table.csv", "cannot be read from '.csv'"),
        ("empty", "holds no text"),
    ],
)
def test_inputs_that_cannot_be(tmp_path: Path, name: str, message: str) -> None:
    write(tmp_path / "articles.txt", "x")
    write(tmp_path / "table.csv", "x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        find_sources([str(tmp_path / name)], "text", tmp_path / "s")


def test_no_input() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        find_sources([], "text", Path("s"))


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("org/name", ("org/name", None, "train")),
        ("org/name:test", ("org/name", None, "test")),
        ("org/name:20231101.en:train", ("org/name", "20231101.en", "train")),
    ],
)
def test_a_hub_data_set(tmp_path: Path, name: str, called: Any) -> None:
    Dataset.from_dict({"text": ["One.", "Two."], "id": [1, 2]}).save_to_disk(tmp_path / "cached")
    calls = []

    def load(repository: str, config: str | None, split: str) -> Dataset:
        calls.append((repository, config, split))
        return Dataset.load_from_disk(tmp_path / "cached")

    (source,) = find_sources([name], "text", tmp_path / "scratch", load)
    assert calls == [called]
    assert texts(scan(source, "text", "auto"), Part(0, 0, 2)) == ["One.", "Two."]
    assert not (tmp_path / "scratch").exists()  # the files of the cache are read as they are


def test_a_selection_of_a_hub_data_set_is_not_the_whole_file(tmp_path: Path) -> None:
    Dataset.from_dict({"text": ["One.", "Two.", "Three."]}).save_to_disk(tmp_path / "cached")

    def load(repository: str, config: str | None, split: str) -> Dataset:
        return Dataset.load_from_disk(tmp_path / "cached").select([2, 0])

    (source,) = find_sources(["org/name"], "text", tmp_path / "scratch", load)
    assert texts(scan(source, "text", "auto"), Part(0, 0, 2)) == ["Three.", "One."]


def test_a_hub_data_set_in_memory_without_the_column(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'txt' .did you mean 'text'"):
        find_sources(["org/name"], "txt", tmp_path, lambda *_, **__: Dataset.from_dict({"text": ["a"]}))


def test_the_hub_cannot_be_reached(tmp_path: Path) -> None:
    def load(*_: Any, **__: Any) -> Dataset:
        raise ConnectionError("offline")

    with pytest.raises(DataError, match="neither a file here nor could its split 'train' be loaded"):
        find_sources(["org/name"], "text", tmp_path, load)


def test_a_folder_saved_by_datasets(tmp_path: Path) -> None:
    Dataset.from_dict({"text": ["One.", "Two."]}).save_to_disk(tmp_path / "saved")
    assert texts(found(tmp_path / "saved"), Part(0, 0, 2)) == ["One.", "Two."]


# --- looking over ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"GIF89a\0\1\2", "binary .a zero byte at 6."),
        ("naïve".encode("latin-1") * 3, r"not UTF-8 .byte 0xef at 2."),
        ("text".encode("utf-16"), "UTF-16"),
        (b"fine \xe2\x82", "not UTF-8"),
        (b"x" * (1 << 22) + b"\xff", r"not UTF-8 .byte 0xff at 4,194,304."),
    ],
)
def test_files_that_are_no_text(tmp_path: Path, content: bytes, reason: str) -> None:
    source = found(write(tmp_path / "file.txt", content))
    assert source.skipped is not None
    assert re.match(reason, source.skipped), source.skipped


def test_a_character_across_two_reads_is_fine(tmp_path: Path) -> None:
    path = write(tmp_path / "file.txt", b"x" * ((1 << 22) - 1) + "é".encode() + b" end.\n")
    source = found(path, documents="line")
    assert source.skipped is None
    assert texts(source)[0].endswith("é end.")


@pytest.mark.parametrize(
    ("sample", "mode"),
    [
        ("A first article. It is long.\nA second one.\nA third.\n", "line"),
        ("A first article. It is long.\n\nA second one.\n\nA third.\n\n", "line"),
        ("A sentence.\nAnother one.\n\nNew document.\nIts second sentence.\n", "blank"),
        ((WRAPPED + "\n") * 9, "file"),
        (WRAPPED * 9, "file"),
        (WIKITEXT, "heading"),
        ("only one line", "line"),
        ("\n \n\n", "line"),
        ("", "line"),
        ("short\na title without a stop\nwords of any length here\na\n" * 9, "line"),
    ],
)
def test_auto(sample: str, mode: str) -> None:
    assert decide_documents(sample) == mode


@pytest.mark.parametrize(
    ("mode", "content", "expected"),
    [
        ("line", "One.\n\n  \nTwo.\r\nThree.", ["One.", "Two.", "Three."]),
        ("blank", "\n\nA.\nB.\n \t\n\nC.\n", ["A. B.", "C."]),
        ("file", "A.\n\nB.\n", ["A. B."]),
        (
            "heading",
            WIKITEXT,
            ["= Robert = Robert is . He was . = = Career = = In 2000 .", "= Du Fu = Poet ."],
        ),
        ("line", "\ufeffOne.\n", ["One."]),
    ],
)
def test_documents_of_text(tmp_path: Path, mode: str, content: str, expected: list[str]) -> None:
    assert texts(found(write(tmp_path / "file.txt", content), documents=mode)) == expected


def test_documents_of_json_lines(tmp_path: Path) -> None:
    rows: list[Any] = [{"text": "One."}, {"text": " "}, {"text": None}, {"other": 1}, {"text": 3}, [1]]
    lines = [json.dumps(row) for row in rows] + [
        '{"text": "bad',
        '{"text": "\\ud800"}',
        "",
        '{"text": "Two."}',
    ]
    source = found(write(tmp_path / "file.jsonl", "\n".join(lines)))
    part = Part(0, 0, source.bytes)
    assert texts(source) == ["One.", "Two."]
    bad = [event for event in read_documents(source, part, "text") if isinstance(event, Bad)]
    assert [event.reason for event in bad] == [
        "empty",
        "no text",
        "no text",
        "not a text",
        "not a JSON object",
        "not valid JSON",
        "not valid Unicode",
    ]
    assert place(source, part, bad[-1].row).endswith("file.jsonl, line 8")
    second = len(lines[0]) + 1
    assert place(source, Part(0, second, source.bytes), 0).endswith("line 2")


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "arrow"])
def test_a_missing_column(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"file.{kind}"
    if kind == "jsonl":
        write(path, '{"texts": "a"}\n')
    elif kind == "parquet":
        pq.write_table(pa.table({"texts": ["a"]}), path)
    else:
        path = tmp_path / "saved"
        Dataset.from_dict({"texts": ["a"]}).save_to_disk(path)
    with pytest.raises(DataError, match=r"no column 'text' .did you mean 'texts'.*--text"):
        found(path)


def test_a_column_that_is_no_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "file.parquet")
    with pytest.raises(DataError, match="holds int64, not text"):
        found(tmp_path / "file.parquet")


def test_a_damaged_parquet_file_is_skipped(tmp_path: Path) -> None:
    source = found(write(tmp_path / "file.parquet", b"PAR1 no"))
    assert source.skipped is not None
    assert "Parquet" in source.skipped


# --- planning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shard_bytes", [1, 7, 50, 300, 10_000])
@pytest.mark.parametrize("kind", ["line", "blank", "heading", "file", "jsonl", "parquet", "arrow"])
def test_shards_hold_every_document_once_and_whole(tmp_path: Path, kind: str, shard_bytes: int) -> None:
    documents = [f"Document {number} begins é. " + "More of it. " * (number % 5) for number in range(40)]
    path = tmp_path / "file.txt"
    if kind == "line":
        write(path, "\n".join(documents))
    elif kind == "blank":
        write(path, "\n\n\n".join(document.replace(". ", ".\n").strip() for document in documents))
    elif kind == "heading":
        write(
            path,
            "".join(f" = {number} = \n \n = = X = = \n{text} \n" for number, text in enumerate(documents)),
        )
    elif kind == "file":
        write(path, "\n".join(documents))
    elif kind == "jsonl":
        path = write(tmp_path / "file.jsonl", "\n".join(json.dumps({"text": text}) for text in documents))
    elif kind == "parquet":
        path = tmp_path / "file.parquet"
        pq.write_table(pa.table({"text": documents, "id": list(range(40))}), path, row_group_size=3)
    else:
        path = tmp_path / "saved"
        Dataset.from_dict({"text": documents}).save_to_disk(path)
    source = found(path, documents=kind if kind in ("line", "blank", "heading", "file") else "auto")
    everything = {"parquet": 14, "arrow": 40}.get(kind, source.bytes)
    whole = texts(source, Part(0, 0, everything))
    assert len(whole) == (1 if kind == "file" else 40)
    shards = list(plan_shards([source], "text", shard_bytes))
    parts = [part for _, shard in shards for part in shard]
    assert parts[0].begin == 0
    assert parts[-1].end == everything
    assert [text for part in parts for text in texts(source, part)] == whole
    if kind in ("line", "jsonl") and shard_bytes == 50:
        assert len(shards) > 10


def test_small_files_share_a_shard(tmp_path: Path) -> None:
    sources = [found(write(tmp_path / f"{number}.txt", "One document.\n")) for number in range(10)]
    sources[3].skipped = "binary"
    shards = [[part.source for part in parts] for _, parts in plan_shards(sources, "text", 28)]
    assert shards == [[0, 1], [2, 4], [5, 6], [7, 8], [9]]
