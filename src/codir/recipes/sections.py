"""What all parts of a configuration have in common: typed, range-checked, unknown keys refused."""

from __future__ import annotations

from collections.abc import Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Section(BaseModel):
    """One level of the configuration: unknown keys are refused, numbers are finite, a yes/no is no number."""

    model_config = ConfigDict(
        extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True, validate_assignment=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_yes_or_no_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields.get(info.field_name or "")
        if isinstance(value, bool) and field is not None and not _mentions_bool(field.annotation):
            raise ValueError("true and false are not allowed here")
        return value


def _mentions_bool(annotation: Any) -> bool:
    if annotation in (bool, Any):
        return True
    return get_origin(annotation) in (Union, UnionType) and any(
        _mentions_bool(part) for part in get_args(annotation)
    )


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
