"""Numbers as the page writes them: points, shares, counts, times."""

from __future__ import annotations

import math
from typing import TypeGuard

from codir.reports.contents import ReportedModel
from codir.storage import human_bytes

DASH = "–"
MINUS = "−"


def known(value: float | None) -> TypeGuard[float]:
    """Tells whether there is a number to show."""
    return value is not None and math.isfinite(value)


def points(value: float | None) -> str:
    """Returns a score in points, 0.8153 as `81.5`."""
    return f"{100 * value:.1f}".replace("-", MINUS) if known(value) else DASH


def signed_points(value: float | None) -> str:
    """Returns a difference of scores in points with its sign."""
    return f"{100 * value:+.1f}".replace("-", MINUS) if known(value) else DASH


def share(value: float | None) -> str:
    """Returns a share as a percentage."""
    return f"{100 * value:.1f}\u202f%".replace("-", MINUS) if known(value) else DASH


def count(value: float | None) -> str:
    """Returns a count in three digits: `17.4 M`."""
    if not known(value):
        return DASH
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}\u202f{unit}"
    return f"{value:g}"


def size(value: float | None) -> str:
    """Returns a number of bytes: `69.6 MB`."""
    return human_bytes(value).replace(" ", "\u202f") if known(value) else DASH


def milliseconds(value: float | None) -> str:
    """Returns a time in three digits."""
    if not known(value):
        return DASH
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def times(value: float | None) -> str:
    """Returns a factor: `2.00×`."""
    return f"{value:.2f}×" if known(value) and value < 10 else f"{value:.1f}×" if known(value) else DASH


def plural(number: int, what: str, *, number_shown: bool = True) -> str:
    """Returns `1 task`, `2 tasks`; without the number `task`, `tasks`."""
    word = what if number == 1 else f"{what}s"
    return f"{number:,} {word}" if number_shown else word


def deviation(scores: tuple[float, ...]) -> float | None:
    """Returns the sample standard deviation of the finite `scores`; None for fewer than two."""
    values = [score for score in scores if math.isfinite(score)]
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def spread(model: ReportedModel) -> float | None:
    """Returns how far a score may be off: over seeds, or the standard error of a single run; None if unknown."""
    over_seeds = deviation(model.scores)
    return over_seeds if over_seeds is not None else model.error if known(model.error) else None
