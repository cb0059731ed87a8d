"""Everything a distillation needs, loaded and checked before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from codir.config.config import DistillConfig
from codir.config.library import load_recipe
from codir.data.encoding import encode, same_tokenizer
from codir.data.files import united
from codir.data.task import TaskData
from codir.kinds import kind_named
from codir.measure.comparison import Role, main_role
from codir.models.check import load_tokenizer_for
from codir.models.classes import class_names
from codir.models.loading import encoder_shape, load_classifier
from codir.printing import Console
from codir.record.data import load_data
from codir.record.run_data import inputs_of
from codir.runs.arguments import to_arguments
from codir.runs.collapse import first_layers_note
from codir.runs.students import make_student
from codir.teacher.frozen import FrozenTeacher
from codir.training.setup import match_sides, set_up


@dataclass
class Distillation:
    """The two models, the encoded data, and the objectives of every student that will be trained."""

    config: DistillConfig
    data: TaskData
    teacher: FrozenTeacher  # its logits in the order of the student's classes
    teacher_tokenizer: PreTrainedTokenizerBase | None  # None where both sides tokenise alike
    tokenizer: PreTrainedTokenizerBase  # the student's
    student: PreTrainedModel  # as initialised; all students start from it
    train: Dataset  # `example_id` numbers its rows; unlabelled texts come after the labelled ones
    validation: dict[str, Dataset]
    objectives: dict[Role, dict[str, Any]]  # main student first: `codir` (or the recipe's), `kd`, `finetune`
    label_ids: tuple[int, ...] | None  # the students' class id for each of the data's; None for regression
    lines: list[tuple[str, str]]  # about the student, for the table printed before training


def prepare(config: DistillConfig, console: Console, data: TaskData | None = None) -> Distillation:
    """Loads teacher, data and student, matches their classes, encodes the data, and checks the objectives.

    Args:
        config: What to prepare.
        console: For notes on the data and on the student.
        data: What `load_data` gave for it, where the caller has loaded it already.

    Raises:
        CodirError: whatever would fail later, with the way out.
    """
    model = load_classifier(config.teacher)
    teachers = load_tokenizer_for(model, config.teacher)
    data = data or load_data(config.data)
    task, length = data.task, config.data.max_length
    assert data.train is not None, "load_data gives a training split unless asked not to"
    if (inputs := inputs_of(config.teacher)) is not None:
        if inputs.pairs is False and task.pairs:
            # it may have been pre-trained on pairs, and the student learns from the labels as well
            console.print(f"{config.teacher} was trained on single texts, and is to teach about pairs of texts.")
        else:
            inputs.require_pairs(task.pairs, f"{task.name} has", "name the second column with --text-pair.")
    for note in data.notes:
        console.print(note, highlight=False)
    student, tokenizer, lines = make_student(
        config.student, model, teachers, config.training.seed, "text_pair" in data.train.column_names
    )
    shape, names = encoder_shape(model), list(class_names(student.config).values())
    lines = [
        ("teacher", f"{config.teacher} ({shape.layers} layers, {shape.width} wide)"),
        *lines,
        ("classes", ", ".join(names) if len(names) > 1 else "none: one score"),
    ]

    label_ids, teacher = match_sides(kind_named(task.kind), task.labels, student.config, FrozenTeacher(model))
    assert teacher is not None
    if task.labels is None:
        label_ids = None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    own = None if same_tokenizer(tokenizer, teachers) else teachers

    def encoded(split: Dataset) -> Dataset:
        configs = {"config": student.config, "teacher_config": model.config}
        return encode(split, tokenizer, length, label_ids, own, length, **configs)

    parts = Distillation(
        config=config,
        data=data,
        teacher=teacher.to(device),
        teacher_tokenizer=own,
        tokenizer=tokenizer,
        student=student,
        train=encoded(united(data.train, data.unlabeled, task.kind)),
        validation={},
        objectives={main_role(config.objectives): dict(config.objectives)},
        label_ids=label_ids,
        lines=lines,
    )
    if config.kd:
        parts.objectives.setdefault("kd", load_recipe("kd").settings["objectives"])
    if config.baseline:
        parts.objectives.setdefault("finetune", {"task": {}})
    for objectives in parts.objectives.values():
        check_for(parts, config, objectives)
    if (note := first_layers_note(config.student, config.objectives)) is not None:
        console.print(note, highlight=False)
    parts.validation |= {name: encoded(split) for name, split in data.validation.items()}
    return parts


def check_for(parts: Distillation, config: DistillConfig, objectives: dict[str, Any] | None = None) -> None:
    """Checks another configuration's training and objectives with the models and data of this one.

    Raises:
        CodirError: as `prepare` does.
    """
    metric, examples = parts.data.task.main_metric, len(parts.train)
    args = to_arguments(config.training, config.output, metric, examples, **cache_arguments(config))
    set_up(objectives or config.objectives, parts.student, parts.teacher, parts.train, args.cache)


def cache_arguments(config: DistillConfig) -> dict[str, Any]:
    """Returns what a configuration says of the teacher's cache, as arguments of the training."""
    return {
        "cache_teacher": config.cache,
        "cache_folder": str(config.cache_dir) if config.cache_dir is not None else None,
        "cache_tokens_gb": config.cache_tokens_gb,
    }
