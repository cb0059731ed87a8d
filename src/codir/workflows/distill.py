"""From a fine-tuned teacher to a smaller student, with the table that says what it kept."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

from codir.errors import ConfigError
from codir.models.inference import predict_logits
from codir.models.loading import count_parameters
from codir.objectives.registry import needs_of
from codir.recipes.config import DistillConfig
from codir.recipes.loading import load_distill, resolved_yaml
from codir.storage import read_json, write_json, write_text
from codir.tasks.metrics import compute_metrics
from codir.workflows.card import CardInfo, model_card
from codir.workflows.comparison import TITLES, Comparison, ModelRow, Role, agreement
from codir.workflows.environment import environment
from codir.workflows.prepare import Distillation, main_role, prepare, student_lines
from codir.workflows.progress import default_console
from codir.workflows.runfolder import RunFolder
from codir.workflows.student_run import Cost, Example, predictions, train_into
from codir.workflows.timing import Timing, measure, model_size

TIMED_SEQUENCES = 256


@dataclass
class DistillResult:
    """What a distillation gave.

    Attributes:
        output: the run folder; `AutoModelForSequenceClassification.from_pretrained(output)` is the student.
        comparison: the table.
        costs: by role, what each training took.
    """

    output: Path
    comparison: Comparison
    costs: dict[str, Cost]


def distill(
    config: DistillConfig | None = None, *, console: Console | None = None, **settings: Any
) -> DistillResult:
    """Distils a teacher into a smaller student and trains the students it is compared with.

    Args:
        config: the whole configuration; or give its sections as keywords, on top of a recipe:
            `distill(teacher="runs/teacher", data={"task": "sst2"}, student={"layers": 6}, output="runs/student")`.
        console: where to print; the terminal by default.
        settings: `recipe`, `teacher`, `data`, `student`, `objectives`, `training`, `cache`, `output`, ...

    Returns:
        The result, also written to the run folder.

    Raises:
        CodirError: bad input, a run in the way, an interrupted or diverged training.
    """
    if config is None:
        recipe = settings.pop("recipe", None)
        config = load_distill(recipe=recipe, flags={key: (key, value) for key, value in settings.items()})
    console = console or default_console()
    with RunFolder.open(config.output, config.resume) as run:
        if run.finished:
            console.print(f"{run.path} is finished; nothing to resume.", highlight=False)
            result = _read(run)
        else:
            run.save_config(resolved_yaml(config))
            result = _distill(config, run, console)
    _show(result, console)
    return result


def _distill(config: DistillConfig, run: RunFolder, console: Console) -> DistillResult:
    write_json(run.environment, environment(config.training.seed, config.training.precision))
    parts = prepare(config, console)
    table = Table(title="Before training", title_justify="left", show_header=False, box=None, pad_edge=False)
    for what, value in student_lines(config, parts.student, parts.teacher.model):
        table.add_row(f"  {what}", value)
    console.print(table)

    # One pass of the teacher serves every student: it covers what any of their objectives reads.
    poolings = frozenset().union(*(needs_of(settings).pooled for settings in parts.objectives.values()))
    on_train = (
        parts.teacher_outputs(parts.train, poolings, console, "training") if config.cache else parts.teacher
    )
    teacher_logits = _teacher_logits(parts, console)
    main_split = parts.data.main_split
    example = Example(
        parts.task, parts.train, parts.validation[main_split], parts.tokenizer, teacher_logits[main_split]
    )

    students: dict[str, PreTrainedModel] = {}
    costs: dict[str, Cost] = {}
    folders: dict[str, RunFolder] = {}
    for role, objectives in parts.objectives.items():
        main = role == main_role(config.objectives)
        folders[role] = run if main else run.comparison(role)
        needs = needs_of(objectives)
        taught = on_train if needs.teacher_logits or needs.pooled else None

        def train(role: str = role, objectives: Any = objectives, taught: Any = taught) -> None:
            students[role], costs[role] = train_into(
                folders[role],
                parts.fresh_student(),
                objectives,
                config.training,
                example,
                console,
                TITLES[role],
                teacher=taught,
                teacher_tokenizer=parts.teacher_tokenizer,
            )

        if main:
            train()
        else:
            with folders[role].running():
                train()

    comparison = _compare(parts, students, folders, teacher_logits, config)
    result = DistillResult(run.path, comparison, costs)
    _write(run, result, config, parts)
    return result


def _teacher_logits(parts: Distillation, console: Console) -> dict[str, np.ndarray]:
    """Returns the teacher's logits on every validation split, in the student's order of classes."""
    found = {}
    for name, split in parts.validation.items():
        if parts.config.cache:
            found[name] = parts.teacher_outputs(split, frozenset(), console, name).logits.numpy()
        else:
            prefix = "teacher_" if "teacher_input_ids" in split.column_names else ""
            raw = predict_logits(
                parts.teacher.model, split, parts.teacher_tokenizer or parts.tokenizer, prefix=prefix
            )
            found[name] = raw[:, list(parts.teacher.logit_order)]
    return found


def _compare(
    parts: Distillation,
    students: dict[str, PreTrainedModel],
    folders: dict[str, RunFolder],
    teacher_logits: dict[str, np.ndarray],
    config: DistillConfig,
) -> Comparison:
    """Judges every model in fp32 on every validation split and times teacher and student in turns."""
    task, main_split = parts.task, parts.data.main_split
    labels = {name: np.asarray(split["labels"]) for name, split in parts.validation.items()}
    timings = _time(parts, students[main_role(config.objectives)])

    def row(
        title: str,
        role: Any,
        logits: dict[str, np.ndarray],
        model: PreTrainedModel,
        size: int | None,
        speed: Timing,
    ) -> ModelRow:
        metrics: dict[str, float] = {}
        for name, values in logits.items():
            scores = compute_metrics(task.metrics, values, labels[name])
            metrics.update(
                {key if name == main_split else f"{name}/{key}": score for key, score in scores.items()}
            )
        own = predictions(logits[main_split], task)
        teachers = predictions(teacher_logits[main_split], task)
        total, embedding = count_parameters(model)
        return ModelRow(
            name=title,
            role=role,
            metrics=metrics,
            main_metric=task.main_metric,
            agreement=agreement(own, teachers, task.kind == "regression"),
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
            timings["teacher"],
        )
    ]
    others: tuple[Role, ...] = ("finetune", "kd", "codir")
    for role in others:
        if role not in students:
            continue
        model = students[role]
        logits = {
            name: predict_logits(model, split, parts.tokenizer) for name, split in parts.validation.items()
        }
        # The students share one architecture, so one measurement stands for all of them.
        size = model_size(folders[role].path)
        rows.append(row(TITLES[role], role, logits, model, size, timings["student"]))
    return Comparison(rows, labels=labels[main_split])


def _time(parts: Distillation, student: PreTrainedModel) -> dict[str, Timing]:
    split = parts.data.validation[parts.data.main_split]
    chosen = split.select(range(min(TIMED_SEQUENCES, len(split))))
    pairs = list(chosen["text_pair"]) if "text_pair" in chosen.column_names else [None] * len(chosen)
    texts = [
        (first, second) if second is not None else first
        for first, second in zip(chosen["text"], pairs, strict=True)
    ]
    models = {
        "teacher": (parts.teacher.model, parts.teacher_tokenizer or parts.tokenizer),
        "student": (student, parts.tokenizer),
    }
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return measure(models, texts, max_length=parts.config.data.max_length, device=device)


def _write(run: RunFolder, result: DistillResult, config: DistillConfig, parts: Distillation) -> None:
    content = {
        "task": parts.task.name,
        "main_metric": parts.task.main_metric,
        "seed": config.training.seed,
        "comparison": result.comparison.to_json(),
        "costs": {role: asdict(cost) for role, cost in result.costs.items()},
        "train_examples": len(parts.train),
        "validation_examples": {name: len(split) for name, split in parts.validation.items()},
    }
    write_json(run.metrics, content)
    write_text(run.path / "table.md", result.comparison.to_markdown())
    row = result.comparison.row(main_role(config.objectives))
    info = CardInfo(
        name=run.path.name,
        task=parts.task,
        source=parts.data.source or parts.task.name,
        metrics=row.metrics if row is not None else {},
        config_yaml=resolved_yaml(config),
        environment=read_json(run.environment),
        examples={
            "training": len(parts.train),
            **{name: len(split) for name, split in parts.validation.items()},
        },
        recipe=config.recipe,
        base_model=config.teacher,
        comparison=result.comparison,
        max_length=config.data.max_length,
        notes=parts.data.notes,
    )
    write_text(run.card, model_card(info))
    with contextlib.suppress(ConfigError):  # the picture needs the extra `plots`; the run does not
        result.comparison.to_png(run.path / "table.png")


def _read(run: RunFolder) -> DistillResult:
    content = read_json(run.metrics)
    costs = {role: Cost(**cost) for role, cost in content["costs"].items()}
    return DistillResult(run.path, Comparison.from_json(content["comparison"]), costs)


def _show(result: DistillResult, console: Console) -> None:
    console.print(result.comparison.to_rich())
    for line in result.comparison.plain_words():
        console.print(line, highlight=False)
    console.print(
        f"The student is in {result.output}; the table is in its README.md and metrics.json.", highlight=False
    )
