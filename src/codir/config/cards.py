"""What a recipe's card says: how far equation, schedule, start and data are its authors', each with its source."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from codir.errors import ConfigError

Verdict = Literal["yes", "partly", "no"]

CARD = "card"  # its key in a recipe's file
_WIDTH = 110


@dataclass(frozen=True)
class CardLine:
    """One line of a card.

    Attributes:
        verdict: whether it is as the authors have it.
        reason: the source, and what is otherwise.
    """

    verdict: Verdict
    reason: str

    def __str__(self) -> str:
        return f"{self.verdict}: {self.reason}"


@dataclass(frozen=True)
class Card:
    """How far a recipe is its authors' method.

    Attributes:
        equation: whether the loss is.
        schedule: whether rates, batches, lengths and clipping are; what it writes as `key=value` is the recipe's own.
        start: whether the student starts from what theirs starts from.
        data: whether it learns from what theirs learns from; what the user has to bring is named.
    """

    equation: CardLine
    schedule: CardLine
    start: CardLine
    data: CardLine

    @classmethod
    def read(cls, value: Any, recipe: str) -> Card:
        """Reads the section `card` of a recipe; raises `ConfigError` unless it is four lines, each with a verdict."""
        names = [each.name for each in fields(cls)]
        if not isinstance(value, Mapping) or list(value) != names:
            raise ConfigError(f"The card of the recipe {recipe!r} must have the lines {', '.join(names)}.")
        lines: dict[str, CardLine] = {}
        for name in names:
            verdict, colon, reason = str(value[name]).partition(":")
            if verdict not in get_args(Verdict) or not colon or not reason.strip():
                raise ConfigError(
                    f"The line {name!r} of the card of the recipe {recipe!r} must start with one of "
                    f"{', '.join(get_args(Verdict))} and a colon, and give the source."
                )
            lines[name] = CardLine(verdict, " ".join(reason.split()))  # type: ignore[arg-type]
        return cls(**lines)

    def show(self) -> str:
        """Returns the card as comments of YAML."""
        said = {
            "equation right": self.equation,
            "schedule as the authors'": self.schedule,
            "start as the authors'": self.start,
            "data as the authors'": self.data,
        }
        return "".join(
            textwrap.fill(
                f"{what}? {line}",
                _WIDTH,
                initial_indent="# ",
                subsequent_indent="#     ",
                break_on_hyphens=False,
            )
            + "\n"
            for what, line in said.items()
        )


def without_card(text: str) -> str:
    """Returns the text of a recipe without its section `card`, comments and all else as they are."""
    kept, inside = [], False
    for line in text.splitlines(keepends=True):
        inside = line.startswith(f"{CARD}:") or (inside and line.startswith(" "))
        if not inside:
            kept.append(line)
    return "".join(kept)
