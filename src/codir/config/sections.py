"""Sections of a configuration: their base, and the way to them by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from codir.settings import Section

__all__ = ["Section", "section_at"]


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
