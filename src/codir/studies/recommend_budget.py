"""Fits a run into the hours that there are, and says what they are spent on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from codir.studies.recommend_cost import BUSY, Hours, StepCost, hours, show_hours


def busy(cost: StepCost, found: Hours) -> list[str]:
    """Says where the clock has measured other work, too."""
    if cost.share >= BUSY:
        return []
    return [
        f"Other work ran while the steps were timed: this process got {cost.share:.0%} of its threads. With the "
        f"machine to itself the run takes about {show_hours(found.total * cost.share)}."
    ]


@dataclass
class RunBudget:
    """Fits the epochs into the hours that there are.

    Attributes:
        cost: of a step with the recipe.
        plain: of a step of plain fine-tuning.
        examples: N.
        validation: examples of an evaluation.
        epochs: that are wanted.
    """

    cost: StepCost
    plain: StepCost
    examples: int
    validation: int
    epochs: float

    def of(self, epochs: float, baseline: bool) -> Hours:
        """Returns what so many epochs take, with or without the undistilled student."""
        return hours(self.cost, self.examples, epochs, self.validation, self.plain if baseline else None)

    def within(self, most: float | None) -> tuple[float, bool, str]:
        """Returns epochs, whether the undistilled student is trained beside it, and a sentence."""
        whole = self.of(self.epochs, True)
        if most is None or whole.total <= most:
            fits = "" if most is None else f"; there were {show_hours(most)}"
            return self.epochs, True, f"{_parts(whole)}{fits}."
        alone = self.of(self.epochs, False)
        if alone.total <= most:
            return (
                self.epochs,
                False,
                f"{_parts(alone)}; with the undistilled student beside it, {show_hours(whole.total)} would be too "
                f"much for {show_hours(most)}: --no-baseline.",
            )
        fitting = [each for each in range(1, math.ceil(self.epochs)) if self.of(each, False).total <= most]
        if fitting:
            taken = self.of(fitting[-1], False)
            return (
                float(fitting[-1]),
                False,
                f"{_parts(taken)}; only {fitting[-1]} of {self.epochs:g} epochs fit into {show_hours(most)}, without "
                "the undistilled student: expect less than the evidence says.",
            )
        one = self.of(1, False)
        share = most / one.total
        return (
            1.0,
            False,
            f"Not even one epoch fits into {show_hours(most)}: {_parts(one)}. About "
            f"{max(1, int(share * self.examples)):,} of the {self.examples:,} examples would: --limit-train.",
        )


def _parts(found: Hours) -> str:
    parts = [f"teacher's outputs {show_hours(found.teacher)}", f"student {show_hours(found.student)}"]
    if found.baseline:
        parts.append(f"undistilled student beside it {show_hours(found.baseline)}")
    return f"about {show_hours(found.total)} on this machine ({', '.join(parts)}; {found.steps:,} steps)"
