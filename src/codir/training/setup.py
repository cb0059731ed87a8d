"""What a training is made of, checked as a whole and matched before the teacher has computed anything."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Value
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from codir.errors import ConfigError, DataError, ModelError
from codir.gather import from_first, processes, wire
from codir.kinds import kind_named, kind_of
from codir.kinds.base import Kind
from codir.losses.base import ObjectiveContext, Views
from codir.losses.registry import check_objectives, needs_of, views_of
from codir.models.check import require_layers
from codir.models.classes import (
    UNLABELED,
    class_names,
    has_label,
    is_generic,
    label_names,
    match_classes,
    matching_key,
    require_ids,
)
from codir.models.loading import encoder_shape
from codir.models.representations import Pooling, require_attention
from codir.teacher.cache import CacheSettings, TeacherSource
from codir.teacher.frozen import FrozenTeacher
from codir.training.arguments import DistillationArguments

Objectives = Mapping[str, Mapping[str, Any]]


def require_objects(student: Any, teacher: Any, examples: Any, collator: Any) -> None:
    """Raises `ConfigError` for what is no model, no data set of a known length, or a collator of transformers'."""
    for model, whose in ((student, "student"), (teacher, "teacher")):
        if isinstance(model, str | Path):
            raise ConfigError(
                f"The {whose} is {str(model)!r:.100}, not a model: load it with "
                "`AutoModelForSequenceClassification.from_pretrained(...)`."
            )
    if not isinstance(examples, Dataset):
        raise ConfigError(
            f"The training examples are a {type(examples).__name__}, not a datasets.Dataset: a training needs to know "
            "how many they are, and their columns (`codir.data.encoding.encode` makes them)."
        )
    if len(examples) == 0:
        raise ConfigError("train_dataset is empty: there is nothing to train on.")
    if type(collator).__module__.startswith("transformers."):
        raise ConfigError(
            f"data_collator={type(collator).__name__} makes batches without example ids and the teacher's columns: "
            "leave it out, codir's own pads just so."
        )


@dataclass
class Setup:
    """A training that can begin: where the teacher's outputs come from, and what of both sides' layers is read."""

    source: TeacherSource
    context: ObjectiveContext
    poolings: frozenset[Pooling]
    views: Views

    def with_teacher(self, examples: Dataset, tokenizer: PreTrainedTokenizerBase) -> ObjectiveContext:
        """Returns the context once the source is open: with the space, and the teacher's answers for missing labels."""
        context, outputs = self.context, self.source.outputs
        if context.unlabeled:
            labels = torch.tensor(examples["labels"][:])
            missing = (~has_label(labels)).nonzero().squeeze(1)
            if (logits := self.source.logits(examples, missing, tokenizer)) is not None:
                context = replace(context, labels=filled(labels, logits))
        return context if outputs is None else replace(context, teacher_space=outputs.space)


