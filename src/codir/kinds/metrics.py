"""Scores of models, from their outputs; with a defined value where scikit-learn and SciPy would say NaN."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from codir.errors import ConfigError, DataError, TrainingDivergedError, nearest

if TYPE_CHECKING:
    from codir.kinds.base import Kind

logger = logging.getLogger(__name__)

# answers [N], labels [N] -> value
MetricFunction = Callable[[NDArray[Any], NDArray[Any]], float]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        compute: The value of answers [N] for labels [N].
        greater_is_better: The direction; checkpoints are chosen by metrics for which it is True.
    """

    compute: MetricFunction
    greater_is_better: bool = True


def metric(name: str) -> tuple[Kind, Metric]:
    """Returns the metric of that name and its kind; an unknown one raises `ConfigError` listing those there are."""
    from codir.kinds import kinds

    found = {each: (kind, entry) for kind in kinds().values() for each, entry in kind.metrics.items()}
    if name not in found:
        raise ConfigError(f"There is no metric {name!r}{nearest(name, found)}. There are {', '.join(found)}.")
    return found[name]


def is_metric(name: str) -> bool:
    """Says whether there is a metric of that name."""
    from codir.kinds import kinds

    return any(name in kind.metrics for kind in kinds().values())


def constant_score(name: str, labels: NDArray[Any]) -> float | None:
    """Returns the best value of a metric that a model reaches by one answer to everything.

    A model that is not above it has shown nothing. None for scores (no constant has a correlation) and without labels.
    """
    kind, _ = metric(name)
    return kind.constant_score(name, labels)


def compute_metrics(kind: Kind, names: Sequence[str], logits: Any, labels: Any) -> dict[str, float]:
    """Computes metrics from a model's outputs.

    A correlation with constant answers (or labels) has no value; it is given as 0.0, with a warning.

    Args:
        kind: What the model predicts.
        names: The kind's metrics to compute.
        logits: [N, C] outputs, or [N] of one output. A tensor or an array of any float type.
        labels: [N] class ids or scores.

    Returns:
        One float for each name, in the order given.

    Raises:
        ConfigError: an unknown metric, or one of another kind.
        DataError: no examples, or as many labels as do not fit.
        TrainingDivergedError: an output is NaN or infinite; names the first such example.
    """
    scores, truth = _array(logits), _array(labels).reshape(-1)
    if scores.ndim == 1:
        scores = scores[:, None]
    for name in names:
        if name not in kind.metrics:
            owner, _ = metric(name)
            raise ConfigError(
                f"The metric {name!r} is for {owner.name}, and this is {kind.name}: choose from "
                f"{', '.join(kind.metrics)}."
            )
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
    answers, truth = kind.answers(scores), kind.truth(truth)
    return {name: kind.metrics[name].compute(answers, truth) for name in names}


def flat_metrics(by_split: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Returns one level: the first (main) split's metrics by name, those of the others as `SPLIT/METRIC`."""
    main = next(iter(by_split), None)
    return {
        name if split == main else f"{split}/{name}": value
        for split, values in by_split.items()
        for name, value in values.items()
    }


def is_constant(name: str, answers: NDArray[Any], labels: NDArray[Any]) -> bool:
    """Says whether a correlation has no value because one side is constant, and warns of it."""
    for what, values in (("predictions", answers), ("labels", labels)):
        if np.ptp(values) == 0:
            logger.warning("The %s are all the same, so %s has no value; it is given as 0.0.", what, name)
            return True
    return False


def _array(values: Any) -> NDArray[np.float64]:
    """Returns a float64 array of a tensor (any device, bfloat16 too), an array or a list."""
    if hasattr(values, "detach"):
        values = values.detach().double().cpu().numpy()
    return np.asarray(values, dtype=np.float64)
