"""All combinations of a grid with one seed, then the best with every seed; without a grid, every seed at once."""

from __future__ import annotations

from codir.studies.config import grid_points
from codir.studies.strategies.base import Done, Group, Strategy, best, ended
from codir.studies.trial import Trial


class Grid(Strategy):
    """The plain grid."""

    def for_part(self, part: Group, done: Done) -> list[Trial]:
        """See `Strategy.next_trials`."""
        grid = self.applying(part, self.config.grid_of(part.recipe))
        points = grid_points(grid)
        if len(points) == 1:  # nothing to choose
            return self.final(part, points[0])
        trials = self.search(part, points)
        if not ended(trials, done):
            return trials
        chosen = best(trials, done)
        return trials + (self.final(part, chosen.settings) if chosen else [])
