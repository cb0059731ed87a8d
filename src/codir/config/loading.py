"""Builds the configuration of a run from all the places where settings can stand, and says what is wrong with it.

From weakest to strongest: the recipe, the YAML file (`--config`), `--set`, the command line's own flags. Sections
are merged key by key, lists and plain values replace what was there. `null` for an objective removes it; an empty
section changes nothing. Paths are relative to the folder the command is started in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from codir.config.config import DEFAULT_RECIPE, DistillConfig, FinetuneConfig, RunConfig
from codir.config.library import ABOUT, is_recipe_file, load_recipe
from codir.config.pretraining import DEFAULT_PRETRAINING, PretrainConfig
from codir.config.student_config import START, takes_start
from codir.config.training_config import OptimisationConfig
from codir.config.yaml_text import KeyPath, dump_yaml, read_value, read_yaml_file
from codir.errors import ConfigError, nearest
from codir.settings import Section, section_at

if TYPE_CHECKING:
    from codir.losses.base import ObjectiveSettings

_SECTIONS = ("data", "student", "training", "objectives", "masking")
_LENGTHS = ("max_steps", "num_train_epochs")
_INSTEAD = {
    "distill": "there are labelled examples and no masked tokens (`task` instead of `mlm`).",
    "pretrain": "there are masked tokens and no labels (`mlm` instead of `task`).",
}
Flags = Mapping[str, tuple[str, Any]]
Places = Mapping[KeyPath, str]
SectionT = TypeVar("SectionT", bound=Section)
RunT = TypeVar("RunT", FinetuneConfig, DistillConfig, PretrainConfig)
_COMMANDS: dict[type[Section], str] = {FinetuneConfig: "finetune", DistillConfig: "distill", PretrainConfig: "pretrain"}
_DEFAULTS = {"finetune": "finetune", "distill": DEFAULT_RECIPE, "pretrain": DEFAULT_PRETRAINING}


class Settings:
    """Nested settings being collected, each with the place it was last set at."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.places: dict[KeyPath, str] = {}

    def merge(self, values: Mapping[str, Any], places: Places | str, above: KeyPath = ()) -> None:
        """Merges nested `values`, of the section `above`, over what is there; they stand at `places`, or in one."""
        into = self.values
        for key in above:
            into = into[key]
        for key, value in values.items():
            here = (*above, key)
            self.places[here] = places if isinstance(places, str) else places[here]
            if value is None and above == ("objectives",):
                into.pop(key, None)
            elif value is None and not above and key in _SECTIONS:
                into.setdefault(key, {})
            elif isinstance(value, Mapping):
                if not isinstance(into.get(key), dict):
                    into[key] = {}
                self.merge(value, places, here)
            else:
                into[key] = value

    def set(self, path: KeyPath, value: Any, place: str) -> None:
        """Sets the value at `path`; a nested value is merged."""
        for key in reversed(path):
            value = {key: value}
        self.merge(value, place)

    def set_given(self, overrides: Iterable[str], flags: Flags | None) -> None:
        """Sets what the command line gives: `--set` first, the flags of their own over it."""
        for override in overrides:
            key, separator, value = override.partition("=")
            path = tuple(part.strip() for part in key.split("."))
            if not separator or not all(path):
                raise ConfigError(
                    f"--set {override}: expected key=value, for example --set training.learning_rate=1e-5"
                )
            self.set(path, read_value(value), f"--set {override}")
        for key, (flag, value) in (flags or {}).items():
            self.set(tuple(key.split(".")), value, flag)


