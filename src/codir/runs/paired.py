"""Paired tests of two models on the same examples: is the difference more than chance on these examples explains?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

_RESAMPLES = 2000
_LEVEL = 0.05


@dataclass(frozen=True)
class PairedTest:
    """Outcome of a paired, two-sided test of two models, or of the means of several seeds of each.

    It speaks of the examples drawn, not of the seeds: another seed trains other models.

    Attributes:
        test: `McNemar exact` or `paired bootstrap`.
        metric: what was compared.
        difference: metric of the second model minus that of the first; of several seeds the means.
        p_value: two-sided.
        low, high: 95 % interval of the difference (bootstrap), None for McNemar.
        examples: number of paired examples.
    """

    test: str
    metric: str
    difference: float
    p_value: float
    low: float | None
    high: float | None
    examples: int

    @property
    def significant(self) -> bool:
        """Whether p is below 0.05."""
        return self.p_value < _LEVEL

    def in_words(self) -> str:
        """Returns, for example, `McNemar exact test, p = 0.21, 408 examples`."""
        p = "p < 0.001" if self.p_value < 0.001 else f"p = {self.p_value:.3f}"
        return f"{self.test} test, {p}, {self.examples} examples"


def paired_test(
    labels: np.ndarray, first: np.ndarray, second: np.ndarray, metric: str, seed: int = 0
) -> PairedTest:
    """Compares two models' predictions for the same examples, or the mean metrics of several seeds of each.

    Accuracy of two models is tested exactly (McNemar 1947, binomial on the examples that one model gets right and the
    other wrong). F1, Matthews' and the two correlations are no sums over examples, and a mean over seeds has examples
    that are right in part: paired bootstrap over the examples (Efron and Tibshirani 1993). A metric that is not known
    is tested as accuracy or Pearson's correlation, and `PairedTest.metric` says so.

    Args:
        labels: [n] class ids, or scores (float: regression).
        first: [n] predictions of the first model, or [S, n] of its seeds.
        second: likewise of the second; the number of seeds may be another one.
        metric: name of the metric; recognised by `matthews`, `macro`, `f1`, `pearson`, `spearman` in it.
        seed: of the bootstrap.
    """
    labels, first, second = np.asarray(labels), np.atleast_2d(first), np.atleast_2d(second)
    if labels.ndim != 1 or not len(labels) or {first.shape[1:], second.shape[1:]} != {labels.shape}:
        raise ValueError(
            f"labels {labels.shape}, first {first.shape}, second {second.shape} must be [n] or [S, n] alike, n > 0"
        )
    if np.issubdtype(labels.dtype, np.floating):
        return _bootstrap_scores(labels, first, second, metric, seed)
    of_confusion = _classification_metric(metric)
    if of_confusion is None:
        if len(first) == len(second) == 1:
            return _mcnemar(first[0] == labels, second[0] == labels)
        metric, of_confusion = "accuracy", _accuracy
    return _bootstrap_classes(labels, first, second, metric, of_confusion, seed)


def _mcnemar(first_right: np.ndarray, second_right: np.ndarray) -> PairedTest:
    lost = int(np.sum(first_right & ~second_right))
    gained = int(np.sum(second_right & ~first_right))
    p = float(stats.binomtest(gained, lost + gained, 0.5).pvalue) if lost + gained else 1.0
    n = len(first_right)
    return PairedTest("McNemar exact", "accuracy", (gained - lost) / n, p, None, None, n)


def _bootstrap_classes(
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    metric: str,
    of_confusion: Callable[[np.ndarray], np.ndarray],
    seed: int,
) -> PairedTest:
    """Resamples the counts of (label, predictions), which is resampling the examples, only faster."""
    classes = max(2, int(max(labels.max(), first.max(), second.max())) + 1)
    cells, counts = np.unique(np.stack([labels, *first, *second]), axis=1, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(labels), counts / len(labels), size=_RESAMPLES)
    drawn = np.concatenate([counts[None], drawn])  # the data themselves come first

    def value(predicted: np.ndarray) -> np.ndarray:
        confusions = np.zeros((len(drawn), classes, classes))
        for cell, count in enumerate(drawn.T):
            confusions[:, cells[0, cell], predicted[cell]] += count
        return of_confusion(confusions)

    values = np.stack([value(predicted) for predicted in cells[1:]])
    differences = values[len(first) :].mean(0) - values[: len(first)].mean(0)
    return _from_differences(differences, metric, len(labels))


def _bootstrap_scores(
    labels: np.ndarray, first: np.ndarray, second: np.ndarray, metric: str, seed: int
) -> PairedTest:
    n, generator = len(labels), np.random.default_rng(seed)
    if "pearson" not in metric and "spearman" not in metric:
        metric = "pearson"
    use_pearson = "pearson" in metric
    use_spearman = "spearman" in metric
    differences = []
    for start in range(0, _RESAMPLES + 1, 200):
        rows = generator.integers(0, n, size=(200, n))
        if start == 0:
            rows[0] = np.arange(n)
        y, ranks = labels[rows].astype(float), None
        total = np.zeros(len(rows))
        for sign, models in ((-1, first), (1, second)):
            for predicted in models:
                x = predicted[rows].astype(float)
                if use_pearson:
                    total += sign * _correlation(y, x) / len(models)
                if use_spearman:
                    ranks = stats.rankdata(y, axis=1) if ranks is None else ranks
                    total += sign * _correlation(ranks, stats.rankdata(x, axis=1)) / len(models)
        differences.append(total / (use_pearson + use_spearman))
    return _from_differences(np.concatenate(differences)[: _RESAMPLES + 1], metric, n)


def _from_differences(differences: np.ndarray, metric: str, n: int) -> PairedTest:
    observed, drawn = float(differences[0]), differences[1:]
    below, above = np.sum(drawn <= 0), np.sum(drawn >= 0)
    p = min(1.0, 2 * (1 + min(below, above)) / (1 + len(drawn)))
    low, high = np.quantile(drawn, [_LEVEL / 2, 1 - _LEVEL / 2])
    return PairedTest("paired bootstrap", metric, observed, float(p), float(low), float(high), n)


def _correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each row, [R, n] twice to [R]; 0 for a constant one, as `codir.data.metrics` has it."""
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    scale = np.sqrt((x * x).sum(1) * (y * y).sum(1))
    return np.where(scale > 0, (x * y).sum(1) / np.where(scale > 0, scale, 1.0), 0.0)


