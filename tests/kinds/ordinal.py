"""A kind of prediction that codir does not have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import PretrainedConfig

from codir.kinds.base import Reduction
from codir.kinds.classification import Classification
from codir.kinds.metrics import Metric


def mean_distance(answers: NDArray[Any], labels: NDArray[Any]) -> float:
    return float(np.abs(answers - labels).mean())


class Ordinal(Classification):
    """Classes in an order, such as stars: a near miss costs less than a far one."""

    name = "ordinal"
    metrics: ClassVar[Mapping[str, Metric]] = {
        **Classification.metrics,
        "mean_distance": Metric(mean_distance, greater_is_better=False),
    }
    default_metrics = ("accuracy", "mean_distance")
    main_metric = "accuracy"
    problem_type = None

    def reads(self, config: PretrainedConfig) -> bool:
        return False

    def task_loss(self, logits: Tensor, labels: Tensor, reduction: Reduction) -> Tensor:
        """Returns the cross-entropy and the squared error of the expected class."""
        grades = logits.new_tensor(range(logits.shape[1]))
        known = labels != self.missing
        expected = (logits.softmax(dim=1) * grades).sum(dim=1)
        error = ((expected - labels) * known).square()
        return super().task_loss(logits, labels, reduction) + getattr(error, reduction)()

    def predictions(self, logits: NDArray[Any], names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yields the median class as well."""
        for found, row in zip(super().predictions(logits, names), logits, strict=True):
            shares = np.cumsum(np.exp(row - row.max()))
            yield {**found, "median": names[int(np.searchsorted(shares, shares[-1] / 2))]}
