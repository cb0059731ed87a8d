"""Classes are matched by name before a training starts: those of the data, of the student and of the teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Value
from transformers import PreTrainedModel

from codir.errors import DataError, ModelError
from codir.models.classes import is_generic, label_names, match_classes, matching_key, require_ids
from codir.models.labels import UNLABELED, class_names
from codir.teacher.frozen import FrozenTeacher


def match_by_name(
    student: PreTrainedModel,
    teacher: FrozenTeacher | None,
    train: Dataset,
    evaluation: Dataset | Mapping[str, Dataset] | None,
) -> tuple[FrozenTeacher | None, Dataset, Any]:
    """Brings the labels of encoded examples and the teacher's logits into the order of the student's classes.

    The data know the names of their classes where the column `labels` (or `label`) is a ClassLabel, as in `load_task`'s
    splits and in most data sets on the Hub. Labels that are mere numbers are taken for the student's class ids.

    A teacher that was given an order (`logit_order`) has it for the data's classes. A column `label` is renamed to
    `labels`, and rows without `example_id` are numbered.

    Returns:
        Teacher, training examples and evaluation examples (one data set, or several by name); what is in order already
        is given back as it is.

    Raises:
        CodirError: data and a model, or teacher and student, have different classes; the labels are texts.
    """
    train = _columns(train)
    names = label_names(train)
    several = evaluation if isinstance(evaluation, Mapping) else {"": evaluation}
    tests = {name: _columns(each) if isinstance(each, Dataset) else each for name, each in several.items()}
    if names is None:
        _require_one_order(student, teacher, train)
    else:
        label_ids = match_classes(names, class_names(student.config), "the student")
        if teacher is not None:
            teacher = teacher.for_classes(names)
        order = [label_ids.index(number) for number in range(len(label_ids))]
        if teacher is not None and label_ids != tuple(range(len(label_ids))):
            teacher = teacher.reordered([teacher.logit_order[place] for place in order])
        train = _relabelled(train, label_ids)
        for name, each in tests.items():
            if isinstance(each, Dataset) and "labels" in each.column_names:
                own = label_names(each)
                ids = (
                    label_ids
                    if own is None
                    else match_classes(own, class_names(student.config), "the student")
                )
                tests[name] = _relabelled(each, ids)
    for each in (train, *tests.values()):
        if isinstance(each, Dataset):
            _require_outputs(each, len(class_names(student.config)))
    return teacher, train, tests if isinstance(evaluation, Mapping) else tests[""]


def _columns(examples: Dataset) -> Dataset:
    """Returns examples with the columns that a training reads: `labels` and `example_id`."""
    require_ids(examples)
    if "label" in examples.column_names and "labels" not in examples.column_names:
        examples = examples.rename_column("label", "labels")
    if "example_id" not in examples.column_names:
        examples = _with_column(examples, "example_id", np.arange(len(examples)), Value("int64"))
    return examples


def _with_column(examples: Dataset, name: str, values: np.ndarray, feature: Any) -> Dataset:
    examples = examples.flatten_indices(keep_in_memory=True)
    if name in examples.column_names:
        examples = examples.remove_columns(name)
    add: Callable[..., Dataset] = examples.add_column
    return add(name, values, feature=feature)


def _relabelled(examples: Dataset, label_ids: tuple[int, ...]) -> Dataset:
    """Returns examples with the model's class ids; an id below zero is an example without a label."""
    feature = examples.features["labels"]
    old = np.array([UNLABELED if each is None else each for each in examples["labels"]], np.int64)
    new = np.where(old < 0, UNLABELED, np.array(label_ids)[np.maximum(old, 0)])
    if (new == old).all():
        return examples
    if isinstance(feature, ClassLabel):
        feature = ClassLabel(
            names=[feature.names[label_ids.index(number)] for number in range(len(label_ids))]
        )
    return _with_column(examples, "labels", new, feature)


def _require_outputs(examples: Dataset, outputs: int) -> None:
    """Refuses labels for which a model of so many outputs has none; those of single tokens are not looked at."""
    feature = examples.features.get("labels")
    if not isinstance(feature, Value | ClassLabel):
        return
    scores = feature.dtype.startswith("float")
    if scores != (outputs == 1):
        are, way = ("numbers with a fraction", "int64") if scores else ("whole numbers", "float32")
        raise DataError(
            f"The column 'labels' of the examples holds {are}, and the student has {outputs} output"
            f"{'s, one for each class' if outputs > 1 else ', a score'}: give it another student, or "
            f"`dataset.cast_column('labels', datasets.Value('{way}'))`."
        )
    if scores:
        return
    ids = np.array([UNLABELED if each is None else each for each in examples["labels"]], np.int64)
    wrong = np.flatnonzero((ids != UNLABELED) & ((ids < 0) | (ids >= outputs)))
    if len(wrong):
        raise DataError(
            f"The column 'labels' of the examples holds {ids[wrong[0]]} in row {wrong[0]}, and the student's classes "
            f"are 0 to {outputs - 1}. An example without a label has {UNLABELED}."
        )


def _require_one_order(student: PreTrainedModel, teacher: FrozenTeacher | None, train: Dataset) -> None:
    """Refuses labels without names where teacher and student number their classes in different ways."""
    if teacher is None or teacher.ordered or "labels" not in train.column_names:
        return
    feature = train.features["labels"]
    if not isinstance(feature, Value) or not feature.dtype.startswith("int"):
        return  # scores, or the labels of single tokens
    ours, theirs = (list(class_names(model.config).values()) for model in (student, teacher.model))
    if (
        is_generic(ours)
        or is_generic(theirs)
        or list(map(matching_key, ours)) == list(map(matching_key, theirs))
    ):
        return
    raise ModelError(
        f"The student's classes are {', '.join(ours)}, the teacher's {', '.join(theirs)}, and the column 'labels' has "
        "numbers without names, so that nobody can say which class is meant. Name them: "
        "`dataset.cast_column('labels', datasets.ClassLabel(names=[...]))`; all are then matched by name."
    )
