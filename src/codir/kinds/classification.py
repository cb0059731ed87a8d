"""One class of several: cross-entropy, KL divergence of softened classes, metrics of classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from codir.errors import ConfigError, ModelError
from codir.kinds.base import Kind, Reduction
from codir.kinds.metrics import Metric, is_constant
from codir.models.classes import class_names, is_generic, match_classes

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig

# What scikit-learn takes for a share of nothing; its annotations only know the string "warn".
_ZERO: Any = 0.0
# Two best probabilities that are closer than this: the model is undecided between two classes.
UNDECIDED = 0.1


def accuracy(answers: NDArray[Any], labels: NDArray[Any]) -> float:
    """Returns the share of examples whose class is right."""
    return float(np.mean(answers == labels))


def f1(answers: NDArray[Any], labels: NDArray[Any]) -> float:
    """Returns the F1 of class 1 against class 0; 0.0 if class 1 is neither predicted nor there."""
    from sklearn.metrics import f1_score

    highest = max(int(answers.max()), int(labels.max()))
    if highest > 1:
        raise ConfigError(f"The metric 'f1' is for two classes, but there is a class {highest}. Use 'macro_f1'.")
    return float(f1_score(labels, answers, pos_label=1, zero_division=_ZERO))


def macro_f1(answers: NDArray[Any], labels: NDArray[Any]) -> float:
    """Returns the mean of the F1 of every class that occurs in the labels or the answers."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, answers, average="macro", zero_division=_ZERO))


def matthews(answers: NDArray[Any], labels: NDArray[Any]) -> float:
    """Returns Matthews' correlation; 0.0 if answers or labels are constant."""
    from sklearn.metrics import matthews_corrcoef

    return 0.0 if is_constant("matthews", answers, labels) else float(matthews_corrcoef(labels, answers))


def softened_divergence(
    student: Tensor, teacher: Tensor, temperature: float, squared: bool = False, averaged: bool = False
) -> Tensor:
    """Returns the divergence of the student's softened distribution from the teacher's (Eq. 2).

    KL( softmax(z_t / rho) || softmax(z_s / rho) ), summed over the classes, mean over the batch, in fp32 (also
    inside autocast).

    Args:
        student: [B, C] logits z_s.
        teacher: [B, C] logits z_t; no gradient reaches them.
        temperature: rho > 0.
        squared: Multiply by rho squared, as Hinton et al. and the released code do; the paper does not.
        averaged: The mean over the classes instead of the sum, which is the divergence / C (the code of BERT-PKD).
    """
    import torch

    with torch.autocast(student.device.type, enabled=False):
        wide = torch.promote_types(student.dtype, torch.float32)
        ours = torch.log_softmax(student.to(wide) / temperature, dim=1)
        theirs = torch.log_softmax(teacher.detach().to(wide) / temperature, dim=1)
        loss = torch.nn.functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
        if averaged:
            loss = loss / student.shape[1]
        return loss * temperature**2 if squared else loss


def margins(logits: NDArray[Any]) -> NDArray[Any]:
    """Returns [N]: how far apart the two best probabilities of logits [N, C] are."""
    best = np.sort(softmax(logits.astype(np.float64), axis=1), axis=1)[:, -2:]
    return best[:, 1] - best[:, 0]


class Classification(Kind):
    """One class of several, C outputs."""

    name = "classification"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "accuracy": Metric(accuracy),
        "f1": Metric(f1),
        "macro_f1": Metric(macro_f1),
        "matthews": Metric(matthews),
    }
    default_metrics = ("accuracy", "macro_f1")
    main_metric = "accuracy"
    negatives = "different-label"
    has_classes = True
    problem_type = "single_label_classification"

    def reads(self, config: PretrainedConfig) -> bool:
        """Several outputs that are not said to be scores."""
        return config.num_labels != 1 and config.problem_type != "regression"

    def known_names(self, config: PretrainedConfig) -> list[str]:
        """Returns the names; of a model that was never told its classes (LABEL_0, ...) their numbers."""
        names = list(class_names(config).values())
        return [str(number) for number in range(len(names))] if is_generic(names) else names

    def match(self, labels: Sequence[str] | None, config: PretrainedConfig, model: str) -> tuple[int, ...]:
        """Matches by name (`codir.models.classes.match_classes`)."""
        assert labels is not None
        if config.num_labels == 1:
            raise ModelError(
                f"{model} has one output, for scores, and the labels are read as classes: {', '.join(labels[:5])}. If "
                "they are scores, add `--kind regression`; else use a model fine-tuned on these classes."
            )
        return match_classes(labels, class_names(config), model)

    def task_loss(self, logits: Tensor, labels: Tensor, reduction: Reduction) -> Tensor:
        """Returns the cross-entropy (L_CE of Eq. 1)."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits, labels, ignore_index=int(self.missing), reduction=reduction)

    def distance(self, student: Tensor, teacher: Tensor, temperature: float, squared: bool, averaged: bool) -> Tensor:
        """Returns the divergence of the softened classes (Eq. 2)."""
        return softened_divergence(student, teacher, temperature, squared, averaged)

    def answers(self, logits: Any) -> Any:
        """Returns [N] class ids."""
        return logits.argmax(-1)

    def truth(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Returns class ids as integers."""
        return labels.astype(np.int64)

    def constant_score(self, metric: str, labels: NDArray[Any]) -> float | None:
        """Returns the best value that answering one class to everything reaches: on MRPC's dev set an F1 of 0.812."""
        if not len(labels):
            return None
        if metric == "matthews":
            return 0.0
        truth = np.asarray(labels).astype(np.int64)
        compute = self.metrics[metric].compute
        return max(compute(np.full_like(truth, answer), truth) for answer in np.unique(truth))

    def predictions(self, logits: NDArray[Any], names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yields the class and the probability of each: `{"label": "pos", "scores": {"neg": 0.02, "pos": 0.98}}`."""
        for row in softmax(logits.astype(np.float64), axis=1):
            scores = {name: round(float(p), 6) for name, p in zip(names, row, strict=True)}
            yield {"label": names[int(row.argmax())], "scores": scores}

    def same_answers(self, before: NDArray[Any], after: NDArray[Any]) -> dict[str, Any]:
        """Counts equal classes."""
        same = before.argmax(axis=1) == after.argmax(axis=1)
        return {
            "agreement": float(same.mean()),
            "changed": int((~same).sum()),
            "undecided": int((margins(before[~same]) < UNDECIDED).sum()),
        }
