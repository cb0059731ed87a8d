"""Scores, agreement, size and speed of the teacher and its students, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from codir.config.config import DistillConfig
from codir.kinds import kind_named
from codir.kinds.metrics import compute_metrics, flat_metrics
from codir.measure.comparison import TITLES, Comparison, ModelRow, Role, main_role
from codir.measure.timing import measure, model_size, texts_of
from codir.models.inference import predict_logits
from codir.models.loading import count_parameters
from codir.runs.prepare import Distillation
from codir.runs.train import in_data_order

TIMED_SEQUENCES = 256


def title(config: DistillConfig, role: Role) -> str:
    """Returns what the table calls the student of a role: a recipe beside the three usual ones gives its name."""
    if role == main_role(config.objectives):
        if config.recipe not in ("codir-fine", "kd", "finetune"):
            return f"{config.recipe} student"
        if role == "codir" and not any(name.startswith("crd") for name in config.objectives):
            return "distilled student"  # objectives of the user's own on top of a usual recipe
    return TITLES[role]


def compare(
    parts: Distillation,
    students: Mapping[Role, PreTrainedModel],
    folders: Mapping[Role, Path],
    teacher_logits: Mapping[str, np.ndarray],
    timing: bool = True,
) -> Comparison:
    """Scores every model in fp32 on every validation split and times teacher and student in turns.

    Args:
        parts: Models and encoded data.
        students: Trained students.
        folders: Where their files lie.
        teacher_logits: By validation split, [n, C].
        timing: False leaves the timing out.
    """
    config, task, main_split = parts.config, parts.data.task, parts.data.main_split
    kind = kind_named(task.kind)
    labels = {name: np.asarray(split["label"]) for name, split in parts.data.validation.items()}
    timings = {}
    if timing:
        models = {
            "teacher": (parts.teacher.model, parts.teacher_tokenizer or parts.tokenizer),
            "student": (students[main_role(config.objectives)], parts.tokenizer),
        }
        texts = texts_of(parts.data.validation[main_split], TIMED_SEQUENCES)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        timings = measure(models, texts, max_length=config.data.max_length, device=device)
    own_order = {name: in_data_order(each, parts.label_ids) for name, each in teacher_logits.items()}
    teachers = kind.answers(own_order[main_split])

    def row(role: Role, model: PreTrainedModel, logits: Mapping[str, np.ndarray], folder: Path) -> ModelRow:
        scores = {name: compute_metrics(kind, task.metrics, each, labels[name]) for name, each in logits.items()}
        answers = kind.answers(logits[main_split])
        total, embedding = count_parameters(model)
        return ModelRow(
            name=title(config, role),
            role=role,
            metrics=flat_metrics(scores),
            main_metric=task.main_metric,
            agreement=kind.agreement(answers, teachers),
            parameters=total,
            embedding_parameters=embedding,
            bytes=model_size(folder) if folder.is_dir() else None,
            # The students share one architecture, so one measurement stands for all of them.
            timing=timings.get("teacher" if role == "teacher" else "student"),
            predictions=answers,
        )

    rows = [row("teacher", parts.teacher.model, own_order, Path(config.teacher))]
    others: tuple[Role, ...] = ("finetune", "kd", "codir")
    for role in others:
        if role in students:
            logits = {
                name: in_data_order(predict_logits(students[role], split, parts.tokenizer), parts.label_ids)
                for name, split in parts.validation.items()
            }
            rows.append(row(role, students[role], logits, folders[role]))
    return Comparison(rows, labels=labels[main_split])
