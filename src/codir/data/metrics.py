"""Metrics by name, from logits, with a defined value where scikit-learn and SciPy would say NaN."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from codir.errors import ConfigError, DataError, TrainingDivergedError, nearest

if TYPE_CHECKING:
    from codir.data.task import Kind, Task

logger = logging.getLogger(__name__)

# What scikit-learn takes for a share of nothing; its annotations only know the string "warn".
_ZERO: Any = 0.0

# predictions [N] (class ids or scores), labels [N] -> value
MetricFunction = Callable[[NDArray[Any], NDArray[Any]], float]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        kind: what its predictions are: class ids or scores.
        compute: predictions [N], labels [N] -> value.
        greater_is_better: the direction; checkpoints are chosen by metrics for which it is True.
    """

    kind: Kind
    compute: MetricFunction
    greater_is_better: bool = True


def accuracy(predicted: NDArray[Any], labels: NDArray[Any]) -> float:
    """Share of examples whose class is right."""
    return float(np.mean(predicted == labels))


def f1(predicted: NDArray[Any], labels: NDArray[Any]) -> float:
    """F1 of class 1 against class 0; 0.0 if class 1 is neither predicted nor there."""
    from sklearn.metrics import f1_score

    highest = max(int(predicted.max()), int(labels.max()))
    if highest > 1:
        raise ConfigError(
            f"The metric 'f1' is for two classes, but there is a class {highest}. Use 'macro_f1'."
        )
    return float(f1_score(labels, predicted, pos_label=1, zero_division=_ZERO))


def macro_f1(predicted: NDArray[Any], labels: NDArray[Any]) -> float:
    """Mean of the F1 of every class that occurs in the labels or the predictions."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predicted, average="macro", zero_division=_ZERO))


def matthews(predicted: NDArray[Any], labels: NDArray[Any]) -> float:
    """Matthews correlation; 0.0 if predictions or labels are constant."""
    from sklearn.metrics import matthews_corrcoef

    return 0.0 if _constant("matthews", predicted, labels) else float(matthews_corrcoef(labels, predicted))


def pearson(predicted: NDArray[Any], labels: NDArray[Any]) -> float:
    """Pearson correlation; 0.0 if predictions or labels are constant."""
    from scipy.stats import pearsonr

    if _constant("pearson", predicted, labels):
        return 0.0
    result: Any = pearsonr(predicted, labels)
    return float(result.statistic)


def spearman(predicted: NDArray[Any], labels: NDArray[Any]) -> float:
    """Spearman rank correlation; 0.0 if predictions or labels are constant."""
    from scipy.stats import spearmanr

    if _constant("spearman", predicted, labels):
        return 0.0
    result: Any = spearmanr(predicted, labels)
    return float(result.statistic)


def pearson_spearman(predicted: NDArray[Any], labels: NDArray[Any]) -> float:
    """Mean of Pearson and Spearman, GLUE's score of STS-B."""
    return (pearson(predicted, labels) + spearman(predicted, labels)) / 2


def mse(predicted: NDArray[Any], labels: NDArray[Any]) -> float:
    """Mean squared error."""
    return float(np.mean((predicted - labels) ** 2))


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric("classification", accuracy),
    "f1": Metric("classification", f1),
    "macro_f1": Metric("classification", macro_f1),
    "matthews": Metric("classification", matthews),
    "pearson": Metric("regression", pearson),
    "spearman": Metric("regression", spearman),
    "pearson_spearman": Metric("regression", pearson_spearman),
    "mse": Metric("regression", mse, greater_is_better=False),
}


def metric(name: str) -> Metric:
    """Returns the metric of that name; an unknown one raises `ConfigError` listing those there are."""
    if name not in METRICS:
        raise ConfigError(
            f"There is no metric {name!r}{nearest(name, METRICS)}. There are {', '.join(METRICS)}."
        )
    return METRICS[name]


def compute_metrics(names: Iterable[str], logits: Any, labels: Any) -> dict[str, float]:
    """Computes metrics from a model's outputs.

    A correlation with constant predictions (or labels) has no value; it is given as 0.0, with a warning.

    Args:
        names: metrics of one kind, from `METRICS`.
        logits: [N, C] for classification; [N, 1] or [N] for regression. Tensor or array, any float type.
        labels: [N] class ids or scores.

    Returns:
        One float for each name, in the order given.

    Raises:
        ConfigError: an unknown metric, or one that does not fit the logits.
        DataError: no examples, or as many labels as do not fit.
        TrainingDivergedError: a logit is NaN or infinite; names the first such example.
    """
    scores, truth = _array(logits), _array(labels).reshape(-1)
    chosen = {name: metric(name) for name in names}
    if scores.ndim == 1:
        scores = scores[:, None]
    if not len(truth):
        raise DataError("There are no examples to compute metrics from.")
    if scores.ndim != 2 or len(scores) != len(truth):
        raise DataError(f"Logits of shape {scores.shape} do not fit {len(truth)} labels.")
    bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(bad):
        raise TrainingDivergedError(
            f"The model's logits are NaN or infinite for {len(bad)} of {len(scores)} examples (the first is number "
            f"{bad[0]}). Its weights have diverged: train with a lower learning rate."
        )
    values: dict[str, float] = {}
    for name, entry in chosen.items():
        if (entry.kind == "regression") != (scores.shape[1] == 1):
            outputs = "one output" if scores.shape[1] == 1 else f"{scores.shape[1]} classes"
            raise ConfigError(f"The metric {name!r} is for {entry.kind}, but the model has {outputs}.")
        predicted = scores[:, 0] if entry.kind == "regression" else scores.argmax(axis=1)
        values[name] = entry.compute(
            predicted, truth if entry.kind == "regression" else truth.astype(np.int64)
        )
    return values


def constant_score(name: str, labels: NDArray[Any]) -> float | None:
    """Returns the best value of a metric that a model reaches by answering the same class to everything.

    A model that is not above it has shown nothing. On MRPC's development set that is an F1 of 0.812.

    Args:
        name: a metric.
        labels: [N] class ids.

    Returns:
        The value; None for scores (no constant has a correlation) and without labels.
    """
    entry = metric(name)
    if entry.kind != "classification" or not len(labels):
        return None
    if name == "matthews":
        return 0.0
    truth = np.asarray(labels).astype(np.int64)
    return max(entry.compute(np.full_like(truth, answer), truth) for answer in np.unique(truth))


def predictions(logits: NDArray[Any], task: Task) -> NDArray[Any]:
    """Returns [n] class ids, or the scores of a regression, for logits [n, C]."""
    return logits[:, 0] if task.kind == "regression" else logits.argmax(axis=-1)


def flat_metrics(by_split: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Returns one level: the first (main) split's metrics by name, those of the others as `SPLIT/METRIC`."""
    main = next(iter(by_split), None)
    return {
        name if split == main else f"{split}/{name}": value
        for split, values in by_split.items()
        for name, value in values.items()
    }


def _array(values: Any) -> NDArray[np.float64]:
    """Returns a float64 array of a tensor (any device, bfloat16 too), an array or a list."""
    if hasattr(values, "detach"):
        values = values.detach().double().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


def _constant(name: str, predicted: NDArray[Any], labels: NDArray[Any]) -> bool:
    for what, values in (("predictions", predicted), ("labels", labels)):
        if np.ptp(values) == 0:
            logger.warning("The %s are all the same, so %s has no value; it is given as 0.0.", what, name)
            return True
    return False
