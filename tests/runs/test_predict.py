"""Prediction: order, values against a plain loop, formats, refusals, and whole files only."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from codir.errors import DataError, ModelError, RunError
from codir.runs import predict as module
from codir.runs.predict import predict

TEXTS = [
    "the cat sees a dog",
    "good",
    "NA",
    'he said "a, b"\tquick',
    "never a great song and it is not very long",
]


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_txt_in_order_against_a_plain_loop(tmp_path: Path, tiny_model_dir) -> None:
    folder = tiny_model_dir()
    (tmp_path / "in.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    out = io.StringIO()
    result = predict(
        folder, tmp_path / "in.txt", tmp_path / "out.jsonl", batch_size=2, console=Console(file=out)
    )
    rows = read(tmp_path / "out.jsonl")
    assert [row["text"] for row in rows] == TEXTS
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    for row in rows:
        with torch.no_grad():
            p = model(**tokenizer(row["text"], return_tensors="pt")).logits.softmax(-1)[0]
        assert row["scores"] == pytest.approx({"negative": p[0].item(), "positive": p[1].item()}, abs=1e-5)
        assert row["label"] == ["negative", "positive"][int(p.argmax())]
    assert result.rows == sum(result.counts.values()) == 5
    assert "5 predictions in" in out.getvalue()
    assert "Warning" not in out.getvalue()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.jsonl"]


def test_chunks_do_not_change_order_or_values(
    tmp_path: Path, tiny_model_dir, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, lines = tiny_model_dir(), [" ".join(TEXTS[0].split()[: 1 + i % 5]) + f" {i}" for i in range(23)]
    (tmp_path / "in.txt").write_text("\n".join(lines))
    predict(folder, tmp_path / "in.txt", tmp_path / "whole.jsonl", batch_size=4, quiet=True)
    monkeypatch.setattr(module, "_BATCHES_IN_CHUNK", 2)
    predict(folder, tmp_path / "in.txt", tmp_path / "parts.jsonl", batch_size=4, quiet=True)
    whole, parts = read(tmp_path / "whole.jsonl"), read(tmp_path / "parts.jsonl")
    assert [row["text"] for row in parts] == lines
    for a, b in zip(whole, parts, strict=True):
        assert a["scores"] == pytest.approx(b["scores"], abs=2e-6)


def test_columns_pairs_and_regression(tmp_path: Path, tiny_model_dir) -> None:
    folder = tiny_model_dir(regression=True)
    (tmp_path / "in.csv").write_text('id,q1,q2\n1,"a, cat",a dog\n2,the man,NA\n')
    predict(folder, tmp_path / "in.csv", tmp_path / "o.jsonl", text="q1", text_pair="q2", quiet=True)
    rows = read(tmp_path / "o.jsonl")
    assert [(row["text"], row["text_pair"]) for row in rows] == [("a, cat", "a dog"), ("the man", "NA")]
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    with torch.no_grad():
        expected = model(**tokenizer("a, cat", "a dog", return_tensors="pt")).logits.item()
    assert rows[0]["score"] == pytest.approx(expected, abs=1e-5)
    assert "label" not in rows[0]


@pytest.mark.parametrize("ending", ["tsv", "jsonl", "parquet"])
def test_other_formats(tmp_path: Path, ending: str, tiny_model_dir) -> None:
    path = tmp_path / f"in.{ending}"
    if ending == "tsv":
        path.write_text("text\tx\na cat\t1\nthe dog\t2\n")
    elif ending == "jsonl":
        path.write_text('{"text": "a cat"}\n{"text": "the dog"}\n')
    else:
        from datasets import Dataset

        Dataset.from_dict({"text": ["a cat", "the dog"]}).to_parquet(path)
    predict(tiny_model_dir(), path, tmp_path / "o.jsonl", quiet=True)
    assert [row["text"] for row in read(tmp_path / "o.jsonl")] == ["a cat", "the dog"]


def test_existing_output_is_refused_before_anything_is_loaded(tmp_path: Path, tiny_model_dir) -> None:
    (tmp_path / "in.txt").write_text("a cat\n")
    out = tmp_path / "o.jsonl"
    out.write_text("precious")
    with pytest.raises(RunError, match=r"o\.jsonl exists already.*--overwrite"):
        predict("no/such/model", tmp_path / "in.txt", out)
    with pytest.raises(RunError, match="is the input"):
        predict("no/such/model", tmp_path / "in.txt", tmp_path / "in.txt", overwrite=True)
    with pytest.raises(RunError, match="is a folder"):
        predict("no/such/model", tmp_path / "in.txt", tmp_path)
    assert out.read_text() == "precious"
    predict(tiny_model_dir(), tmp_path / "in.txt", out, overwrite=True, quiet=True)
    assert read(out)[0]["text"] == "a cat"


def test_bad_input_names_file_and_line(tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    (tmp_path / "gap.txt").write_text("a\n\nb\n")
    with pytest.raises(DataError, match=r"gap\.txt, line 2: the text.*empty"):
        predict("no/such/model", tmp_path / "gap.txt", out)
    (tmp_path / "a.csv").write_text("review\nx\n")
    with pytest.raises(DataError, match=r"no column 'text'.*'review'"):
        predict("no/such/model", tmp_path / "a.csv", out)
    (tmp_path / "latin.txt").write_bytes(b"good\ncaf\xe9\n")
    with pytest.raises(DataError, match="line 2"):
        predict("no/such/model", tmp_path / "latin.txt", out)
    assert not out.exists()


def test_long_texts_are_cut_and_counted_once(
    tmp_path: Path, tiny_model_dir, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_BATCHES_IN_CHUNK", 1)
    (tmp_path / "in.txt").write_text("\n".join(["dog " * 100, "a cat"] * 3))
    out = io.StringIO()
    console = Console(file=out, width=200)
    result = predict(
        tiny_model_dir(), tmp_path / "in.txt", tmp_path / "o.jsonl", batch_size=2, console=console
    )
    assert (result.truncated, result.max_length) == (3, 64)
    assert "Warning: 3 texts are longer than 64 tokens and were cut." in out.getvalue()
    assert "cut" not in caplog.text
    assert len(read(tmp_path / "o.jsonl")[0]["text"]) > 300  # the text itself is written whole


def test_failure_in_the_middle_leaves_nothing(
    tmp_path: Path, tiny_model_dir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BATCHES_IN_CHUNK", 1)
    (tmp_path / "in.txt").write_text("\n".join(["a cat"] * 6))
    real, calls = module.predict_logits, []

    def stopping(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(module, "predict_logits", stopping)
    with pytest.raises(KeyboardInterrupt):
        predict(tiny_model_dir(), tmp_path / "in.txt", tmp_path / "o.jsonl", batch_size=2, quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]


def test_nan_names_the_row(tmp_path: Path, tiny_classifier, tiny_tokenizer) -> None:
    model = tiny_classifier()
    word = tiny_tokenizer.convert_tokens_to_ids("dog")
    model.bert.embeddings.word_embeddings.weight.data[word] = float("nan")
    model.save_pretrained(tmp_path / "m")
    tiny_tokenizer.save_pretrained(tmp_path / "m")
    (tmp_path / "in.txt").write_text("a cat\na dog\n")
    with pytest.raises(ModelError, match=r"NaN or infinity for row 2 of .*in\.txt"):
        predict(tmp_path / "m", tmp_path / "in.txt", tmp_path / "o.jsonl", quiet=True)
    assert not (tmp_path / "o.jsonl").exists()
