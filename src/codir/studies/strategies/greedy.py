"""The paper's protocol (Section 4.2): fine-tuning's grid, then KD's, then the others', each keeping the best before it.

Stage 1 searches learning rate and batch size with the undistilled student. Stage 2 keeps them and searches KD's grid
(the paper fixes rho and alpha_1, so that there is nothing to search unless the study gives a grid). Stage 3 keeps both
and searches every other recipe's own grid: the weight of the contrastive term and K. The best of each stage is the one
with the highest dev score, as in the paper. Then every recipe of the study runs with what was chosen and every seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from codir.studies.config import grid_points
from codir.studies.strategies.base import Done, Group, Strategy, best, ended
from codir.studies.trial import Trial

STAGES = ("finetune", "kd")
# From the paper, Section 4.2.
FINETUNING_GRID: dict[str, list[Any]] = {
    "training.learning_rate": [1e-5, 2e-5],
    "training.batch_size": [16, 32],
}
CRD_GRID: dict[str, list[Any]] = {
    "objectives.crd.weight": [0.1, 0.5, 1],
    "objectives.crd.k": [100, 500, 1000],
}


class Greedy(Strategy):
    """One search for each task and student; its stages go through the recipes."""

    def parts(self) -> Sequence[tuple[str, str | None]]:
        """Returns tasks with students."""
        return [(task, student) for task in self.config.tasks for student in self.config.students or [None]]

    def for_part(self, part: tuple[str, str | None], done: Done) -> list[Trial]:
        """See `Strategy.next_trials`."""
        task, student = part
        trials: list[Trial] = []
        kept: dict[str, Any] = {}
        chosen: dict[str, dict[str, Any]] = {}
        for recipe in STAGES:
            searched, found = self._stage(Group(task, student, recipe), kept, done)
            trials += searched
            if found is None:
                return trials
            kept = chosen[recipe] = found
        waiting = False
        for group in self._others(task, student):
            searched, found = self._stage(group, self.applying(group, kept), done)
            trials += searched
            if found is not None:
                chosen[group.recipe] = found
            waiting = waiting or not ended(searched, done)
        if waiting:
            return trials
        for group in self.groups():
            if group.task == task and group.student in (student, None) and group.recipe in chosen:
                trials += self.final(group, chosen[group.recipe])
        return trials

    def _stage(
        self, group: Group, kept: Mapping[str, Any], done: Done
    ) -> tuple[list[Trial], dict[str, Any] | None]:
        """Returns the trials of one stage, and what was chosen once they have ended and one of them has finished."""
        points = [{**kept, **point} for point in grid_points(self.grid_of(group))]
        if len(points) == 1:
            return [], points[0]
        trials = self.search(group, points, group.recipe)
        if not ended(trials, done):
            return trials, None
        winner = best(trials, done)
        return trials, dict(winner.settings) if winner else None

    def grid_of(self, group: Group) -> dict[str, list[Any]]:
        """Returns the grid of a recipe: the study's, or where it gives none, the paper's."""
        own = self.applying(group, self.config.grid_of(group.recipe))
        if own:
            return own
        if group.recipe == "finetune":
            return FINETUNING_GRID
        return CRD_GRID if "crd" in self.recipes[group.recipe].objectives else {}

    def _others(self, task: str, student: str | None) -> list[Group]:
        found = [group for group in self.groups() if group.task == task and group.recipe not in STAGES]
        # One with a student of its own is searched beside the first of the study's students.
        first = next(iter(self.config.students), None)
        return [
            group
            for group in found
            if group.student == student or (group.student is None and student == first)
        ]
