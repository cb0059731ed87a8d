"""Tests: is a difference of two models more than chance on these examples explains; Holm's correction of many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

_RESAMPLES = 2000
_LEVEL = 0.05


@dataclass(frozen=True)
class PairedTest:
    """Outcome of a paired, two-sided test of two models, or of the means of several seeds of each.

    It speaks of the examples drawn, not of the seeds: another seed trains other models.

    `test` is `McNemar exact` or `paired bootstrap`; `difference` is the metric of the second minus that of the first
    (of several seeds the means); `low` and `high` are its 95 % interval, None for McNemar.
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


def paired_test(labels: np.ndarray, first: np.ndarray, second: np.ndarray, metric: str, seed: int = 0) -> PairedTest:
    """Compares two models' predictions for the same examples, or the mean metrics of several seeds of each.

    Accuracy of two models is tested exactly (McNemar 1947, binomial on the examples that one model gets right and the
    other wrong). F1, Matthews' and the two correlations are no sums over examples, and a mean over seeds has examples
    that are right in part: paired bootstrap over the examples (Efron and Tibshirani 1993). A metric that is not known
    is tested as accuracy or Pearson's correlation, and `PairedTest.metric` says so.

    Args:
        labels: [n] class ids, or scores (float: regression).
        first: [n] predictions of the first model, or [S, n] of its seeds.
        second: likewise of the second; the number of seeds may be another one.
        metric: recognised by `matthews`, `macro`, `f1`, `pearson`, `spearman` in its name.
        seed: of the bootstrap.
    """
    labels, first, second = np.asarray(labels), np.atleast_2d(first), np.atleast_2d(second)
    if labels.ndim != 1 or not len(labels) or {first.shape[1:], second.shape[1:]} != {labels.shape}:
        raise ValueError(
            f"labels {labels.shape}, first {first.shape}, second {second.shape} must be [n] or [S, n] alike, n > 0"
        )
    metric, value = _metric(metric, np.issubdtype(labels.dtype, np.floating))
    n = len(labels)
    if value is _accuracy and len(first) == len(second) == 1:
        right = first[0] == labels, second[0] == labels
        lost, gained = int(np.sum(right[0] & ~right[1])), int(np.sum(right[1] & ~right[0]))
        p = float(stats.binomtest(gained, lost + gained, 0.5).pvalue) if lost + gained else 1.0
        return PairedTest("McNemar exact", metric, (gained - lost) / n, p, None, None, n)

    def difference(truth: np.ndarray, *predicted: np.ndarray, axis: int = -1) -> np.ndarray:
        values = [value(truth, each) for each in predicted]
        return np.mean(values[len(first) :], axis=0) - np.mean(values[: len(first)], axis=0)

    data = (labels, *first, *second)
    drawn = stats.bootstrap(
        data, difference, paired=True, vectorized=True, n_resamples=_RESAMPLES, batch=200, method="percentile", rng=seed
    )
    distribution = drawn.bootstrap_distribution
    smaller = min(np.sum(distribution <= 0), np.sum(distribution >= 0))
    p = min(1.0, 2 * (1 + smaller) / (1 + _RESAMPLES))
    low, high = drawn.confidence_interval
    return PairedTest("paired bootstrap", metric, float(difference(*data)), float(p), float(low), float(high), n)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusts p-values for their number (Holm 1979): step-down Bonferroni, valid under any dependence.

    adjusted_(i) = max over j <= i of min(1, (m - j + 1) * p_(j)), for the m values in ascending order; None (no test
    was possible) stays None and does not count.
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[place] = largest
    return adjusted


# ---- metrics of resampled examples: labels and predictions [..., n] to values [...]


def _metric(name: str, regression: bool) -> tuple[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    low = name.lower()
    if regression:
        wanted = [f for word, f in (("pearson", _pearson), ("spearman", _spearman)) if word in low]
        name = name if wanted else "pearson"
        return name, lambda y, x: np.mean([f(y, x) for f in wanted or [_pearson]], axis=0)
    if "matthews" in low or "mcc" in low:
        return name, _matthews
    if "f1" in low:
        return name, _macro_f1 if "macro" in low else lambda y, x: _f1(y, x, 1)[0]
    return "accuracy", _accuracy


def _accuracy(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return (y == x).mean(-1)


def _f1(y: np.ndarray, x: np.ndarray, label: int) -> tuple[np.ndarray, np.ndarray]:
    """F1 of one class, 0 where it neither occurs nor is predicted; and whether it is either."""
    true, said = y == label, x == label
    total = true.sum(-1) + said.sum(-1)
    return 2 * (true & said).sum(-1) / np.maximum(total, 1), total > 0


def _macro_f1(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Mean of F1 over the classes that occur or are predicted, as scikit-learn takes it."""
    values, present = zip(*(_f1(y, x, label) for label in _classes(y, x)), strict=True)
    return np.sum(values, axis=0) / np.sum(present, axis=0)


def _matthews(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Matthews' correlation for any number of classes (Gorodkin 2004); 0 for a constant prediction."""
    n, counts = y.shape[-1], [((y == c).sum(-1), (x == c).sum(-1)) for c in _classes(y, x)]
    true, said = (np.array(each, float) for each in zip(*counts, strict=True))
    covariance = (y == x).sum(-1) * n - (true * said).sum(0)
    scale = np.sqrt((n**2 - (said**2).sum(0)) * (n**2 - (true**2).sum(0)))
    return np.where(scale > 0, covariance / np.maximum(scale, 1e-300), 0.0)


def _classes(y: np.ndarray, x: np.ndarray) -> range:
    return range(int(max(y.max(), x.max())) + 1)


def _pearson(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Pearson's correlation; 0 for a constant side, as the metrics have it."""
    x, y = (each - each.mean(-1, keepdims=True) for each in (x, y))
    scale = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    return np.where(scale > 0, (x * y).sum(-1) / np.where(scale > 0, scale, 1.0), 0.0)


def _spearman(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return _pearson(stats.rankdata(y, axis=-1), stats.rankdata(x, axis=-1))
