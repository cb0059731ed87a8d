"""Settles what the trials of each recipe are given, and then the whole configuration of a single one.

From weakest to strongest: the recipe, the study's `settings` for it, the study's `training` (of which the budget holds
even where the study leaves it at its defaults), what is searched, the seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from codir.config.config import DistillConfig, FinetuneConfig
from codir.config.library import is_recipe_file, load_recipe, recipe_names
from codir.config.loading import (
    Settings,
    build,
    complete_objectives,
    explain,
    passed_on_problems,
    recipe_settings,
)
from codir.config.student_config import START, start_of
from codir.config.training_config import TrainingConfig
from codir.errors import ConfigError, nearest
from codir.studies.config import BUDGET, RecipeChoice, StudyConfig
from codir.studies.trial import Trial

FINETUNE = "finetune"
_UNLABELLED = ("data.unlabeled", "data.limit_unlabeled")
# What a study's own sections say; of a student a recipe may choose its start, or another kind.
_OF_THE_STUDY = ("data", "teacher", "output", "resume", "cache_dir", "baseline", "kd")


@dataclass
class ResolvedRecipe:
    """What the trials of one recipe have in common.

    Attributes:
        name: its name in the study.
        recipe: the recipe of codir that it started from.
        objectives: complete settings by name.
        training: complete settings; the seed is each trial's own.
        options: how it keeps the teacher's outputs (`cache`, ...).
        student: the recipe's own student, if that is of another kind than the study's.
        notes: what it wanted otherwise than the study.
        changes: the study's settings for this recipe of the student and of the unlabelled texts, by dotted key.
        start: how its student starts (`START`), where the study's student leaves that open.
    """

    name: str
    recipe: str
    objectives: dict[str, dict[str, Any]]
    training: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    student: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    changes: dict[str, Any] = field(default_factory=dict)
    start: dict[str, Any] = field(default_factory=dict)

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
    by_note: dict[str, list[str]] = {}
    for recipe in recipes.values():
        for note in recipe.notes:
            by_note.setdefault(note, []).append(recipe.name)
    return [f"{', '.join(names)}: {note}" for note, names in by_note.items()]


def _resolve(name: str, choice: RecipeChoice, config: StudyConfig) -> ResolvedRecipe:
    settings = _start(choice.recipe)
    values = settings.values
    notes = [f"{key}: the study's own is used" for key in _OF_THE_STUDY if values.get(key) not in (None, {})]
    own = {**choice.settings, **config.settings.get(name, {})}
    changes = {key: value for key, value in own.items() if _is_change(key)}
    for key in own.keys() - changes.keys():
        settings.set(tuple(key.split(".")), own[key], f"settings.{name}.{key}")
    wanted = dict(values.get("training") or {})
    defaults = TrainingConfig()
    budget = {key: config.training.get(key, getattr(defaults, key)) for key in BUDGET}
    for key, value in {**config.training, **budget}.items():
        if f"training.{key}" in own:
            continue
        if key in wanted and wanted[key] != value:
            notes.append(f"training.{key}: {wanted[key]!r} there, the study's {value!r} is used")
        settings.set(("training", key), value, f"training.{key} of the study")
    objectives = {key: value or {} for key, value in values.get("objectives", {}).items()}
    training = values.get("training", {})
    if problems := passed_on_problems(TrainingConfig, training, settings.places):
        raise ConfigError("\n".join(problems.values()))
    try:
        training = TrainingConfig.model_validate(training).model_dump(mode="json")
    except ValidationError as error:
        raise ConfigError(explain(error, TrainingConfig, training, settings.places, ("training",))) from None
    student = {key: value for key, value in (values.get("student") or {}).items() if value is not None}
    same_kind = student.keys() <= {"layers", *START}
    if same_kind:
        notes += _students_notes(student, config)
    else:
        notes.append(f"student: {student}, its own kind of student, not the study's")
    return ResolvedRecipe(
        name,
        str(values.get("recipe")) if is_recipe_file(choice.recipe) else choice.recipe,
        complete_objectives(objectives, settings.places),
        training,
        {key: values[key] for key in ("cache", "cache_tokens_gb") if key in values},
        None if same_kind else student,
        notes,
        changes,
        {key: value for key, value in student.items() if key != "layers"} if same_kind else {},
    )


def _students_notes(wanted: Mapping[str, Any], config: StudyConfig) -> list[str]:
    """Says where the study's students say otherwise than a recipe."""
    students = list(config.students.values()) or [config.student]
    return [
        f"student.{key}: {value!r} there, the study's {said[key]!r} is used"
        for key, value in wanted.items()
        for said in (student.said() for student in students)
        if key in said and said[key] != value
    ]


