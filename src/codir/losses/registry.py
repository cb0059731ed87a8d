"""Finds losses by name, checks their settings and builds them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from codir.errors import ConfigError, nearest
from codir.losses.base import Needs, Objective, ObjectiveContext, ObjectiveSettings, Views
from codir.models.representations import EncoderShape

LOSSES: dict[str, str] = {
    "attention_kl": "codir.losses.attention:AttentionKL",
    "attention_mse": "codir.losses.attention:AttentionMSE",
    "cls_cosine": "codir.losses.hidden:ClsCosine",
    "crd": "codir.losses.crd:CRD",
    "crd_official": "codir.losses.crd_official:OfficialCRD",
    "embedding_mse": "codir.losses.hidden:EmbeddingMSE",
    "feature_map_mse": "codir.losses.hidden:FeatureMapMSE",
    "hidden_cosine": "codir.losses.hidden:HiddenCosine",
    "hidden_mse": "codir.losses.hidden:HiddenMSE",
    "kd": "codir.losses.kd:KD",
    "logit_mse": "codir.losses.kd:LogitMSE",
    "mlm": "codir.losses.task:MLM",
    "pkd": "codir.losses.hidden:PKD",
    "pooled_cosine": "codir.losses.hidden:PooledCosine",
    "relations": "codir.losses.attention:Relations",
    "task": "codir.losses.task:Task",
}
"""The losses that come with codir; a user's own is named by its class, as `package.module:Class`."""

Chosen = Mapping[str, Mapping[str, Any]]
"""Settings by the loss's name, as a recipe holds them."""


def objective_names() -> list[str]:
    """The names of the losses that come with codir."""
    return sorted(LOSSES)


def find_objective(name: str) -> type[Objective]:
    """Returns the class of a loss, by its name or as `package.module:Class`.

    Raises:
        ConfigError: there is no such loss.
    """
    if ":" not in name and name not in LOSSES:
        raise ConfigError(
            f"There is no objective {name!r}{nearest(name, objective_names())}: choose "
            f"{', '.join(objective_names())}, or name a class of your own as package.module:Class."
        )
    module_name, _, class_name = LOSSES.get(name, name).partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"Cannot import {module_name!r} for the objective {name!r}: {error}. It must be installed, or lie where "
            "Python looks for modules (PYTHONPATH)."
        ) from error
    own = {key: value for key, value in vars(module).items() if _is_objective(value)}
    if class_name not in own:
        raise ConfigError(
            f"{module_name!r} has no objective {class_name!r}{nearest(class_name, own)}: it must be a subclass of "
            "codir.losses.base.Objective."
        )
    return own[class_name]


def _is_objective(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Objective) and value is not Objective


def settings_for(name: str, mapping: Mapping[str, Any]) -> ObjectiveSettings:
    """Checks the settings of one loss and fills in the defaults.

    Raises:
        ConfigError: an unknown loss, an unknown key, or a value of the wrong type or out of range.
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


def build_objectives(mapping: Chosen, context: ObjectiveContext) -> dict[str, Objective]:
    """Builds losses from their settings, after every one of them has been checked.

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


def check_objectives(mapping: Chosen, context: ObjectiveContext) -> None:
    """Checks every loss against the data and the models, without building anything; raises as `build_objectives`."""
    taken: set[str] = set()
    for name, given in mapping.items():
        cls, settings = find_objective(name), settings_for(name, given)
        if cls.name in taken or not cls.name.isidentifier():
            problem = "is not a word of letters, digits and _"
            if cls.name in taken:
                problem = "another objective of this run does too"
            raise ConfigError(
                f"The objective {name!r} calls itself {cls.name!r}, which {problem}: give {cls.__name__} a name of "
                "its own."
            )
        taken.add(cls.name)
        _check_needs(cls, settings, context)
        cls.check(settings, context)
    check_schedule({name: settings_for(name, settings) for name, settings in mapping.items()})


def _check_needs(cls: type[Objective], settings: ObjectiveSettings, context: ObjectiveContext) -> None:
    """Raises `ConfigError` where models and data cannot give what the loss needs."""
    needs = cls.needs(settings)
    if not (cls.of_corpora if context.kind.per_token else cls.of_labels):
        raise ConfigError(
            f"The objective {cls.name!r} is for labelled examples; a corpus has masked tokens: use 'mlm' or 'kd'."
            if context.kind.per_token
            else f"The objective {cls.name!r} predicts masked tokens of a corpus; for labelled examples use 'task'."
        )
    if not needs.teacher:
        return
    if context.teacher is None:
        raise ConfigError(
            f"The objective {cls.name!r} needs a teacher and there is none: name one, or drop {cls.name!r}."
        )
    if needs.tokens and not context.aligned:
        raise ConfigError(
            f"The objective {cls.name!r} compares single tokens, and teacher and student tokenise differently, so that "
            "their tokens are not the same: choose a student with the teacher's tokenizer, or an objective over whole "
            "texts ('kd', 'crd', 'pkd', 'cls_cosine')."
        )
    needs.pairs(cls.name, context.student, context.teacher)
    for side, shape in (("student", context.student), ("teacher", context.teacher)):
        if needs.tokens - {"hidden"} and shape.heads is None:
            raise ConfigError(
                f"The objective {cls.name!r} compares attention, and the {side} has none: choose an objective over "
                "hidden states, pooled layers or logits instead ('hidden_mse', 'crd', 'kd')."
            )


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


def _needs(mapping: Chosen) -> dict[str, Needs]:
    return {
        name: find_objective(name).needs(settings_for(name, settings)) for name, settings in mapping.items()
    }


def needs_of(mapping: Chosen) -> Needs:
    """The union of the logits and pooled layers that the losses read."""
    needs = _needs(mapping).values()
    return Needs(
        teacher_logits=any(need.teacher_logits for need in needs),
        pooled=frozenset().union(*(need.pooled for need in needs)),
    )


def views_of(mapping: Chosen, student: EncoderShape, teacher: EncoderShape | None) -> Views:
    """The union of the single tokens' vectors that the losses read; nothing without a teacher.

    Raises:
        ConfigError: layers that the models do not have.
    """
    views = Views()
    if teacher is not None:
        for name, needs in _needs(mapping).items():
            views |= needs.views(find_objective(name).name, student, teacher)
    return views


def taught_by(mapping: Chosen) -> list[str]:
    """The names of the losses that read anything of a teacher, in their order; empty if none does."""
    return [name for name, needs in _needs(mapping).items() if needs.teacher]


def predicts(mapping: Chosen) -> bool:
    """Whether a loss of a pre-training reads the student's predictions of tokens, and so trains its head."""
    return any(find_objective(name).token_loss is not Objective.token_loss for name in mapping)
