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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_classifier, tiny_tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_classifier().save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def logits(folder: Path, *texts: str) -> torch.Tensor:
    """Returns what the model gives for one text, or one pair, without padding."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**AutoTokenizer.from_pretrained(folder)(*texts, return_tensors="pt")).logits[0]


def test_txt_in_order_against_a_plain_loop(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    out = io.StringIO()
    result = predict(folder, tmp_path / "in.txt", tmp_path / "out.jsonl", batch_size=2, console=Console(file=out))
    rows = read(tmp_path / "out.jsonl")
    assert [row["text"] for row in rows] == TEXTS
    for row in rows:
        p = logits(folder, row["text"]).softmax(-1)
        assert row["scores"] == pytest.approx({"negative": p[0].item(), "positive": p[1].item()}, abs=1e-5)
        assert row["label"] == ["negative", "positive"][int(p.argmax())]
    assert result.rows == sum(result.counts.values()) == 5
    assert "5 predictions in" in out.getvalue()
    assert "Warning" not in out.getvalue()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.jsonl"]
    monkeypatch.setattr(module, "_BATCHES_IN_CHUNK", 2)  # chunks change neither order nor values
    predict(folder, tmp_path / "in.txt", tmp_path / "parts.jsonl", batch_size=1, quiet=True)
    for whole, part in zip(rows, read(tmp_path / "parts.jsonl"), strict=True):
        assert part["text"] == whole["text"]
        assert part["scores"] == pytest.approx(whole["scores"], abs=2e-6)


def test_columns_pairs_and_regression(tmp_path: Path, tiny_model_dir) -> None:
    folder = tiny_model_dir(regression=True)
    (tmp_path / "in.csv").write_text('id,q1,q2\n1,"a, cat",a dog\n2,the man,NA\n')
    predict(folder, tmp_path / "in.csv", tmp_path / "o.jsonl", text="q1", text_pair="q2", quiet=True)
    rows = read(tmp_path / "o.jsonl")
    assert [(row["text"], row["text_pair"]) for row in rows] == [("a, cat", "a dog"), ("the man", "NA")]
    assert rows[0]["score"] == pytest.approx(logits(folder, "a, cat", "a dog").item(), abs=1e-5)
    assert "label" not in rows[0]


def test_existing_output_is_refused_before_anything_is_loaded(tmp_path: Path, folder: Path) -> None:
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
    predict(folder, tmp_path / "in.txt", out, overwrite=True, quiet=True)
    assert read(out)[0]["text"] == "a cat"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gap.txt", b"a\n\nb\n", r"gap\.txt, line 2: the text.*empty"),
        ("a.csv", b"review\nx\n", r"no column 'text'.*'review'"),
        ("latin.txt", b"good\ncaf\xe9\n", "line 2"),
    ],
)
def test_bad_input_names_file_and_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        predict("no/such/model", tmp_path / name, tmp_path / "o.jsonl")
    assert not (tmp_path / "o.jsonl").exists()


def test_long_texts_are_cut_and_counted_once(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_BATCHES_IN_CHUNK", 1)
    (tmp_path / "in.txt").write_text("\n".join(["dog " * 100, "a cat"] * 3))
    console = Console(file=io.StringIO(), width=200)
    result = predict(folder, tmp_path / "in.txt", tmp_path / "o.jsonl", batch_size=2, console=console)
    assert (result.truncated, result.max_length) == (3, 64)
    assert "Warning: 3 texts are longer than 64 tokens and were cut." in console.file.getvalue()  # type: ignore[attr-defined]
    assert "cut" not in caplog.text
    assert len(read(tmp_path / "o.jsonl")[0]["text"]) > 300  # the text itself is written whole


def test_failure_in_the_middle_leaves_nothing(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        predict(folder, tmp_path / "in.txt", tmp_path / "o.jsonl", batch_size=2, quiet=True)
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
