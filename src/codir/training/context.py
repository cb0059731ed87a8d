"""What a training tells its objectives about the models and the data."""

from __future__ import annotations

from pathlib import Path

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from codir.gather import processes
from codir.losses.base import Kind, ObjectiveContext
from codir.models.loading import encoder_shape
from codir.training.arguments import DistillationArguments
from codir.training.missing_labels import without_gaps
from codir.training.teaching import Teaching


def objective_context(
    student: PreTrainedModel,
    teaching: Teaching,
    examples: Dataset,
    args: DistillationArguments,
    kind: Kind | None = None,
    data_key: str | None = None,
) -> ObjectiveContext:
    """Returns the context by which objectives are checked, before the teacher has computed anything.

    Args:
        student: the model to train.
        teaching: the teacher's side.
        examples: the encoded training examples.
        args: of the training.
        kind: of task; by default what the labels say.
        data_key: fingerprint of the training data; with it objectives may keep files in `args.output_dir`.
    """
    labels = torch.tensor(examples["labels"][:]) if "labels" in examples.column_names else None
    regression = labels is not None and labels.is_floating_point()
    unlabeled = 0
    if labels is not None:
        labels, unlabeled = without_gaps(labels)
    classes = 1 if regression else int(student.config.num_labels or 1)
    if kind == "masked-lm":
        classes = int(student.config.vocab_size)
    return ObjectiveContext(
        student=encoder_shape(student),
        teacher=teaching.shape,
        examples=len(examples),
        labels=labels,
        kind=kind or ("regression" if regression else "classification"),
        num_classes=classes,
        seed=args.seed,
        device=args.device,
        teacher_space=(lambda pooling: None) if teaching.cached else None,
        folder=Path(str(args.output_dir)) if data_key is not None else None,
        data_key=data_key,
        batch=args.train_batch_size * args.gradient_accumulation_steps * processes(),
        micro_batch=args.train_batch_size * processes(),
        aligned="teacher_input_ids" not in examples.column_names,
        unlabeled=unlabeled,
    )
