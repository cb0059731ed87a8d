"""What all settings have in common, wherever they stand: typed, within a range, unknown keys refused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from codir.files import at_home

# No setting of codir means anything beyond; a setting's own range, where it has one, is narrower.
LARGEST = 2**32 - 1


class Section(BaseModel):
    """One level of settings: unknown keys are refused, numbers are finite and no larger than `LARGEST`.

    A yes/no is no number.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True, validate_assignment=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_yes_or_no_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields.get(info.field_name or "")
        if isinstance(value, bool) and field is not None and not _mentions_bool(field.annotation):
            raise ValueError("true and false are not allowed here")
        value = [*map(at_home, value)] if isinstance(value, list) else at_home(value)
        # what is below has a section of its own, which says where it stands
        if not isinstance(value, Mapping) and (problem := out_of_range(value)) is not None:
            raise ValueError(problem)
        return value


def out_of_range(value: Any) -> str | None:
    """Returns what is wrong with a number, or one inside of lists and sections, that no setting can have; else None."""
    if isinstance(value, Mapping):
        return next(filter(None, map(out_of_range, value.values())), None)
    if isinstance(value, list | tuple):
        return next(filter(None, map(out_of_range, value)), None)
    if isinstance(value, float) and not math.isfinite(value):
        return "must be a finite number"
    if isinstance(value, int | float) and abs(value) > LARGEST:
        return f"must be at most {LARGEST:,}" if value > 0 else f"must be at least -{LARGEST:,}"
    return None


def _mentions_bool(annotation: Any) -> bool:
    if annotation in (bool, Any):
        return True
    return get_origin(annotation) in (Union, UnionType) and any(_mentions_bool(part) for part in get_args(annotation))


def section_at(model: type[BaseModel], path: Sequence[str]) -> type[BaseModel]:
    """Returns the model of the section at `path` inside `model`; `()` is `model` itself.

    A field that maps names to sections is passed by any name.
    """
    names = list(path)
    while names:
        name = names.pop(0)
        annotation: Any = model.model_fields[name].annotation
        if get_origin(annotation) is dict and names:
            names.pop(0)
            annotation = get_args(annotation)[1]
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            raise KeyError(f"{name} is a setting of {model.__name__}, not a section")
        model = annotation
    return model
