"""A score: squared error, to the labels and to the teacher; correlations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from codir.kinds.base import Kind, Reduction
from codir.kinds.metrics import Metric, is_constant
from codir.models.classes import require_regression

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig


def pearson(answers: NDArray[Any], labels: NDArray[Any]) -> float:
    """Returns Pearson's correlation; 0.0 if answers or labels are constant."""
    from scipy.stats import pearsonr

    if is_constant("pearson", answers, labels):
        return 0.0
    result: Any = pearsonr(answers, labels)
    return float(result.statistic)


def spearman(answers: NDArray[Any], labels: NDArray[Any]) -> float:
    """Returns Spearman's rank correlation; 0.0 if answers or labels are constant."""
    from scipy.stats import spearmanr

    if is_constant("spearman", answers, labels):
        return 0.0
    result: Any = spearmanr(answers, labels)
    return float(result.statistic)


def pearson_spearman(answers: NDArray[Any], labels: NDArray[Any]) -> float:
    """Returns the mean of Pearson's and Spearman's correlation, GLUE's score of STS-B."""
    return (pearson(answers, labels) + spearman(answers, labels)) / 2


def mse(answers: NDArray[Any], labels: NDArray[Any]) -> float:
    """Returns the mean squared error."""
    return float(np.mean((answers - labels) ** 2))


class Regression(Kind):
    """One output, a score. A score that an example does not have is NaN."""

    name = "regression"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "pearson": Metric(pearson),
        "spearman": Metric(spearman),
        "pearson_spearman": Metric(pearson_spearman),
        "mse": Metric(mse, greater_is_better=False),
    }
    default_metrics = ("pearson", "spearman", "pearson_spearman")
    main_metric = "pearson_spearman"
    missing = float("nan")
    label_dtype = "float64"
    negatives = "any"
    problem_type = "regression"

    def reads(self, config: PretrainedConfig) -> bool:
        """One output, or one that is said to be a score."""
        return config.num_labels == 1 or config.problem_type == "regression"

    def match(self, labels: Sequence[str] | None, config: PretrainedConfig, model: str) -> tuple[int, ...]:
        """Requires the one output."""
        require_regression(config.num_labels or 1, model)
        return (0,)

    def task_loss(self, logits: Tensor, labels: Tensor, reduction: Reduction) -> Tensor:
        """Returns the squared error."""
        import torch

        scores = logits.squeeze(1)  # [B, 1] against [B] would broadcast to [B, B] without a word
        if reduction == "mean":
            return torch.nn.functional.mse_loss(scores, labels.to(logits.dtype))
        target = labels.to(logits.dtype).nan_to_num()  # NaN times zero would be NaN in the gradient, too
        return torch.where(~labels.isnan(), scores - target, 0.0).square().sum()

    def distance(self, student: Tensor, teacher: Tensor, temperature: float, squared: bool, averaged: bool) -> Tensor:
        """Returns the mean squared error between the scores; the temperature has nothing to soften."""
        import torch

        with torch.autocast(student.device.type, enabled=False):
            return torch.nn.functional.mse_loss(student.float().view(-1), teacher.float().view(-1))

    def answers(self, logits: Any) -> Any:
        """Returns [N] scores."""
        return logits[:, 0]

    def agreement(self, answers: NDArray[Any], teacher: NDArray[Any]) -> float:
        """Returns Pearson's correlation with the teacher's scores; NaN if one side is constant."""
        if len(answers) < 2 or np.ptp(answers) == 0 or np.ptp(teacher) == 0:
            return float("nan")
        return float(np.corrcoef(answers.astype(np.float64), teacher.astype(np.float64))[0, 1])

    def predictions(self, logits: NDArray[Any], names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yields `{"score": 3.4}`."""
        for value in logits[:, 0]:
            yield {"score": round(float(value), 6)}

    def same_answers(self, before: NDArray[Any], after: NDArray[Any]) -> dict[str, Any]:
        """Correlates the scores; where they are constant they have to be the same within 0.01."""
        one, other = before[:, 0], after[:, 0]
        if np.ptp(one) == 0 or np.ptp(other) == 0 or len(one) < 2:
            agreement = 1.0 if np.allclose(one, other, atol=1e-2) else 0.0
        else:
            agreement = float(np.corrcoef(one, other)[0, 1])
        return {"agreement": agreement, "changed": 0, "undecided": 0}
