"""A model's outputs and the classes of the data: names, which is which, and what a config says of them."""

from __future__ import annotations

import copy
import re
import shlex
import unicodedata
import warnings
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from codir.errors import ConfigError, DataError, ModelError, nearest

if TYPE_CHECKING:
    from datasets import Dataset

_GENERIC = re.compile(r"label_(\d+)")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d{1,4})?", re.ASCII | re.IGNORECASE)
# Characters that nobody sees, as Unicode lists them (Default_Ignorable_Code_Point), beside format and control ones:
# joiners, fillers, variation selectors; and the blank of braille.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_UNSEEN_KINDS = ("Cf", "Cc")  # direction, zero width, soft hyphen, byte order mark; control characters


def matching_key(name: str) -> str:
    """Returns what is the same for all spellings of one class.

    Upper and lower case, Unicode forms (é as one or two characters, full width, ligatures), invisible characters, and
    how many and which blanks there are make no other class. Names of one key cannot be told apart by a reader.
    """
    text = str(name)
    if not (text.isascii() and text.isprintable()):
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        text = _UNSEEN.sub("", " ".join(text.split()))
        text = "".join(letter for letter in text if unicodedata.category(letter) not in _UNSEEN_KINDS)
    return " ".join(text.casefold().split())


def spelt_twice(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the first names, in the given order, that are spellings of one class; nothing where there are none."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        groups.setdefault(matching_key(name), []).append(name)
    return next((tuple(group) for group in groups.values() if len(group) > 1), ())


def number_value(name: str) -> Decimal | None:
    """Returns the number that a name spells (`7`, `07`, `7.0`, `-0.5`, `1e3`), exactly, or None."""
    return Decimal(name) if len(name) < 4000 and _NUMBER.fullmatch(name) else None


def find_classes(labels: Sequence[str], names: Sequence[str], numbers: bool = False) -> list[int | None]:
    """Returns, for each label, where its class stands among `names`, which are classes with different keys, or None.

    Names of one key (`matching_key`) are one class.

    Args:
        labels: names to look for.
        names: known classes.
        numbers: where no key agrees, compare numbers by value: for labels or classes that were never spelt, so that
            the number 7 may be the class `7.0` or `07`. If two of the names have that value, it is neither.
    """
    by_key = {matching_key(name): place for place, name in enumerate(names)}
    by_value: dict[Decimal, int | None] = {}
    for place, name in enumerate(names if numbers else ()):
        if (value := number_value(name)) is not None:
            by_value[value] = None if value in by_value else place
    found: list[int | None] = []
    for label in labels:
        place = by_key.get(matching_key(label))
        if place is None and by_value and (value := number_value(label)) is not None:
            place = by_value.get(value)
        found.append(place)
    return found


def is_generic(names: Sequence[str]) -> bool:
    """Whether all names are `LABEL_0`, `LABEL_1`, ...: what a model is given that was never told its classes."""
    return bool(names) and all(_GENERIC.fullmatch(matching_key(name)) for name in names)


def is_numbered(names: Sequence[str]) -> bool:
    """Whether the names are 0, 1, 2, ... in this order: numbers of classes in the place of names."""
    return [matching_key(name) for name in names] == [str(number) for number in range(len(names))]


def require_ids(examples: Dataset) -> None:
    """Raises `ConfigError` if the labels of examples are texts and no class ids."""
    from datasets import Value

    for name in ("label", "labels"):
        feature = examples.features.get(name)
        if isinstance(feature, Value) and feature.dtype in ("string", "large_string"):
            raise ConfigError(
                f"The column {name!r} of the examples holds texts, and a training needs class ids: "
                f"`dataset.class_encode_column({name!r})` numbers them and keeps their names."
            )


def label_names(examples: Dataset) -> tuple[str, ...] | None:
    """Returns the class names that encoded examples carry (their column `labels` is a ClassLabel), or None."""
    names = getattr(examples.features.get("labels"), "names", None)
    return tuple(map(str, names)) if names else None


def match_classes(
    data_labels: Sequence[str], id2label: Mapping[int, str], model: str = "the teacher"
) -> tuple[int, ...]:
    """For each class of the data, in order, finds the model's class id.

    Names are compared as `find_classes` says: case, Unicode form, invisible characters and blanks make no other class.
    Where one side has no names (`LABEL_0`, ... in the model; 0, 1, ... in the data) and the numbers of classes agree,
    the order is taken as it is, with a warning that says so; nothing is warned of if the other side's names are
    numbered as well.

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
    if twice := spelt_twice(names) or _repeated(names):
        raise ModelError(
            f"{model} has two classes of one name: {', '.join(map(repr, twice))}. Give them different names in "
            "id2label of its config.json."
        )
    numbers = sorted(ordered)
    found = find_classes(data_labels, names)
    if None not in found and len(found) == len(set(found)) == len(names):
        return tuple(numbers[place] for place in found if place is not None)
    if len(data_labels) == len(names) and (_unnamed(names) or _unnamed(data_labels)):
        if not (_unnamed(names) and _unnamed(data_labels)):
            pairs = ", ".join(f"{label} = {name}" for label, name in zip(data_labels, names, strict=True))
            warnings.warn(
                f"The classes cannot be matched by name, so they are matched by order: {pairs} (data = {model}). "
                "If that is wrong, name the classes in id2label of the model's config.json.",
                UserWarning,
                stacklevel=2,
            )
        return tuple(numbers)
    if missing := [label for label, place in zip(data_labels, found, strict=True) if place is None]:
        raise DataError(
            f"The data has the label{'s' * (len(missing) > 1)} {', '.join(map(repr, missing))}, which {model} does "
            f"not know{nearest(missing[0], names)}: its classes are {', '.join(map(repr, names))}. Use a model "
            "fine-tuned on these labels (`codir finetune` makes one), or rename the labels in the data or the classes "
            "in id2label of its config.json."
        )
    if twice := [label for label, place in zip(data_labels, found, strict=True) if found.count(place) > 1]:
        raise DataError(
            f"The labels {', '.join(map(repr, twice))} of the data are one class in two spellings. Write each class in "
            "one way."
        )
    surplus = [name for place, name in enumerate(names) if place not in found]
    raise ModelError(
        f"{model} has the class{'es' * (len(surplus) > 1)} {', '.join(map(repr, surplus))}, which the data does not "
        f"have: its labels are {', '.join(map(repr, data_labels))}. Use a model fine-tuned on these labels "
        "(`codir finetune` makes one), or give data in which every class occurs."
    )


def _unnamed(names: Sequence[str]) -> bool:
    return is_generic(names) or is_numbered(names)


def _repeated(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in dict.fromkeys(names) if names.count(name) > 1)


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
