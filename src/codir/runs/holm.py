"""Holm's correction: several tests at once find something by chance more often than one does."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusts p-values for their number (Holm 1979): step-down Bonferroni, valid under any dependence.

    adjusted_(i) = max over j <= i of min(1, (m - j + 1) * p_(j)), for the m values in ascending order.

    Args:
        p_values: those of one family; None (no test was possible) stays None and does not count.
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[place] = largest
    return adjusted