def load(
    model: type[RunT],
    *,
    recipe: str | None = None,
    config: str | Path | None = None,
    overrides: Iterable[str] = (),
    flags: Flags | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> RunT:
    """Builds the configuration of a fine-tuning, distillation or pre-training; see the module for what wins over what.

    Args:
        model: the class of the configuration.
        recipe: a recipe's name; default: the one the YAML file names, else `finetune`, `codir-fine`, `codir-pre`.
        config: a YAML file of the user's.
        overrides: texts such as `training.learning_rate=1e-5`.
        flags: for each key (`training.seed`), the flag's name for messages and its value.
        defaults: values for what is set nowhere else (a plan needs neither corpus nor output folder).

    Raises:
        ConfigError: for an unknown key, a wrong value or a missing one; it names the place and the way out.
    """
    command = _COMMANDS[model]
    settings = _collect(command, recipe, config, overrides, flags)
    settings.values = {**(defaults or {}), **settings.values}
    loaded = build(model, settings)
    if isinstance(loaded, FinetuneConfig):
        return loaded
    return loaded.model_copy(update={"objectives": complete_objectives(loaded.objectives, settings.places, command)})


def recipe_settings(recipe: str) -> Settings:
    """Returns the unchecked settings of a recipe for `codir distill`, by its name or a file merged over its recipe."""
    name, file = (None, recipe) if is_recipe_file(recipe) else (recipe, None)
    return _collect("distill", name, file, (), None)


def build(model: type[SectionT], settings: Settings) -> SectionT:
    """Validates collected settings; `ConfigError` lists everything that is wrong with them and where it stands."""
    values, problems = settings.values, {}
    field, training = model.model_fields.get("training"), settings.values.get("training")
    section = field.annotation if field is not None else None
    if isinstance(training, dict) and isinstance(section, type) and issubclass(section, OptimisationConfig):
        problems = passed_on_problems(section, training, settings.places)
        kept = {key: value for key, value in training.items() if key not in problems}
        values = {**values, "training": kept}
    try:
        built = model.model_validate(values)
    except ValidationError as error:
        lines = [explain(error, model, settings.values, settings.places), *problems.values()]
        raise ConfigError("\n".join(lines)) from None
    if problems:
        raise ConfigError("\n".join(problems.values()))
    return built


def passed_on_problems(section: type[OptimisationConfig], values: Mapping[str, Any], places: Places) -> dict[str, str]:
    """Returns a line, with its place, for each wrong setting of a section `training` that codir has no field for."""
    problems: dict[str, str] = {}
    for name in values.keys() - section.model_fields.keys():
        if name in section.elsewhere:
            problem = f"training.{name} {section.not_here(name)}"
        else:
            from codir.config.trainer_arguments import problem_with  # imports transformers

            problem = problem_with(section, name, values[name])
        if problem is not None:
            problems[name] = f"{_place(('training', name), places)}{problem}"
    return {name: problems[name] for name in values if name in problems}


def complete_objectives(
    objectives: Mapping[str, Mapping[str, Any]], places: Places, command: str = "distill"
) -> dict[str, dict[str, Any]]:
    """Checks the settings of each objective and fills in its defaults, so that a run folder names all of them.

    Imports the objectives, and with them torch. Raises `ConfigError` for an unknown objective or setting or a wrong
    value, an objective that is not for the command, and a time of the training at which no term counts.
    """
    from codir.losses.registry import check_schedule, find_objective

    chosen: dict[str, ObjectiveSettings] = {}
    problems: list[str] = []
    for name, values in objectives.items():
        path = ("objectives", name)
        try:
            objective = find_objective(name)
        except ConfigError as error:
            problems.append(f"{_place(path, places)}{error}")
            continue
        try:
            chosen[name] = objective.Settings.model_validate(values)
        except ValidationError as error:
            problems.append(explain(error, objective.Settings, values, places, path))
        if not (objective.of_corpora if command == "pretrain" else objective.of_labels):
            problems.append(
                f"{_place(path, places)}the objective {name!r} is not for `codir {command}`: {_INSTEAD[command]}"
            )
    if problems:
        raise ConfigError("\n".join(problems))
    check_schedule(chosen)
    return {name: settings.model_dump(mode="json") for name, settings in chosen.items()}


def resolved_yaml(config: RunConfig | PretrainConfig) -> str:
    """Returns YAML with every setting of `config`; loading it as `--config` gives the same configuration."""
    content: dict[str, Any] = {"command": _COMMANDS[type(config)], **config.model_dump(mode="json")}
    if isinstance(config, DistillConfig | PretrainConfig):
        # The file is merged over its recipe again: what the run left out must be said.
        for name in load_recipe(config.recipe).settings.get("objectives", {}):
            content["objectives"].setdefault(name, None)
    return dump_yaml(content)


def _collect(
    command: str,
    recipe: str | None,
    config: str | Path | None,
    overrides: Iterable[str],
    flags: Flags | None,
) -> Settings:
    own, own_places = _read_own(config, command) if config is not None else ({}, {})
    named = recipe or (own.get("recipe") if command != "finetune" else None)
    start = load_recipe(named or _DEFAULTS[command])
    if start.command != command:
        raise ConfigError(f"The recipe {start.name!r} is for `codir {start.command}`, not for `codir {command}`.")
    settings = Settings()
    settings.merge(start.settings, start.places)
    settings.merge(own, own_places)
    settings.set_given(overrides, flags)
    _let_go_of_the_recipe(settings, start.places)
    if command != "finetune":
        settings.set(("recipe",), start.name, "--recipe")
    if command != "pretrain":
        settings.values.setdefault("data", {})  # so that missing data gets its own message, with examples
    return settings


def _let_go_of_the_recipe(settings: Settings, places: Places) -> None:
    """Drops what a recipe says of its student's start, or of its length, where the user asks for something else."""

    def of_recipe(section: str, keys: Iterable[str]) -> list[str]:
        there = settings.values.get(section)
        paths = [(section, key) for key in keys if isinstance(there, dict) and there.get(key) is not None]
        return [path[1] for path in paths if settings.places[path] == places.get(path)]

    student, theirs = settings.values.get("student", {}), of_recipe("student", START)
    if theirs and not takes_start({key: each for key, each in student.items() if key not in theirs}):
        for key in theirs:  # random weights are a start for a narrower student, too
            if student.get("model") or student.get("config") or student[key] != "random":
                del student[key]
    training, theirs = settings.values.get("training", {}), of_recipe("training", _LENGTHS)
    if len(theirs) == 1 and all(training.get(key) is not None for key in _LENGTHS):  # both say how long
        del training[theirs[0]]


def _read_own(config: str | Path, command: str) -> tuple[dict[str, Any], Places]:
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


# ---- pydantic's refusals, with the place, the key and the value ----------------------------------------------------


def shown(value: Any) -> str:
    """Returns a value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:80]}... ({len(text):,} characters)"


def explain(
    error: ValidationError,
    model: type[BaseModel],
    values: Mapping[str, Any],
    places: Places,
    above: KeyPath = (),
) -> str:
    """Returns one line for each thing that is wrong with the nested `values` of the section `above`."""
    problems: dict[KeyPath, list[Any]] = {}
    for problem in error.errors(include_url=False):
        path, inside = [], values
        for part in map(str, problem["loc"]):  # without what pydantic adds: the branch of a union that it tried
            if isinstance(inside, Mapping) and (part in inside or problem["type"] == "missing"):
                inside = inside.get(part)
            elif isinstance(inside, list) and part.isdigit() and int(part) < len(inside):
                inside = inside[int(part)]
            else:
                break
            path.append(part)
        problems.setdefault(tuple(path), []).append(problem)
    return "\n".join(_sentence(path, found, model, places, above) for path, found in problems.items())


def _sentence(path: KeyPath, found: list[Any], model: type[BaseModel], places: Places, above: KeyPath) -> str:
    full = (*above, *path)
    dotted, kind, value = ".".join(full), found[0]["type"], found[0]["input"]
    if kind == "extra_forbidden":
        known = list(section_at(model, path[:-1]).model_fields)
        where = f"in the section {'.'.join(full[:-1])}" if full[:-1] else "at the top level"
        hint = f"{nearest(path[-1], known)}. Known: {', '.join(known)}."
        return f"{_place(full, places)}unknown key {path[-1]!r} {where}{hint}"
    if kind == "missing":
        field = section_at(model, path[:-1]).model_fields[path[-1]]
        way = f"--{path[-1].replace('_', '-')} {(field.examples or ['...'])[0]}"
        return f"{dotted} is missing ({field.description}): add {way}, or the key to the YAML file"
    said = [each["msg"].removeprefix("Value error, ").replace("Input should be", "must be") for each in found]
    said = [each.replace("Unable to parse input string as", "must be") for each in said]
    said = ["must be a section of settings" if "dictionary" in each else each for each in said]
    if kind == "value_error" and isinstance(value, Mapping):  # two settings do not fit together
        named = [key for key in value if re.search(rf"\b{re.escape(key)}\b", said[0]) and (*full, key) in places]
        stand = "; ".join(f"{key}: {places[(*full, key)]}" for key in named)
        return f"{dotted + ': ' if dotted else ''}{said[0]}" + (f" ({stand})" if stand else "")
    # A union gives one refusal for each of its branches.
    allowed = " or ".join(dict.fromkeys([said[0], *(each.removeprefix("must be ") for each in said[1:])]))
    choices = [c for each in found for c in re.findall("'([^']*)'", str(each.get("ctx", {}).get("expected")))]
    hint = nearest(value, choices) if isinstance(value, str) else ""
    return f"{_place(full, places)}{dotted} is {shown(value)}: {allowed}{hint}"


def _place(path: KeyPath, places: Places) -> str:
    nested = (path[:length] for length in range(len(path), 0, -1))
    return next((f"{places[each][:200]}: " for each in nested if each in places), "")
