"""The report of a corpus."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console
from small_world import quiet, sentences
from transformers import PreTrainedTokenizerFast

from codir.runs import corpus as workflow


@pytest.fixture
def tokenizer(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> str:
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


def output_of(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_report_counts_and_explains(tmp_path: Path, tokenizer: str) -> None:
    rows = sentences(60, seed=0)
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in [*rows, {"review": ""}]))
    (tmp_path / "lines.txt").write_text("\n".join(row["review"] for row in rows))
    (tmp_path / "picture.txt").write_bytes(b"\0\0")
    console = quiet()
    inputs = [str(tmp_path / name) for name in ("rows.jsonl", "lines.txt", "picture.txt")]
    made = workflow.corpus(
        inputs,
        tokenizer,
        tmp_path / "corpus",
        block=16,
        text="review",
        validation=0.1,
        allow_skipped=0.5,
        workers=1,
        console=console,
    )
    printed = output_of(console)
    counts = made.manifest["counts"]
    assert counts["documents"] == 120
    for value in (
        counts["tokens"],
        counts["blocks"],
        counts["train"]["blocks"],
        counts["validation"]["documents"],
    ):
        assert f" {value:,} " in printed
    assert f"on average {counts['fill']:.1%} full" in printed
    assert "lines.txt: one document a line (--documents line)" in printed
    assert "picture.txt: line 1: a zero byte" in printed
    assert "Skipped 1 documents: empty" in printed
    assert "rows.jsonl, line 61: empty" in printed
    assert "tokens a second with 1 workers" in printed


def test_one_document_has_no_validation(tmp_path: Path, tokenizer: str) -> None:
    (tmp_path / "one.txt").write_text("a good film. a bad film.")
    console = quiet()
    workflow.corpus([str(tmp_path / "one.txt")], tokenizer, tmp_path / "corpus", block=16, workers=1, console=console)
    assert "No document is held out" in output_of(console)
    assert "Nothing was skipped." in output_of(console)


def test_lines_where_there_is_no_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    console = quiet()
    monkeypatch.setattr(workflow, "SECONDS_BETWEEN_LINES", 0.0)
    seen: list[tuple[int, int]] = []
    moved = workflow._with_lines(lambda done, in_all: seen.append((done, in_all)), console)
    moved(0, 4_000_000)
    moved(1_000_000, 4_000_000)
    assert seen == [(0, 4), (1, 4)]
    assert "1 of 4 MB of text" in output_of(console)
