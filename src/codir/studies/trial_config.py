"""The configurations that a study's workers run: of a trial, and of the fine-tuning that makes a teacher.

A trial has what `codir.studies.resolved` has settled for its recipe, then what the strategy searches, then its seed.
"""

from __future__ import annotations

from pathlib import Path

from codir.config.config import DistillConfig, FinetuneConfig
from codir.config.loading import Settings, build, complete_objectives
from codir.config.student_config import start_of
from codir.errors import ConfigError
from codir.studies.config import BUDGET, StudyConfig
from codir.studies.resolved import ResolvedRecipe
from codir.studies.trial import Trial


def teacher_folder(config: StudyConfig, task: str) -> str:
    """Returns the teacher of a task: given, or the folder where the study fine-tunes it."""
    return config.teachers.get(task, str(config.output / "teachers" / task))


def teacher_config(config: StudyConfig, task: str, resume: bool = False) -> FinetuneConfig:
    """Returns the fine-tuning that makes the teacher of a task."""
    assert config.model is not None
    return FinetuneConfig(
        model=config.model,
        data=config.tasks[task].model_copy(update={"unlabeled": None, "limit_unlabeled": None}),
        training=config.teacher_training,
        output=Path(teacher_folder(config, task)),
        resume=resume,
    )


def distill_config(
    config: StudyConfig, recipe: ResolvedRecipe, trial: Trial, resume: bool = False
) -> DistillConfig:
    """Returns the whole configuration of a trial.

    Raises:
        ConfigError: a searched setting that does not exist, or a value that it refuses.
    """
    settings = Settings()
    settings.set(("objectives",), recipe.objectives, f"recipe {recipe.name}")
    settings.set(("training",), recipe.training, f"recipe {recipe.name}")
    for key, value in trial.settings.items():
        _searched_setting(key, recipe)
        settings.set(tuple(key.split(".")), value, "the search")
    student = config.students[trial.student] if trial.student is not None else config.student
    start = start_of(recipe.start, student.said())
    fixed = {
        "recipe": recipe.recipe,
        "teacher": teacher_folder(config, trial.task),
        "data": config.tasks[trial.task].model_dump(mode="json", exclude_none=True),
        "student": recipe.student or {**student.model_dump(mode="json"), **start},
        **recipe.options,
        "cache_dir": str(config.cache_dir or config.output / "cache"),
        "baseline": False,
        "kd": False,
        "output": str(trial.folder(config.output)),
        "resume": resume,
    }
    for key, value in fixed.items():
        settings.set((key,), value, "the study")
    for key, value in recipe.changes.items():
        settings.set(tuple(key.split(".")), value, f"settings.{recipe.name}.{key}")
    settings.set(("training", "seed"), trial.seed, "the study")
    loaded = build(DistillConfig, settings)
    return loaded.model_copy(update={"objectives": complete_objectives(loaded.objectives, settings.places)})


def _searched_setting(key: str, recipe: ResolvedRecipe) -> None:
    section, _, rest = key.partition(".")
    if section not in ("training", "objectives") or not rest:
        raise ConfigError(f"{key} cannot be searched: only training.* and objectives.* can.")
    if section == "training" and (rest == "seed" or (rest in BUDGET and rest != "batch_size")):
        raise ConfigError(f"{key} cannot be searched: it is part of the budget, the same for all trials.")
    if section == "objectives" and rest.partition(".")[0] not in recipe.objectives:
        raise ConfigError(
            f"{key} cannot be searched: the recipe {recipe.name} has the objectives {', '.join(recipe.objectives)}."
        )
