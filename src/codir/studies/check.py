"""Everything that could go wrong in a trial and can be known before the first one: refused here, all of it at once."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from codir.config.config import DistillConfig, FinetuneConfig
from codir.errors import CodirError, ConfigError, RunError
from codir.kinds import kind_named
from codir.models.check import load_tokenizer_for
from codir.models.loading import load_classifier
from codir.printing import Console, silent
from codir.record.data import load_data
from codir.record.fingerprint import Part, data_parts, differing_settings, model_part, require_same
from codir.record.runfolder import RunFolder
from codir.runs.prepare import Distillation, check_for, prepare
from codir.studies.config import Range, dotted
from codir.studies.recipes import distill_config, teacher_config, teacher_folder
from codir.studies.results import Plan
from codir.studies.search import grid_points
from codir.studies.trial import Trial, read_trials

Kinds = dict[tuple[str, str | None, str], list[DistillConfig]]
"""For each group of trials (task, student, recipe) the configurations that it may come to."""


def check_settings(plan: Plan) -> Kinds:
    """Builds every kind of trial there can be.

    Raises:
        ConfigError: names all settings that do not exist, values that are refused, and what is searched for nothing.
    """
    problems = []
    what, searched = ("space", plan.config.space) if plan.config.space else ("grid", plan.config.grid)
    for name in searched:
        meant, keys = ([*plan.recipes], [name]) if "." in name else ([name], dotted(searched[name]))
        for key in keys:
            if not any(plan.recipes[each].has(key) for each in meant if each in plan.recipes):
                problems.append(f"{what}: {key} means nothing to {', '.join(meant)}, which has no such objective.")
    found: Kinds = {}
    for group in plan.search.groups(also=True):
        found[group.group] = []
        ends = {
            key: [choice.tidy(choice.low), choice.tidy(choice.high)] if isinstance(choice, Range) else choice
            for key, choice in plan.search.choices(group).items()
        }
        for point in grid_points(ends):
            trial = Trial(group.recipe, group.task, group.student, group.seed, point)
            try:
                found[group.group].append(distill_config(plan.config, plan.recipes[group.recipe], trial))
            except CodirError as error:
                problems.append(f"recipe {group.recipe}: {error}")
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))
    return found


def check_same(plan: Plan) -> None:
    """Makes sure that the trials that were begun in the folder are trials of this study, and on the same data.

    Raises:
        RunError: names every setting that differs, with both values; the data or the teachers have changed since.
    """
    named = {trial.key for trial in plan.trials()}
    lines: list[str] = []
    configs: list[tuple[str, DistillConfig | FinetuneConfig]] = [
        (f"teacher of {task}", teacher_config(plan.config, task))
        for task in plan.config.tasks
        if task not in plan.config.teachers
    ]
    begun: dict[str, DistillConfig] = {}  # one trial of each task
    for trial in read_trials(plan.output):
        if trial.key not in named:
            lines.append(f"  {trial.key} is there, and no trial of the study now")
            continue
        config = distill_config(plan.config, plan.recipes[trial.recipe], trial)
        configs.append((f"recipe {trial.recipe}", config))
        if RunFolder(config.output).fingerprint.is_file():
            begun.setdefault(trial.task, config)
    for what, config in configs:
        with contextlib.suppress(RunError):  # a damaged file the run itself names when it goes on
            differing, _ = differing_settings(RunFolder(config.output), config)
            lines += [f"  {what}, {line.strip()}" for line in differing]
    if lines:
        raise RunError(
            f"{plan.output} holds a study of another configuration:\n"
            + "\n".join(dict.fromkeys(lines))
            + "\nRecipes, tasks, students, seeds and trials may be added; anything else makes another study: "
            "choose another --output."
        )
    for config in begun.values():
        parts: dict[str, Part] = {}
        with contextlib.suppress(CodirError, OSError):  # what cannot be read, the trials will name
            parts = {"teacher": model_part(config.teacher), **data_parts(load_data(config.data))}
        require_same(RunFolder(config.output), parts)


def check_with_models(plan: Plan, kinds: Kinds, console: Console) -> None:
    """Loads data, teachers and students of what is still to be run, and checks every recipe's objectives with them.

    A teacher that is still to be fine-tuned is stood in for by the encoder with a head that knows nothing.

    Raises:
        CodirError: everything that a trial would have failed of.
    """
    done, finals = plan.done(), [trial for trial in plan.trials() if trial.phase == "final"]
    left = (kinds.keys() - {trial.group for trial in finals}) | {t.group for t in finals if t.key not in done}
    problems: list[str] = []
    for task in plan.config.tasks:
        of_task = {group: kinds[group] for group in kinds if group in left and group[0] == task}
        if not of_task:
            continue
        console.print(f"Checking {task}: data, teacher, student, {len(of_task)} recipes ...", highlight=False)
        prepared: dict[str, Distillation] = {}
        with tempfile.TemporaryDirectory(prefix="codir-study-") as temporary:
            try:
                teacher = _teacher(plan, task, Path(temporary))
            except CodirError as error:
                problems.append(f"task {task}: {error}")
                continue
            for group, config in [(name, each) for name in of_task for each in of_task[name]]:
                config = config.model_copy(update={"teacher": str(teacher)})
                inputs = f"{config.student} {config.data}"
                try:
                    if inputs in prepared:
                        check_for(prepared[inputs], config)
                    else:
                        prepared[inputs] = prepare(config, silent())
                except CodirError as error:
                    problems.append(f"{'/'.join(filter(None, group))}: {error}")
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))


def _teacher(plan: Plan, task: str, temporary: Path) -> Path:
    if plan.teacher_state(task) == "finished":
        return teacher_folder(plan.config, task)
    assert plan.config.model is not None
    of_task = load_data(plan.config.tasks[task]).task
    model = load_classifier(
        plan.config.model,
        require_head=False,
        labels=lambda config: kind_named(of_task.kind).write(config, of_task.labels),
    )
    model.save_pretrained(temporary)
    load_tokenizer_for(model, plan.config.model).save_pretrained(temporary)
    return temporary