def set_up(
    objectives: Objectives,
    student: PreTrainedModel,
    teacher: FrozenTeacher | None,
    examples: Dataset,
    cache: CacheSettings,
    args: DistillationArguments | None = None,
    kind: Kind | None = None,
) -> Setup:
    """Checks objectives, models and encoded examples with one another, and decides between cache and live teacher.

    Without `args` it is a check before there is a training; the `kind` is by default what the student's config says.

    Raises:
        ConfigError: objectives that do not fit with the data or the models.
        DataError: objectives that do not fit with the labels.
        ModelError: a model that cannot be trained, or does not show what the objectives read of it.
    """
    shape, pooled = encoder_shape(student), needs_of(objectives).pooled
    teacher_shape = teacher.shape if teacher is not None else None
    views = views_of(objectives, shape, teacher_shape)
    source = TeacherSource(teacher, pooled, views.teacher, examples, cache)
    labels = torch.tensor(examples["labels"][:]) if "labels" in examples.column_names else None
    unlabeled = 0
    if labels is not None and (unlabeled := int((~(known := has_label(labels))).sum())):
        # Until the teacher is asked, some label that occurs stands in the place of those that are missing.
        labels = torch.where(known, labels, labels[known][0]) if known.any() else None
    kind = kind or kind_of(student.config)
    of_run: dict[str, Any] = {}
    if args is not None:
        together = args.train_batch_size * processes()
        of_run = {"seed": args.seed, "device": args.device, "micro_batch": together}
        of_run["batch"] = together * args.gradient_accumulation_steps
    context = ObjectiveContext(
        student=shape,
        teacher=teacher_shape,
        examples=len(examples),
        labels=labels,
        kind=kind,
        num_classes=int((student.config.vocab_size if kind.per_token else student.config.num_labels) or 1),
        # the outputs are not there yet; that they will be is what samplers of neighbours ask
        teacher_space=(lambda pooling: None) if source.cached else None,
        aligned="teacher_input_ids" not in examples.column_names,
        unlabeled=unlabeled,
        **of_run,
    )
    check_objectives(objectives, context)
    sides = [(student, views.student, "The student")]
    if teacher is not None:
        sides.append((teacher.model, views.teacher, "The teacher"))
    for model, read, whose in sides:
        if pooled or read:
            require_layers(model, whose)
        if any(view.kind != "hidden" for view in read):
            require_attention(model, whose)
    return Setup(source, context, pooled, views)


def filled(labels: Tensor, logits: Tensor) -> Tensor:
    """Puts the teacher's class, or its score, in the place of missing labels [N]; the same in every process."""
    answers = logits[:, 0] if labels.is_floating_point() else logits.argmax(dim=1)
    found = torch.where(has_label(labels), labels, answers.to(labels))
    # processes on unlike hardware may round a tie between two classes differently
    return from_first(found.to(wire())).cpu() if processes() > 1 else found


# ---- classes are matched by name: those of the data, of the student and of the teacher -----------------------------


def match_sides(
    kind: Kind, names: Sequence[str] | None, student: PretrainedConfig, teacher: FrozenTeacher | None
) -> tuple[tuple[int, ...], FrozenTeacher | None]:
    """Matches the data's classes (None: they are scores) with those of both models, by name.

    Returns:
        The student's class id for each of the data's, and the teacher with its logits in the order of the student's.

    Raises:
        CodirError: a model has other outputs than the data.
    """
    order: tuple[int, ...] = ()
    with warnings.catch_warnings():
        if teacher is not None:
            order = teacher.logit_order if teacher.ordered else kind.match(names, teacher.model.config, "the teacher")
            if class_names(teacher.model.config) == class_names(student):
                warnings.simplefilter("ignore", UserWarning)  # the same was just said of the teacher
        label_ids = kind.match(names, student, "the student")
    if teacher is not None:
        of_student = [order[label_ids.index(number)] for number in range(len(label_ids))]
        teacher = FrozenTeacher(teacher.model, of_student, teacher.autocast)
    return label_ids, teacher


