"""A file of hundreds of thousands of rows is read by columns; its faults still name their line."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from fault_world import refused

ROWS = 300_000


@pytest.fixture(scope="module", params=["plain", "quoted"])
def rows(request: pytest.FixtureRequest) -> list[str]:
    """Returns the lines of a large file, without or with quotation marks in its texts."""
    text = {"plain": "a good film {}", "quoted": '"a ""good"", long\nfilm {}"'}[request.param]
    return ["text,label", *(f"{text.format(number)},{'ab'[number % 2]}" for number in range(ROWS))]


def said_of(path: Path, lines: list[str], output: Path) -> tuple[str, float]:
    """Returns what a fine-tuning says that reads 200 rows of a file, and the seconds of CPU that it took."""
    path.write_text("\n".join(lines) + "\n", newline="")
    started = time.process_time()
    start = ("--model", output.with_name("missing"), "--limit-train", 200, "--output", output)
    message = refused("finetune", *start, "--train", path, leaves_nothing=output)
    return message, time.process_time() - started


def test_the_first_to_import(tmp_path: Path) -> None:
    said_of(tmp_path / "a.csv", ["text,label", *[f"a {n},{n % 2}" for n in range(20)]], tmp_path / "run")


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_seconds(ending: str, rows: list[str], tmp_path: Path) -> None:
    if ending == "tsv":
        rows = [row.replace("\n", " ").replace(", ", " ").replace(",", "\t") for row in rows]
    message, seconds = said_of(tmp_path / f"a.{ending}", rows, tmp_path / "run")
    assert "missing does not exist" in message  # the model: the data were read without a word
    assert seconds < 3.5, seconds  # by rows it was 7


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("one,two,three", "3 fields, but the header has 2 columns"),
        ('"open,a', "the record that starts here is not well-formed CSV"),
        (" ,a", "the text in column 'text' is empty"),
        ("text,", "the label in column 'label' is missing"),
    ],
)
def test_the_line_of_a_fault(row: str, words: str, rows: list[str], tmp_path: Path) -> None:
    few = rows[:20_000]
    path = tmp_path / "a.csv"
    message, _ = said_of(path, [*few, "", row, "more,b"], tmp_path / "run")
    line = sum(1 + each.count("\n") for each in few) + 2
    assert f"{path}, line {line}: " in message
    assert words in message
