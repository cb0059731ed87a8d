"""Finds losses by name, checks their settings and builds them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from codir.errors import ConfigError, nearest
from codir.losses.base import Needs, Objective, ObjectiveContext, ObjectiveSettings, Views
from codir.models.representations import EncoderShape, TokenView

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
    """Returns the class of a loss, by its name or as `package.module:Class`; raises `ConfigError` for no such one."""
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
    found = getattr(module, class_name, None)
    if not isinstance(found, type) or not issubclass(found, Objective):
        raise ConfigError(
            f"{module_name!r} has no objective {class_name!r}{nearest(class_name, vars(module))}: it must be a "
            "subclass of codir.losses.base.Objective."
        )
    return found


def settings_for(name: str, mapping: Mapping[str, Any]) -> ObjectiveSettings:
    """Checks the settings of one loss and fills in the defaults.

    Raises:
        ConfigError: an unknown loss, an unknown key, or a value of the wrong type or out of range.
    """
    model = find_objective(name).Settings
    try:
        return model.model_validate(dict(mapping))
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = str(problem["loc"][0]) if problem["loc"] else "?"
            if problem["type"] == "extra_forbidden":
                known = model.model_fields
                lines.append(
                    f"The objective {name!r} has no setting {key!r}{nearest(key, known)}. It has: {', '.join(known)}."
                )
            else:
                about = model.model_fields[key].description if key in model.model_fields else None
                lines.append(f"{name}.{key}={problem['input']!r}: {problem['msg']}{f' ({about})' if about else ''}.")
        raise ConfigError("\n".join(lines)) from None


def _resolved(mapping: Chosen) -> list[tuple[str, type[Objective], ObjectiveSettings]]:
    return [(name, find_objective(name), settings_for(name, given)) for name, given in mapping.items()]


def build_objectives(mapping: Chosen, context: ObjectiveContext) -> dict[str, Objective]:
    """Builds losses from their settings, after every one of them has been checked as `check_objectives` does.

    Returns:
        By the class's own `name`, which for a user's class is shorter than its path and fit to name a module.
    """
    check_objectives(mapping, context)
    return {cls.name: cls(settings, context) for _, cls, settings in _resolved(mapping)}


def check_objectives(mapping: Chosen, context: ObjectiveContext) -> None:
    """Checks every loss against the data and the models, without building anything.

    Raises:
        ConfigError: settings that make no sense.
        DataError: settings that do not fit the data.
    """
    resolved = _resolved(mapping)
    names = [cls.name for _, cls, _ in resolved]
    for name, cls, settings in resolved:
        if names.count(cls.name) > 1 or not cls.name.isidentifier():
            raise ConfigError(
                f"The objective {name!r} calls itself {cls.name!r}, which is no word, or another objective of this run "
                f"does too: give {cls.__name__} a name of its own, of letters, digits and _."
            )
        _check_needs(cls, settings, context)
        cls.check(settings, context)
    check_schedule({name: settings for name, _, settings in resolved})


def _check_needs(cls: type[Objective], settings: ObjectiveSettings, context: ObjectiveContext) -> None:
    """Raises `ConfigError` where models and data cannot give what the loss needs."""
    needs, name = cls.needs(settings), cls.name
    if context.kind.per_token and not cls.of_corpora:
        raise ConfigError(
            f"The objective {name!r} is for labelled examples; a corpus has masked tokens: use 'mlm' or 'kd'."
        )
    if not context.kind.per_token and not cls.of_labels:
        raise ConfigError(
            f"The objective {name!r} predicts masked tokens of a corpus; for labelled examples use 'task'."
        )
    if not needs.teacher:
        return
    if context.teacher is None:
        raise ConfigError(f"The objective {name!r} needs a teacher and there is none: name one, or drop {name!r}.")
    if needs.tokens and not context.aligned:
        raise ConfigError(
            f"The objective {name!r} compares single tokens, and teacher and student tokenise differently, so that "
            "their tokens are not the same: choose a student with the teacher's tokenizer, or an objective over whole "
            "texts ('kd', 'crd', 'pkd', 'cls_cosine')."
        )
    needs.pairs(name, context.student, context.teacher)
    for side, shape in (("student", context.student), ("teacher", context.teacher)):
        if needs.tokens - {"hidden"} and shape.heads is None:
            raise ConfigError(
                f"The objective {name!r} compares attention, and the {side} has none: choose an objective over hidden "
                "states, pooled layers or logits instead ('hidden_mse', 'crd', 'kd')."
            )


def check_schedule(settings: Mapping[str, ObjectiveSettings]) -> None:
    """Raises `ConfigError` if at some moment of the training no term with a weight counts (`start`, `end`)."""
    windows = sorted((each.start, each.end) for each in settings.values() if each.weight > 0)
    done = 0.0
    for start, end in [*windows, (1.0, 1.0)] if windows else []:
        if start > done:
            raise ConfigError(
                f"Between {done:.0%} of the training and {start:.0%} no term of the loss counts "
                f"({', '.join(f'{name} {each.start}-{each.end}' for name, each in settings.items())}): let one "
                "term's `start` and `end` cover it."
            )
        done = max(done, end)


def needs_of(mapping: Chosen) -> Needs:
    """The union of the logits and pooled layers that the losses read."""
    needs = [cls.needs(settings) for _, cls, settings in _resolved(mapping)]
    return Needs(
        teacher_logits=any(need.teacher_logits for need in needs),
        pooled=frozenset().union(*(need.pooled for need in needs)),
    )


def views_of(mapping: Chosen, student: EncoderShape, teacher: EncoderShape | None) -> Views:
    """The union of the single tokens' vectors that the losses read; nothing without a teacher.

    Raises:
        ConfigError: layers that the models do not have.
    """
    sides: tuple[set[TokenView], set[TokenView]] = (set(), set())
    if teacher is None:
        return Views()
    for _, cls, settings in _resolved(mapping):
        needs = cls.needs(settings)
        for pair in needs.pairs(cls.name, student, teacher) if needs.tokens else ():
            for side, layer in zip(sides, pair, strict=True):
                side.update(TokenView(kind, layer) for kind in needs.tokens)
    return Views(*map(frozenset, sides))


def taught_by(mapping: Chosen) -> list[str]:
    """The names of the losses that read anything of a teacher, in their order; empty if none does."""
    return [name for name, cls, settings in _resolved(mapping) if cls.needs(settings).teacher]


def predicts(mapping: Chosen) -> bool:
    """Whether a loss of a pre-training reads the student's predictions of tokens, and so trains its head."""
    return any(find_objective(name).token_loss is not Objective.token_loss for name in mapping)
