"""Flags that several commands share and that are no settings of a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel

from codir.cli.flags import description as of_field
from codir.settings import section_at

RecipeName = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help="recipe to start from (`codir recipes` lists them)",
        metavar="NAME",
        show_default=False,
        rich_help_panel="Run",
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", help="YAML file with settings; may name a `recipe`", metavar="FILE", rich_help_panel="Run"
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="one setting, may be repeated: --set objectives.crd.k=100",
        metavar="KEY=VALUE",
        rich_help_panel="Run",
    ),
]
EvaluationBatch = Annotated[int, typer.Option("--batch-size", help="texts run at a time", min=1, metavar="N")]
# Of a model that was trained: its run knows the length.
LENGTH_OF_RUN = {"max_length": "texts are cut to this many tokens (default: as in training, else 128)"}


def description(path: str, model: type[BaseModel]) -> str:
    """Returns the description of the setting at a dotted path, with its default where it has a plain one."""
    *sections, name = path.split(".")
    return of_field(section_at(model, sections).model_fields[name])
