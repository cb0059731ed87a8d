"""What a recipe is wanted for, and what the evidence says of one recipe. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from codir.config.evidence import Entry
from codir.studies.recommend_gains import PooledGain, corrected, pooled_gain
from codir.studies.recommend_tried import Budgets, budgets

SIZE_FACTOR = 4.0
"""Data sets whose sizes differ by no more than this factor count as of one size."""
_SHARE = 0.101  # shares of depth (and of width) that differ by no more are one
ENOUGH_SEEDS = 3
"""Where a kind of labels has entries with so many seeds, those with fewer do not count."""
REFERENCE = "kd"
UNDISTILLED = "finetune"
"""Learns from no teacher: it is shown beside the others and never chosen."""


@dataclass(frozen=True)
class Case:
    """What a recipe is wanted for.

    Attributes:
        kind: `classification` or `regression`.
        examples: N, labelled training examples.
        teacher_blocks, teacher_width: of the teacher.
        layers: of the student; None where it is not settled yet.
        width: of the student; None: the teacher's.
    """

    kind: str
    examples: int
    teacher_blocks: int
    teacher_width: int
    layers: int | None = None
    width: int | None = None

    def is_like(self, entry: Entry) -> bool:
        """Whether an entry's student has a like share of the blocks and of the width."""
        depth = self.layers is None or abs(entry.depth - self.layers / self.teacher_blocks) < _SHARE
        width = (self.width or self.teacher_width) / self.teacher_width
        return depth and abs(entry.narrowness - width) < _SHARE

    def is_of_one_size(self, entry: Entry) -> bool:
        """Whether an entry has a like number of examples."""
        return 1 / SIZE_FACTOR <= entry.examples / self.examples <= SIZE_FACTOR


@dataclass(frozen=True)
class Standing:
    """What the evidence says of one recipe.

    Attributes:
        recipe: its name.
        settings: what was set in it, by dotted keys.
        entries: what it rests on.
        budgets: that it was tried with.
        gain: points over `kd` at an equal budget, mean over the tasks; None where nothing was paired.
        cost: seconds a step, in those of `kd` in the same study; None where that was not measured.
        over_undistilled: points over the student without distillation from the same start and at the same rate, mean
            over the tasks; None where nothing was paired.
    """

    recipe: str
    settings: Mapping[str, Any] = field(hash=False)
    entries: tuple[Entry, ...]
    budgets: Budgets = field(hash=False)
    gain: PooledGain | None
    cost: float | None
    over_undistilled: PooledGain | None = None

    @property
    def kept(self) -> float:
        """Percent of the teacher's score with the budget that kept most, mean over the tasks that had it."""
        scores: dict[str, list[float]] = {}
        for entry in self.budgets.entries:
            scores.setdefault(entry.task, []).append(entry.kept)
        return fmean(map(fmean, scores.values()))

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that it was tried on."""
        return task_names(self.entries)

    @property
    def seeds(self) -> int:
        """Fewest seeds behind one of its entries."""
        return min(entry.seeds for entry in self.entries)


def standing_of(recipe: str, entries: Sequence[Entry], all_entries: Sequence[Entry], case: Case) -> Standing:
    """Returns what some entries say of a recipe.

    Args:
        recipe: its name.
        entries: of it.
        all_entries: of all recipes, which its cost is taken from.
        case: what it is wanted for.
    """
    return Standing(
        recipe,
        {},
        tuple(entries),
        budgets(entries, case.kind),
        PooledGain(0.0, 0.0, 0.0) if recipe == REFERENCE else pooled_gain(entries, lambda each: each.over_kd),
        _cost(entries, all_entries),
        pooled_gain(entries, lambda each: each.over_undistilled),
    )


def corrected_standings(standings: Sequence[Standing]) -> list[Standing]:
    """Corrects the gains of all recipes for their number: the first of them is chosen by its gain."""
    over_kd = corrected({each.recipe: each.gain for each in standings if each.recipe != REFERENCE})
    alone = corrected({each.recipe: each.over_undistilled for each in standings})
    return [
        replace(each, gain=over_kd.get(each.recipe, each.gain), over_undistilled=alone[each.recipe])
        for each in standings
    ]


def _cost(entries: Sequence[Entry], all_entries: Sequence[Entry]) -> float | None:
    reference = {
        (each.study, each.task, each.layers, each.width, each.epochs): each.seconds / max(each.steps, 1)
        for each in all_entries
        if each.recipe == REFERENCE and each.seconds
    }
    ratios = [
        each.seconds / max(each.steps, 1) / other
        for each in entries
        if each.seconds
        and (other := reference.get((each.study, each.task, each.layers, each.width, each.epochs)))
    ]
    return fmean(ratios) if ratios else None


def task_names(entries: Sequence[Entry]) -> tuple[str, ...]:
    """Returns the tasks of some entries, each once."""
    return tuple(dict.fromkeys(each.task for each in entries))
