"""Labels as models know them: the mark of an example without one, and what a config says of a model's outputs."""

from __future__ import annotations

import copy
import shlex

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from codir.errors import ModelError

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


_KINDS = ("regression", "single_label_classification", "multi_label_classification")


def require_one_answer(config: PretrainedConfig, name: str) -> None:
    """Refuses a classifier that does not answer with one class of several, or with one score.

    Where a config does not say what its outputs mean (`problem_type`), several are classes and a single one is a score,
    as in transformers.

    Args:
        config: of the classifier.
        name: what messages call it.

    Raises:
        ModelError: its outputs are labels that hold or do not hold each on its own, or several scores.
    """
    model = name if " " not in name else config.name_or_path or "MODEL"  # `the student` is no folder
    kind, outputs = config.problem_type, int(config.num_labels or 1)
    if kind is None:
        return
    if kind not in _KINDS:
        raise ModelError(
            f"{name} says problem_type {kind!r} in its config.json, which is none of {', '.join(_KINDS)}. Correct it, "
            "or leave it out."
        )
    if kind == "multi_label_classification":
        what = f"{outputs} labels, each of which" if outputs > 1 else "one label, which"
        raise ModelError(
            f"{name} is a multi-label model (problem_type in its config.json): it has {what} holds or does not hold. "
            "codir knows models that give one class or one score, and would misread it. `codir finetune --model "
            f"{model}` trains a new classifier on its encoder; if its classes exclude each other, set problem_type to "
            "single_label_classification."
        )
    if kind == "regression" and outputs != 1:
        raise ModelError(
            f"{name} is a regression of {outputs} scores (problem_type and id2label in its config.json), and codir "
            f"knows regressions of one. "
            f"`codir finetune --model {shlex.quote(str(name))}` trains a new head on its encoder; if its "
            "outputs are classes, set problem_type to single_label_classification."
        )


@torch.no_grad()
def new_head(model: PreTrainedModel) -> None:
    """Draws everything outside of the encoder anew, with torch's global generator."""
    fresh = type(model)(copy.deepcopy(model.config)).state_dict()
    inside = f"{model.base_model_prefix}."
    outside = {name: tensor for name, tensor in fresh.items() if not name.startswith(inside)}
    model.load_state_dict(outside, strict=False)
