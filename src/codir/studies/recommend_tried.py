"""The epochs and learning rates that a recipe was tried with, and which of them did best. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from codir.config.evidence import Entry

Place = tuple[str, int, int]
"""Task, blocks and width of the student: what scores of two budgets or recipes must share to be compared."""
HOLDOUT = "holdout"
"""Scores of a split that settings were chosen by."""


@dataclass(frozen=True)
class Budget:
    """Epochs and learning rate (None: not known) that a recipe was tried with."""

    epochs: float
    rate: float | None

    @classmethod
    def of(cls, entry: Entry) -> Budget:
        """Returns an entry's."""
        return cls(entry.epochs, entry.learning_rate)

    def __str__(self) -> str:
        return f"{self.epochs:g} epoch{'s' * (self.epochs != 1)}" + (
            "" if self.rate is None else f" at {self.rate:g}"
        )


@dataclass(frozen=True)
class Budgets:
    """What a recipe kept by budget.

    Attributes:
        kept: percent of the teacher's score, over the tasks and students that all of these budgets were tried on.
        apart: the other budgets, with the tasks they were tried on: beside the first their shares say nothing.
        best: the one that kept most.
        entries: those of the best one.
    """

    kept: Mapping[Budget, float]
    apart: Mapping[Budget, tuple[str, ...]]
    best: Budget
    entries: tuple[Entry, ...]


def place_of(entry: Entry) -> Place:
    """Returns where an entry was measured."""
    return entry.task, entry.layers, entry.width


def budgets(entries: Sequence[Entry], kind: str) -> Budgets:
    """Compares the budgets of a recipe, on labels of the kind that is wanted if it was tried on such.

    Args:
        entries: of one recipe, at least one.
        kind: `classification` or `regression`.
    """
    own = [each for each in entries if each.kind == kind] or list(entries)
    by_budget: dict[Budget, dict[Place, list[float]]] = {}
    for each in own:
        by_budget.setdefault(Budget.of(each), {}).setdefault(place_of(each), []).append(each.kept)
    most = max(by_budget, key=lambda each: len(by_budget[each]))
    common = set(by_budget[most])
    together = [budget for budget, found in by_budget.items() if common & found.keys()]
    for budget in together:
        common &= by_budget[budget].keys()
    if not common:
        together, common = [most], set(by_budget[most])
    kept = {
        budget: fmean(fmean(by_budget[budget][place]) for place in common)
        for budget in sorted(together, key=_order)
    }
    best = max(kept, key=lambda budget: kept[budget])
    apart: dict[Budget, dict[str, None]] = {}
    for each in sorted(entries, key=lambda each: _order(Budget.of(each))):
        if Budget.of(each) not in kept:
            apart.setdefault(Budget.of(each), {})[each.task] = None
    return Budgets(
        kept,
        {budget: tuple(tasks) for budget, tasks in apart.items()},
        best,
        tuple(each for each in own if Budget.of(each) == best),
    )


def _order(budget: Budget) -> tuple[float, float]:
    return budget.epochs, budget.rate or 0.0


def most_kept(entries: Sequence[Entry], places: Sequence[Place]) -> tuple[float, tuple[float, ...]] | None:
    """Returns percent kept over some places, on each with the budget that kept most there, and these epochs.

    Args:
        entries: of one recipe.
        places: what it is compared on.

    Returns:
        None where it was not tried on all of them, or where there are none.
    """
    found: dict[Place, dict[Budget, list[float]]] = {}
    for each in entries:
        found.setdefault(place_of(each), {}).setdefault(Budget.of(each), []).append(each.kept)
    if not places or not set(places) <= found.keys():
        return None
    best = {
        place: max((fmean(kept), budget.epochs) for budget, kept in found[place].items()) for place in places
    }
    return fmean(kept for kept, _ in best.values()), tuple(sorted({epochs for _, epochs in best.values()}))


def other_rate(entries: Sequence[Entry], tried: Budgets, first: float) -> tuple[float, str]:
    """Returns the learning rate that a trial should try beside the proposed one, and how it was found.

    That is the best other one that was tried with the recipe as it is (but for the rate) on the same tasks, students
    and epochs; scores that settings were chosen by do not count. Where there is none: half of the proposed rate if a
    lower one was tried at all, so that it stays within what was measured; else twice as much.

    Args:
        entries: of one recipe, also those with a rate of their own.
        tried: its budgets in what is near to the case.
        first: the proposed rate.
    """
    kinds = {each.kind for each in tried.entries}
    rates: dict[float, dict[tuple[Place, float], list[float]]] = {}
    for each in entries:
        if each.learning_rate is None or each.settings or each.split == HOLDOUT or each.kind not in kinds:
            continue
        rates.setdefault(each.learning_rate, {}).setdefault((place_of(each), each.epochs), []).append(
            each.kept
        )
    own = rates.pop(first, {})
    gains = {
        rate: fmean(fmean(found[key]) - fmean(own[key]) for key in shared)
        for rate, found in rates.items()
        if (shared := own.keys() & found.keys())
    }
    if gains:
        best = max(gains, key=lambda rate: gains[rate])
        return best, f"the best other one of the evidence ({gains[best]:+.1f} points kept)"
    none = "no other was tried on the same tasks for as many epochs"
    return (
        (first / 2, f"half of it: {none}")
        if any(rate < first for rate in rates)
        else (2 * first, f"twice as much: {none}")
    )
