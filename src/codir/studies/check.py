"""Everything that could go wrong in a trial and can be known before the first one: refused here, all of it at once."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path

import yaml

from codir.config.config import DataConfig, DistillConfig, FinetuneConfig
from codir.config.loading import resolved_yaml
from codir.errors import CodirError, ConfigError, RunError
from codir.files import require_disk
from codir.kinds import kind_named
from codir.models.check import load_tokenizer_for
from codir.models.loading import count_parameters, load_classifier
from codir.printing import Console, silent
from codir.record.data import load_data
from codir.record.fingerprint import Part, data_parts, model_part, require_same
from codir.record.runfolder import RunFolder
from codir.record.same_settings import MAY_DIFFER, differences, moved
from codir.runs.prepare import Distillation, check_for, prepare
from codir.studies.config import Range
from codir.studies.recipes import distill_config, teacher_config, teacher_folder
from codir.studies.results import Plan
from codir.studies.search import grid_points
from codir.studies.trial import TRIALS, Trial, read_trials

# Weights, Adam's two moments, and of these up to three checkpoints at a time.
_CHECKPOINTS = 3 * 3
Kinds = Mapping[tuple[str, str | None, str], list[DistillConfig]]
"""For each group of trials (task, student, recipe) the configurations that it may come to."""


def check_settings(plan: Plan) -> Kinds:
    """Builds every kind of trial there can be.

    Raises:
        ConfigError: names all settings that do not exist, values that are refused, and what is searched for nothing.
    """
    groups = plan.search.groups()
    groups += [  # those that a strategy has beside the study's own
        Trial(name, task, student, plan.config.search_seed)
        for name in plan.recipes.keys() - plan.config.recipes.keys()
        for task in plan.config.tasks
        for student in plan.config.students or [None]
    ]
    problems = _searched_for_nothing(plan)
    found: dict[tuple[str, str | None, str], list[DistillConfig]] = {}
    for group in groups:
        found[group.group] = kinds = []
        ends = {
            key: [choice.tidy(choice.low), choice.tidy(choice.high)] if isinstance(choice, Range) else choice
            for key, choice in plan.search.choices(group).items()
        }
        for point in grid_points(ends):
            try:
                trial = Trial(group.recipe, group.task, group.student, group.seed, point)
                kinds.append(distill_config(plan.config, plan.recipes[group.recipe], trial))
            except CodirError as error:
                problems.append(f"recipe {group.recipe}: {error}")
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))
    return found


def _searched_for_nothing(plan: Plan) -> list[str]:
    problems = []
    for what, values in (("grid", plan.config.grid), ("space", plan.config.space)):
        for name in values:
            meant = list(plan.recipes) if "." in name else [name]
            for key in [name] if "." in name else plan.config.choices_of(name):
                own = "." in name or key not in values
                if own and not any(plan.recipes[each].has(key) for each in meant if each in plan.recipes):
                    has = {
                        each: list(plan.recipes[each].objectives) for each in meant if each in plan.recipes
                    }
                    problems.append(f"{what}: {key} means nothing to {', '.join(meant)} (objectives: {has}).")
    return problems


def check_same(plan: Plan) -> None:
    """Makes sure that the trials that were begun in the folder are trials of this study, and on the same data.

    Raises:
        RunError: names every setting that differs, with both values; the data or the teachers have changed since.
    """
    named = {trial.key for trial in plan.trials()}
    lines = []
    for trial in read_trials(plan.output):
        if trial.key not in named:
            lines.append(f"  {trial.key} is there, and no trial of the study now")
            continue
        config = distill_config(plan.config, plan.recipes[trial.recipe], trial)
        lines += _differing(f"recipe {trial.recipe}", config)
    for task in plan.config.tasks:
        if task not in plan.config.teachers:
            lines += _differing(f"teacher of {task}", teacher_config(plan.config, task))
    if lines:
        raise RunError(
            f"{plan.output} holds a study of another configuration:\n"
            + "\n".join(dict.fromkeys(lines))
            + "\nRecipes, tasks, students, seeds and trials may be added; anything else makes another study: "
            "choose another --output."
        )
    for task in plan.config.tasks:
        _require_same_data(plan.output, task)


def _differing(what: str, config: DistillConfig | FinetuneConfig) -> list[str]:
    run = RunFolder(config.output)
    if not run.config.is_file():
        return []
    try:
        before = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return []  # the run says it when it goes on
    now = yaml.safe_load(resolved_yaml(config))
    elsewhere = moved(before, now) if run.fingerprint.is_file() else set()
    return [f"  {what}, {line.strip()}" for line in differences(before, now, MAY_DIFFER | elsewhere)]


def _require_same_data(output: Path, task: str) -> None:
    """Compares data and teacher with what one trial was begun with; what cannot be read, its trials will name."""
    path = next(iter(sorted((output / TRIALS / task).glob("**/fingerprint.json"))), None)
    if path is None:
        return
    run = RunFolder(path.parent)
    parts: dict[str, Part] = {}
    # ValueError: of another version of codir
    with contextlib.suppress(CodirError, OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
        content = yaml.safe_load(run.config.read_text(encoding="utf-8"))
        parts |= {"teacher": model_part(content["teacher"])}
        parts |= data_parts(load_data(DataConfig(**content["data"])))
    require_same(run, parts)


def check_with_models(plan: Plan, kinds: Kinds, console: Console) -> None:
    """Loads data, teachers and students of what is still to be run, and checks every recipe's objectives with them.

    A teacher that is still to be fine-tuned is stood in for by the encoder with a head that knows nothing.

    Raises:
        CodirError: everything that a trial would have failed of.
    """
    finals: dict[tuple[str, str | None, str], list[Trial]] = {}
    for trial in plan.trials():
        if trial.phase == "final":
            finals.setdefault(trial.group, []).append(trial)
    done = plan.done()
    left = {
        group: configs
        for group, configs in kinds.items()
        if group not in finals or any(trial.key not in done for trial in finals[group])
    }
    problems: list[str] = []
    needed = 0
    for task in plan.config.tasks:
        of_task = {group: configs for group, configs in left.items() if group[0] == task}
        if not of_task:
            continue
        console.print(f"Checking {task}: data, teacher, student, {len(of_task)} recipes ...", highlight=False)
        try:
            with tempfile.TemporaryDirectory(prefix="codir-study-") as temporary:
                needed += _check_task(plan, task, of_task, Path(temporary), problems)
        except CodirError as error:
            problems.append(f"task {task}: {error}")
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))
    require_disk(plan.output, needed, "The study (a student for each trial, and checkpoints meanwhile)")


def _check_task(plan: Plan, task: str, kinds: Kinds, temporary: Path, problems: list[str]) -> int:
    """Adds what is wrong to `problems`; returns the bytes that the trials will write."""
    teacher = _teacher(plan, task, temporary)
    prepared: dict[str, Distillation] = {}
    needed = 0
    for group, configs in kinds.items():
        for number, kind in enumerate(configs):
            kind = kind.model_copy(update={"teacher": str(teacher)})
            inputs = f"{kind.student} {kind.data}"
            try:
                if inputs in prepared:
                    check_for(prepared[inputs], kind)
                else:
                    prepared[inputs] = prepare(kind, silent())
            except CodirError as error:
                problems.append(f"{'/'.join(filter(None, group))}: {error}")
                continue
            size = 4 * count_parameters(prepared[inputs].student)[0]
            trials = len(plan.config.seeds) if number == 0 else 1
            needed = max(needed, _CHECKPOINTS * size * (plan.config.workers or 1)) + trials * size
    return needed


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
