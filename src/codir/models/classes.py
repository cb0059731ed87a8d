"""Matching of classes by name: which of a model's outputs stands for which class of the data."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence

from torch import Tensor

from codir.errors import DataError, ModelError, nearest

_GENERIC = re.compile(r"label_(\d+)")


def _key(name: str) -> str:
    return str(name).strip().casefold()


def is_generic(names: Sequence[str]) -> bool:
    """Whether all names are `LABEL_0`, `LABEL_1`, ...: what a model is given that was never told its classes."""
    return bool(names) and all(_GENERIC.fullmatch(_key(name)) for name in names)


def _is_numbered(names: Sequence[str]) -> bool:
    return [_key(name) for name in names] == [str(number) for number in range(len(names))]


def match_classes(
    data_labels: Sequence[str], id2label: Mapping[int, str], model: str = "the teacher"
) -> tuple[int, ...]:
    """For each class of the data, in order, finds the model's class id.

    Names are compared exactly but for case and surrounding blanks. Where one side has no names (`LABEL_0`, ... in the
    model; 0, 1, ... in the data) and the numbers of classes agree, the order is taken as it is, with a warning that
    says so; nothing is warned of if the other side's names are numbered as well.

    Args:
        data_labels: the data's class names, index = class id.
        id2label: the model's, as in its config.
        model: what to call the model in messages.

    Returns:
        A permutation p: the model's logit p[c] belongs to the data's class c.

    Raises:
        DataError: the data has classes that the model lacks.
        ModelError: the model has classes that the data lacks, or two classes of one name.
    """
    ordered = {int(number): str(name) for number, name in id2label.items()}
    names = [ordered[number] for number in sorted(ordered)]
    ids = {_key(name): number for number, name in sorted(ordered.items())}
    if len(ids) != len(names):
        raise ModelError(
            f"{model} has two classes of one name: {names}. Give them different names in config.json."
        )
    wanted = [_key(name) for name in data_labels]
    if len(set(wanted)) == len(wanted) and set(wanted) == set(ids):
        return tuple(ids[name] for name in wanted)
    if len(wanted) == len(names) and (
        is_generic(names) or is_generic(data_labels) or _is_numbered(names) or _is_numbered(data_labels)
    ):
        if not (_unnamed(names) and _unnamed(data_labels)):
            pairs = ", ".join(f"{label} = {name}" for label, name in zip(data_labels, names, strict=True))
            warnings.warn(
                f"The classes cannot be matched by name, so they are matched by order: {pairs} (data = {model}). "
                "If that is wrong, name the classes in id2label of the model's config.json.",
                UserWarning,
                stacklevel=2,
            )
        return tuple(sorted(ordered))
    if missing := [label for label, key in zip(data_labels, wanted, strict=True) if key not in ids]:
        raise DataError(
            f"The data has the label{'s' * (len(missing) > 1)} {', '.join(map(repr, missing))}, which {model} does "
            f"not know{nearest(missing[0], names)}: its classes are {', '.join(map(repr, names))}. Use a model "
            "fine-tuned on these labels (`codir finetune` makes one), or rename the labels in the data or the classes "
            "in id2label of its config.json."
        )
    surplus = [name for name in names if _key(name) not in set(wanted)]
    raise ModelError(
        f"{model} has the class{'es' * (len(surplus) > 1)} {', '.join(map(repr, surplus))}, which the data does not "
        f"have: its labels are {', '.join(map(repr, data_labels))}. Use a model fine-tuned on these labels "
        "(`codir finetune` makes one), or give data in which every class occurs."
    )


def _unnamed(names: Sequence[str]) -> bool:
    return is_generic(names) or _is_numbered(names)


def require_regression(num_labels: int, model: str = "the teacher") -> None:
    """Raises `ModelError` unless a model has the one output that a regression task needs."""
    if num_labels != 1:
        raise ModelError(
            f"{model} has {num_labels} outputs, but scores need a model with one. Use a model fine-tuned for "
            "regression (`codir finetune` makes one), or give the labels as classes."
        )


def align_logits(logits: Tensor, permutation: Sequence[int]) -> Tensor:
    """Brings a model's logit columns into the order of the data's classes.

    Args:
        logits: [..., C] in the model's order.
        permutation: what `match_classes` returned.

    Returns:
        [..., C]; column c belongs to the data's class c.
    """
    if tuple(permutation) == tuple(range(logits.shape[-1])):
        return logits
    return logits[..., list(permutation)]
