"""Successive halving over recipes and learning rates: rungs of studies, each with half of the arms, twice the epochs.

The pruning of a search (`codir.studies.pruning`) compares trials of one recipe in the middle of their schedules. Here
recipes compete with each other, so every rung trains to the end of its own schedule (Jamieson and Talwalkar 2016).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from codir.errors import InterruptedRunError, RunError
from codir.printing import Console
from codir.studies.folder import StudyFolder
from codir.studies.results import TrialResult
from codir.studies.run import study

FINAL_SEEDS = 2
"""Seeds of the last rung; those before have one."""


@dataclass(frozen=True)
class Arm:
    """What competes: a recipe with a learning rate."""

    recipe: str
    learning_rate: float

    @property
    def name(self) -> str:
        """Its name in the studies."""
        return f"{self.recipe}-lr{self.learning_rate:g}"


@dataclass(frozen=True)
class Rung:
    """A round of the competition.

    Attributes:
        arms: how many start it.
        epochs: of each.
        seeds: of each.
    """

    arms: int
    epochs: int
    seeds: int


@dataclass(frozen=True)
class Standing:
    """Where an arm stands at the end of its last rung.

    Attributes:
        arm: which.
        rung: number of that rung, from 1.
        score: mean main metric on the held-out examples; None where it failed.
        seeds: of that mean.
        epochs: of the rung.
        results: its trials there.
    """

    arm: Arm
    rung: int
    score: float | None
    seeds: int
    epochs: int
    results: tuple[TrialResult, ...] = ()


def rungs(arms: int, epochs: float) -> list[Rung]:
    """Returns the rounds: the better half goes on with twice the epochs, until two meet in the last with `epochs`.

    Args:
        arms: how many start, at least 1.
        epochs: of the last rung; earlier ones have at least one.
    """
    last = max(1, math.floor(epochs))
    sizes = [arms]
    while sizes[-1] > 2:
        sizes.append(math.ceil(sizes[-1] / 2))
    count = len(sizes)
    return [
        Rung(
            size,
            max(1, math.ceil(last / 2 ** (count - 1 - number))),
            FINAL_SEEDS if number == count - 1 else 1,
        )
        for number, size in enumerate(sizes)
    ]


def halve(
    arms: Sequence[Arm],
    plan: Sequence[Rung],
    folder: Path,
    settings: Callable[[Rung], dict[str, Any]],
    console: Console,
) -> list[Standing]:
    """Runs the rungs, each as a study in `folder/rung-N`; one that is there already is gone on with.

    Args:
        arms: in the order of what is thought of them: of equal ones the first goes on.
        plan: see `rungs`.
        folder: of all.
        settings: of a rung's study: tasks, teachers, student, training, workers.
        console: where to print.

    Returns:
        Every arm, the winner first: those of later rungs before those of earlier ones.

    Raises:
        RunError: all arms of a rung failed.
        InterruptedRunError: stopped; the same call goes on.
    """
    left, settled = list(arms), []
    for number, rung in enumerate(plan, start=1):
        output = folder / f"rung-{number}"
        console.rule(
            f"Rung {number} of {len(plan)}: {len(left)} candidates, {rung.epochs} epoch{'s' * (rung.epochs > 1)}, "
            f"{rung.seeds} seed{'s' * (rung.seeds > 1)}",
            align="left",
        )
        values = rung_study(left, rung, output, settings(rung))
        try:
            found = study(console=console, report=False, resume=StudyFolder(output).exists, **values)
        except InterruptedRunError as error:
            raise InterruptedRunError(
                f"Stopped in rung {number} of {len(plan)}. The same command with --resume goes on; nothing that is "
                "finished is run again."
            ) from error
        standings = [_standing(arm, number, rung, found.results) for arm in left]
        if all(each.score is None for each in standings):
            errors = "\n".join(f"  {key}: {error}" for key, error in found.failed.items())
            raise RunError(f"All candidates failed in rung {number} of the trial:\n{errors}")
        ranked = _ranked(standings)
        for each in ranked:
            score = "failed" if each.score is None else f"{each.score:.4f}"
            console.print(f"  {each.arm.name}: {score}", highlight=False)
        keep = 1 if number == len(plan) else plan[number].arms
        goes_on = [each for each in ranked[:keep] if each.score is not None]
        settled = [each for each in ranked if each not in goes_on] + settled
        left = [each.arm for each in goes_on]
        if number == len(plan):
            settled = goes_on + settled
    return settled


def rung_study(arms: Sequence[Arm], rung: Rung, output: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a rung's study: each arm is a recipe of its own.

    Args:
        arms: that start it.
        rung: which.
        output: the study's folder.
        settings: tasks, teachers, student, training, workers.
    """
    return {
        **settings,
        "recipes": {
            arm.name: {"recipe": arm.recipe, "settings": {"training.learning_rate": arm.learning_rate}}
            for arm in arms
        },
        "seeds": list(range(1, rung.seeds + 1)),
        "baseline": arms[0].name,
        "output": str(output),
    }


def _ranked(standings: Sequence[Standing]) -> list[Standing]:
    """Sorts by score, best first; of equal scores the one that was thought more of stays first."""
    return sorted(standings, key=lambda each: math.inf if each.score is None else -each.score)


def _standing(arm: Arm, number: int, rung: Rung, results: Sequence[TrialResult]) -> Standing:
    own = tuple(each for each in results if each.recipe == arm.name and not math.isnan(each.score))
    score = fmean(each.score for each in own) if own else None
    return Standing(arm, number, score, len(own), rung.epochs, own)
