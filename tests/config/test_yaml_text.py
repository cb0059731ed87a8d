"""YAML: the numbers people mean, the line of every key, and a way back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from codir.config.yaml_text import dump_yaml, read_value, read_yaml, read_yaml_file
from codir.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(
            ("1e-3", 1e-3),
            ("1E5", 1e5),
            ("-2.5e-1", -0.25),
            ("2.", 2.0),
            (".5", 0.5),
            ("10", 10),
            ("010", 10),
        ),
        *(("1:30", "1:30"), ("2024-01-01", "2024-01-01"), ("no", "no"), ("true", True), ("False", False)),
        *(("null", None), ("~", None), ("", None), ("'1e-3'", "1e-3"), ("'true'", "true"), ("e5", "e5")),
        *(("1e", "1e"), ("NA", "NA"), ("[1, x, 1e-2]", [1, "x", 0.01]), ("{a: 1e-2}", {"a": 0.01})),
        *(("a: b: c", "a: b: c"), ("C:\\data", "C:\\data")),
    ],
)
def test_scalars(text: str, value: Any) -> None:
    got = read_value(text)
    assert got == value
    assert type(got) is type(value)


def test_every_key_has_its_line() -> None:
    value, places = read_yaml("# top\na:\n  b: 1\n  c:\n    - 2\n    - 3\nd: x\n", "f.yaml")
    assert value == {"a": {"b": 1, "c": [2, 3]}, "d": "x"}
    assert places[("a", "b")] == "f.yaml, line 3"
    assert places[("a", "c", "1")] == "f.yaml, line 6"
    assert places[("d",)] == "f.yaml, line 7"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: [1\nc: 2\n", 3, "not valid YAML"),
        ("a: 1\n\tb: 2\n", 2, "not valid YAML"),
        ("a: 1\nb: 2\na: 3\n", 3, "second time"),
        ("a: 1\nb: !!python/object:os.system x\n", 2, "tag"),
        ("a: 1\nb: !mine x\n", 2, "tag"),
        ("a: &x [1, *x]\n", 1, "contains itself"),
        ("a: 1\n[b]: 1\n", 2, "must be a word"),
        ("a: 1\n--- \nb: 1\n", 2, "document"),
    ],
)
def test_bad_yaml_names_the_line(text: str, line: int, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"f\.yaml, line {line}:.*{words}"):
        read_yaml(text, "f.yaml")


def test_aliases_are_followed() -> None:
    assert read_yaml("a: &x {k: 1}\nb: *x\n", "f")[0] == {"a": {"k": 1}, "b": {"k": 1}}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: No such file"):
        read_yaml_file(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        read_yaml_file(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("a: 1\nb: café\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml, line 2: not UTF-8"):
        read_yaml_file(latin)
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_yaml_file(tmp_path / "bom.yaml")[0] == {"a": 1}


WRITTEN = [
    1e-5,
    1e22,
    -0.5,
    3,
    "1e-5",
    "no",
    "010",
    "true",
    "null",
    "",
    " x ",
    "ä: #",
    "a\nb",
    None,
    True,
    "1_000",
]


@pytest.mark.parametrize("value", [*WRITTEN, [1, "2"]])
def test_what_is_written_is_read_back(value: Any) -> None:
    text = dump_yaml({"key": value, "list": [value]})
    got = read_yaml(text, "f")[0]
    assert got == {"key": value, "list": [value]}
    assert type(got["key"]) is type(value)


@pytest.mark.parametrize("value", ["no", "010", "true", "1:30", "2024-01-01"])
def test_other_readers_of_yaml_see_text_as_text(value: str) -> None:
    assert yaml.safe_load(dump_yaml({"key": value})) == {"key": value}
