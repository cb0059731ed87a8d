"""What may be written shorter in a study, written out: lists of recipes and tasks, ranges of seeds, nested settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codir.config.library import is_recipe_file


def spelt_out(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings with the short forms of recipes and tasks as mappings; raises `ValueError` if they are none."""
    values = dict(values)
    if "recipes" in values:
        values["recipes"] = _recipes(values["recipes"])
    if "tasks" in values:
        values["tasks"] = _tasks(values["tasks"], values.get("data"), values.get("data_dir"))
    return values


def dotted(value: Any, prefix: str = "") -> Any:
    """Returns `{"objectives.crd.k": 100}` for nested or dotted keys; ranges, lists and what is no mapping stay."""
    if not isinstance(value, Mapping):
        return value
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(inner, Mapping) and inner and not {"low", "high"} & set(inner):
            flat.update(dotted(inner, name))
        else:
            flat[name] = inner
    return flat


def seeds_of(value: Any) -> Any:
    """Reads `1-5`, `1,3,7-9` or a single number as a list; anything else stays."""
    if isinstance(value, int) and not isinstance(value, bool):
        return [value]
    if not isinstance(value, str):
        return value
    found: list[int] = []
    for part in value.split(","):
        match = re.match(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*$", part)
        if not match:
            raise ValueError("give seeds such as 1-5 or 1,2,3")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first > 10_000:
            raise ValueError(f"{part.strip()} is no range of seeds")
        found += range(first, last + 1)
    return found


def _listed(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _recipes(value: Any) -> Any:
    """Turns a list of names, files and named choices into `{name: {recipe, settings}}`."""
    value = _listed(value)
    if isinstance(value, list):
        items: list[tuple[str, Any]] = []
        for each in value:
            if isinstance(each, str):
                items.append((recipe_label(each), {"recipe": each}))
            elif isinstance(each, Mapping) and len(each) == 1:
                items.extend((str(name), inner) for name, inner in each.items())
            else:
                raise ValueError(
                    "recipes must be a list of names and files, or of `- NAME: {recipe: ..., settings: ...}`"
                )
    elif isinstance(value, Mapping):
        items = [(str(name), inner) for name, inner in value.items()]
    else:
        return value
    found: dict[str, Any] = {}
    for name, inner in items:
        if name in found:
            raise ValueError(
                f"two recipes of this study are called {name!r}: give one of them a name of its own "
                "(`- NAME: {recipe: FILE}`)"
            )
        found[name] = (
            {"recipe": name} if inner is None else {"recipe": inner} if isinstance(inner, str) else inner
        )
        if isinstance(found[name], Mapping) and "recipe" not in found[name]:
            found[name] = {"recipe": name, **found[name]}
    return found


def recipe_label(recipe: str) -> str:
    """Returns what a study calls a recipe by default: its name, or its file's without ending."""
    return Path(recipe).stem if is_recipe_file(recipe) else recipe


def _tasks(value: Any, shared: Any, data_dir: Any) -> Any:
    """Turns a list of names into `{name: {task: name}}` and puts what is shared under each one's own settings."""
    value = _listed(value)
    if isinstance(value, list):
        if len({str(each) for each in value}) < len(value):
            raise ValueError("a task stands there twice")
        value = {str(each): None for each in value}
    if not isinstance(value, Mapping):
        return value
    found: dict[str, Any] = {}
    for name, inner in value.items():
        own = dict(inner) if isinstance(inner, Mapping) else inner
        if own is None:
            own = {"task": str(name)}
        if isinstance(own, dict):
            if isinstance(shared, Mapping):
                own = {**shared, **own}
            if data_dir is not None and own.get("task") is not None:
                own.setdefault("data_dir", str(data_dir))
        found[str(name)] = own
    return found
