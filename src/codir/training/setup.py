"""What a training is made of, checked as a whole before the teacher has computed anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from codir.errors import ConfigError
from codir.gather import from_first, processes, wire
from codir.kinds import kind_of
from codir.kinds.base import Kind
from codir.losses.base import ObjectiveContext, Views
from codir.losses.registry import check_objectives, needs_of, taught_by, views_of
from codir.models.attention import require_attention
from codir.models.labels import has_label
from codir.models.loading import encoder_shape
from codir.models.probe import require_layers, require_trainable
from codir.models.representations import Pooling
from codir.teacher.frozen import FrozenTeacher
from codir.teacher.source import CacheSettings, TeacherSource
from codir.training.arguments import DistillationArguments

Objectives = Mapping[str, Mapping[str, Any]]


def require_objects(student: Any, teacher: Any, examples: Any, collator: Any) -> None:
    """Checks what a caller hands to a training in Python.

    Raises:
        ConfigError: the name of a model in place of the model, a stream of examples without a length, or one of
            transformers' collators, whose batches hold neither example ids nor the teacher's columns.
    """
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
    """A training that can begin.

    `poolings` of the layers are read on both sides; `views` are the vectors of single tokens that are read.
    """

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
    """Checks objectives, models and examples with one another, and decides where the teacher's outputs come from.

    Args:
        objectives: settings by name.
        student: the model to train.
        teacher: the frozen teacher, if there is one.
        examples: the encoded training examples.
        cache: settings of the teacher's cache.
        args: of the training; None for a check before there are any.
        kind: what is predicted; by default what the student's config says.

    Raises:
        ConfigError: objectives that do not fit with the data or the models.
        DataError: objectives that do not fit with the labels.
        ModelError: a model that cannot be trained, or does not show what the objectives read of it.
    """
    if teacher is None and (taught := taught_by(objectives)):
        raise ConfigError(
            f"The objectives {', '.join(taught)} need a teacher and none was given; "
            "plain fine-tuning is objectives={'task': {}}."
        )
    shape, pooled = encoder_shape(student), needs_of(objectives).pooled
    views = views_of(objectives, shape, teacher.shape if teacher is not None else None)
    source = TeacherSource(teacher, pooled, views.teacher, examples, cache)
    labels = torch.tensor(examples["labels"][:]) if "labels" in examples.column_names else None
    unlabeled = 0
    if labels is not None:
        labels, unlabeled = without_gaps(labels)
    kind = kind or kind_of(student.config)
    of_run: dict[str, Any] = {}
    if args is not None:
        of_run = {
            "seed": args.seed,
            "device": args.device,
            "batch": args.train_batch_size * args.gradient_accumulation_steps * processes(),
            "micro_batch": args.train_batch_size * processes(),
        }
    context = ObjectiveContext(
        student=shape,
        teacher=source.shape,
        examples=len(examples),
        labels=labels,
        kind=kind,
        num_classes=int((student.config.vocab_size if kind.per_token else student.config.num_labels) or 1),
        # the outputs are not there yet; that they will be is what samplers of neighbours ask
        teacher_space=(lambda pooling: None) if source.cached or source.why_live else None,
        aligned="teacher_input_ids" not in examples.column_names,
        unlabeled=unlabeled,
        **of_run,
    )
    check_objectives(objectives, context)
    if source.why_live:
        context = replace(context, teacher_space=None)
        try:
            check_objectives(objectives, context)
        except ConfigError as error:
            raise ConfigError(f"{error} {source.why_live} Raise it to have the cache.") from None
    frozen = source.frozen.model if source.frozen is not None else None
    _check_models(student, frozen, views, context.aligned, bool(pooled))
    return Setup(source, context, pooled, views)


def _check_models(
    student: PreTrainedModel, teacher: PreTrainedModel | None, views: Views, aligned: bool, pooled: bool
) -> None:
    """Checks that the models show what the objectives read; `aligned`: both see the same tokens."""
    if views.teacher and not aligned:
        raise ConfigError(
            "The objectives compare single tokens, and teacher and student tokenise differently: token number n is not "
            "the same on both sides. Choose a student of the teacher's tokenizer, or objectives over logits and pooled "
            "layers (`codir recipes` lists what each needs)."
        )
    require_trainable(student, "The student")
    sides = ((student, views.student, "The student"), (teacher, views.teacher, "The teacher"))
    for model, read, whose in sides:
        if model is not None and (pooled or read):
            require_layers(model, whose)
    for model, read, whose in sides:
        if model is not None and any(view.kind != "hidden" for view in read):
            require_attention(model, whose)


# ---- examples without a label ----------------------------------------------------------------------------------------


def without_gaps(labels: Tensor) -> tuple[Tensor | None, int]:
    """Puts some label that occurs in the place of those that are missing: for checks before the teacher is asked.

    Args:
        labels: [N] class ids or scores, -100 or NaN where there is none.

    Returns:
        [N] labels, None if there is not a single one; how many are missing.
    """
    known = has_label(labels)
    missing = int((~known).sum())
    if not missing:
        return labels, 0
    return (torch.where(known, labels, labels[known][0]) if missing < len(labels) else None), missing


def filled(labels: Tensor, logits: Tensor) -> Tensor:
    """Puts the teacher's class, or its score, in the place of missing labels [N]; the same in every process."""
    known = has_label(labels)
    answers = logits[:, 0] if labels.is_floating_point() else logits.argmax(dim=1)
    found = torch.where(known, labels, answers.to(labels))
    # processes on unlike hardware may round a tie between two classes differently
    return from_first(found.to(wire())).cpu() if processes() > 1 else found
