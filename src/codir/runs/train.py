"""One training in one run folder: started, resumed or found finished, and its result published whole."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import safetensors.torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_utils import EvalPrediction

from codir.config.training_config import OptimisationConfig, TrainingConfig
from codir.data.task import Task
from codir.errors import RunError
from codir.files import require_disk, write_bytes, write_json
from codir.kinds import kind_named
from codir.kinds.metrics import compute_metrics
from codir.manifest import read_whole
from codir.models.loading import load_classifier
from codir.printing import Console, pairs
from codir.record.runfolder import RunFolder
from codir.runs.arguments import to_arguments
from codir.runs.collapse import CollapseWatch
from codir.teacher.frozen import FrozenTeacher
from codir.training.callbacks import EarlyStopping, EvaluateAtEnd, LogFile, TrainingClock
from codir.training.processes import barrier, broadcast_text, is_main
from codir.training.trainer import DistillationTrainer


@dataclass
class Cost:
    """What a training took."""

    seconds: float  # wall-clock time, over all attempts (`TrainingClock`)
    steps: int  # optimiser steps
    best_step: int | None  # the step whose weights were kept; None if the last ones were
    best_score: float | None  # its main metric on the validation data during training


@dataclass
class TrainingData:
    """The encoded data of a training and what its evaluations need."""

    task: Task
    train: Dataset
    validation: Dataset  # the main validation split
    tokenizer: PreTrainedTokenizerBase  # the student's
    teacher_tokenizer: PreTrainedTokenizerBase | None = None  # where it differs
    teacher_logits: np.ndarray | None = None  # [n, C] on the validation split, for the agreement
    label_ids: Sequence[int] | None = None  # the student's class id for each of the data's; None: the same
    budget: int | None = None  # as many optimiser steps as a training on this many examples has
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of the Trainer: the teacher's cache


def in_data_order(logits: np.ndarray, label_ids: Sequence[int] | None) -> np.ndarray:
    """Brings a student's logits [n, C] into the data's order of classes: F1 counts one of them as the positive one."""
    return logits if label_ids is None else logits[:, list(label_ids)]


def train_into(
    run: RunFolder,
    student: PreTrainedModel,
    objectives: Mapping[str, Mapping[str, Any]],
    training: TrainingConfig,
    data: TrainingData,
    console: Console,
    label: str,
    teacher: FrozenTeacher | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> tuple[PreTrainedModel, Cost]:
    """Trains `student` in `run`, from the newest whole checkpoint there if there is one, and publishes it.

    A run whose training is done already is only loaded. The checkpoints go once the student is published, unless
    `training.keep_checkpoints`.

    Args:
        run: The folder; the caller holds it.
        student: The initialised student, changed by the training.
        objectives: Settings of the losses by name.
        training: Learning rate and so on.
        data: Encoded splits.
        console: For the table of what will happen and the progress line.
        label: What the progress line calls it.
        teacher: None for a student that learns from the labels alone.
        callbacks: Of transformers, beside codir's own.
    """
    if (cost := trained_before(run, training, console, label)) is not None:
        return load_classifier(run.path), cost

    kind = kind_named(data.task.kind)
    collapse = CollapseWatch(label, contrast="crd" in objectives)

    def metrics(prediction: EvalPrediction) -> dict[str, float]:
        logits = np.asarray(prediction.predictions)
        labels = np.asarray(prediction.label_ids)
        if data.label_ids is not None:
            labels = np.argsort(data.label_ids)[labels]
        scores = compute_metrics(kind, data.task.metrics, in_data_order(logits, data.label_ids), labels)
        own = kind.answers(logits)
        if data.teacher_logits is not None:
            scores["agreement"] = kind.agreement(own, kind.answers(data.teacher_logits))
        collapse.watch(own, labels)
        return scores

    args = to_arguments(
        training, run.checkpoints, data.task.main_metric, len(data.train), data.budget, **data.arguments
    )
    watching: list[TrainerCallback] = [LogFile(run.log), *callbacks]
    if training.eval_steps is None and args.eval_strategy == "steps":  # so many steps, whatever the epochs
        watching.append(EvaluateAtEnd())
    if training.early_stopping_patience is not None:
        watching.append(EarlyStopping(early_stopping_patience=training.early_stopping_patience))
    trainer = DistillationTrainer(
        student,
        objectives,
        args,
        train_dataset=data.train,
        eval_dataset=data.validation,
        processing_class=data.tokenizer,
        teacher=teacher,
        teacher_tokenizer=data.teacher_tokenizer,
        compute_metrics=metrics,
        callbacks=watching,
        label=label,
        report=lambda text: console.print(text, highlight=False),
    )
    return trainer.student, train_and_publish(run, trainer, training, data.tokenizer, console, label)


def train_and_publish(
    run: RunFolder,
    trainer: DistillationTrainer,
    training: OptimisationConfig,
    tokenizer: PreTrainedTokenizerBase,
    console: Console,
    label: str,
) -> Cost:
    """Runs a trainer from the newest whole checkpoint of `run`, if there is one, and publishes its student there.

    In several processes every one calls, and the first one writes.
    """
    if trainer.objective_notes:
        notes = (note.partition(": ") for note in trainer.objective_notes)
        console.print(pairs(label, ((what, value) for what, _, value in notes)))
    # weights and Adam's two moments of each, banks, one checkpoint to spare
    parameters = sum(parameter.numel() for parameter in trainer.distillation.parameters())
    banks = sum(buffer.nbytes for buffer in trainer.distillation.objectives.buffers())
    kept = (trainer.args.save_total_limit or 1) + (2 if trainer.args.load_best_model_at_end else 1)
    what = f"a training with up to {kept} checkpoints at a time"
    require_disk(run.path, kept * (3 * 4 * parameters + banks), what)
    trainer.add_callback(TrainingClock())
    trainer.train(resume_from_checkpoint=True)
    state, chosen = trainer.state, trainer.args.load_best_model_at_end
    cost = Cost(
        seconds=round(TrainingClock.of(trainer).seconds, 1),
        steps=state.global_step,
        best_step=state.best_global_step if chosen else None,
        best_score=state.best_metric if chosen else None,
    )
    if is_main():
        run.publish(trainer.student, tokenizer)
        # what the objectives keep to be looked at, by `codir report`: the rest of them goes with the checkpoints
        if tensors := trainer.distillation.summary_tensors():
            write_bytes(run.path / "contrast.safetensors", safetensors.torch.save(tensors))
        write_json(run.trained, asdict(cost))
        tidy(run, training)
    barrier()
    return cost


def trained_before(run: RunFolder, training: OptimisationConfig, console: Console, label: str) -> Cost | None:
    """Returns what the training of `run` cost if it is done already, else None."""
    if not broadcast_text("done" if run.trained.is_file() else ""):
        return None
    console.print(f"{label}: done already, loaded from {run.path}", highlight=False)
    if is_main():
        tidy(run, training)  # it may have been killed just before
    try:
        return Cost(**read_whole(run.trained))
    except TypeError as error:
        raise RunError(
            f"{run.trained} is damaged: it does not say what the training took. Delete it, and the training is done "
            "again."
        ) from error


def tidy(run: RunFolder, training: OptimisationConfig) -> None:
    """Removes the checkpoints of a finished training, unless they are to be kept."""
    if not training.keep_checkpoints:
        shutil.rmtree(run.checkpoints, ignore_errors=True)