def _classification_metric(name: str) -> Callable[[np.ndarray], np.ndarray] | None:
    """Returns a function from confusion matrices [R, C, C] (label, prediction) to values [R], or None: accuracy."""
    name = name.lower()
    if "matthews" in name or "mcc" in name:
        return _matthews
    if "macro" in name and "f1" in name:
        return _macro_f1
    if "f1" in name:
        return lambda confusions: _f1(confusions)[:, 1]
    return None


def _accuracy(confusions: np.ndarray) -> np.ndarray:
    """Share of the examples on the diagonal, [R]."""
    return np.trace(confusions, axis1=1, axis2=2) / confusions.sum((1, 2))


def _f1(confusions: np.ndarray) -> np.ndarray:
    """F1 of every class, [R, C]; 0 for a class that neither occurs nor is predicted."""
    right = np.diagonal(confusions, axis1=1, axis2=2)
    total = confusions.sum(1) + confusions.sum(2)
    return 2 * right / np.maximum(total, 1)


def _macro_f1(confusions: np.ndarray) -> np.ndarray:
    """Mean of F1 over the classes that occur or are predicted, as scikit-learn takes it."""
    present = (confusions.sum(1) + confusions.sum(2)) > 0
    return _f1(confusions).sum(-1) / present.sum(-1)


def _matthews(confusions: np.ndarray) -> np.ndarray:
    """Matthews' correlation for any number of classes (Gorodkin 2004); 0 for a constant prediction."""
    n = confusions.sum((1, 2))
    true, predicted = confusions.sum(2), confusions.sum(1)
    right = np.trace(confusions, axis1=1, axis2=2)
    covariance = right * n - (true * predicted).sum(-1)
    scale = np.sqrt((n**2 - (predicted**2).sum(-1)) * (n**2 - (true**2).sum(-1)))
    return np.where(scale > 0, covariance / np.maximum(scale, 1e-300), 0.0)
