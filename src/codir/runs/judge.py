"""Judges the teacher and its students on the validation data: scores, agreement, size and speed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from codir.kinds import kind_named
from codir.kinds.metrics import compute_metrics, flat_metrics
from codir.measure.comparison import TITLES, Comparison, ModelRow, Role, main_role
from codir.measure.timing import Timing, measure, model_size, texts_of
from codir.models.inference import predict_logits
from codir.models.loading import count_parameters
from codir.runs.prepare import Distillation
from codir.runs.student_run import in_data_order

TIMED_SEQUENCES = 256


def compare(
    parts: Distillation,
    students: dict[str, PreTrainedModel],
    sizes: dict[str, int],
    teacher_logits: dict[str, np.ndarray],
    timing: bool = True,
) -> Comparison:
    """Judges every model in fp32 on every validation split and times teacher and student in turns.

    Args:
        parts: models and encoded data.
        students: trained students by role.
        sizes: bytes of their model files by role.
        teacher_logits: by validation split, [n, C].
        timing: False leaves the timing out.
    """
    config = parts.config
    task, main_split = parts.task, parts.data.main_split
    kind = kind_named(task.kind)
    labels = {name: np.asarray(split["label"]) for name, split in parts.data.validation.items()}
    timings = _time(parts, students[main_role(config.objectives)]) if timing else {}

    def row(
        title: str,
        role: Role,
        logits: dict[str, np.ndarray],
        model: PreTrainedModel,
        size: int | None,
        speed: Timing | None,
    ) -> ModelRow:
        scores = {
            name: compute_metrics(kind, task.metrics, in_data_order(values, parts.label_ids), labels[name])
            for name, values in logits.items()
        }
        own, teachers = (
            kind.answers(in_data_order(values[main_split], parts.label_ids))
            for values in (logits, teacher_logits)
        )
        total, embedding = count_parameters(model)
        return ModelRow(
            name=title,
            role=role,
            metrics=flat_metrics(scores),
            main_metric=task.main_metric,
            agreement=kind.agreement(own, teachers),
            parameters=total,
            embedding_parameters=embedding,
            bytes=size,
            timing=speed,
            predictions=own,
        )

    teacher_folder = Path(config.teacher)
    teacher_bytes = model_size(teacher_folder) if teacher_folder.is_dir() else None
    rows = [
        row(
            TITLES["teacher"],
            "teacher",
            teacher_logits,
            parts.teacher.model,
            teacher_bytes,
            timings.get("teacher"),
        )
    ]
    others: tuple[Role, ...] = ("finetune", "kd", "codir")
    for role in others:
        model = students.get(role)
        if model is None:
            continue
        logits = {
            name: predict_logits(model, split, parts.tokenizer) for name, split in parts.validation.items()
        }
        # The students share one architecture, so one measurement stands for all of them.
        rows.append(row(parts.title(role), role, logits, model, sizes[role], timings.get("student")))
    return Comparison(rows, labels=labels[main_split])


def _time(parts: Distillation, student: PreTrainedModel) -> dict[str, Timing]:
    split = parts.data.validation[parts.data.main_split]
    texts = texts_of(split, TIMED_SEQUENCES)
    models = {
        "teacher": (parts.teacher.model, parts.teacher_tokenizer or parts.tokenizer),
        "student": (student, parts.tokenizer),
    }
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return measure(models, texts, max_length=parts.config.data.max_length, device=device)
