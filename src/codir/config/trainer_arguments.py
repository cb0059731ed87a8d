"""Arguments of transformers' TrainingArguments in the section `training`: checked by name, type and range at once."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from functools import cache
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from codir.config.loading import shown
from codir.config.training_config import OptimisationConfig
from codir.errors import ConfigError, nearest
from codir.settings import out_of_range
from codir.training.arguments import DistillationArguments

_PROCESSES = 1024  # more of them than that read no batch faster
# Numbers of which none, or zero, makes a training that cannot go on; None leaves the choice to transformers.
_POSITIVE = frozenset(
    {
        "per_device_eval_batch_size",
        "eval_accumulation_steps",
        "logging_steps",
        "torch_empty_cache_steps",
        "dataloader_prefetch_factor",
        "ddp_bucket_cap_mb",
        "ddp_timeout",
    }
)


def problem_with(section: type[OptimisationConfig], name: str, value: Any) -> str | None:
    """Returns what is wrong with a setting of a section `training` that codir has no field for, None if it is fine."""
    if name not in _known():
        own = section.model_fields
        return (
            f"unknown key {name!r} in the section training{nearest(name, [*own, *_known()])}. Known: {', '.join(own)}; "
            "and the arguments of transformers' TrainingArguments."
        )
    problem = out_of_range(value) or _problem(_known()[name], value)
    return None if problem is None else f"training.{name} is {shown(value)}: {problem}"


def check_more(training: OptimisationConfig) -> None:
    """Raises `ConfigError` for an unknown name, a value of another type, or one out of range."""
    for name, value in training.more().items():
        if (problem := problem_with(type(training), name, value)) is not None:
            raise ConfigError(problem)


def known_arguments() -> frozenset[str]:
    """Returns the names of all arguments of TrainingArguments."""
    return frozenset(_known())


@cache
def _known() -> dict[str, Field[Any]]:
    return {each.name: each for each in fields(DistillationArguments) if each.init}


@cache
def _types() -> dict[str, Any]:
    return get_type_hints(DistillationArguments)


def _problem(field: Field[Any], value: Any) -> str | None:
    annotation = _types()[field.name]
    try:
        adapter = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
        adapter.validate_python(value, strict=not isinstance(value, str) or annotation in (bool, int, float))
    except ValidationError:
        return f"must be {_in_words(annotation)}"
    if value is not None and (choices := field.metadata.get("choices")) and value not in choices:
        return f"must be one of {', '.join(map(str, choices))}"
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    default = None if field.default is MISSING else field.default
    lowest = -1 if default == -1 else 0
    if field.name in _POSITIVE and value <= 0:
        return "must be larger than 0" + (", or null for transformers' own choice" if default is None else "")
    if value < lowest:
        return f"must be at least {lowest}"
    if field.name == "dataloader_num_workers" and value > _PROCESSES:
        return f"must be at most {_PROCESSES}"
    return None


def _in_words(annotation: Any) -> str:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return words.get(annotation) or str(annotation).replace("typing.", "").replace("|", "or")
