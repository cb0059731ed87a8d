"""From a fine-tuned teacher to a smaller student, with the table that says what it kept."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, TrainerCallback

from codir.config.config import DistillConfig
from codir.config.loading import load_distill, resolved_yaml
from codir.files import write_json, write_text
from codir.measure.comparison import Comparison, Role, main_role
from codir.measure.timing import model_size
from codir.printing import Console, pairs, terminal
from codir.record.card import run_card
from codir.record.data import load_data
from codir.record.environment import environment
from codir.record.fingerprint import (
    Part,
    begin,
    config_part,
    data_parts,
    model_part,
    require_same,
    require_same_still,
    with_tokens,
)
from codir.record.run_inputs import INPUTS
from codir.record.runfolder import RunFolder
from codir.runs.arguments import check_arguments
from codir.runs.judge import compare
from codir.runs.prepare import Distillation, prepare
from codir.runs.student_run import Cost, TrainingData, train_into
from codir.training.precision import resolve_precision
from codir.training.processes import one_process_only


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
        config: the whole configuration; or give its sections as keywords, on top of a recipe:
            `distill(teacher="runs/teacher", data={"task": "sst2"}, student={"layers": 6}, output="runs/student")`.
        console: where to print; the terminal by default.
        timing: measure how fast teacher and student are; pointless where other work runs on the machine.
        callbacks: of transformers, for the main student's training.
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
        config = load_distill(recipe=recipe, flags={key: (key, value) for key, value in settings.items()})
    one_process_only("codir distill")
    check_arguments(config.training)
    console = terminal(console)
    with RunFolder.open(config.output, config.resume) as run:
        if run.finished:
            require_same_still(
                run, resolved_yaml(config), lambda: data_parts(load_data(config.data)) | _models(config)
            )
            result = run.results(lambda content: _read(run, content))
            console.print(f"{run.path} is finished; nothing to resume.", highlight=False)
        else:
            if run.reopened:
                console.print(run.reopened, highlight=False)
            run.check_same(resolved_yaml(config))
            result = _distill(config, run, console, timing, callbacks)
    _show(result, console)
    return result


def _distill(
    config: DistillConfig,
    run: RunFolder,
    console: Console,
    timing: bool,
    callbacks: Sequence[TrainerCallback],
) -> DistillResult:
    require_same(run, _models(config))
    data = load_data(config.data)
    begun = data_parts(data)
    require_same(run, begun)
    parts = prepare(config, console, data)
    # Only now is it a run: bad input leaves nothing behind that would refuse the corrected command.
    # the models once more: one of the Hub is in the cache, and so has digests, only since it was loaded
    begin(run, resolved_yaml(config), with_tokens(begun | _models(config), parts.train))
    write_json(
        run.environment,
        environment(
            config.training.seed, resolve_precision(config.training.precision), **_unlabeled(config, parts)
        ),
    )
    console.print(pairs("Before training", parts.lines))

    teacher_logits = parts.teacher_on_validation(console)
    main_split = parts.data.main_split
    encoded = TrainingData(
        parts.task,
        parts.train,
        parts.validation[main_split],
        parts.tokenizer,
        teacher_logits[main_split],
        parts.label_ids,
    )

    students: dict[str, PreTrainedModel] = {}
    costs: dict[str, Cost] = {}
    folders: dict[str, RunFolder] = {}
    for role, objectives in parts.objectives.items():
        main = role == main_role(config.objectives)
        folders[role] = run if main else run.comparison(role)
        with contextlib.nullcontext() if main else folders[role].running():
            students[role], costs[role] = train_into(
                folders[role],
                parts.fresh_student(),
                objectives,
                config.training,
                # the same number of steps for all: one that learns from labels alone sees the labelled rows more often
                replace(encoded, train=parts.labelled, budget=len(parts.train))
                if set(objectives) == {"task"}
                else encoded,
                console,
                parts.title(role),
                teacher=parts.teacher_of(role),
                teacher_tokenizer=parts.teacher_tokenizer,
                cache=parts.cache,
                callbacks=callbacks if main else (),
            )
            if not main:
                write_json(folders[role].path / INPUTS, {"data": config.data.model_dump(mode="json")})

    sizes = {role: model_size(folder.path) for role, folder in folders.items()}
    comparison = compare(parts, students, sizes, teacher_logits, timing)
    result = DistillResult(run.path, comparison, costs)
    _write(run, result, config, parts)
    return result


def _models(config: DistillConfig) -> dict[str, Part]:
    """Describes the models that a run starts from, as they are now."""
    wanted = config.student
    parts = {"teacher": model_part(config.teacher)}
    if wanted.model is not None:
        parts["student's model"] = model_part(wanted.model)
    if wanted.origin is not None:
        parts["student's origin"] = model_part(wanted.origin)
    if isinstance(wanted.config, Path):
        parts["student's config"] = config_part(wanted.config)
    return parts


def _unlabeled(config: DistillConfig, parts: Distillation) -> dict[str, Any]:
    """What environment and metrics say of unlabelled texts; nothing where there are none."""
    if parts.data.unlabeled is None:
        return {}
    files = [str(path) for path in config.data.unlabeled or ()]
    return {"unlabeled": {"examples": len(parts.data.unlabeled), "files": files}}


def _write(run: RunFolder, result: DistillResult, config: DistillConfig, parts: Distillation) -> None:
    content = {
        "task": parts.task.name,
        "main_metric": parts.task.main_metric,
        "seed": config.training.seed,
        "comparison": result.comparison.to_json(),
        "costs": {role: asdict(cost) for role, cost in result.costs.items()},
        "train_examples": len(parts.labelled),
        **_unlabeled(config, parts),
        "validation_examples": {name: len(split) for name, split in parts.validation.items()},
        "notes": parts.data.notes,
    }
    write_json(run.metrics, content)
    write_text(run.path / "table.md", result.comparison.to_markdown())
    write_text(run.card, run_card(run.path))


def _read(run: RunFolder, content: Any) -> DistillResult:
    costs = {role: Cost(**cost) for role, cost in content["costs"].items()}
    return DistillResult(run.path, Comparison.from_json(content["comparison"]), costs)


def _show(result: DistillResult, console: Console) -> None:
    console.print(result.comparison.to_rich())
    for line in result.comparison.plain_words():
        console.print(line, highlight=False)
    console.print(
        f"The student is in {result.output}; the table is in its README.md and metrics.json.", highlight=False
    )
    for name, folder in result.no_worse().items():
        console.print(
            f"The {name}, which scores no less, is in {folder} and loads likewise.", highlight=False
        )
