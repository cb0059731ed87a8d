"""Strategies: what a study runs next, as functions of its configuration and of what its finished trials gave."""

from __future__ import annotations

from collections.abc import Mapping

from codir.studies.config import StudyConfig
from codir.studies.resolved import ResolvedRecipe
from codir.studies.strategies.base import Strategy
from codir.studies.strategies.greedy import Greedy
from codir.studies.strategies.grid import Grid
from codir.studies.strategies.random import Random
from codir.studies.strategies.tpe import TPE

_STRATEGIES: dict[str, type[Strategy]] = {"grid": Grid, "random": Random, "tpe": TPE, "greedy": Greedy}


def strategy_of(config: StudyConfig, recipes: Mapping[str, ResolvedRecipe]) -> Strategy:
    """Returns the strategy that a study names."""
    return _STRATEGIES[config.strategy](config, recipes)
