"""Which of the evidence speaks to a case, and which recipe it speaks for. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from codir.config.evidence import Entry
from codir.studies.recommend_gains import corrected, gap
from codir.studies.recommend_standing import (
    ENOUGH_SEEDS,
    UNDISTILLED,
    Case,
    Standing,
    corrected_standings,
    standing_of,
)
from codir.studies.recommend_tried import HOLDOUT, Place, most_kept, place_of
from codir.studies.recommend_words import caveats_of


@dataclass(frozen=True)
class Ranking:
    """Recipes by what the evidence says of them for a case.

    Attributes:
        standings: by their gain, the largest first; those that were not tried on enough of the tasks come last.
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

    def candidates(self, named: Collection[str] = ()) -> list[Standing]:
        """Returns `equals()`, and after them the others that were asked for by name, the largest gain first."""
        equals = self.equals()
        return equals + [each for each in self.standings if each.recipe in named and each not in equals]

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
    standings = corrected_standings(
        [standing_of(recipe, each, chosen, case) for recipe, each in by_recipe.items()]
    )
    most = max(len(each.tasks) for each in standings)
    trusted = frozenset(each.recipe for each in standings if 2 * len(each.tasks) >= most)
    paired = any(each.gain is not None for each in standings)

    def place(each: Standing) -> tuple[bool, bool, float]:
        measure = each.gain.mean if each.gain is not None else each.kept if not paired else -math.inf
        return each.recipe not in trusted, paired and each.gain is None, -measure

    ordered = tuple(sorted(standings, key=place))
    return Ranking(ordered, tuple(chosen), tuple(caveats_of(chosen, case, few)), trusted)


def _nearest(entries: list[Entry], case: Case) -> list[Entry]:
    kind: Callable[[Entry], bool] = lambda each: each.kind == case.kind  # noqa: E731
    shape, size = case.is_like, case.is_of_one_size
    for conditions in ((kind, shape, size), (kind, shape), (kind, size), (kind,), (shape,)):
        found = [each for each in entries if all(holds(each) for holds in conditions)]
        if len({each.recipe for each in found}) > 1 and len({each.task for each in found}) > 1:
            return found
    same_kind = [each for each in entries if kind(each)]
    return same_kind if len({each.recipe for each in same_kind}) > 1 else list(entries)


def _shared(*standings: Standing) -> tuple[Place, ...]:
    first, *others = ({place_of(entry): None for entry in each.entries} for each in standings)
    return tuple(place for place in first if all(place in other for other in others))


def _kept_more(one: Standing, other: Standing) -> bool:
    """Whether one kept more than another, each with its best budget, on what both were tried on."""
    first, second = (most_kept(each.entries, _shared(one, other)) for each in (one, other))
    return first is not None and second is not None and first[0] > second[0]
