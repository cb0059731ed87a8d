"""The paired tests against references written out plainly."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, matthews_corrcoef

from codir.measure.paired import holm, paired_test


def predictions(labels: np.ndarray, accuracy: float, seed: int, classes: int = 2) -> np.ndarray:
    draw = np.random.default_rng(seed)
    wrong = draw.random(len(labels)) > accuracy
    return np.where(wrong, (labels + draw.integers(1, classes, len(labels))) % classes, labels)


def test_mcnemar_against_the_binomial_sum() -> None:
    labels = np.zeros(20, dtype=int)
    first, second = labels.copy(), labels.copy()
    first[:8] = 1  # the second is right on 8 that the first gets wrong
    second[8:10] = 1  # and wrong on 2
    result = paired_test(labels, first, second, "accuracy")
    expected = 2 * sum(comb(10, k) for k in range(3)) / 2**10
    assert result.p_value == pytest.approx(expected)
    assert result.difference == pytest.approx(6 / 20)
    assert not result.significant
    assert result.in_words() == "McNemar exact test, p = 0.109, 20 examples"
    swapped = paired_test(labels, second, first, "accuracy")
    assert (swapped.difference, swapped.p_value) == (-result.difference, result.p_value)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("metric", ["f1", "macro_f1", "matthews"])
def test_bootstrap_difference_and_interval_against_resampled_examples(metric: str, classes: int) -> None:
    if metric == "f1" and classes > 2:
        pytest.skip("binary F1")
    labels = np.random.default_rng(0).integers(0, classes, 200)
    first, second = predictions(labels, 0.7, 1, classes), predictions(labels, 0.75, 2, classes)

    def value(true: np.ndarray, predicted: np.ndarray) -> float:
        if metric.startswith("matthews"):
            return float(matthews_corrcoef(true, predicted))
        return float(f1_score(true, predicted, average="macro" if metric == "macro_f1" else "binary"))

    result = paired_test(labels, first, second, metric)
    assert result.metric == metric
    assert result.difference == pytest.approx(value(labels, second) - value(labels, first))
    draw, differences = np.random.default_rng(9), []
    for _ in range(300):
        rows = draw.integers(0, 200, 200)
        differences.append(value(labels[rows], second[rows]) - value(labels[rows], first[rows]))
    low, high = np.quantile(differences, [0.025, 0.975])
    assert result.low == pytest.approx(low, abs=0.04)
    assert result.high == pytest.approx(high, abs=0.04)


@pytest.mark.parametrize("metric", ["pearson", "spearman", "pearson_spearman"])
def test_correlations(metric: str) -> None:
    draw = np.random.default_rng(0)
    labels = draw.normal(size=300)
    good, bad = labels + draw.normal(size=300) * 0.3, labels + draw.normal(size=300) * 1.5
    result = paired_test(labels, bad, good, metric)
    pearson, spearman = (
        float(function(labels, good).statistic) - float(function(labels, bad).statistic)  # type: ignore[attr-defined]
        for function in (stats.pearsonr, stats.spearmanr)
    )
    expected = {"pearson": pearson, "spearman": spearman, "pearson_spearman": (pearson + spearman) / 2}[metric]
    assert result.difference == pytest.approx(expected)
    assert result.p_value < 0.001
    assert result.low is not None
    assert result.low > 0


@pytest.mark.parametrize("metric", ["accuracy", "matthews", "pearson_spearman"])
def test_means_of_several_seeds_against_resampled_examples(metric: str) -> None:
    draw = np.random.default_rng(0)
    if metric == "pearson_spearman":
        labels = draw.normal(size=200)
        first, second = (
            [labels + draw.normal(size=200) * noise for noise in noises] for noises in ((0.8, 1.0), (0.7, 0.9, 0.8))
        )

        def value(true: np.ndarray, predicted: np.ndarray) -> float:
            return (stats.pearsonr(true, predicted)[0] + stats.spearmanr(true, predicted)[0]) / 2  # type: ignore[operator]
    else:
        labels = draw.integers(0, 2, 200)
        first = [predictions(labels, accuracy, seed) for seed, accuracy in enumerate((0.7, 0.75))]
        second = [predictions(labels, accuracy, 9 + seed) for seed, accuracy in enumerate((0.8, 0.7, 0.75))]

        def value(true: np.ndarray, predicted: np.ndarray) -> float:
            return float(np.mean(true == predicted) if metric == "accuracy" else matthews_corrcoef(true, predicted))

    def difference(rows: np.ndarray) -> float:
        one, two = ([value(labels[rows], each[rows]) for each in models] for models in (first, second))
        return sum(two) / 3 - sum(one) / 2

    result = paired_test(labels, np.stack(first), np.stack(second), metric)
    assert (result.test, result.metric) == ("paired bootstrap", metric)
    assert result.difference == pytest.approx(difference(np.arange(200)))
    differences = [difference(draw.integers(0, 200, 200)) for _ in range(300)]
    low, high = np.quantile(differences, [0.025, 0.975])
    assert result.low == pytest.approx(low, abs=0.03)
    assert result.high == pytest.approx(high, abs=0.03)


def test_seeds_that_pull_apart_are_no_difference() -> None:
    """One seed much worse and one a little more than that better: the means differ by less than chance explains."""
    labels = np.random.default_rng(0).integers(0, 2, 200)
    low, middle, high = (labels ^ (np.arange(200) < wrong) for wrong in (62, 40, 16))
    result = paired_test(labels, np.stack([middle, middle]), np.stack([low, high]), "accuracy")
    assert result.difference == pytest.approx(0.005)
    assert not result.significant
    assert paired_test(labels, middle, low, "accuracy").significant


def test_noise_is_called_noise_about_as_often_as_promised() -> None:
    """Under the null (two models of one accuracy) p < 0.05 may come in about 5 % of draws, not much more."""
    labels = np.random.default_rng(0).integers(0, 2, 300)
    for metric in ("accuracy", "matthews"):
        pairs = ((predictions(labels, 0.75, s), predictions(labels, 0.75, 1000 + s)) for s in range(60))
        false = sum(paired_test(labels, a, b, metric).significant for a, b in pairs)
        assert false <= 8


def test_degenerate_inputs() -> None:
    labels = np.array([0, 1, 1, 0])
    constant = np.ones(4, dtype=int)
    assert paired_test(labels, constant, constant, "matthews").p_value == 1.0
    scores = np.array([1.0, 2.0, 3.0, 4.0])
    # a constant prediction has no correlation: 0.0, as in the table, so the difference is 1
    assert paired_test(scores, np.zeros(4), scores, "pearson").difference == pytest.approx(1.0)
    assert paired_test(scores, np.zeros(4), np.ones(4), "spearman").p_value == 1.0
    nothing = np.zeros(4, dtype=int)
    assert paired_test(nothing, nothing, nothing, "f1").difference == 0.0
    assert paired_test(scores, scores, scores, "mse").metric == "pearson"
    gap = np.array([0, 2, 2, 0])  # class 1 neither occurs nor is predicted: it is no part of the mean
    wrong = np.array([2, 2, 2, 0])
    expected = 1 - f1_score(gap, wrong, average="macro")
    assert paired_test(gap, wrong, gap, "macro_f1").difference == pytest.approx(expected)
    with pytest.raises(ValueError, match="alike"):
        paired_test(labels, constant[:3], constant, "accuracy")


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([None, 0.02, None, 0.03]) == [None, pytest.approx(0.04), None, pytest.approx(0.04)]
