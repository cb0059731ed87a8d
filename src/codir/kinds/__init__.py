"""What a model predicts: one file for each kind, and the register by which everything else finds it.

A kind of one's own is a class in one file and one line: `register(Mine())` in a program, or an entry point of an
installed package, which processes that codir starts itself see as well (`tests/kinds` makes one up):

    [project.entry-points."codir.kinds"]
    mine = "mypackage.mine:Mine"

The files are read when a kind is first asked for, so that `import codir.kinds` costs nothing.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from codir.errors import ConfigError, nearest

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from codir.kinds.base import Kind

MASKED_LM = "masked-lm"
_KINDS: dict[str, Kind] = {}


def register(kind: Kind) -> Kind:
    """Makes a kind known by its name."""
    kinds()[kind.name] = kind
    return kind


def kinds() -> dict[str, Kind]:
    """Returns all kinds by name."""
    if not _KINDS:
        from codir.kinds.classification import Classification
        from codir.kinds.masked_lm import MaskedLanguageModel
        from codir.kinds.regression import Regression

        for kind in (Classification(), Regression(), MaskedLanguageModel()):
            _KINDS[kind.name] = kind
        for entry in entry_points(group="codir.kinds"):
            register(entry.load()())
    return _KINDS


def kind_named(name: str) -> Kind:
    """Returns a kind; an unknown name raises `ConfigError` with the nearest and all that there are."""
    found = kinds()
    if name not in found:
        raise ConfigError(f"There is no kind of labels {name!r}{nearest(name, found)}. There are {', '.join(found)}.")
    return found[name]


def kind_of(config: PretrainedConfig) -> Kind:
    """Returns what a classifier with this config predicts: what it says itself, else by its `problem_type`."""
    from codir.models.classes import KIND_KEY  # imports torch

    if (said := getattr(config, KIND_KEY, None)) is not None:
        return kind_named(str(said))
    return next(kind for kind in kinds().values() if kind.reads(config))
