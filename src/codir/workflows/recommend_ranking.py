"""Which of the evidence speaks to a case, what it says of each recipe, and what it leaves open. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from codir.recipes.evidence import Entry, Interval
from codir.workflows.recommend_gains import pooled_gain, show_gain, verdict

SIZE_FACTOR = 4.0
"""Data sets whose sizes differ by no more than this factor count as of one size."""
_SHARE = 0.101  # shares of depth (and of width) that differ by no more are one
ENOUGH_SEEDS = 3
"""Where a kind of labels has entries with so many seeds, those with fewer do not count."""
HOLDOUT = "holdout"
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


@dataclass(frozen=True)
class Standing:
    """What the evidence says of one recipe.

    Attributes:
        recipe: its name.
        settings: what was set in it, by dotted keys.
        entries: what it rests on.
        kept: percent of the teacher's score, mean over the tasks.
        gain: points over `kd` at an equal budget, mean over the tasks; None where nothing was paired.
        cost: seconds a step, in those of `kd` in the same study; None where that was not measured.
        over_undistilled: points over the student without distillation from the same start and at the same rate, mean
            over the tasks; None where nothing was paired.
    """

    recipe: str
    settings: Mapping[str, Any] = field(hash=False)
    entries: tuple[Entry, ...]
    kept: float
    gain: Interval | None
    cost: float | None
    over_undistilled: Interval | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that it was tried on."""
        return tuple(dict.fromkeys(entry.task for entry in self.entries))

    @property
    def seeds(self) -> int:
        """Fewest seeds behind one of its entries."""
        return min(entry.seeds for entry in self.entries)


@dataclass(frozen=True)
class Ranking:
    """Recipes by what the evidence says of them for a case.

    Attributes:
        standings: best first; those that were not tried on enough of the tasks come last.
        entries: all evidence that was taken.
        caveats: sentences on how the case differs from the evidence.
        trusted: names of the recipes that were tried on enough tasks to be chosen.
    """

    standings: tuple[Standing, ...]
    entries: tuple[Entry, ...]
    caveats: tuple[str, ...]
    trusted: frozenset[str]

    @property
    def best(self) -> Standing:
        """The first that distils."""
        return next(each for each in self.standings if each.recipe != UNDISTILLED)

    def of(self, recipe: str) -> Standing | None:
        """Returns a recipe's standing, None if there is none."""
        return next((each for each in self.standings if each.recipe == recipe), None)

    def equals(self) -> list[Standing]:
        """Returns the recipes that the evidence cannot tell from the best one, that one first."""
        best = self.best
        rest = (each for each in self.standings if each is not best and each.recipe in self.trusted)
        return [best, *(each for each in rest if each.recipe != UNDISTILLED and not _below(each, best))]

    def undistilled_as_good(self, standing: Standing) -> bool:
        """Whether a recipe gained nothing beyond noise over labels alone.

        Those are the labels alone of its own start where they were tried, else what `finetune` has.
        """
        if standing.over_undistilled is not None:
            return standing.over_undistilled.low <= 0
        plain = self.of(UNDISTILLED)
        return plain is not None and not _below(plain, standing)


def rank(entries: Sequence[Entry], case: Case, recipes: Iterable[str] | None = None) -> Ranking:
    """Ranks recipes for a case by their mean gain over `kd`, on the evidence that is nearest to it.

    Entries with settings of their own (arms of an ablation, a learning rate for one recipe alone) are left out: a
    command gives the recipe as it is. So are scores that settings were chosen by, and few seeds, where there is
    better; if they alone have a student like the wanted one, a caveat says what it kept. Evidence on the same kind of
    labels, a like share of the blocks and of the width and a like number of examples is taken where it has two recipes
    and two tasks; else the conditions are dropped one after the other, and a caveat says which.

    Args:
        entries: the evidence, not empty.
        case: what is wanted.
        recipes: only these.

    Raises:
        ValueError: nothing is left of the evidence.
    """
    wanted = None if recipes is None else {*recipes, UNDISTILLED}
    plain = [each for each in entries if not each.settings and (wanted is None or each.recipe in wanted)]
    for better in (lambda each: not each.tuned, lambda each: each.split != HOLDOUT):
        plain = [each for each in plain if better(each)] or plain
    enough = {each.kind for each in plain if each.seeds >= ENOUGH_SEEDS}
    few = [each for each in plain if each.seeds < ENOUGH_SEEDS and each.kind in enough]
    plain = [each for each in plain if each.seeds >= ENOUGH_SEEDS or each.kind not in enough]
    if all(each.recipe == UNDISTILLED for each in plain):
        raise ValueError("no evidence on these recipes")
    chosen = _nearest(plain, case)
    by_recipe: dict[str, list[Entry]] = {}
    for entry in chosen:
        by_recipe.setdefault(entry.recipe, []).append(entry)
    standings = [_standing(recipe, each, chosen) for recipe, each in by_recipe.items()]
    most = max(len(each.tasks) for each in standings)
    trusted = frozenset(each.recipe for each in standings if 2 * len(each.tasks) >= most)
    paired = any(each.gain is not None for each in standings)

    def place(each: Standing) -> tuple[bool, bool, float]:
        measure = each.gain.mean if each.gain is not None else each.kept if not paired else -math.inf
        return each.recipe not in trusted, paired and each.gain is None, -measure

    ordered = tuple(sorted(standings, key=place))
    return Ranking(ordered, tuple(chosen), tuple(_caveats(chosen, case, few)), trusted)


