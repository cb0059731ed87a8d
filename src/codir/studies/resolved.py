"""Settles for each recipe of a study what its trials will be given.

From weakest to strongest: the recipe, the study's `settings` for it, the study's `training` (of which the budget holds
even where the study leaves it at its defaults). `codir.studies.trial_config` adds what is one trial's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import ValidationError

from codir.config.library import is_recipe_file, load_recipe, recipe_names
from codir.config.loading import Settings, complete_objectives, recipe_settings
from codir.config.messages import explain
from codir.config.student_config import START
from codir.config.training_config import TrainingConfig
from codir.errors import ConfigError, nearest
from codir.studies.config import BUDGET, RecipeChoice, StudyConfig

FINETUNE = "finetune"
_UNLABELLED = ("data.unlabeled", "data.limit_unlabeled")
# What a study's own sections say; of a student a recipe may choose its start, or another kind.
_OF_THE_STUDY = ("data", "teacher", "output", "resume", "cache_dir", "baseline", "kd")


@dataclass
class ResolvedRecipe:
    """What the trials of one recipe have in common, with every default spelt out.

    Attributes:
        name: in the study.
        recipe: the recipe of codir it started from.
        objectives: complete settings by name.
        training: complete; the seed is each trial's own.
        options: what else it says of how the teacher is kept (`cache`, ...).
        student: the recipe's own student, if it is of another kind than the study's; else None.
        notes: what it wanted otherwise than the study.
        changes: what the study sets for this recipe beside the objectives and the training, dotted keys: of its
            student (`student.init`), and the unlabelled texts it learns from (`data.unlabeled`).
        start: what the recipe says of its student's start (`START`); counts where the study's student does not say it.
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

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return asdict(self)


def resolve_recipes(config: StudyConfig) -> dict[str, ResolvedRecipe]:
    """Reads every recipe of a study and settles what its trials are given; all that is wrong is named at once.

    Raises:
        ConfigError: an unknown recipe, one of pre-training, a wrong setting in a recipe or in the study.
    """
    found, problems = {}, []
    for name, choice in choices(config).items():
        try:
            found[name] = resolve_recipe(name, choice, config)
        except ConfigError as error:
            problems.append(f"recipe {name}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return found


def choices(config: StudyConfig) -> dict[str, RecipeChoice]:
    """Returns the recipes of a study and those that its strategy needs beside them."""
    found = dict(config.recipes)
    if config.strategy == "greedy":
        for name in (FINETUNE, "kd"):
            found.setdefault(name, RecipeChoice(recipe=name))
    return found


def resolve_recipe(name: str, choice: RecipeChoice, config: StudyConfig) -> ResolvedRecipe:
    """Settles what the trials of one recipe are given; raises as `resolve_recipes`."""
    settings = _start(choice.recipe)
    notes = [
        f"{key}: the study's own is used"
        for key in _OF_THE_STUDY
        if settings.values.get(key) not in (None, {})
    ]
    own = {**choice.settings, **config.settings.get(name, {})}
    changes: dict[str, Any] = {}
    for key, value in own.items():
        if _fixed_setting(key):
            changes[key] = value
            continue
        settings.set(tuple(key.split(".")), value, f"settings.{name}.{key}")

    wanted = dict(settings.values.get("training") or {})
    defaults = TrainingConfig()
    budget = {key: config.training.get(key, getattr(defaults, key)) for key in BUDGET}
    for key, value in {**config.training, **budget}.items():
        if f"training.{key}" in own:
            continue
        if key in wanted and wanted[key] != value:
            notes.append(f"training.{key}: {wanted[key]!r} there, the study's {value!r} is used")
        settings.set(("training", key), value, f"training.{key} of the study")

    values = settings.values
    objectives = complete_objectives(
        {key: value or {} for key, value in values.get("objectives", {}).items()}, settings.places
    )
    training = _build_part(TrainingConfig, values.get("training", {}), settings, "training")
    student = values.get("student") or {}
    of_its_own = {key: value for key, value in student.items() if value is not None}
    start: dict[str, Any] = {}
    if of_its_own.keys() <= {"layers", *START}:
        start = {key: value for key, value in of_its_own.items() if key != "layers"}
        notes += _students_notes(of_its_own, config)
        of_its_own = {}
    else:
        notes.append(f"student: {of_its_own}, its own kind of student, not the study's")
    base = choice.recipe if not is_recipe_file(choice.recipe) else str(values.get("recipe"))
    return ResolvedRecipe(
        name, base, objectives, training, _options(values), of_its_own or None, notes, changes, start
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


def _options(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: values[key] for key in ("cache", "cache_tokens_gb") if key in values}


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


def _fixed_setting(key: str) -> bool:
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
            f"`training`{' (or search it with `grid`)' if name == 'batch_size' else ''}."
        )
    return False


def _build_part(model: Any, values: Mapping[str, Any], settings: Settings, section: str) -> dict[str, Any]:
    try:
        return model.model_validate(values).model_dump(mode="json")
    except ValidationError as error:
        raise ConfigError(explain(error, model, values, settings.places, (section,))) from None


def applies(key: str, recipe: ResolvedRecipe) -> bool:
    """Whether a key searched for all recipes means anything for this one."""
    section, _, rest = key.partition(".")
    return section != "objectives" or rest.partition(".")[0] in recipe.objectives