def match_by_name(
    student: PreTrainedModel,
    teacher: FrozenTeacher | None,
    train: Dataset,
    evaluation: Dataset | Mapping[str, Dataset] | None,
) -> tuple[FrozenTeacher | None, Dataset, Any]:
    """Brings the labels of encoded examples and the teacher's logits into the order of the student's classes.

    The data know the names of their classes where the column `labels` (or `label`) is a ClassLabel, as in `load_task`'s
    splits and in most data sets on the Hub. Labels that are mere numbers are taken for the student's class ids. A
    teacher that was given an order (`logit_order`) has it for the data's classes. A column `label` is renamed to
    `labels`, and rows without `example_id` are numbered.

    Returns:
        Teacher, training examples and evaluation examples (one data set, or several by name).

    Raises:
        CodirError: data and a model, or teacher and student, have different classes; the labels are texts.
    """
    splits = {"": train, **(evaluation if isinstance(evaluation, Mapping) else {"evaluation": evaluation})}
    found = {name: _with_columns(each) if isinstance(each, Dataset) else each for name, each in splits.items()}
    own = class_names(student.config)
    label_ids = None
    if (names := label_names(found[""])) is not None:
        label_ids, teacher = match_sides(kind_named("classification"), names, student.config, teacher)
    else:
        _require_one_order(student, teacher, found[""])
    for name, each in found.items():
        if not isinstance(each, Dataset):
            continue
        if label_ids is not None and "labels" in each.column_names:
            theirs = label_names(each)
            ids = label_ids if theirs is None else match_classes(theirs, own, "the student")
            old = _class_ids(each)
            new = np.where(old < 0, UNLABELED, np.array(ids)[np.maximum(old, 0)])
            if (new != old).any():
                found[name] = _with_column(each, "labels", new)
        _require_outputs(found[name], len(own))
    train = found.pop("")
    return teacher, train, found if isinstance(evaluation, Mapping) else found["evaluation"]


def _with_columns(examples: Dataset) -> Dataset:
    """Returns examples with the columns that a training reads: `labels` and `example_id`."""
    require_ids(examples)
    if "label" in examples.column_names and "labels" not in examples.column_names:
        examples = examples.rename_column("label", "labels")
    if "example_id" not in examples.column_names:
        examples = _with_column(examples, "example_id", np.arange(len(examples)))
    return examples


def _with_column(examples: Dataset, name: str, values: np.ndarray) -> Dataset:
    """Returns examples with a column of whole numbers, in the place of one of that name."""
    examples = examples.flatten_indices(keep_in_memory=True)
    if name in examples.column_names:
        examples = examples.remove_columns(name)
    add: Callable[..., Dataset] = examples.add_column
    return add(name, values, feature=Value("int64"))


def _class_ids(examples: Dataset) -> np.ndarray:
    return np.array([UNLABELED if each is None else each for each in examples["labels"]], np.int64)


def _require_outputs(examples: Dataset, outputs: int) -> None:
    """Refuses labels for which a model of so many outputs has none; those of single tokens are not looked at."""
    feature = examples.features.get("labels")
    if not isinstance(feature, Value | ClassLabel):
        return
    scores = feature.dtype.startswith("float")
    if scores != (outputs == 1):
        are, way = ("numbers with a fraction", "int64") if scores else ("whole numbers", "float32")
        raise DataError(
            f"The column 'labels' of the examples holds {are}, and the student's outputs number {outputs}: give it "
            f"another student, or `dataset.cast_column('labels', datasets.Value('{way}'))`."
        )
    if scores:
        return
    ids = _class_ids(examples)
    wrong = np.flatnonzero((ids != UNLABELED) & ((ids < 0) | (ids >= outputs)))
    if len(wrong):
        raise DataError(
            f"The column 'labels' of the examples holds {ids[wrong[0]]} in row {wrong[0]}, and the student's classes "
            f"are 0 to {outputs - 1}. An example without a label has {UNLABELED}."
        )


def _require_one_order(student: PreTrainedModel, teacher: FrozenTeacher | None, train: Dataset) -> None:
    """Refuses labels without names where teacher and student number their classes in different ways."""
    feature = train.features.get("labels")
    if teacher is None or teacher.ordered or not isinstance(feature, Value) or feature.dtype[:3] != "int":
        return  # scores, or the labels of single tokens
    ours, theirs = (list(class_names(model.config).values()) for model in (student, teacher.model))
    if is_generic(ours) or is_generic(theirs) or [*map(matching_key, ours)] == [*map(matching_key, theirs)]:
        return
    raise ModelError(
        f"The student's classes are {', '.join(ours)}, the teacher's {', '.join(theirs)}, and the column 'labels' has "
        "numbers without names, so that nobody can say which class is meant. Name them: "
        "`dataset.cast_column('labels', datasets.ClassLabel(names=[...]))`; all are then matched by name."
    )
