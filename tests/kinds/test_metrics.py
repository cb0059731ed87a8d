from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from codir.errors import ConfigError, DataError, TrainingDivergedError
from codir.kinds import kind_named
from codir.kinds.metrics import compute_metrics, constant_score, metric

CLASSES, SCORES = kind_named("classification"), kind_named("regression")
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 50)
LOGITS = RNG.normal(size=(50, 3)) + 1.5 * np.eye(3)[LABELS]


def test_multi_class_against_plain_loops():
    guesses = [max(range(3), key=lambda c: row[c]) for row in LOGITS]
    pairs = list(zip(guesses, LABELS.tolist(), strict=True))
    f1s = []
    for c in range(3):
        true = sum(g == c == y for g, y in pairs)
        f1s.append(2 * true / (sum(g == c for g, _ in pairs) + sum(y == c for _, y in pairs)))
    found = compute_metrics(CLASSES, ["accuracy", "macro_f1"], torch.tensor(LOGITS), torch.tensor(LABELS))
    assert found["accuracy"] == pytest.approx(sum(g == y for g, y in pairs) / 50)
    assert found["macro_f1"] == pytest.approx(sum(f1s) / 3)
    assert list(found) == ["accuracy", "macro_f1"]


def test_binary_f1_and_matthews_against_their_formulas():
    labels = (LABELS > 0).astype(int)
    logits = LOGITS[:, :2]
    guesses = (logits[:, 1] > logits[:, 0]).astype(int)
    tp, fp = int(sum(guesses & labels)), int(sum(guesses & ~labels & 1))
    fn, tn = int(sum(~guesses & 1 & labels)), int(sum((guesses == 0) & (labels == 0)))
    found = compute_metrics(CLASSES, ["f1", "matthews"], logits, labels)
    assert found["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    root = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert found["matthews"] == pytest.approx((tp * tn - fp * fn) / root)


def test_regression_against_their_formulas():
    truth = RNG.normal(size=20)
    scores = (truth + RNG.normal(size=20))[:, None]
    found = compute_metrics(SCORES, ["pearson", "spearman", "pearson_spearman", "mse"], scores, truth)
    x, y = scores[:, 0] - scores.mean(), truth - truth.mean()
    assert found["pearson"] == pytest.approx((x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum()))
    ranks = [np.argsort(np.argsort(v)) for v in (x, y)]
    assert found["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert found["pearson_spearman"] == pytest.approx((found["pearson"] + found["spearman"]) / 2)
    assert found["mse"] == pytest.approx(((scores[:, 0] - truth) ** 2).mean())


def test_bfloat16_logits_are_taken():
    logits = torch.tensor(LOGITS).to(torch.bfloat16)
    assert compute_metrics(CLASSES, ["accuracy"], logits, LABELS)["accuracy"] > 0.5


@pytest.mark.parametrize("name", ["pearson", "spearman", "pearson_spearman"])
def test_constant_scores_give_zero_and_a_warning(name, caplog):
    assert compute_metrics(SCORES, [name], np.ones((5, 1)), np.arange(5.0)) == {name: 0.0}
    assert "no value" in caplog.text


@pytest.mark.parametrize("name", ["f1", "matthews"])
def test_a_constant_class_gives_zero(name):
    assert compute_metrics(CLASSES, [name], np.array([[1.0, 0.0]] * 4), np.array([0, 1, 0, 1])) == {name: 0.0}


def test_errors():
    with pytest.raises(ConfigError, match=r"no metric 'acuracy' \(did you mean 'accuracy'\?\)"):
        compute_metrics(CLASSES, ["acuracy"], LOGITS, LABELS)
    with pytest.raises(ConfigError, match="for two classes"):
        compute_metrics(CLASSES, ["f1"], LOGITS, LABELS)
    with pytest.raises(ConfigError, match="is for regression, and this is classification: choose from accuracy"):
        compute_metrics(CLASSES, ["mse"], LOGITS, LABELS)
    with pytest.raises(ConfigError, match="is for classification, and this is regression"):
        compute_metrics(SCORES, ["accuracy"], LOGITS[:, :1], LABELS)
    with pytest.raises(DataError, match="no examples"):
        compute_metrics(CLASSES, ["accuracy"], np.zeros((0, 2)), [])
    with pytest.raises(DataError, match="do not fit 49 labels"):
        compute_metrics(CLASSES, ["accuracy"], LOGITS, LABELS[:49])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_an_error(bad):
    logits = LOGITS.copy()
    logits[7, 1] = bad
    with pytest.raises(TrainingDivergedError, match=r"1 of 50 examples \(the first is number 7\)"):
        compute_metrics(CLASSES, ["accuracy"], logits, LABELS)


def test_registry():
    assert metric("mse")[1].greater_is_better is False
    others = {name: entry for kind in (CLASSES, SCORES) for name, entry in kind.metrics.items() if name != "mse"}
    assert all(entry.greater_is_better for entry in others.values())


def test_the_score_of_one_answer_for_everything():
    labels = np.array([1, 1, 1, 0])
    assert constant_score("accuracy", labels) == 0.75
    assert constant_score("f1", labels) == pytest.approx(2 * 0.75 / 1.75)
    assert constant_score("f1", 1 - labels) == pytest.approx(2 * 0.25 / 1.25)
    assert constant_score("matthews", labels) == 0.0
    assert constant_score("pearson_spearman", labels) is None
    assert constant_score("accuracy", labels[:0]) is None


def test_agreement() -> None:
    assert CLASSES.agreement(np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0])) == 0.75
    a, b = np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 2.0])
    by_hand = ((a - a.mean()) * (b - b.mean())).sum() / np.sqrt(
        ((a - a.mean()) ** 2).sum() * ((b - b.mean()) ** 2).sum()
    )
    assert SCORES.agreement(a, b) == pytest.approx(by_hand)
    assert np.isnan(SCORES.agreement(np.ones(3), b))
