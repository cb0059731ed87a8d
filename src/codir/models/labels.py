"""Labels as models know them: the mark of an example without one, and what a config says of a model's outputs."""

from __future__ import annotations

from torch import Tensor
from transformers import PretrainedConfig

UNLABELED = -100
"""Class id of an example without a label, as transformers and PyTorch have it; a score without one is NaN."""
KIND_KEY = "codir_kind"
"""Where a config.json says what is predicted when transformers' `problem_type` has no word for it."""


def has_label(labels: Tensor) -> Tensor:
    """Returns [N], True where `labels` [N] (class ids, or scores as floats) hold one."""
    return ~labels.isnan() if labels.is_floating_point() else labels != UNLABELED


def class_names(config: PretrainedConfig) -> dict[int, str]:
    """Returns a config's `id2label` in the order of its ids, as integers (JSON knows only strings)."""
    return {int(number): str(name) for number, name in sorted((config.id2label or {}).items())}


def said_kind(config: PretrainedConfig) -> str | None:
    """Returns the word by which a config says what its outputs are, None where it does not."""
    return getattr(config, KIND_KEY, None) or config.problem_type


def copy_labels(config: PretrainedConfig, other: PretrainedConfig) -> None:
    """Gives a config the outputs of another one: how many, their names, and what they mean."""
    config.id2label = class_names(other)
    config.label2id = {name: number for number, name in config.id2label.items()}
    config.problem_type = other.problem_type or (
        "regression" if other.num_labels == 1 else "single_label_classification"
    )
    if (kind := getattr(other, KIND_KEY, None)) is not None or hasattr(config, KIND_KEY):
        setattr(config, KIND_KEY, kind)
