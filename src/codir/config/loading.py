"""Builds the configuration of a run from all the places where settings can stand.

From weakest to strongest: the recipe, the YAML file (`--config`), `--set`, the command line's own flags. Sections
are merged key by key, lists and plain values replace what was there. `null` for an objective removes it; an empty
section changes nothing. Paths are relative to the folder the command is started in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from codir.config.config import DEFAULT_RECIPE, DistillConfig, FinetuneConfig, RunConfig
from codir.config.library import ABOUT, is_recipe_file, load_recipe
from codir.config.messages import explain
from codir.config.pretraining import DEFAULT_PRETRAINING, PretrainConfig
from codir.config.student_config import START, takes_start
from codir.config.training_config import OptimisationConfig
from codir.config.yaml_text import KeyPath, dump_yaml, read_value, read_yaml_file
from codir.errors import CodirError, ConfigError
from codir.settings import Section

if TYPE_CHECKING:
    from codir.losses.base import Objective, ObjectiveSettings

_SECTIONS = ("data", "student", "training", "objectives", "masking")
_LENGTHS = ("max_steps", "num_train_epochs")
Flags = Mapping[str, tuple[str, Any]]
SectionT = TypeVar("SectionT", bound=Section)


class Settings:
    """Nested settings being collected, each with the place it was last set at."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.places: dict[KeyPath, str] = {}

    def merge(self, values: Mapping[str, Any], places: Mapping[KeyPath, str]) -> None:
        """Merges nested `values`, which stand at `places`, over what is there."""
        self._merge(self.values, values, (), places)

    def set(self, path: KeyPath, value: Any, place: str) -> None:
        """Sets the value at `path`; a nested value is merged."""
        nested: dict[str, Any] = {}
        inner = nested
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = value
        self.merge(nested, _Everywhere(place))

    def set_given(self, overrides: Iterable[str], flags: Flags | None) -> None:
        """Sets what the command line gives: `--set` first, the flags of their own over it."""
        for override in overrides:
            path, value = parse_override(override)
            self.set(path, value, f"--set {override}")
        for key, (flag, value) in (flags or {}).items():
            self.set(tuple(key.split(".")), value, flag)

    def _merge(
        self, into: dict[str, Any], values: Mapping[str, Any], path: KeyPath, places: Mapping[KeyPath, str]
    ) -> None:
        for key, value in values.items():
            here = (*path, key)
            self.places[here] = places[here]
            if value is None and len(here) == 2 and here[0] == "objectives":
                into.pop(key, None)
            elif value is None and not path and key in _SECTIONS:
                into.setdefault(key, {})
            elif isinstance(value, Mapping):
                inner = into.get(key)
                if not isinstance(inner, dict):
                    inner = into[key] = {}
                self._merge(inner, value, here, places)
            else:
                into[key] = value


def load_distill(
    *,
    recipe: str | None = None,
    config: str | Path | None = None,
    overrides: Iterable[str] = (),
    flags: Flags | None = None,
) -> DistillConfig:
    """Builds the configuration of a distillation; see the module for what wins over what.

    Args:
        recipe: name of a recipe; default: the one the YAML file names, else `codir-fine`.
        config: a YAML file of the user's.
        overrides: texts such as `training.learning_rate=1e-5`.
        flags: for each key (`training.seed`), the flag's name for messages and its value.

    Raises:
        ConfigError: for an unknown key, a wrong value or a missing one; it names the place and the way out.
    """
    settings = _collect("distill", recipe, config, overrides, flags)
    loaded = build(DistillConfig, settings)
    return loaded.model_copy(update={"objectives": complete_objectives(loaded.objectives, settings.places)})


def load_finetune(
    *, config: str | Path | None = None, overrides: Iterable[str] = (), flags: Flags | None = None
) -> FinetuneConfig:
    """Builds the configuration of a fine-tuning, as `load_distill` does, on top of the recipe `finetune`."""
    return build(FinetuneConfig, _collect("finetune", "finetune", config, overrides, flags))


