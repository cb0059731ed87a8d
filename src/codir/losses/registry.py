"""Finds objectives by name: the file `losses/NAME.py`, or a class of the user's own as `package.module:Class`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, TypeGuard

from pydantic import ValidationError

import codir.losses as package
from codir.errors import ConfigError, nearest
from codir.losses.base import Needs, Objective, ObjectiveContext, ObjectiveSettings, Views
from codir.models.representations import EncoderShape, Pooling

_HELPERS = {
    "bank_storage",
    "attention_distances",
    "base",
    "contrast",
    "contrastive",
    "distances",
    "matched_attention",
    "matched_states",
    "negative_sources",
    "progressive",
    "registry",
    "state_projections",
    "temperature",
    "token_checks",
    "weighted_sum",
}


def objective_names() -> list[str]:
    """Names of the objectives that come with codir, from the file names alone: nothing is imported."""
    return sorted(
        module.name for module in pkgutil.iter_modules(package.__path__) if module.name not in _HELPERS
    )


def find_objective(name: str) -> type[Objective]:
    """Returns the class of an objective.

    Args:
        name: the name of a file here, or `package.module:Class`.

    Raises:
        ConfigError: there is no such objective.
    """
    if ":" in name:
        return _find_own(name)
    module_name = name.replace("-", "_")
    if module_name not in objective_names():
        raise ConfigError(
            f"There is no objective {name!r}{nearest(name, objective_names())}: choose "
            f"{', '.join(objective_names())}, or name a class of your own as package.module:Class."
        )
    module = importlib.import_module(f"{package.__name__}.{module_name}")
    for value in vars(module).values():
        if (
            _is_objective(value)
            and value.__module__ == module.__name__
            and getattr(value, "name", None) == name
        ):
            return value
    raise ConfigError(f"{module.__file__} has no subclass of Objective with name = {name!r}: add it.")


def _is_objective(value: Any) -> TypeGuard[type[Objective]]:
    return isinstance(value, type) and issubclass(value, Objective) and value is not Objective


def _find_own(path: str) -> type[Objective]:
    module_name, _, class_name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"Cannot import {module_name!r} for the objective {path!r}: {error}. It must be installed, or lie where "
            "Python looks for modules (PYTHONPATH)."
        ) from error
    found = getattr(module, class_name, None)
    if not _is_objective(found):
        own = [key for key, value in vars(module).items() if _is_objective(value)]
        raise ConfigError(
            f"{module_name!r} has no objective {class_name!r}{nearest(class_name, own)}: it must be a subclass of "
            "codir.losses.base.Objective."
        )
    return found


def settings_for(name: str, mapping: Mapping[str, Any]) -> ObjectiveSettings:
    """Checks the settings of one objective and fills in the defaults.

    Raises:
        ConfigError: an unknown objective, an unknown key, or a value of the wrong type or out of range.
    """
    cls = find_objective(name)
    try:
        return cls.Settings.model_validate(dict(mapping))
    except ValidationError as error:
        raise ConfigError("\n".join(_readable(name, cls, problem) for problem in error.errors())) from None


def _readable(name: str, cls: type[Objective], problem: Any) -> str:
    key = str(problem["loc"][0]) if problem["loc"] else "?"
    known = cls.Settings.model_fields
    if problem["type"] == "extra_forbidden":
        return (
            f"The objective {name!r} has no setting {key!r}{nearest(key, known)}. It has: {', '.join(known)}."
        )
    about = f" ({known[key].description})" if key in known and known[key].description else ""
    return f"{name}.{key}={problem['input']!r}: {problem['msg']}{about}."


def build_objectives(
    mapping: Mapping[str, Mapping[str, Any]], context: ObjectiveContext
) -> dict[str, Objective]:
    """Builds objectives from their settings, after every one of them has been checked.

    Args:
        mapping: settings by the objective's name, as a recipe holds them.
        context: what is known before training.

    Returns:
        By the class's own `name`, which for a user's class is shorter than its path and fit to name a module.

    Raises:
        ConfigError: settings that make no sense.
        DataError: settings that do not fit the data.
    """
    check_objectives(mapping, context)
    classes = {name: find_objective(name) for name in mapping}
    return {
        classes[name].name: classes[name](settings_for(name, settings), context)
        for name, settings in mapping.items()
    }


def check_objectives(mapping: Mapping[str, Mapping[str, Any]], context: ObjectiveContext) -> None:
    """Checks every objective against the data and the models, without building anything; raises as they do."""
    taken: set[str] = set()
    for name, settings in mapping.items():
        cls = find_objective(name)
        if cls.name in taken or not cls.name.isidentifier():
            problem = "is not a word of letters, digits and _"
            if cls.name in taken:
                problem = "another objective of this run does too"
            raise ConfigError(
                f"The objective {name!r} calls itself {cls.name!r}, which {problem}: give {cls.__name__} a name of "
                "its own."
            )
        taken.add(cls.name)
        cls.check(settings_for(name, settings), context)
        if context.teacher is not None:
            cls.views(settings_for(name, settings), context.student, context.teacher)
    check_schedule({name: settings_for(name, settings) for name, settings in mapping.items()})


def check_schedule(settings: Mapping[str, ObjectiveSettings]) -> None:
    """Raises `ConfigError` if at some moment of the training no term with a weight counts (`start`, `end`)."""
    windows = sorted((each.start, each.end) for each in settings.values() if each.weight > 0)
    if not windows:
        return  # all weights are zero: pointless, but said nowhere to be wrong
    done = 0.0
    for start, end in windows:
        if start > done:
            break
        done = max(done, end)
    if done < 1.0:
        until = next((start for start, _ in windows if start > done), 1.0)
        raise ConfigError(
            f"Between {done:.0%} of the training and {until:.0%} no term of the loss counts "
            f"({', '.join(f'{name} {each.start}-{each.end}' for name, each in settings.items())}): let one "
            "term's `start` and `end` cover it."
        )


def needs_of(mapping: Mapping[str, Mapping[str, Any]]) -> Needs:
    """Returns the union of what the objectives read."""
    needs = [find_objective(name).needs(settings_for(name, settings)) for name, settings in mapping.items()]
    return Needs(
        teacher_logits=any(need.teacher_logits for need in needs),
        pooled=frozenset().union(*(need.pooled for need in needs)),
    )


def taught_by(mapping: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the names of the objectives that read anything of a teacher, in their order; empty if none does."""
    return [name for name in mapping if find_objective(name).needs_teacher(settings_for(name, mapping[name]))]


def predicts(mapping: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether an objective of a pre-training reads the student's predictions of tokens, and so trains its head."""
    return any(find_objective(name).token_loss is not Objective.token_loss for name in mapping)


def views_of(
    mapping: Mapping[str, Mapping[str, Any]], student: EncoderShape, teacher: EncoderShape | None
) -> Views:
    """Returns the union of the single tokens' vectors that the objectives read; nothing without a teacher.

    Raises:
        ConfigError: blocks that the models do not have.
    """
    views = Views()
    if teacher is not None:
        for name, settings in mapping.items():
            views |= find_objective(name).views(settings_for(name, settings), student, teacher)
    return views


def prefill_needs_of(mapping: Mapping[str, Mapping[str, Any]]) -> frozenset[Pooling]:
    """Returns the poolings of the pass of the student that objectives want before training; empty for no pass."""
    return frozenset().union(
        *(
            find_objective(name).prefill_needs(settings_for(name, settings))
            for name, settings in mapping.items()
        )
    )
