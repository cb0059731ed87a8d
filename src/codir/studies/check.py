"""Everything that could go wrong in a trial and can be known before the first one: refused here, all of it at once."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from codir.config.config import DistillConfig
from codir.config.data_config import DataConfig
from codir.errors import CodirError, ConfigError
from codir.models.check import load_tokenizer_for
from codir.models.loading import count_parameters, load_classifier
from codir.printing import Console, silent
from codir.runs.data import load_data
from codir.runs.fingerprint import Part, data_parts, model_part, require_same
from codir.runs.prepare import Distillation, check_for, prepare
from codir.runs.runfolder import RunFolder
from codir.storage import require_disk
from codir.studies.config import Range, StudyConfig, grid_points
from codir.studies.resolved import ResolvedRecipe, applies
from codir.studies.strategies import strategy_of
from codir.studies.strategies.base import Group
from codir.studies.strategies.greedy import Greedy
from codir.studies.trial import Trial
from codir.studies.trial_config import distill_config, teacher_folder

# Weights, Adam's two moments, and of these up to three checkpoints at a time.
_CHECKPOINTS = 3 * 3


def check_settings(
    config: StudyConfig, recipes: Mapping[str, ResolvedRecipe]
) -> dict[str, list[DistillConfig]]:
    """Builds every kind of trial there can be, and refuses settings that do not exist or values that are refused.

    Returns:
        For each group of trials, `TASK/STUDENT/RECIPE`, the configurations that it may come to.

    Raises:
        ConfigError: names every one that is wrong.
    """
    strategy, problems = strategy_of(config, recipes), []
    found: dict[str, list[DistillConfig]] = {}
    problems += _unused(config, recipes)
    for group in _groups(config, recipes):
        kinds = []
        for point in _points(config, strategy, group, recipes):
            try:
                kinds.append(distill_config(config, recipes[group.recipe], group.trial(0, point, "search")))
            except CodirError as error:
                problems.append(f"recipe {group.recipe}: {error}")
        name = "/".join(filter(None, [group.task, group.student, group.recipe]))
        found[name] = kinds
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))
    return found


def _groups(config: StudyConfig, recipes: Mapping[str, ResolvedRecipe]) -> list[Group]:
    groups = strategy_of(config, recipes).groups()
    beside = [name for name in recipes if name not in config.recipes]  # a strategy's own
    return groups + [
        Group(task, student, name)
        for name in beside
        for task in config.tasks
        for student in config.students or [None]
    ]


def _points(
    config: StudyConfig, strategy: object, group: Group, recipes: Mapping[str, ResolvedRecipe]
) -> list[dict[str, Any]]:
    recipe = recipes[group.recipe]
    grid: dict[str, list[Any]]
    if config.space:
        space = {key: values for key, values in config.space_of(group.recipe).items() if applies(key, recipe)}
        grid = {key: values.ends if isinstance(values, Range) else values for key, values in space.items()}
    elif isinstance(strategy, Greedy):
        grid = strategy.grid_of(group)
    else:
        grid = {key: values for key, values in config.grid_of(group.recipe).items() if applies(key, recipe)}
    if any(not values for values in grid.values()):
        raise ConfigError(f"grid: {next(k for k, v in grid.items() if not v)} has no values.")
    return grid_points(grid)


def _unused(config: StudyConfig, recipes: Mapping[str, ResolvedRecipe]) -> list[str]:
    """Names what is searched and means nothing to any recipe it is for."""
    problems = []
    for what, values in (("grid", config.grid), ("space", config.space)):
        for name in values:
            keys = (
                [name] if "." in name else list((config.grid_of if what == "grid" else config.space_of)(name))
            )
            meant = list(recipes) if "." in name else [name]
            for key in keys:
                if "." not in name and key in values:
                    continue
                known = [each for each in meant if each in recipes and applies(key, recipes[each])]
                if not known:
                    has = {each: list(recipes[each].objectives) for each in meant if each in recipes}
                    problems.append(f"{what}: {key} means nothing to {', '.join(meant)} (objectives: {has}).")
    return problems


def check_with_models(
    config: StudyConfig,
    kinds: Mapping[str, list[DistillConfig]],
    known: list[str],
    console: Console,
) -> list[str]:
    """Loads data, teachers and students, and checks the objectives of every recipe with them.

    A teacher that is still to be fine-tuned is stood in for by the encoder with a head that knows nothing.

    Args:
        config: of the study.
        kinds: see `check_settings`.
        known: names of groups that were checked before.
        console: for what is being checked.

    Returns:
        The names of all groups, which need no check again.

    Raises:
        CodirError: everything that a trial would have failed of.
    """
    left = {name: each for name, each in kinds.items() if name not in known}
    problems, needed = _problems(config, left, console)
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(f"{name}: {error}" for name, error in problems)))
    require_disk(config.output, needed, "The study (a student for each trial, and checkpoints meanwhile)")
    return list(kinds)


def require_same_data(output: Path, tasks: Iterable[str]) -> None:
    """Makes sure that the data and the teachers of a study that goes on are those of its trials so far.

    One trial of each task is asked. Data that cannot be read are not compared: the trials say it, if any is left.

    Args:
        output: the study's folder.
        tasks: their names.

    Raises:
        RunError: they have changed since.
    """
    for task in tasks:
        path = next(iter(sorted((output / "trials" / task).glob("**/fingerprint.json"))), None)
        if path is None:
            continue
        run = RunFolder(path.parent)
        parts: dict[str, Part] = {}
        # ValueError: of another version of codir
        with contextlib.suppress(CodirError, OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
            content = yaml.safe_load(run.config.read_text(encoding="utf-8"))
            parts |= {"teacher": model_part(content["teacher"])}
            parts |= data_parts(load_data(DataConfig(**content["data"])))
        require_same(run, parts)


def _problems(
    config: StudyConfig, kinds: Mapping[str, list[DistillConfig]], console: Console
) -> tuple[list[tuple[str, CodirError]], int]:
    """Returns what is wrong with which group or task, and the bytes that the trials will write."""
    problems: list[tuple[str, CodirError]] = []
    needed = 0
    for task in config.tasks:
        of_task = {name: each for name, each in kinds.items() if name.split("/")[0] == task}
        if not of_task:
            continue
        console.print(f"Checking {task}: data, teacher, student, {len(of_task)} recipes ...", highlight=False)
        try:
            with tempfile.TemporaryDirectory(prefix="codir-study-") as temporary:
                needed += _check_task(config, task, of_task, Path(temporary), problems)
        except CodirError as error:
            problems.append((f"task {task}", error))
    return problems, needed


def _check_task(
    config: StudyConfig,
    task: str,
    kinds: Mapping[str, list[DistillConfig]],
    temporary: Path,
    problems: list[tuple[str, CodirError]],
) -> int:
    """Adds what is wrong to `problems`; returns the bytes that the trials will write."""
    teacher = _teacher(config, task, temporary)
    quiet = silent()
    prepared: dict[str, Distillation] = {}
    needed = 0
    for name, configs in kinds.items():
        for kind in configs:
            kind = kind.model_copy(update={"teacher": teacher})
            what = f"{kind.student} {kind.data}"
            try:
                parts = prepared.get(what)
                if parts is None:
                    parts = prepared[what] = prepare(kind, quiet)
                else:
                    check_for(parts, kind)
            except CodirError as error:
                problems.append((name, error))
                continue
            size = 4 * count_parameters(parts.student)[0]
            trials = len(config.seeds) if kind is configs[0] else 1
            needed = max(needed, _CHECKPOINTS * size * config.workers) + trials * size
    return needed


def _teacher(config: StudyConfig, task: str, temporary: Path) -> str:
    folder = teacher_folder(config, task)
    if task in config.teachers or RunFolder(folder).finished:
        return folder
    assert config.model is not None
    of_task = load_data(config.tasks[task]).task
    model = load_classifier(
        config.model,
        require_head=False,
        id2label=dict(enumerate(of_task.labels)) if of_task.labels is not None else None,
        regression=of_task.kind == "regression",
    )
    model.save_pretrained(temporary)
    load_tokenizer_for(model, config.model).save_pretrained(temporary)
    return str(temporary)


def describe_trials(trials: list[Trial]) -> str:
    """Returns `40 trials: 4 recipes, 2 tasks, 5 seeds` for people."""
    parts = [f"{len(trials)} trials: {len({trial.recipe for trial in trials})} recipes"]
    parts.append(f"{len({trial.task for trial in trials})} tasks")
    students = {trial.student for trial in trials} - {None}
    if students:
        parts.append(f"{len(students)} students")
    parts.append(f"{len({trial.seed for trial in trials})} seeds")
    return ", ".join(parts)