def load_pretrain(
    *,
    recipe: str | None = None,
    config: str | Path | None = None,
    overrides: Iterable[str] = (),
    flags: Flags | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> PretrainConfig:
    """Builds the configuration of a pre-training, as `load_distill` does; without a recipe it is `codir-pre`.

    `defaults` are values for what is set nowhere else (a plan needs neither corpus nor output folder).
    """
    settings = _collect("pretrain", recipe, config, overrides, flags)
    for key, value in (defaults or {}).items():
        settings.values.setdefault(key, value)
    loaded = build(PretrainConfig, settings)
    complete = complete_objectives(loaded.objectives, settings.places, "pretrain")
    return loaded.model_copy(update={"objectives": complete})


def build(model: type[SectionT], settings: Settings) -> SectionT:
    """Validates collected settings; `ConfigError` lists everything that is wrong with them and where it stands."""
    problems, values = _passed_on(model, settings)
    built: SectionT | None = None
    try:
        built = model.model_validate(values)
    except ValidationError as error:
        problems.insert(0, explain(error, model, settings.values, settings.places))
    if built is None or problems:
        raise ConfigError("\n".join(problems))
    return built


def _passed_on(model: type[Section], settings: Settings) -> tuple[list[str], dict[str, Any]]:
    """Checks what a section `training` has besides codir's own settings; returns what is wrong, and the rest."""
    field = model.model_fields.get("training")
    section, values = field.annotation if field is not None else None, settings.values.get("training")
    if not (
        isinstance(section, type) and issubclass(section, OptimisationConfig) and isinstance(values, dict)
    ):
        return [], settings.values
    problems = passed_on_problems(section, values, settings.places)
    kept = {key: value for key, value in values.items() if key not in problems}
    return list(problems.values()), {**settings.values, "training": kept}


def passed_on_problems(
    section: type[OptimisationConfig], values: Mapping[str, Any], places: Mapping[KeyPath, str]
) -> dict[str, str]:
    """Returns a line, with its place, for each wrong setting of a section `training` that codir has no field for."""
    problems: dict[str, str] = {}
    for name, value in values.items():
        if name in section.model_fields:
            continue
        problem = section.problem_of(name)
        if problem is not None:
            problem = f"training.{name} {problem}"
        else:
            from codir.config.trainer_arguments import problem_with  # imports transformers

            problem = problem_with(section, name, value)
        if problem is not None:
            place = places.get(("training", name))
            problems[name] = f"{place}: {problem}" if place else problem
    return problems


def complete_objectives(
    objectives: Mapping[str, Mapping[str, Any]], places: Mapping[KeyPath, str], command: str = "distill"
) -> dict[str, dict[str, Any]]:
    """Checks the settings of each objective and fills in its defaults, so that a run folder names all of them.

    Imports the objectives, and with them torch.

    Args:
        objectives: settings by name.
        places: where they stand.
        command: `distill` or `pretrain`: not every objective fits both.

    Raises:
        ConfigError: for an unknown objective or setting or a wrong value, with the place where it stands; for an
            objective that cannot learn from what the command has; for a time of the training at which no term counts.
    """
    from codir.losses.registry import check_schedule, find_objective

    chosen: dict[str, ObjectiveSettings] = {}
    problems: list[str] = []
    for name, values in objectives.items():
        path = ("objectives", name)
        try:
            chosen[name] = find_objective(name).Settings.model_validate(values)
        except ValidationError as error:
            model = find_objective(name).Settings
            problems.append(explain(error, model, values, places, path))
        except ConfigError as error:
            problems.append(f"{places[path]}: {error}" if path in places else str(error))
        else:
            if not _fits(find_objective(name), command):
                place = f"{places[path]}: " if path in places else ""
                problems.append(
                    f"{place}the objective {name!r} is not for `codir {command}`: {_INSTEAD[command]}"
                )
    if problems:
        raise ConfigError("\n".join(problems))
    check_schedule(chosen)
    return {name: settings.model_dump(mode="json") for name, settings in chosen.items()}


def with_new_defaults(objectives: Mapping[str, Any], command: str = "distill") -> Mapping[str, Any]:
    """Returns what an older version wrote of the objectives, with the settings that came since at their defaults.

    A new setting's default is what was done before there was one. Where a setting is gone, or the file was edited, the
    objectives come back as they are, for a comparison to name what differs.
    """
    try:
        return complete_objectives(objectives, {}, command)
    except (CodirError, TypeError):
        return objectives


_INSTEAD = {
    "distill": "there are labelled examples and no masked tokens (`task` instead of `mlm`).",
    "pretrain": "there are masked tokens and no labels (`mlm` instead of `task`).",
}


def _fits(objective: type[Objective], command: str) -> bool:
    return objective.of_corpora if command == "pretrain" else objective.of_labels


def resolved_yaml(config: RunConfig | PretrainConfig) -> str:
    """Returns YAML with every setting of `config`; loading it as `--config` gives the same configuration."""
    command = {DistillConfig: "distill", PretrainConfig: "pretrain"}.get(type(config), "finetune")
    content: dict[str, Any] = {"command": command, **config.model_dump(mode="json")}
    if isinstance(config, DistillConfig | PretrainConfig):
        # The file is merged over its recipe again: what the run left out must be said.
        for name in load_recipe(config.recipe).settings.get("objectives", {}):
            content["objectives"].setdefault(name, None)
    return dump_yaml(content)


def recipe_settings(recipe: str) -> Settings:
    """Returns the settings of a recipe for `codir distill`, or of a YAML file merged over its recipe, unchecked.

    Args:
        recipe: a name, or the path of a file (it ends in .yaml or .yml).

    Raises:
        ConfigError: there is no such recipe or file, or it is for another command.
    """
    if is_recipe_file(recipe):
        return _collect("distill", None, recipe, (), None)
    return _collect("distill", recipe, None, (), None)


def _collect(
    command: str,
    recipe: str | None,
    config: str | Path | None,
    overrides: Iterable[str],
    flags: Flags | None,
) -> Settings:
    own: dict[str, Any] = {}
    own_places: dict[KeyPath, str] = {}
    if config is not None:
        own, own_places = _read_own(config, command)
    default = DEFAULT_PRETRAINING if command == "pretrain" else DEFAULT_RECIPE
    start = load_recipe(recipe or own.get("recipe") or default)
    if start.command != command:
        raise ConfigError(
            f"The recipe {start.name!r} is for `codir {start.command}`, not for `codir {command}`."
        )
    settings = Settings()
    settings.merge(start.settings, start.places)
    settings.merge(own, own_places)
    settings.set_given(overrides, flags)
    _leave_out_start(settings, start.places)
    if command == "pretrain":
        _one_length(settings, start.places)
    if command != "finetune":
        settings.set(("recipe",), start.name, "--recipe")
    if command != "pretrain":
        settings.values.setdefault("data", {})  # so that missing data gets its own message, with examples
    return settings


def _leave_out_start(settings: Settings, of_recipe: Mapping[KeyPath, str]) -> None:
    """Drops what a recipe says of its student's start where another kind of student is asked for.

    Random weights are a start for a narrower student, too.
    """
    student = settings.values.get("student")
    if not isinstance(student, dict):
        return
    recipes = [
        key
        for key in START
        if key in student and settings.places[("student", key)] == of_recipe.get(("student", key))
    ]
    if takes_start({key: value for key, value in student.items() if key not in recipes}):
        return
    named = student.get("model") is not None or student.get("config") is not None
    for key in recipes:
        if named or student[key] != "random":
            del student[key]


def _one_length(settings: Settings, of_recipe: Mapping[KeyPath, str]) -> None:
    """Drops the recipe's `steps` where others say `epochs`, and the other way round: both say how long to train."""
    training = settings.values.get("training")
    if not isinstance(training, dict) or any(training.get(key) is None for key in _LENGTHS):
        return
    recipes = [
        key for key in _LENGTHS if settings.places[("training", key)] == of_recipe.get(("training", key))
    ]
    if len(recipes) == 1:
        del training[recipes[0]]


def _read_own(config: str | Path, command: str) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    content, places = read_yaml_file(config)
    if content is None:
        return {}, places
    if not isinstance(content, dict):
        raise ConfigError(f"{config}: expected settings such as `training:`, not a {type(content).__name__}")
    about = {key: content.pop(key) for key in ABOUT if key in content}
    if about.get("command", command) != command:
        raise ConfigError(
            f"{places[('command',)]}: this configuration is for `codir {about['command']}`, not `codir {command}`"
        )
    return content, places


def parse_override(text: str) -> tuple[KeyPath, Any]:
    """Reads `training.learning_rate=1e-5`; raises `ConfigError` if that is not what it looks like."""
    key, separator, value = text.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not separator or not all(path):
        raise ConfigError(f"--set {text}: expected key=value, for example --set training.learning_rate=1e-5")
    return path, read_value(value)


class _Everywhere(dict[KeyPath, str]):
    """Places for settings that all stand in one place."""

    def __init__(self, place: str):
        super().__init__()
        self.place = place

    def __missing__(self, path: KeyPath) -> str:
        return self.place
