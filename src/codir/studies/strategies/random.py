"""Settings drawn at random from a space with one seed, then the best of them with every seed."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

from codir.studies.config import Range
from codir.studies.strategies.base import Done, Group, Strategy, best, ended, seed_of
from codir.studies.trial import Trial, settings_digest


class Random(Strategy):
    """Random search; the settings of a recipe are the same on every task."""

    def for_part(self, part: Group, done: Done) -> list[Trial]:
        """See `Strategy.next_trials`."""
        space = self.applying(part, self.config.space_of(part.recipe))
        if not space:
            return self.final(part, {})
        generator = random.Random(seed_of(self.config.search_seed, part.recipe))
        points: dict[str, dict[str, Any]] = {}
        for _ in range(20 * self.config.trials):  # a small space has no more than it has
            if len(points) == self.config.trials:
                break
            point = draw(space, generator)
            points.setdefault(settings_digest(point), point)
        trials = self.search(part, list(points.values()))
        if not ended(trials, done):
            return trials
        chosen = best(trials, done)
        return trials + (self.final(part, chosen.settings) if chosen else [])


def draw(space: Mapping[str, Range | list[Any]], generator: random.Random) -> dict[str, Any]:
    """Draws one value for each key."""
    return {
        key: generator.choice(values) if isinstance(values, list) else _number(values, generator)
        for key, values in space.items()
    }


def _number(values: Range, generator: random.Random) -> float | int:
    if values.step is not None:
        steps = math.floor((values.high - values.low) / values.step + 1e-9)
        number = values.low + generator.randint(0, steps) * values.step
    elif values.log:
        number = math.exp(generator.uniform(math.log(values.low), math.log(values.high)))
    elif values.whole:
        number = generator.randint(int(values.low), int(values.high))
    else:
        number = generator.uniform(values.low, values.high)
    return tidy(number, values)


def tidy(number: float, values: Range) -> float | int:
    """Returns a whole number in a range of whole numbers, else four digits: readable, and the same in YAML."""
    if values.whole:
        return round(min(max(number, values.low), values.high))
    return min(max(float(f"{number:.4g}"), values.low), values.high)
