"""What codir asks of a kind of prediction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from codir.kinds.metrics import Metric
from codir.models.classes import KIND_KEY, UNLABELED

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig

Reduction = Literal["mean", "sum"]
ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]


class Kind(ABC):
    """A kind of prediction: how labels are held, what is learned from them, and what is said of the outcome.

    Attributes:
        name: The word for it in files, flags and messages.
        metrics: The metrics that fit it, by name.
        default_metrics: Those that are reported unless a task names others.
        main_metric: The one by which checkpoints are chosen unless a task names another.
        missing: What stands in the place of a label that an example does not have.
        label_dtype: The type of the labels, as `datasets` names it.
        negatives: The sampler of negatives (`codir.contrast`) that `negatives: auto` stands for.
        has_classes: Whether answers are equal or not, as classes are, and not more or less far apart.
        per_token: Whether the losses are means over the tokens of a text, whose logits exist in chunks only.
        problem_type: The word in transformers' config.json, None where there is none.
    """

    name: ClassVar[str]
    metrics: ClassVar[Mapping[str, Metric]] = {}
    default_metrics: ClassVar[tuple[str, ...]] = ()
    main_metric: ClassVar[str] = ""
    missing: ClassVar[float] = UNLABELED
    label_dtype: ClassVar[str] = "int64"
    negatives: ClassVar[str] = "any"
    has_classes: ClassVar[bool] = False
    per_token: ClassVar[bool] = False
    problem_type: ClassVar[ProblemType | None] = None

    # ---- models ------------------------------------------------------------------------------------------------

    @abstractmethod
    def reads(self, config: PretrainedConfig) -> bool:
        """Says whether a config that names no kind of codir's is of this one."""

    def write(self, config: PretrainedConfig, names: Sequence[str] | None) -> None:
        """Makes a config one of this kind, for classes of these names (None: a single output without a name)."""
        if names is None:
            config.num_labels = 1
        else:
            config.id2label = dict(enumerate(names))
            config.label2id = {name: number for number, name in enumerate(names)}
        config.problem_type = self.problem_type
        if self.problem_type is None or hasattr(config, KIND_KEY):
            setattr(config, KIND_KEY, self.name if self.problem_type is None else None)

    def known_names(self, config: PretrainedConfig) -> list[str] | None:
        """Returns the names by which a model's classes are looked for in data, None where it has no classes."""
        return None

    @abstractmethod
    def match(self, labels: Sequence[str] | None, config: PretrainedConfig, model: str) -> tuple[int, ...]:
        """Finds the output of a model that stands for each class of the data.

        Args:
            labels: The data's class names, None where labels are no classes.
            config: The model's config.
            model: What messages call the model.

        Returns:
            A permutation p of the model's outputs: output p[c] belongs to the data's class c.

        Raises:
            CodirError: the model's outputs are not those of the data.
        """

    # ---- training ----------------------------------------------------------------------------------------------

    def task_loss(self, logits: Tensor, labels: Tensor, reduction: Reduction) -> Tensor:
        """Returns the task's own loss in fp32.

        Args:
            logits: [B, C] of the student, fp32.
            labels: [B]; those equal to `missing` add nothing to a sum and do not occur in a mean.
            reduction: The mean over the examples, or their sum.
        """
        raise NotImplementedError

    def distance(self, student: Tensor, teacher: Tensor, temperature: float, squared: bool, averaged: bool) -> Tensor:
        """Returns how far the student's outputs [B, C] are from the teacher's: the form that Eq. 2 takes here."""
        raise NotImplementedError

    def answers(self, logits: Any) -> Any:
        """Returns what outputs [N, C] (a tensor or an array) answer: [N] class ids or scores."""
        raise NotImplementedError

    # ---- what is said of the outcome ---------------------------------------------------------------------------

    def truth(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Returns labels [N] as the metrics want them."""
        return labels

    def agreement(self, answers: NDArray[Any], teacher: NDArray[Any]) -> float:
        """Returns how far answers [N] are the teacher's: the share of equal ones."""
        return float(np.mean(answers == teacher))

    def constant_score(self, metric: str, labels: NDArray[Any]) -> float | None:
        """Returns the best value of a metric by one answer to everything, None where no such model has a value."""
        return None

    def predictions(self, logits: NDArray[Any], names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yields, for each row of logits [N, C], what `codir predict` writes beside the text."""
        raise NotImplementedError

    def same_answers(self, before: NDArray[Any], after: NDArray[Any]) -> dict[str, Any]:
        """Compares outputs [N, C] of a model with those of its export.

        Returns:
            `agreement`, the share of equal answers (of scores: Pearson's correlation); `changed`, the number of
            examples that got another answer; `undecided`, how many of these the model itself was undecided about.
        """
        raise NotImplementedError
