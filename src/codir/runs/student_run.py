"""One training in one run folder: started, resumed or found finished, and its result published whole."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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
from codir.printing import Console, Table, pairs
from codir.record.runfolder import TRAINED, RunFolder
from codir.runs.arguments import to_arguments
from codir.runs.one_answer import OneAnswer
from codir.teacher.frozen import FrozenTeacher
from codir.teacher.source import CacheSettings
from codir.training.callbacks import EarlyStopping, EvaluateAtEnd, LogFile, TrainingClock
from codir.training.processes import barrier, first_says, is_main
from codir.training.trainer import DistillationTrainer

logger = logging.getLogger(__name__)

MARKER = TRAINED
SUMMARY = "contrast.safetensors"  # projections and some bank rows, for `codir report`; no part of the model


@dataclass
class Cost:
    """What a training took.

    Attributes:
        seconds: wall-clock time of the training, over all attempts (`TrainingClock`).
        steps: optimiser steps.
        best_step: the step whose weights were kept; None if the last ones were.
        best_score: its main metric on the validation data during training.
    """

    seconds: float
    steps: int
    best_step: int | None
    best_score: float | None


@dataclass
class TrainingData:
    """The encoded data of a training and what is needed to judge it.

    Attributes:
        task: kind, classes and metrics.
        train: encoded training split.
        validation: encoded main validation split.
        tokenizer: the student's.
        teacher_logits: [n, C] the teacher's on the validation split, for the agreement; None without a teacher.
        label_ids: the student's class id for each of the data's classes; None if they are the same.
        budget: trains for as many optimiser steps as a training on this many examples; None: on its own.
    """

    task: Task
    train: Dataset
    validation: Dataset
    tokenizer: PreTrainedTokenizerBase
    teacher_logits: np.ndarray | None = None
    label_ids: tuple[int, ...] | None = None
    budget: int | None = None


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
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
    cache: CacheSettings | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> tuple[PreTrainedModel, Cost]:
    """Trains `student` in `run`, from the newest whole checkpoint there if there is one, and publishes it.

    A run whose training is done already is only loaded. The checkpoints go once the student is published, unless
    `training.keep_checkpoints`.

    Args:
        run: the folder; the caller holds it.
        student: the initialised student, changed by the training.
        objectives: settings of the losses by name.
        training: learning rate and so on.
        data: encoded splits.
        console: for the table of what will happen and the progress line.
        label: what the progress line calls it.
        teacher: the frozen teacher; None for a student that learns from the labels alone.
        teacher_tokenizer: the teacher's, where it differs from the student's.
        cache: settings of the teacher's cache.
        callbacks: of transformers, beside codir's own.

    Returns:
        The trained student and what it cost.
    """
    if (cost := trained_before(run, training, console, label)) is not None:
        return load_classifier(run.path), cost

    kind = kind_named(data.task.kind)
    one_answer = OneAnswer(label, contrast="crd" in objectives)

    def metrics(prediction: EvalPrediction) -> dict[str, float]:
        logits = np.asarray(prediction.predictions)
        labels = np.asarray(prediction.label_ids)
        if data.label_ids is not None:
            labels = np.argsort(data.label_ids)[labels]
        scores = compute_metrics(kind, data.task.metrics, in_data_order(logits, data.label_ids), labels)
        own = kind.answers(logits)
        if data.teacher_logits is not None:
            scores["agreement"] = kind.agreement(own, kind.answers(data.teacher_logits))
        one_answer.watch(own, labels)
        return scores

    args = to_arguments(training, run.checkpoints, data.task.main_metric, len(data.train), data.budget)
    cache = cache or CacheSettings()
    args.cache_teacher, args.cache_tokens_gb = cache.enabled, cache.tokens_gb
    args.cache_folder = str(cache.folder) if cache.folder is not None else None
    watching: list[TrainerCallback] = [LogFile(run.log), *callbacks]
    # so many steps, whatever the epochs
    if training.eval_steps is None and args.eval_strategy == "steps":
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
        teacher_tokenizer=teacher_tokenizer,
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
        console.print(_notes_table(label, trainer.objective_notes))
    _require_disk(run, trainer)
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
        _keep_summary(run, trainer)
        write_json(run.path / MARKER, asdict(cost))
        tidy(run, training)
    barrier()
    return cost


def _keep_summary(run: RunFolder, trainer: DistillationTrainer) -> None:
    """Writes what the objectives keep to be looked at: the rest of them goes with the checkpoints."""
    if tensors := trainer.distillation.summary_tensors():
        write_bytes(run.path / SUMMARY, safetensors.torch.save(tensors))


def trained_before(run: RunFolder, training: OptimisationConfig, console: Console, label: str) -> Cost | None:
    """Returns what the training of `run` cost if it is done already, else None."""
    if not first_says("done" if (run.path / MARKER).is_file() else ""):
        return None
    console.print(f"{label}: done already, loaded from {run.path}", highlight=False)
    if is_main():
        tidy(run, training)  # it may have been killed just before
    try:
        return Cost(**read_whole(run.path / MARKER))
    except TypeError as error:
        raise RunError(
            f"{run.path / MARKER} is damaged: it does not say what the training took. Delete it, and the training is "
            "done again."
        ) from error


def tidy(run: RunFolder, training: OptimisationConfig) -> None:
    """Removes the checkpoints of a finished training, unless they are to be kept."""
    if not training.keep_checkpoints:
        shutil.rmtree(run.checkpoints, ignore_errors=True)


def _require_disk(run: RunFolder, trainer: DistillationTrainer) -> None:
    """Refuses a training whose checkpoints would not fit: weights and Adam's two moments of each, banks, one spare."""
    parameters = sum(parameter.numel() for parameter in trainer.distillation.parameters())
    banks = sum(buffer.nbytes for buffer in trainer.distillation.objectives.buffers())
    kept = (trainer.args.save_total_limit or 1) + (2 if trainer.args.load_best_model_at_end else 1)
    require_disk(
        run.path, kept * (3 * 4 * parameters + banks), f"a training with up to {kept} checkpoints at a time"
    )


def _notes_table(label: str, notes: list[str]) -> Table:
    return pairs(label, ((what, value) for what, _, value in (note.partition(": ") for note in notes)))
