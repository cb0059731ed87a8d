"""The recipes that come with codir: YAML files in this folder, each with the place it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from codir.config.cards import CARD, Card
from codir.config.yaml_text import KeyPath, read_yaml
from codir.errors import ConfigError, nearest

# Keys of a recipe that describe it; the others are settings.
ABOUT = ("command", "description", "source", "needs", CARD)


@dataclass(frozen=True)
class Recipe:
    """One recipe.

    Attributes:
        name: its file's name without `.yaml`.
        command: the command it is for, `finetune` or `distill`.
        description: one sentence.
        source: table, section or code it comes from.
        needs: what has to be there first.
        card: how far it is its authors' method.
        settings: nested settings, as in the file.
        places: where each setting stands.
        text: the file as it is, with its comments.
    """

    name: str
    command: str
    description: str
    source: str
    needs: str
    card: Card
    settings: dict[str, Any]
    places: dict[KeyPath, str]
    text: str


def recipe_names(command: str | None = None) -> list[str]:
    """Returns the names of all recipes, or of those for one command, in alphabetical order."""
    names = sorted(
        entry.name.removesuffix(".yaml") for entry in _folder().iterdir() if entry.name.endswith(".yaml")
    )
    return [name for name in names if command is None or load_recipe(name).command == command]


def is_recipe_file(recipe: str) -> bool:
    """Whether a recipe is named by a file of the user's own and not by its name."""
    return recipe.endswith((".yaml", ".yml"))


def load_recipe(name: str) -> Recipe:
    """Reads a recipe; an unknown name raises `ConfigError` with the nearest and all that there are."""
    names = recipe_names()
    if name not in names:
        hint = nearest(name, names)
        if is_recipe_file(name):
            hint = f" (a file of your own goes to --config {name})"
        raise ConfigError(f"There is no recipe {name!r}{hint}. Recipes: {', '.join(names)}.")
    text = (_folder() / f"{name}.yaml").read_text(encoding="utf-8")
    content, places = read_yaml(text, f"recipe {name}")
    card = Card.read(content.pop(CARD, None), name)
    about = {key: str(content.pop(key)) for key in ABOUT if key != CARD}
    return Recipe(name=name, card=card, settings=content, places=places, text=text, **about)


def _folder() -> Any:
    return files("codir.config") / "recipes"
