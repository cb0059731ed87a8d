"""Turns pydantic's refusals into messages that name the place, the key, the value and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from codir.config.yaml_text import KeyPath
from codir.errors import nearest
from codir.settings import section_at


def explain(
    error: ValidationError,
    model: type[BaseModel],
    values: Mapping[str, Any],
    places: Mapping[KeyPath, str],
    above: KeyPath = (),
) -> str:
    """Returns one line for each thing that is wrong.

    Args:
        error: what pydantic found.
        model: the model that refused.
        values: the nested settings it was given.
        places: for each key path, the file and line, or the flag, where it was set.
        above: path of the section that `values` are, in `places` and in the messages.
    """
    problems: dict[KeyPath, list[dict[str, Any]]] = {}
    for problem in error.errors(include_url=False):
        path = _real_path(tuple(str(part) for part in problem["loc"]), values, problem["type"])
        problems.setdefault(path, []).append(dict(problem))
    return "\n".join(
        _explain_one(path, found, model, values, places, above) for path, found in problems.items()
    )


def _explain_one(
    path: KeyPath,
    found: list[dict[str, Any]],
    model: type[BaseModel],
    values: Mapping[str, Any],
    places: Mapping[KeyPath, str],
    above: KeyPath,
) -> str:
    first = found[0]
    full = (*above, *path)
    dotted = ".".join(full)
    place = _place(full, places)
    if first["type"] == "extra_forbidden":
        known = list(section_at(model, path[:-1]).model_fields)
        where = f"in the section {'.'.join(full[:-1])}" if full[:-1] else "at the top level"
        return (
            f"{place}unknown key {path[-1]!r} {where}{nearest(path[-1], known)}. Known: {', '.join(known)}."
        )
    if first["type"] == "missing":
        return _missing(path, model)
    reasons = list(dict.fromkeys(_reason(problem) for problem in found))
    if first["type"] == "value_error" and isinstance(_get(values, path), Mapping):
        # Two settings do not fit together: say where each of them stands.
        section = _get(values, path)
        named = [key for key in section if re.search(rf"\b{re.escape(key)}\b", reasons[0])]
        stand = [f"{key}: {places[(*full, key)]}" for key in named if (*full, key) in places]
        return f"{dotted + ': ' if dotted else ''}{reasons[0]}" + (f" ({'; '.join(stand)})" if stand else "")
    # A union gives one refusal for each of its branches.
    allowed = " or ".join([reasons[0], *(reason.removeprefix("must be ") for reason in reasons[1:])])
    value = first["input"]
    hint = ""
    if isinstance(value, str):
        choices = [choice for problem in found for choice in _choices(problem)]
        hint = nearest(value, choices)
    return f"{place}{dotted} is {shown(value)}: {allowed}{hint}"


def shown(value: Any) -> str:
    """Returns a value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:80]}... ({len(text):,} characters)"


def _missing(path: KeyPath, model: type[BaseModel]) -> str:
    name = path[-1]
    field = section_at(model, path[:-1]).model_fields[name]
    example = (field.examples or ["..."])[0]
    flag = f"--{name.replace('_', '-')}"
    return (
        f"{'.'.join(path)} is missing ({field.description}): add {flag} {example}, "
        f"or `{name}: {example}` to the YAML file"
    )


def _reason(problem: dict[str, Any]) -> str:
    kind = problem["type"]
    if kind in ("model_type", "dict_type"):
        return "must be a section of settings (`key: value` lines)"
    text = str(problem["msg"]).removeprefix("Value error, ")
    text = re.sub(r"^Input should be (a valid )?", "must be ", text)
    text = re.sub(r"^Unable to parse input string as an integer.*", "must be a whole number", text)
    for pythonic, plain in (
        ("must be integer", "must be a whole number"),
        ("must be number", "must be a number"),
        ("must be string", "must be text"),
        ("must be list", "must be a list"),
        ("must be boolean", "must be true or false"),
    ):
        if text.startswith(pythonic):
            text = plain
    return text


def _choices(problem: dict[str, Any]) -> list[str]:
    return re.findall(r"'([^']*)'", str(problem.get("ctx", {}).get("expected", "")))


def _real_path(loc: KeyPath, values: Mapping[str, Any], kind: str) -> KeyPath:
    """Cuts off what pydantic adds to a location: the branch of a union that it tried."""
    path: list[str] = []
    at: Any = values
    for part in loc:
        if isinstance(at, Mapping) and (part in at or kind == "missing"):
            at = at.get(part)
        elif isinstance(at, list) and part.isdigit() and int(part) < len(at):
            at = at[int(part)]
        else:
            break
        path.append(part)
    return tuple(path)


def _get(values: Mapping[str, Any], path: KeyPath) -> Any:
    at: Any = values
    for part in path:
        at = at[int(part)] if isinstance(at, list) else at[part]
    return at


def _place(path: KeyPath, places: Mapping[KeyPath, str]) -> str:
    for length in range(len(path), 0, -1):
        if path[:length] in places:
            return f"{places[path[:length]][:200]}: "
    return ""
