"""Reads a study's configuration: a YAML file, `--set`, flags, with all that may be written shorter."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from codir.config.library import is_recipe_file
from codir.config.loading import Flags, Settings, build, explain, passed_on_problems
from codir.config.student_config import START, StudentConfig
from codir.config.training_config import TrainingConfig
from codir.config.yaml_text import dump_yaml, read_yaml_file
from codir.errors import ConfigError
from codir.studies.config import StudyConfig

# Settings that are gone, with what to write instead.
_GONE = {
    "launcher": "is now called engine: `engine: ray`",
    "storage": "is gone: trials are known by their folders; on several machines `engine: ray` shares them out",
    "heartbeat": "is gone with the database of a study",
    "parallel": "is gone: `tpe` proposes a setting whenever a worker is free",
}

# Settings that may be paths, wherever they stand; made absolute, since a trial may be run elsewhere.
_PATHS = {"model", "origin", "config", "recipe", "train", "validation", "unlabeled", "data_dir", "teachers"}


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
    try:  # so that messages name the sections as they are
        settings.values = _absolute(spelt_out(settings.values))
    except ValueError as error:
        place = next((settings.places[(key,)] for key in ("recipes", "tasks") if key in str(error)), "")
        raise ConfigError(f"{place}: {error}" if place else str(error)) from None
    loaded = build(StudyConfig, settings)
    if problems := passed_on_problems(TrainingConfig, loaded.training, settings.places):
        raise ConfigError("\n".join(problems.values()))
    try:
        TrainingConfig.model_validate(loaded.training)
    except ValidationError as error:
        where = ("training",)
        raise ConfigError(explain(error, TrainingConfig, loaded.training, settings.places, where)) from None
    places_written = {key: getattr(loaded, key) for key in ("output", "cache_dir")}
    return loaded.model_copy(
        update={key: path and Path(path).expanduser().absolute() for key, path in places_written.items()}
    )


def _absolute(value: Any, key: str = "") -> Any:
    if isinstance(value, Mapping):
        inner = {name: key if key == "teachers" else str(name).rpartition(".")[2] for name in value}
        return {name: _absolute(each, inner[name]) for name, each in value.items()}
    if isinstance(value, list):
        return [_absolute(each, key) for each in value]
    if (
        not isinstance(value, str | Path)
        or key not in _PATHS
        or (key == "recipe" and not is_recipe_file(str(value)))
    ):
        return value
    path = Path(value).expanduser()
    return str(path.absolute()) if path.exists() else value


def study_yaml(config: StudyConfig) -> str:
    """Returns YAML with every setting; `load_study` of it gives the same study."""
    content = config.model_dump(mode="json", exclude_none=True, exclude={"resume", "data", "data_dir"})
    content["student"] = _without_unsaid(content["student"], config.student)
    content["students"] = {
        name: _without_unsaid(content["students"][name], student) for name, student in config.students.items()
    }
    return dump_yaml({"command": "study", **content})


def _without_unsaid(values: Mapping[str, Any], student: StudentConfig) -> dict[str, Any]:
    """Returns a student's settings without the start that the study leaves to the recipes."""
    said = student.said()
    return {key: value for key, value in values.items() if key not in START or key in said}


# ---- short forms ---------------------------------------------------------------------------------------------------


def spelt_out(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings with the short forms of recipes and tasks as mappings.

    Raises:
        ValueError: they are none.
    """
    values = dict(values)
    for key in _GONE.keys() & values.keys():
        raise ValueError(f"{key} {_GONE[key]}")
    if "seeds" in values:
        values["seeds"] = seeds_of(values["seeds"])
    if "recipes" in values:
        values["recipes"] = _recipes(_listed(values["recipes"]))
    if "tasks" in values:
        values["tasks"] = _tasks(_listed(values["tasks"]), values.get("data"), values.get("data_dir"))
    return values


def seeds_of(value: Any) -> Any:
    """Reads `1-5`, `1,3,7-9` or a single number as a list; anything else stays."""
    if isinstance(value, int) and not isinstance(value, bool):
        return [value]
    if not isinstance(value, str):
        return value
    found: list[int] = []
    for part in value.split(","):
        match = re.match(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*$", part)
        if not match:
            raise ValueError("give seeds such as 1-5 or 1,2,3")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first > 10_000:
            raise ValueError(f"{part.strip()} is no range of seeds")
        found += range(first, last + 1)
    return found


def _listed(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _recipes(value: Any) -> Any:
    """Turns a list of names, files and named choices into `{name: {recipe, settings}}`."""
    items: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        items = [(str(name), inner) for name, inner in value.items()]
    elif not isinstance(value, list):
        return value
    else:
        for each in value:
            if isinstance(each, str):
                items.append((Path(each).stem if is_recipe_file(each) else each, {"recipe": each}))
            elif isinstance(each, Mapping) and len(each) == 1:
                items += [(str(name), inner) for name, inner in each.items()]
            else:
                raise ValueError(
                    "recipes must be a list of names and files, or of `- NAME: {recipe: ..., settings: ...}`"
                )
    found: dict[str, Any] = {}
    for name, inner in items:
        if name in found:
            raise ValueError(
                f"two recipes of this study are called {name!r}: give one of them a name of its own "
                "(`- NAME: {recipe: FILE}`)"
            )
        own = {} if inner is None else {"recipe": inner} if isinstance(inner, str) else inner
        found[name] = {"recipe": name, **own} if isinstance(own, Mapping) else own
    return found


def _tasks(value: Any, shared: Any, data_dir: Any) -> Any:
    """Turns a list of names into `{name: {task: name}}` and puts what is shared under each one's own settings."""
    if isinstance(value, list):
        if len({str(each) for each in value}) < len(value):
            raise ValueError("a task stands there twice")
        value = {str(each): None for each in value}
    if not isinstance(value, Mapping):
        return value
    found: dict[str, Any] = {}
    for name, inner in value.items():
        own = {"task": str(name)} if inner is None else inner
        if isinstance(own, Mapping):
            own = {**(shared if isinstance(shared, Mapping) else {}), **own}
            if data_dir is not None and own.get("task") is not None:
                own.setdefault("data_dir", str(data_dir))
        found[str(name)] = own
    return found
