"""What a strategy is, and what all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import xxhash

from codir.studies.config import StudyConfig
from codir.studies.resolved import ResolvedRecipe, applies
from codir.studies.survey import Outcome
from codir.studies.trial import Phase, Trial

Done = Mapping[str, Outcome]


@dataclass(frozen=True)
class Group:
    """One recipe on one task with one student: settings are chosen for each group by itself."""

    task: str
    student: str | None
    recipe: str

    def trial(self, seed: int, settings: Mapping[str, Any], phase: Phase, stage: str = "") -> Trial:
        """Returns one of its trials."""
        return Trial(self.recipe, self.task, self.student, seed, dict(settings), phase, stage)


class Strategy(ABC):
    """Says what a study runs next.

    Args:
        config: of the study.
        recipes: resolved, by name.
    """

    def __init__(self, config: StudyConfig, recipes: Mapping[str, ResolvedRecipe]):
        self.config, self.recipes = config, recipes

    def next_trials(self, done: Done) -> list[Trial]:
        """Returns every trial that can be named by now, in the order they should run.

        It depends on the configuration and `done` alone, so that any number of workers agree without talking. When all
        trials that it names have ended, the study is complete.

        Args:
            done: how trials ended, by key; what has not ended is not in it.
        """
        named: dict[str, Trial] = {}
        for trial in in_turns([self.for_part(part, done) for part in self.parts()]):
            # What a search has trained already is not trained again when it is among the best.
            if trial.key not in named or trial.phase == "final":
                named[trial.key] = trial
        return list(named.values())

    def parts(self) -> Sequence[Any]:
        """Returns what is searched independently: here the groups."""
        return self.groups()

    @abstractmethod
    def for_part(self, part: Any, done: Done) -> list[Trial]:
        """Returns `next_trials` of one part."""

    def groups(self) -> list[Group]:
        """Returns all groups; a recipe with a student of its own has one for each task, whatever the students are."""
        found = []
        for task in self.config.tasks:
            for student in self.config.students or [None]:
                for recipe in self.config.recipes:
                    own = self.recipes[recipe].student is not None
                    group = Group(task, None if own else student, recipe)
                    if group not in found:
                        found.append(group)
        return found

    def final(self, group: Group, settings: Mapping[str, Any]) -> list[Trial]:
        """Returns the trials of a group that are compared: the chosen settings with every seed."""
        return [group.trial(seed, settings, "final") for seed in self.config.seeds]

    def search(self, group: Group, points: Sequence[Mapping[str, Any]], stage: str = "") -> list[Trial]:
        """Returns the trials that try settings."""
        return [group.trial(self.config.search_seed, point, "search", stage) for point in points]

    def applying(self, group: Group, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Returns those of the settings that mean something for a group's recipe."""
        return {key: value for key, value in settings.items() if applies(key, self.recipes[group.recipe])}


def ended(trials: Sequence[Trial], done: Done) -> bool:
    """Whether all of them have ended, in whatever way."""
    return all(trial.key in done for trial in trials)


def best(trials: Sequence[Trial], done: Done) -> Trial | None:
    """Returns the finished trial with the best dev score, the first of equal ones; None if none finished."""
    chosen, highest = None, float("-inf")
    for trial in trials:
        outcome = done.get(trial.key)
        if outcome is None or outcome.state != "finished" or outcome.score is None:
            continue
        if outcome.score > highest:  # never true of NaN
            chosen, highest = trial, outcome.score
    return chosen


def in_turns(lists: Sequence[Sequence[Trial]]) -> list[Trial]:
    """Returns the first of every list, then the second ones, ...: a study that is stopped early has some of each."""
    return [trial for turn in zip_longest(*lists) for trial in turn if trial is not None]


def seed_of(*parts: Any) -> int:
    """Returns 31 bits that depend on nothing but the parts, on every machine."""
    return xxhash.xxh3_64("/".join(map(str, parts)).encode()).intdigest() & 0x7FFFFFFF
