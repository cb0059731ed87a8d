"""Reads a study's configuration: a YAML file, settings of the command line, flags; and writes it again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from codir.config.library import is_recipe_file
from codir.config.loading import Flags, Settings, build
from codir.config.messages import explain
from codir.config.student_config import START, StudentConfig
from codir.config.training_config import TrainingConfig
from codir.config.yaml_text import dump_yaml, read_yaml_file
from codir.errors import ConfigError
from codir.studies.config import StudyConfig
from codir.studies.short_forms import spelt_out


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
                "recipe": there(choice.recipe) if is_recipe_file(choice.recipe) else choice.recipe,
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


def _without_unsaid(values: Mapping[str, Any], student: StudentConfig) -> dict[str, Any]:
    """Returns a student's settings without the start that the study leaves to the recipes."""
    said = student.said()
    return {key: value for key, value in values.items() if key not in START or key in said}
