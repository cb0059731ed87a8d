"""What the trials of each recipe are given, and the whole configuration of a single one.

From weakest to strongest: the recipe, the study's `settings` for it, the study's `training` (of which the budget holds
even where the study leaves it at its defaults), what is searched, the seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codir.config.config import DistillConfig, FinetuneConfig
from codir.config.library import is_recipe_file, load_recipe
from codir.config.loading import Settings, build, complete_objectives, recipe_settings
from codir.config.student_config import START, start_of
from codir.config.training_config import TrainingConfig
from codir.errors import ConfigError
from codir.settings import Section
from codir.studies.config import BUDGET, RecipeChoice, StudyConfig
from codir.studies.trial import Trial

FINETUNE = "finetune"
_UNLABELLED = ("data.unlabeled", "data.limit_unlabeled")
# What a study's own sections say; of a student a recipe may choose its start, or another kind.
_OF_THE_STUDY = ("data", "teacher", "output", "resume", "cache_dir", "baseline", "kd")


@dataclass
class ResolvedRecipe:
    """What the trials of one recipe have in common."""

    name: str
    recipe: str  # the recipe of codir that it started from
    objectives: dict[str, dict[str, Any]]  # complete settings by name
    training: dict[str, Any]  # complete settings; the seed is each trial's own
    options: dict[str, Any]  # how it keeps the teacher's outputs (`cache`, ...)
    student: dict[str, Any] | None  # its own, if that is of another kind than the study's
    start: dict[str, Any]  # how its student starts (`START`), where the study's student leaves that open
    changes: dict[str, Any]  # the study's settings for it of the student and of the unlabelled texts, by dotted key
    notes: list[str]  # what it wanted otherwise than the study

    def has(self, key: str) -> bool:
        """Says whether a setting that is searched for all recipes means anything for this one."""
        section, _, rest = key.partition(".")
        return section != "objectives" or rest.partition(".")[0] in self.objectives


def resolve_recipes(config: StudyConfig) -> dict[str, ResolvedRecipe]:
    """Reads every recipe of a study, and those that its strategy needs beside them.

    Raises:
        ConfigError: names all unknown recipes, recipes of pre-training, and wrong settings in a recipe or the study.
    """
    chosen = dict(config.recipes)
    if config.strategy == "greedy":
        chosen |= {name: RecipeChoice(recipe=name) for name in (FINETUNE, "kd") if name not in chosen}
    found, problems = {}, []
    for name, choice in chosen.items():
        try:
            found[name] = _resolve(name, choice, config)
        except ConfigError as error:
            problems.append(f"recipe {name}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return found


def notes_of(recipes: Mapping[str, ResolvedRecipe]) -> list[str]:
    """Returns what recipes say otherwise than the study, one line for all that say the same."""
    notes = dict.fromkeys(note for recipe in recipes.values() for note in recipe.notes)
    return [f"{', '.join(name for name, recipe in recipes.items() if note in recipe.notes)}: {note}" for note in notes]


class _Training(Section):
    training: TrainingConfig


def _resolve(name: str, choice: RecipeChoice, config: StudyConfig) -> ResolvedRecipe:
    if choice.recipe == FINETUNE:
        settings, found = Settings(), load_recipe(FINETUNE)
        settings.merge(found.settings, found.places)
        settings.set(("objectives",), {"task": {}}, "the recipe finetune")
    else:
        settings = recipe_settings(choice.recipe)
    values = settings.values
    notes = [f"{key}: the study's own is used" for key in _OF_THE_STUDY if values.get(key) not in (None, {})]
    changes: dict[str, Any] = {}
    own = {**choice.settings, **config.settings.get(name, {})}
    for key, value in own.items():
        require_free(key)
        if key.startswith(("training.", "objectives.")):
            settings.set(tuple(key.split(".")), value, f"settings.{name}.{key}")
        else:
            changes[key] = value
    wanted = dict(values.get("training") or {})
    said = config.training.model_dump(exclude_unset=True)
    for key, value in {**said, **{key: getattr(config.training, key) for key in BUDGET}}.items():
        if f"training.{key}" not in own:
            if key in wanted and wanted[key] != value:
                notes.append(f"training.{key}: {wanted[key]!r} there, the study's {value!r} is used")
            settings.set(("training", key), value, f"training.{key} of the study")
    training = Settings()
    training.values, training.places = {"training": values["training"]}, settings.places
    student = {key: value for key, value in (values.get("student") or {}).items() if value is not None}
    same_kind = student.keys() <= {"layers", *START}
    if not same_kind:
        notes.append(f"student: {student}, its own kind of student, not the study's")
    for key, value in student.items() if same_kind else ():
        for of_study in (each.said() for each in config.students.values() or [config.student]):
            if of_study.get(key, value) != value:
                notes.append(f"student.{key}: {value!r} there, the study's {of_study[key]!r} is used")
    objectives = {key: each or {} for key, each in values.get("objectives", {}).items()}
    return ResolvedRecipe(
        name=name,
        recipe=str(values.get("recipe")) if is_recipe_file(choice.recipe) else choice.recipe,
        objectives=complete_objectives(objectives, settings.places),
        training=build(_Training, training).training.model_dump(mode="json"),
        options={key: values[key] for key in ("cache", "cache_tokens_gb") if key in values},
        student=None if same_kind else student,
        start={key: value for key, value in student.items() if key != "layers"} if same_kind else {},
        changes=changes,
        notes=notes,
    )


def require_free(key: str, searched: bool = False) -> None:
    """Raises `ConfigError` for a setting in which the recipes of a study, or the trials of a search, cannot differ."""
    section, _, name = key.partition(".")
    others = () if searched else ("student",)
    if not (name and section in ("training", "objectives", *others)) and (searched or key not in _UNLABELLED):
        more = "" if searched else f", student.*, {' and '.join(_UNLABELLED)}"
        why = f"only training.*, objectives.*{more} can"
    elif section == "training" and (
        name == "seed" or (name in BUDGET and not (searched and name == "per_device_train_batch_size"))
    ):
        why = "it is part of the budget, which is the same for all trials: set it in the study's `training`"
    else:
        return
    raise ConfigError(f"{key} cannot be {'searched' if searched else 'set for one recipe'}: {why}.")


# ---- one trial -----------------------------------------------------------------------------------------------------


def teacher_folder(config: StudyConfig, task: str) -> Path:
    """Returns the teacher of a task: given, or the folder where the study fine-tunes it."""
    return Path(config.teachers.get(task, config.output / "teachers" / task))


def teacher_config(config: StudyConfig, task: str, resume: bool = False) -> FinetuneConfig:
    """Returns the fine-tuning that makes the teacher of a task."""
    assert config.model is not None
    return FinetuneConfig(
        model=config.model,
        data=config.tasks[task].model_copy(update={"unlabeled": None, "limit_unlabeled": None}),
        training=config.teacher_training,
        output=teacher_folder(config, task),
        resume=resume,
    )


def distill_config(config: StudyConfig, recipe: ResolvedRecipe, trial: Trial, resume: bool = False) -> DistillConfig:
    """Returns the whole configuration of a trial; raises `ConfigError` for what cannot be searched."""
    settings = Settings()
    settings.set(("objectives",), recipe.objectives, f"recipe {recipe.name}")
    settings.set(("training",), recipe.training, f"recipe {recipe.name}")
    for key, value in trial.settings.items():
        require_free(key, searched=True)
        settings.set(tuple(key.split(".")), value, "the search")
    student = config.students[trial.student] if trial.student is not None else config.student
    fixed = {
        "recipe": recipe.recipe,
        "teacher": str(teacher_folder(config, trial.task)),
        "data": config.tasks[trial.task].model_dump(mode="json", exclude_none=True),
        "student": recipe.student or {**student.model_dump(mode="json"), **start_of(recipe.start, student.said())},
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
