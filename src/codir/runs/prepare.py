"""Everything a distillation needs, loaded and checked before anything is computed."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from codir.config.config import DistillConfig
from codir.config.library import load_recipe
from codir.data.encoding import encode, same_tokenizer
from codir.data.files import united
from codir.data.task import Task, TaskData
from codir.kinds import kind_named
from codir.losses.registry import taught_by
from codir.measure.comparison import TITLES, Role, main_role
from codir.models.check import load_tokenizer_for
from codir.models.loading import load_classifier
from codir.printing import Console, progress_bar
from codir.record.data import load_data
from codir.record.run_inputs import inputs_of
from codir.runs.arguments import to_arguments
from codir.runs.make_student import make_student, student_lines
from codir.runs.one_answer import first_layers_note
from codir.teacher.cache import open_cache
from codir.teacher.frozen import FrozenTeacher
from codir.teacher.source import CacheSettings, teacher_logits
from codir.training.setup import set_up


@dataclass
class Distillation:
    """The two models, the encoded data, and the objectives of every student that will be trained.

    Attributes:
        config: as asked for.
        data: the task and its splits.
        teacher: frozen, its logits in the order of the student's classes.
        teacher_tokenizer: None where both sides tokenise alike.
        tokenizer: the student's.
        student: as initialised; all students start from it.
        train: encoded training split; `example_id` numbers its rows. Unlabelled texts come after the labelled ones.
        validation: encoded validation splits.
        objectives: by role, main student first: `codir` (or the recipe's), `kd`, `finetune`.
        label_ids: the students' class id for each of the data's classes; None for regression.
        lines: about the student and where its weights come from, for the table printed before training.
    """

    config: DistillConfig
    data: TaskData
    teacher: FrozenTeacher
    teacher_tokenizer: PreTrainedTokenizerBase | None
    tokenizer: PreTrainedTokenizerBase
    student: PreTrainedModel
    train: Dataset
    validation: dict[str, Dataset]
    objectives: dict[Role, dict[str, Any]]
    label_ids: tuple[int, ...] | None
    lines: list[tuple[str, str]]

    @property
    def labelled(self) -> Dataset:
        """The labelled rows of the training split: what students that learn from labels alone see."""
        assert self.data.train is not None
        return self.train if self.data.unlabeled is None else self.train.select(range(len(self.data.train)))

    @property
    def task(self) -> Task:
        """The task."""
        return self.data.task

    def title(self, role: Role) -> str:
        """Returns what the table calls the student of a role: a recipe beside the three usual ones gives its name."""
        if role != main_role(self.config.objectives):
            return TITLES[role]
        if self.config.recipe not in ("codir-fine", "kd", "finetune"):
            return f"{self.config.recipe} student"
        if role == "codir" and not any(name.startswith("crd") for name in self.config.objectives):
            return "distilled student"  # objectives of the user's own on top of a usual recipe
        return TITLES[role]

    def fresh_student(self) -> PreTrainedModel:
        """Returns the student before training; each call gives the same weights in a model of its own."""
        return copy.deepcopy(self.student)

    @property
    def cache(self) -> CacheSettings:
        """The settings of the teacher's cache."""
        return cache_settings(self.config)

    def teacher_of(self, role: Role) -> FrozenTeacher | None:
        """Returns the teacher for the student of a role; None where its objectives read nothing of one."""
        return self.teacher if taught_by(self.objectives[role]) else None

    def teacher_on_validation(self, console: Console) -> dict[str, np.ndarray]:
        """Returns the teacher's logits [n, C] on every validation split, in the student's order of classes."""
        tokenizer = self.teacher_tokenizer or self.tokenizer
        found = {}
        for name, split in self.validation.items():
            if not self.config.cache:
                found[name] = teacher_logits(self.teacher, split, tokenizer)
                continue
            with progress_bar(f"teacher on the {name} split", len(split)) as move:
                outputs = open_cache(
                    self.teacher,
                    split,
                    tokenizer=tokenizer,
                    folder=self.config.cache_dir,
                    report=lambda text: console.print(text, highlight=False),
                    progress=move,
                )
            found[name] = outputs.logits.numpy()
        return found


def cache_settings(config: DistillConfig) -> CacheSettings:
    """Returns what a configuration says of the teacher's cache."""
    return CacheSettings(config.cache, config.cache_dir, config.cache_tokens_gb)


def prepare(config: DistillConfig, console: Console, data: TaskData | None = None) -> Distillation:
    """Loads teacher, data and student, matches their classes, encodes the data, and checks the objectives.

    Args:
        config: what to prepare.
        console: for notes on the data and on the student.
        data: what `load_data` gave for it, where the caller has loaded it already.

    Raises:
        CodirError: whatever would fail later, with the way out.
    """
    model = load_classifier(config.teacher)
    teacher_tokenizer = load_tokenizer_for(model, config.teacher)
    data = data or load_data(config.data)
    assert data.train is not None, "load_data gives a training split unless asked not to"
    if (inputs := inputs_of(config.teacher)) is not None:
        if inputs.pairs is False and data.task.pairs:
            # it may have been pre-trained on pairs, and the student learns from the labels as well
            console.print(
                f"{config.teacher} was trained on single texts, and is to teach about pairs of texts."
            )
        else:
            way = "name the second column with --text-pair."
            inputs.require_pairs(data.task.pairs, config.teacher, f"{data.task.name} has", way)
    for note in data.notes:
        console.print(note, highlight=False)
    # built again, and used, in `train_into`; here so that a wrong one is refused before the teacher computes anything
    examples = len(data.train) + len(data.unlabeled or ())
    to_arguments(config.training, config.output, data.task.main_metric, examples)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pairs = "text_pair" in data.train.column_names
    made = make_student(config.student, model, teacher_tokenizer, config.training.seed, pairs)
    student, tokenizer = made.model, made.tokenizer
    label_ids, logit_order = _match(data.task, student, model)
    teacher = FrozenTeacher(model, logit_order).to(device)

    own = None if same_tokenizer(tokenizer, teacher_tokenizer) else teacher_tokenizer
    length = config.data.max_length

    def encoded(split: Dataset) -> Dataset:
        return encode(
            split,
            tokenizer,
            length,
            label_ids,
            own,
            length,
            config=student.config,
            teacher_config=model.config,
        )

    train = encoded(united(data.train, data.unlabeled, data.task.kind))
    objectives: dict[Role, dict[str, Any]] = {main_role(config.objectives): dict(config.objectives)}
    if config.kd and "kd" not in objectives:
        objectives["kd"] = load_recipe("kd").settings["objectives"]
    if config.baseline and "finetune" not in objectives:
        objectives["finetune"] = {"task": {}}
    for settings in objectives.values():
        set_up(settings, student, teacher, train, cache_settings(config))
    if (note := first_layers_note(config.student, config.objectives)) is not None:
        console.print(note, highlight=False)
    return Distillation(
        config=config,
        data=data,
        teacher=teacher,
        teacher_tokenizer=own,
        tokenizer=tokenizer,
        student=student,
        train=train,
        validation={name: encoded(split) for name, split in data.validation.items()},
        objectives=objectives,
        label_ids=label_ids,
        lines=student_lines(config.teacher, made, model),
    )


def check_for(parts: Distillation, config: DistillConfig) -> None:
    """Checks the objectives of another configuration with the models and data of this one.

    Raises:
        CodirError: as `prepare` does.
    """
    to_arguments(config.training, config.output, parts.task.main_metric, len(parts.train))
    set_up(config.objectives, parts.student, parts.teacher, parts.train, cache_settings(config))


def _match(
    task: Task, student: PreTrainedModel, teacher: PreTrainedModel
) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    """Returns the student's class id for each of the data's, and the teacher's output for each of the student's."""
    kind = kind_named(task.kind)
    of_data = kind.match(task.labels, teacher.config, "the teacher")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the same warning has just been given for the teacher
        label_ids = kind.match(task.labels, student.config, "the student")
    if task.labels is None:
        return None, None
    # student's class j is the data's class c with label_ids[c] == j, which is the teacher's output of_data[c]
    logit_order = [0] * len(label_ids)
    for of_student, of_teacher in zip(label_ids, of_data, strict=True):
        logit_order[of_student] = of_teacher
    return label_ids, tuple(logit_order)
