"""Builds a study's configuration, and settles for each recipe what its trials will be given.

From weakest to strongest, for one trial: the recipe, the study's `settings` for it, the study's `training` (of which
the budget holds even where the study leaves it at its defaults), what the strategy searches, the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from codir.errors import ConfigError, nearest
from codir.recipes.config import DistillConfig, FinetuneConfig
from codir.recipes.library import load_recipe, recipe_names
from codir.recipes.loading import Flags, Settings, build, complete_objectives, recipe_settings
from codir.recipes.messages import explain
from codir.recipes.student_config import START, StudentConfig, takes_start
from codir.recipes.training_config import TrainingConfig
from codir.recipes.yaml_text import dump_yaml, read_yaml_file
from codir.studies.config import BUDGET, RecipeChoice, StudyConfig, dotted, spelt_out
from codir.studies.trial import Trial

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


def load_study(
    config: str | Path | None = None, *, overrides: Iterable[str] = (), flags: Flags | None = None
) -> StudyConfig:
    """Builds the configuration of a study.

    Args:
        config: a YAML file.
        overrides: texts such as `training.learning_rate=1e-5`.
        flags: for each key, the flag's name for messages and its value.

    Raises:
        ConfigError: an unknown key, a wrong value or a missing one; names the place and the way out.
    """
    settings = Settings()
    if config is not None:
        content, places = read_yaml_file(config)
        if content is not None and not isinstance(content, dict):
            raise ConfigError(
                f"{config}: expected settings such as `recipes:`, not a {type(content).__name__}"
            )
        content = dict(content or {})
        if content.pop("command", "study") != "study":
            raise ConfigError(f"{places[('command',)]}: this configuration is not for `codir study`")
        settings.merge(content, places)
    settings.set_given(overrides, flags)
    settings.values = _spelt_out(settings)  # so that messages name the sections as they are
    loaded = build(StudyConfig, settings)
    _explain_training(loaded.training, settings)
    return _absolute(loaded)


def _spelt_out(settings: Settings) -> dict[str, Any]:
    try:
        return spelt_out(settings.values)
    except ValueError as error:
        place = next((settings.places[(key,)] for key in ("recipes", "tasks") if key in str(error)), "")
        raise ConfigError(f"{place}: {error}" if place else str(error)) from None


def _explain_training(training: Mapping[str, Any], settings: Settings) -> None:
    try:
        TrainingConfig.model_validate(training)
    except ValidationError as error:
        raise ConfigError(explain(error, TrainingConfig, training, settings.places, ("training",))) from None


def _absolute(config: StudyConfig) -> StudyConfig:
    """Makes paths absolute: a worker may be started elsewhere."""

    def there(value: Any) -> Any:
        if not isinstance(value, str | Path):
            return value
        path = Path(value).expanduser()
        return type(value)(path.absolute()) if path.exists() else value

    tasks = {
        name: data.model_copy(
            update={
                **{key: there(getattr(data, key)) for key in ("data_dir", "train", "validation")},
                "unlabeled": data.unlabeled and [there(path) for path in data.unlabeled],
            }
        )
        for name, data in config.tasks.items()
    }

    def student(each: Any) -> Any:
        return each.model_copy(
            update={key: there(getattr(each, key)) for key in ("model", "config", "origin")}
        )

    recipes = {
        name: choice.model_copy(
            update={
                "recipe": there(choice.recipe) if _is_file(choice.recipe) else choice.recipe,
                "settings": _paths(choice.settings, there),
            }
        )
        for name, choice in config.recipes.items()
    }
    return config.model_copy(
        update={
            "recipes": recipes,
            "tasks": tasks,
            "data_dir": there(config.data_dir),
            "model": there(config.model),
            "settings": {name: _paths(each, there) for name, each in config.settings.items()},
            "teachers": {name: there(teacher) for name, teacher in config.teachers.items()},
            "student": student(config.student),
            "students": {name: student(each) for name, each in config.students.items()},
            "cache_dir": config.cache_dir and Path(config.cache_dir).expanduser().absolute(),
            "output": Path(config.output).expanduser().absolute(),
        }
    )


def _paths(settings: Mapping[str, Any], there: Callable[[Any], Any]) -> dict[str, Any]:
    """Returns a recipe's settings with those that are paths made absolute."""

    def absolute(value: Any) -> Any:
        return [there(each) for each in value] if isinstance(value, list) else there(value)

    named = ("data.unlabeled", "student.model", "student.origin", "student.config")
    return {key: absolute(value) if key in named else value for key, value in settings.items()}


def _is_file(recipe: str) -> bool:
    return recipe.endswith((".yaml", ".yml"))


def study_yaml(config: StudyConfig) -> str:
    """Returns YAML with every setting; `load_study` of it gives the same study."""
    content = config.model_dump(mode="json", exclude_none=True)
    content.pop("resume")
    content.pop("data")  # stands in every task
    content.pop("data_dir", None)
    content["student"] = _without_unsaid(content["student"], config.student)
    content["students"] = {
        name: _without_unsaid(content["students"][name], student) for name, student in config.students.items()
    }
    return dump_yaml({"command": "study", **content})


# ---- recipes -------------------------------------------------------------------------------------------------------


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
    base = choice.recipe if not _is_file(choice.recipe) else str(values.get("recipe"))
    return ResolvedRecipe(
        name, base, objectives, training, _options(values), of_its_own or None, notes, changes, start
    )


def _students_notes(wanted: Mapping[str, Any], config: StudyConfig) -> list[str]:
    """Says where the study's students say otherwise than a recipe."""
    students = list(config.students.values()) or [config.student]
    return [
        f"student.{key}: {value!r} there, the study's {said[key]!r} is used"
        for key, value in wanted.items()
        for said in map(said_of, students)
        if key in said and said[key] != value
    ]


def _without_unsaid(values: Mapping[str, Any], student: StudentConfig) -> dict[str, Any]:
    """Returns a student's settings without the start that the study leaves to the recipes."""
    said = said_of(student)
    return {key: value for key, value in values.items() if key not in START or key in said}


def said_of(student: StudentConfig) -> dict[str, Any]:
    """Returns what was set of a student, without what is there by default."""
    return student.model_dump(mode="json", exclude_unset=True, exclude_none=True)


def _options(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: values[key] for key in ("cache", "cache_tokens_gb") if key in values}


def _start(recipe: str) -> Settings:
    if recipe == FINETUNE:
        found = load_recipe(FINETUNE)
        settings = Settings()
        settings.merge(found.settings, found.places)
        settings.set(("objectives",), {"task": {}}, "the recipe finetune")
        return settings
    if not _is_file(recipe) and recipe not in recipe_names("distill"):
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


# ---- trials --------------------------------------------------------------------------------------------------------


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
    said = said_of(student)
    start = (
        {key: value for key, value in recipe.start.items() if key not in said} if takes_start(said) else {}
    )
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


def applies(key: str, recipe: ResolvedRecipe) -> bool:
    """Whether a key searched for all recipes means anything for this one."""
    section, _, rest = key.partition(".")
    return section != "objectives" or rest.partition(".")[0] in recipe.objectives


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns dotted keys, for comparing two studies."""
    return dotted(values)
