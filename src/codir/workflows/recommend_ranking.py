"""Which of the evidence speaks to a case, what it says of each recipe, and what it leaves open. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from codir.recipes.evidence import Entry
from codir.workflows.recommend_gains import PooledGain, corrected, gain_in_words, gap, pooled_gain
from codir.workflows.recommend_tried import HOLDOUT, Budgets, Place, budgets, most_kept, place_of

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
        return _task_names(self.entries)

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
        """The one to propose."""
        return self.equals()[0]

    def of(self, recipe: str) -> Standing | None:
        """Returns a recipe's standing, None if there is none."""
        return next((each for each in self.standings if each.recipe == recipe), None)

    def equals(self) -> list[Standing]:
        """Returns the recipes that the evidence cannot tell from the one with the largest gain, and that one.

        Gains are over `kd` at the same budget, and some budgets are better than others: a recipe that kept more than
        another, each with its best budget, on what both were tried on, goes before it.
        """
        ordered: list[Standing] = []
        for each in self._equals:
            place = len(ordered)
            while place and _kept_more(each, ordered[place - 1]):
                place -= 1
            ordered.insert(place, each)
        return ordered

    @property
    def common(self) -> tuple[Place, ...]:
        """Tasks and students that all of `equals()` were tried on."""
        return _shared(*self._equals)

    def undistilled_as_good(self, standing: Standing) -> bool:
        """Whether a recipe gained nothing beyond noise over labels alone.

        Those are the labels alone of its own start where they were tried, else what `finetune` has.
        """
        if standing.over_undistilled is not None:
            return not standing.over_undistilled.gained
        return self.of(UNDISTILLED) is not None and UNDISTILLED not in self._below(standing)

    @property
    def _equals(self) -> list[Standing]:
        distilling = [each for each in self.standings if each.recipe != UNDISTILLED]
        leader, below = distilling[0], self._below(distilling[0])
        rest = (each for each in distilling[1:] if each.recipe in self.trusted)
        return [leader, *(each for each in rest if each.recipe not in below)]

    def _below(self, standing: Standing) -> set[str]:
        """Returns the recipes that gained less than one, beyond noise for as many as it is compared with."""
        gain = standing.gain
        if gain is None:
            return set()
        others = [each for each in self.standings if each is not standing]
        gaps = {each.recipe: None if each.gain is None else gap(gain, each.gain) for each in others}
        return {recipe for recipe, found in corrected(gaps).items() if found is not None and found.gained}


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
    standings = _corrected([_standing(recipe, each, chosen, case) for recipe, each in by_recipe.items()])
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
    entries = standing.budgets.entries
    parts = [
        f"on {_tasks(_task_names(entries))} of {_range([each.examples for each in entries], '{:,}')} examples",
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
        wider = "" if len(entries) == len(standing.entries) else f" ({_basis(standing.entries)})"
        sentence += f"; paired gain over `{REFERENCE}`{wider} {gain_in_words(standing.gain)}"
    if (over := standing.over_undistilled) is not None:
        sentence += f"; over the same student without distillation {gain_in_words(over)}"
    return f"{sentence}."


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
        found.append(
            f"Of {case.kind} there is {_tasks(_task_names(same))} alone: the rest was measured on {other[0].kind}."
        )
    sizes = [each.examples for each in entries]
    if not any(_of_one_size(each, case) for each in entries):
        found.append(
            f"Your data has {case.examples:,} training examples, the evidence {_range(sizes, '{:,}')}: with more data "
            "the distances between recipes shrink as a rule, with less they and the noise grow."
        )
    if case.layers is not None and not any(_alike(each, case) for each in entries):
        narrower = f", {case.width} wide," if case.width else ""
        found.append(
            f"No student of {case.layers} of {case.teacher_blocks} blocks{narrower} was measured with {ENOUGH_SEEDS} "
            f"seeds, only {_depths(entries, widths=bool(case.width))}: shallower and narrower students keep less."
            f"{_kept_by_few(few, case)}"
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
    tasks = _task_names(alike)
    standings = [
        _standing(recipe, [each for each in alike if each.recipe == recipe], alike, case)
        for recipe in dict.fromkeys(each.recipe for each in alike)
    ]
    kept = ", ".join(f"`{each.recipe}` {each.kept:.1f} %" for each in standings)
    return f" With {seeds} seed{'s' * (seeds > 1)} on {_tasks(tasks)}, {_depths(alike)} kept: {kept} of the teacher."


# ---- what it says ------------------------------------------------------------------------------------------------


def _standing(recipe: str, entries: Sequence[Entry], all_entries: Sequence[Entry], case: Case) -> Standing:
    return Standing(
        recipe,
        {},
        tuple(entries),
        budgets(entries, case.kind),
        PooledGain(0.0, 0.0, 0.0) if recipe == REFERENCE else pooled_gain(entries, lambda each: each.over_kd),
        _cost(entries, all_entries),
        pooled_gain(entries, lambda each: each.over_undistilled),
    )


def _corrected(standings: Sequence[Standing]) -> list[Standing]:
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


def _shared(*standings: Standing) -> tuple[Place, ...]:
    first, *others = ({place_of(entry): None for entry in each.entries} for each in standings)
    return tuple(place for place in first if all(place in other for other in others))


def _kept_more(one: Standing, other: Standing) -> bool:
    """Whether one kept more than another, each with its best budget, on what both were tried on."""
    first, second = (most_kept(each.entries, _shared(one, other)) for each in (one, other))
    return first is not None and second is not None and first[0] > second[0]


def _task_names(entries: Sequence[Entry]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each.task for each in entries))


def _basis(entries: Sequence[Entry]) -> str:
    return f"{', '.join(_task_names(entries))}; {_range([each.epochs for each in entries])} epochs"


def _tasks(names: Sequence[str]) -> str:
    return f"{len(names)} tasks ({', '.join(names)})" if len(names) > 1 else f"one task ({names[0]})"


def _depths(entries: Sequence[Entry], widths: bool = False) -> str:
    """Says how deep the students were, and how wide: the narrower ones, or all of them."""
    shapes = sorted({(each.layers, each.teacher_blocks, each.width, each.teacher_width) for each in entries})
    return " and ".join(
        f"{layers} of {blocks} blocks" + (f", {width} wide" if widths or width != teacher_width else "")
        for layers, blocks, width, teacher_width in shapes
    )


def _range(values: Sequence[float], pattern: str = "{:g}") -> str:
    low, high = pattern.format(min(values)), pattern.format(max(values))
    return low if low == high else f"{low} to {high}"
