"""Evaluation: values against a plain loop, classes matched by name, every split, what is printed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from codir.config.config import DataConfig
from codir.data.task import Task, TaskData, make_split
from codir.errors import DataError, ModelError
from codir.runs.evaluate import evaluate, evaluate_model

TEXTS = ["the cat sees a dog", "a bad film", "good good book", "he hates it", "never a great song", "we saw"]


@pytest.fixture
def dev(tmp_path: Path) -> Path:
    path = tmp_path / "dev.csv"
    labels = ["positive", "negative", "positive", "negative", "positive", "negative"]
    path.write_text("text,label\n" + "".join(f"{t},{y}\n" for t, y in zip(TEXTS, labels, strict=True)))
    return path


def naive(folder: Path) -> np.ndarray:
    """One text at a time, no padding."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return np.stack([model(**tokenizer(text, return_tensors="pt")).logits[0].numpy() for text in TEXTS])


def test_against_a_plain_loop(dev: Path, tiny_model_dir) -> None:
    folder = tiny_model_dir()
    out = io.StringIO()
    result = evaluate(folder, DataConfig(validation=str(dev)), batch_size=4, console=Console(file=out, width=100))
    logits = naive(folder)
    np.testing.assert_allclose(result.logits["validation"], logits, atol=1e-5)
    expected = float(np.mean(logits.argmax(1) == np.array([1, 0, 1, 0, 1, 0])))
    assert result.metrics["validation"]["accuracy"] == pytest.approx(expected)
    assert result.score == result.metrics["validation"][result.task.main_metric]
    assert f"{expected:.4f}" in out.getvalue()
    assert "validation" in out.getvalue()
    assert result.predictions().tolist() == logits.argmax(1).tolist()


def test_classes_are_matched_by_name_not_by_number(dev: Path, tiny_model_dir, tiny_classifier, tiny_tokenizer) -> None:
    """The same weights with the names swapped must get the opposite accuracy, and the data's own order stays."""
    one = evaluate(tiny_model_dir(), DataConfig(validation=str(dev)), quiet=True)
    other = evaluate(tiny_model_dir(labels=("positive", "negative")), DataConfig(validation=str(dev)), quiet=True)
    assert one.metrics["validation"]["accuracy"] == pytest.approx(1 - other.metrics["validation"]["accuracy"])

    task = Task("t", "classification", ("text",), "label", ("positive", "negative"), ("accuracy",), "accuracy")
    data = TaskData(task, None, {"v": make_split("classification", TEXTS, None, [0, 1, 0, 1, 0, 1])})
    # the model's classes: negative, positive
    turned = evaluate_model(tiny_classifier(), tiny_tokenizer, data)
    np.testing.assert_allclose(turned.logits["v"], one.logits["validation"][:, ::-1], atol=1e-5)
    assert turned.score == one.score


def test_other_and_missing_class_names(dev: Path, tmp_path: Path, tiny_model_dir) -> None:
    with pytest.raises(DataError, match="'positive'"):
        evaluate(tiny_model_dir(labels=("good", "bad")), DataConfig(validation=str(dev)), quiet=True)
    with pytest.raises(ModelError, match="no/such/model"):
        evaluate("no/such/model", DataConfig(task="acceptability"), quiet=True)
    path = tmp_path / "numbers.csv"
    path.write_text("text,label\n" + "".join(f"{t},{i % 2}\n" for i, t in enumerate(TEXTS)))
    folder = tiny_model_dir(labels=("LABEL_0", "LABEL_1"))
    result = evaluate(folder, DataConfig(validation=str(path)), quiet=True)
    expected = float(np.mean(naive(folder).argmax(1) == np.arange(6) % 2))
    assert result.metrics["validation"]["accuracy"] == pytest.approx(expected)


def test_regression_and_its_mismatch(tmp_path: Path, dev: Path, tiny_model_dir) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("text,label\n" + "".join(f"{t},{i * 0.5}\n" for i, t in enumerate(TEXTS)))
    folder = tiny_model_dir(regression=True)
    result = evaluate(folder, DataConfig(validation=str(path)), quiet=True)
    scores = naive(folder)[:, 0]
    np.testing.assert_allclose(result.predictions(), scores, atol=1e-5)
    assert result.metrics["validation"]["pearson"] == pytest.approx(np.corrcoef(scores, np.arange(6))[0, 1], abs=1e-4)
    with pytest.raises(ModelError, match="one"):
        evaluate(tiny_model_dir(), DataConfig(validation=str(path), kind="regression"), quiet=True)


def test_several_splits_and_truncation(tiny_classifier, tiny_tokenizer) -> None:
    task = Task("t", "classification", ("text",), "label", ("negative", "positive"), ("accuracy",), "accuracy")
    long = ["dog " * 100, "a cat"]
    splits = {name: make_split("classification", long, None, [0, 1]) for name in ("matched", "mismatched")}
    model = tiny_classifier().train()
    result = evaluate_model(model, tiny_tokenizer, TaskData(task, None, splits, ["a note"]), max_length=128)
    assert model.training
    assert result.truncated == {"matched": 1, "mismatched": 1}
    assert result.max_length == 64
    assert set(result.flat_metrics()) == {"accuracy", "mismatched/accuracy"}
    assert (result.main_split, result.notes) == ("matched", ["a note"])