def in_a_sentence(standing: Standing) -> str:
    """Says what was measured of a recipe, with the numbers it rests on."""
    entries = standing.entries
    parts = [
        f"on {_tasks(standing.tasks)} of {_range([each.examples for each in entries], '{:,}')} examples",
        f"{_depths(entries)}",
        f"`{standing.recipe}` kept {standing.kept:.1f} % of the teacher "
        f"({_range([each.seeds for each in entries])} seeds, {_range([each.epochs for each in entries])} epochs)",
    ]
    sentence = ", ".join(parts)
    if standing.recipe == REFERENCE:
        sentence += "; it is what the others are compared with"
    elif standing.gain is None:
        sentence += f"; it was not paired with `{REFERENCE}`"
    else:
        sentence += f"; paired gain over `{REFERENCE}` {show_gain(standing.gain)}: {verdict(standing.gain)}"
    if (over := standing.over_undistilled) is not None:
        sentence += f"; over the same student without distillation {show_gain(over)}: {verdict(over)}"
    return f"{sentence}."


@dataclass(frozen=True)
class Budget:
    """Epochs and learning rate (None: not known) that a recipe was tried with."""

    epochs: float
    rate: float | None

    def __str__(self) -> str:
        return f"{self.epochs:g} epoch{'s' * (self.epochs != 1)}" + (
            "" if self.rate is None else f" at {self.rate:g}"
        )


def budgets(entries: Sequence[Entry], recipe: str) -> dict[Budget, float]:
    """Returns percent kept by budget, over the tasks and shapes that all of the budgets were tried on.

    Of budgets that share nothing only the one with most is returned: beside each other they say nothing.
    """
    by_budget: dict[Budget, dict[tuple[str, int, int], list[float]]] = {}
    for each in entries:
        if each.recipe == recipe and not each.settings:
            found = by_budget.setdefault(Budget(each.epochs, each.learning_rate), {})
            found.setdefault((each.task, each.layers, each.width), []).append(each.kept)
    if not by_budget:
        return {}
    most = max(by_budget, key=lambda each: len(by_budget[each]))
    common = set(by_budget[most])
    kept = [budget for budget, found in by_budget.items() if common & found.keys()]
    for budget in kept:
        common &= by_budget[budget].keys()
    if not common:
        kept, common = [most], set(by_budget[most])
    means = {budget: fmean(fmean(by_budget[budget][key]) for key in common) for budget in kept}
    return dict(sorted(means.items(), key=lambda each: (each[0].epochs, each[0].rate or 0.0)))


# ---- what is near ------------------------------------------------------------------------------------------------


def _nearest(entries: list[Entry], case: Case) -> list[Entry]:
    kind: Callable[[Entry], bool] = lambda each: each.kind == case.kind  # noqa: E731
    shape: Callable[[Entry], bool] = lambda each: _alike(each, case)  # noqa: E731
    size: Callable[[Entry], bool] = lambda each: _of_one_size(each, case)  # noqa: E731
    for conditions in ((kind, shape, size), (kind, shape), (kind, size), (kind,), (shape,)):
        found = [each for each in entries if all(holds(each) for holds in conditions)]
        if len({each.recipe for each in found}) > 1 and len({each.task for each in found}) > 1:
            return found
    same_kind = [each for each in entries if kind(each)]
    return same_kind if len({each.recipe for each in same_kind}) > 1 else list(entries)


def _alike(entry: Entry, case: Case) -> bool:
    depth = case.layers is None or abs(entry.depth - case.layers / case.teacher_blocks) < _SHARE
    width = (case.width or case.teacher_width) / case.teacher_width
    return depth and abs(entry.narrowness - width) < _SHARE


