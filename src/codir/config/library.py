"""The recipes that come with codir: YAML files in this folder, each with its source and a card.

The card says how far equation, schedule, start and data are the authors', each with the reason.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from codir.config.yaml_text import KeyPath, read_yaml
from codir.errors import ConfigError, nearest

# Keys of a recipe that describe it; the others are settings.
ABOUT = ("command", "description", "source", "needs", "card")
_LINES = {
    "equation": "equation right",
    "schedule": "schedule as the authors'",
    "start": "start as the authors'",
    "data": "data as the authors'",
}


@dataclass(frozen=True)
class Recipe:
    """One recipe."""

    name: str  # its file's name without `.yaml`
    command: str  # the command it is for: finetune, distill or pretrain
    description: str  # one sentence
    source: str  # table, section or code it comes from
    needs: str  # what has to be there first
    card: dict[str, str]  # by question: `yes`, `partly` or `no`, a colon and the reason
    settings: dict[str, Any]  # nested, as in the file
    places: dict[KeyPath, str]  # where each setting stands
    text: str  # the file as it is, with its comments

    def show(self) -> str:
        """Returns the card as comments of YAML, and the recipe below it without its card."""
        card = "".join(
            textwrap.fill(
                f"{_LINES[line]}? {said}",
                110,
                initial_indent="# ",
                subsequent_indent="#     ",
                break_on_hyphens=False,
            )
            + "\n"
            for line, said in self.card.items()
        )
        kept, inside = [], False
        for line in self.text.splitlines(keepends=True):
            inside = line.startswith("card:") or (inside and line.startswith(" "))
            kept += [] if inside else [line]
        return f"{card}\n{''.join(kept)}"


def recipe_names(command: str | None = None) -> list[str]:
    """Returns the names of all recipes, or of those for one command, in alphabetical order."""
    names = sorted(each.name.removesuffix(".yaml") for each in _folder().iterdir() if each.name.endswith(".yaml"))
    return [name for name in names if command is None or load_recipe(name).command == command]


def is_recipe_file(recipe: str) -> bool:
    """Whether a recipe is named by a file of the user's own and not by its name."""
    return recipe.endswith((".yaml", ".yml"))


def load_recipe(name: str) -> Recipe:
    """Reads a recipe; an unknown name raises `ConfigError` with the nearest and all that there are."""
    names = recipe_names()
    if name not in names:
        hint = f" (a file of your own goes to --config {name})" if is_recipe_file(name) else nearest(name, names)
        raise ConfigError(f"There is no recipe {name!r}{hint}. Recipes: {', '.join(names)}.")
    text = (_folder() / f"{name}.yaml").read_text(encoding="utf-8")
    settings, places = read_yaml(text, f"recipe {name}")
    about = {key: settings.pop(key, None) for key in ABOUT}
    card = _read_card(about.pop("card"), name)
    return Recipe(name=name, card=card, settings=settings, places=places, text=text, **about)


def _read_card(card: Any, recipe: str) -> dict[str, str]:
    if not isinstance(card, Mapping) or list(card) != list(_LINES):
        raise ConfigError(f"The card of the recipe {recipe!r} must have the lines {', '.join(_LINES)}.")
    for line, said in card.items():
        verdict, _, reason = str(said).partition(":")
        if verdict not in ("yes", "partly", "no") or not reason.strip():
            raise ConfigError(
                f"The line {line!r} of the card of the recipe {recipe!r} must be yes, partly or no, a colon and the "
                "source."
            )
    return {line: " ".join(str(said).split()) for line, said in card.items()}


def _folder() -> Any:
    return files("codir.config") / "recipes"
