"""From a fine-tuned teacher to a smaller student, with the table that says what it kept."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, TrainerCallback

from codir.config.config import DistillConfig
from codir.config.loading import load
from codir.files import write_json, write_text
from codir.losses.registry import taught_by
from codir.measure.comparison import Comparison, Role, main_role
from codir.printing import Console, pairs, progress_bar, terminal
from codir.record.card import run_card
from codir.record.data import load_data
from codir.record.fingerprint import (
    Part,
    begin,
    config_part,
    data_parts,
    model_part,
    opened,
    require_same,
    with_tokens,
)
from codir.record.run_data import INPUTS
from codir.record.runfolder import RunFolder
from codir.runs.arguments import to_arguments
from codir.runs.compare import compare, title
from codir.runs.prepare import Distillation, cache_arguments, prepare
from codir.runs.train import Cost, TrainingData, train_into
from codir.teacher.cache import open_cache, teacher_logits
from codir.training.processes import one_process_only


@dataclass
class DistillResult:
    """What a distillation gave."""

    # the run folder; `AutoModelForSequenceClassification.from_pretrained(output)` is the student
    output: Path
    comparison: Comparison  # the table
    costs: dict[str, Cost]  # by role, what each training took

    def no_worse(self) -> dict[str, Path]:
        """Returns the comparison students that score no less than the student, by name with their folders."""
        student = self.comparison.student
        others: tuple[Role, ...] = ("finetune", "kd")
        rows = {role: self.comparison.row(role) for role in others}
        return {
            row.name: RunFolder(self.output).comparison(role).path
            for role, row in rows.items()
            if row is not None and student is not None and row is not student and row.score >= student.score
        }


def distill(
    config: DistillConfig | None = None,
    *,
    console: Console | None = None,
    timing: bool = True,
    callbacks: Sequence[TrainerCallback] = (),
    **settings: Any,
) -> DistillResult:
    """Distils a teacher into a smaller student and trains the students it is compared with.

    Args:
        config: The whole configuration; or give its sections as keywords, on top of a recipe:
            `distill(teacher="runs/teacher", data={"task": "sst2"}, student={"layers": 6}, output="runs/student")`.
        console: Where to print; the terminal by default.
        timing: Measure how fast teacher and student are; pointless where other work runs on the machine.
        callbacks: Of transformers, for the main student's training.
        settings: `recipe`, `teacher`, `data`, `student`, `objectives`, `training`, `cache`, `output`, ... They are
            merged over the recipe's: to leave out one of its objectives, give another recipe or
            `objectives={"crd": None}`.

    Returns:
        The result, also written to the run folder.

    Raises:
        CodirError: bad input, a run in the way, an interrupted or diverged training.
    """
    if config is None:
        recipe = settings.pop("recipe", None)
        config = load(DistillConfig, recipe=recipe, flags={key: (key, value) for key, value in settings.items()})
    one_process_only("codir distill")
    # refuses what is wrong before data and models are read
    to_arguments(config.training, config.output, "score")
    console = terminal(console)
    with opened(config, lambda: _models(config) | data_parts(load_data(config.data)), console) as run:
        if run.finished:
            result = run.results(
                lambda content: DistillResult(
                    run.path,
                    Comparison.from_json(content["comparison"]),
                    {role: Cost(**cost) for role, cost in content["costs"].items()},
                )
            )
        else:
            result = _distill(config, run, console, timing, callbacks)
    console.print(result.comparison.to_rich())
    for line in (
        *result.comparison.plain_words(),
        f"The student is in {result.output}; the table is in its README.md and metrics.json.",
        *(
            f"The {name}, which scores no less, is in {folder} and loads likewise."
            for name, folder in result.no_worse().items()
        ),
    ):
        console.print(line, highlight=False)
    return result


def _models(config: DistillConfig) -> dict[str, Part]:
    """Describes the models that a run starts from, as they are now."""
    wanted = config.student
    named = {"teacher": config.teacher, "student's model": wanted.model, "student's origin": wanted.origin}
    parts = {name: model_part(each) for name, each in named.items() if each is not None}
    if isinstance(wanted.config, Path):
        parts["student's config"] = config_part(wanted.config)
    return parts


def _distill(
    config: DistillConfig,
    run: RunFolder,
    console: Console,
    timing: bool,
    callbacks: Sequence[TrainerCallback],
) -> DistillResult:
    models = _models(config)
    require_same(run, models)
    data = load_data(config.data)
    begun = data_parts(data)
    require_same(run, begun)
    parts = prepare(config, console, data)
    unlabeled = {}
    if data.unlabeled is not None:
        files = [str(path) for path in config.data.unlabeled or ()]
        unlabeled = {"unlabeled": {"examples": len(data.unlabeled), "files": files}}
    # the models once more: one of the Hub is in the cache, and so has digests, only since it was loaded
    begin(run, config, with_tokens(begun | _models(config), parts.train), **unlabeled)
    console.print(pairs("Before training", parts.lines))

    of_teacher = _teacher_on_validation(parts, console)
    assert data.train is not None
    labelled = parts.train if data.unlabeled is None else parts.train.select(range(len(data.train)))
    encoded = TrainingData(
        data.task,
        parts.train,
        parts.validation[data.main_split],
        parts.tokenizer,
        parts.teacher_tokenizer,
        of_teacher[data.main_split],
        parts.label_ids,
        arguments=cache_arguments(config),
    )
    students: dict[Role, PreTrainedModel] = {}
    costs: dict[str, Cost] = {}
    folders: dict[Role, Path] = {}
    for role, objectives in parts.objectives.items():
        main = role == main_role(config.objectives)
        folder = run if main else run.comparison(role)
        folders[role] = folder.path
        # the same number of steps for all: one that learns from labels alone sees the labelled rows more often
        alone = replace(encoded, train=labelled, budget=len(parts.train))
        with contextlib.nullcontext() if main else folder.running():
            students[role], costs[role] = train_into(
                folder,
                copy.deepcopy(parts.student),
                objectives,
                config.training,
                alone if set(objectives) == {"task"} else encoded,
                console,
                title(config, role),
                teacher=parts.teacher if taught_by(objectives) else None,
                callbacks=callbacks if main else (),
            )
            if not main:
                write_json(folder.path / INPUTS, {"data": config.data.model_dump(mode="json")})

    comparison = compare(parts, students, folders, of_teacher, timing)
    content = {
        "task": data.task.name,
        "main_metric": data.task.main_metric,
        "seed": config.training.seed,
        "comparison": comparison.to_json(),
        "costs": {role: asdict(cost) for role, cost in costs.items()},
        "train_examples": len(labelled),
        **unlabeled,
        "validation_examples": {name: len(split) for name, split in parts.validation.items()},
        "notes": data.notes,
    }
    write_json(run.metrics, content)
    write_text(run.path / "table.md", comparison.to_markdown())
    write_text(run.card, run_card(run.path))
    return DistillResult(run.path, comparison, costs)


def _teacher_on_validation(parts: Distillation, console: Console) -> dict[str, np.ndarray]:
    """Returns the teacher's logits [n, C] on every validation split, in the student's order of classes."""
    tokenizer = parts.teacher_tokenizer or parts.tokenizer
    found = {}
    for name, split in parts.validation.items():
        if not parts.config.cache:
            found[name] = teacher_logits(parts.teacher, split, tokenizer)
            continue
        with progress_bar(f"teacher on the {name} split", len(split)) as move:
            outputs = open_cache(
                parts.teacher,
                split,
                tokenizer=tokenizer,
                folder=parts.config.cache_dir,
                report=lambda text: console.print(text, highlight=False),
                progress=move,
            )
        found[name] = outputs.logits.numpy()
    return found
