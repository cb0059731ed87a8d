"""What a user passes on to transformers' TrainingArguments, checked by name, type and range before anything is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from functools import cache
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from codir.config.messages import shown
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


def check_passed_on(arguments: Mapping[str, Any]) -> None:
    """Checks `training.arguments`.

    Raises:
        ConfigError: an unknown name, a value of another type, or one out of range; it names the key.
    """
    for name, value in arguments.items():
        if name not in _known():
            raise ConfigError(
                f"training.arguments.{name} is no argument of transformers' TrainingArguments"
                f"{nearest(name, _known())}."
            )
        if (problem := out_of_range(value) or _problem(_known()[name], value)) is not None:
            raise ConfigError(f"training.arguments.{name} is {shown(value)}: {problem}")


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