def _start(recipe: str) -> Settings:
    if recipe == FINETUNE:
        found = load_recipe(FINETUNE)
        settings = Settings()
        settings.merge(found.settings, found.places)
        settings.set(("objectives",), {"task": {}}, "the recipe finetune")
        return settings
    if not is_recipe_file(recipe) and recipe not in recipe_names("distill"):
        known = [*recipe_names("distill"), FINETUNE]
        if recipe in recipe_names():
            raise ConfigError(
                f"{recipe!r} is for `codir {load_recipe(recipe).command}`, and a study distils on tasks. Its student "
                "can stand under `students` (model: FOLDER)."
            )
        raise ConfigError(
            f"There is no recipe {recipe!r}{nearest(recipe, known)}. Recipes: {', '.join(sorted(known))}; a file of "
            "your own ends in .yaml."
        )
    return recipe_settings(recipe)


def _is_change(key: str) -> bool:
    """Says whether a setting for one recipe is one of `ResolvedRecipe.changes`; raises for those that cannot be."""
    section, _, name = key.partition(".")
    if (section == "student" and name) or key in _UNLABELLED:
        return True
    if section not in ("training", "objectives") or not name:
        raise ConfigError(
            f"settings: {key} cannot be set for one recipe: only training.*, objectives.*, student.*, "
            f"{' and '.join(_UNLABELLED)} can."
        )
    if section == "training" and (name in BUDGET or name == "seed"):
        raise ConfigError(
            f"settings: {key} is part of the budget, which is the same for all recipes: set it in the study's "
            f"`training`{' (or search it with `grid`)' if name == 'per_device_train_batch_size' else ''}."
        )
    return False


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


def distill_config(
    config: StudyConfig, recipe: ResolvedRecipe, trial: Trial, resume: bool = False
) -> DistillConfig:
    """Returns the whole configuration of a trial: its recipe's, then what is searched, then its seed.

    Raises:
        ConfigError: a searched setting that does not exist, or a value that it refuses.
    """
    settings = Settings()
    settings.set(("objectives",), recipe.objectives, f"recipe {recipe.name}")
    settings.set(("training",), recipe.training, f"recipe {recipe.name}")
    for key, value in trial.settings.items():
        _check_searched(key, recipe)
        settings.set(tuple(key.split(".")), value, "the search")
    student = config.students[trial.student] if trial.student is not None else config.student
    start = start_of(recipe.start, student.said())
    fixed = {
        "recipe": recipe.recipe,
        "teacher": str(teacher_folder(config, trial.task)),
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


def _check_searched(key: str, recipe: ResolvedRecipe) -> None:
    section, _, rest = key.partition(".")
    if section not in ("training", "objectives") or not rest:
        raise ConfigError(f"{key} cannot be searched: only training.* and objectives.* can.")
    if section == "training" and (
        rest == "seed" or (rest in BUDGET and rest != "per_device_train_batch_size")
    ):
        raise ConfigError(f"{key} cannot be searched: it is part of the budget, the same for all trials.")
    if not recipe.has(key):
        raise ConfigError(
            f"{key} cannot be searched: the recipe {recipe.name} has the objectives {', '.join(recipe.objectives)}."
        )