def _of_one_size(entry: Entry, case: Case) -> bool:
    return 1 / SIZE_FACTOR <= entry.examples / case.examples <= SIZE_FACTOR


def _caveats(entries: Sequence[Entry], case: Case, few: Sequence[Entry]) -> list[str]:
    found = []
    same, other = (
        [each for each in entries if (each.kind == case.kind) is wanted] for wanted in (True, False)
    )
    if not same:
        found.append(f"There is no evidence on {case.kind}: what follows was measured on {entries[0].kind}.")
    elif other:
        own = tuple(dict.fromkeys(each.task for each in same))
        found.append(
            f"Of {case.kind} there is {_tasks(own)} alone: the rest was measured on {other[0].kind}."
        )
    sizes = [each.examples for each in entries]
    if not any(_of_one_size(each, case) for each in entries):
        found.append(
            f"Your data has {case.examples:,} training examples, the evidence {_range(sizes, '{:,}')}: with more data "
            "the distances between recipes shrink as a rule, with less they and the noise grow."
        )
    if case.layers is not None and not any(_alike(each, case) for each in entries):
        narrower = f", {case.width} wide" if case.width else ""
        found.append(
            f"No student of {case.layers} of {case.teacher_blocks} blocks{narrower} was measured with {ENOUGH_SEEDS} "
            f"seeds, only {_depths(entries)}: shallower and narrower students keep less.{_kept_by_few(few, case)}"
        )
    teachers = sorted({(each.teacher_blocks, each.teacher_width) for each in entries})
    if (case.teacher_blocks, case.teacher_width) not in teachers:
        seen = ", ".join(f"{blocks} blocks x {width}" for blocks, width in teachers)
        found.append(
            f"Your teacher has {case.teacher_blocks} blocks x {case.teacher_width}, those measured {seen}: whether "
            "the order of the recipes holds for yours is not known."
        )
    fewest = min(each.seeds for each in entries)
    if fewest < ENOUGH_SEEDS:
        found.append(f"Some of it rests on {fewest} seed{'s' * (fewest > 1)}: their differences mean little.")
    if len({each.task for each in entries}) == 1:
        found.append(f"All of it is from one task, {entries[0].task}.")
    return found


def _kept_by_few(few: Sequence[Entry], case: Case) -> str:
    """Says what trials of few seeds kept with a student like the wanted one."""
    alike = [each for each in few if each.kind == case.kind and _alike(each, case)]
    if not alike:
        return ""
    seeds = max(each.seeds for each in alike)
    tasks = tuple(dict.fromkeys(each.task for each in alike))
    standings = [
        _standing(recipe, [each for each in alike if each.recipe == recipe], alike)
        for recipe in dict.fromkeys(each.recipe for each in alike)
    ]
    kept = ", ".join(f"`{each.recipe}` {each.kept:.1f} %" for each in standings)
    return f" With {seeds} seed{'s' * (seeds > 1)} on {_tasks(tasks)}, {_depths(alike)} kept: {kept} of the teacher."


# ---- what it says ------------------------------------------------------------------------------------------------


def _standing(recipe: str, entries: Sequence[Entry], all_entries: Sequence[Entry]) -> Standing:
    tasks = list(dict.fromkeys(each.task for each in entries))
    kept = fmean(fmean(each.kept for each in entries if each.task == task) for task in tasks)
    gain = Interval(0.0, 0.0, 0.0) if recipe == REFERENCE else pooled_gain(entries, lambda each: each.over_kd)
    over_undistilled = pooled_gain(entries, lambda each: each.over_undistilled)
    return Standing(recipe, {}, tuple(entries), kept, gain, _cost(entries, all_entries), over_undistilled)


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


def _below(one: Standing, other: Standing) -> bool:
    """Whether one recipe is worse than another beyond noise; their intervals are taken as independent."""
    if one.gain is None or other.gain is None:
        return False
    half = math.hypot((one.gain.high - one.gain.low) / 2, (other.gain.high - other.gain.low) / 2)
    return other.gain.mean - one.gain.mean > half


def _tasks(names: Sequence[str]) -> str:
    return f"{len(names)} tasks ({', '.join(names)})" if len(names) > 1 else f"one task ({names[0]})"


def _depths(entries: Sequence[Entry]) -> str:
    shapes = sorted({(each.layers, each.teacher_blocks) for each in entries})
    return " and ".join(f"{layers} of {blocks} blocks" for layers, blocks in shapes)


def _range(values: Sequence[float], pattern: str = "{:g}") -> str:
    low, high = pattern.format(min(values)), pattern.format(max(values))
    return low if low == high else f"{low} to {high}"
