"""Paired gains of several tasks and studies as one, and how they are said. Pure functions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from scipy import stats

from codir.config.evidence import Entry, Interval, PairedGain
from codir.runs.holm import holm

_ALPHA = 0.05


@dataclass(frozen=True)
class PooledGain(Interval):
    """A gain over several tasks and studies.

    Attributes:
        freedom: degrees of freedom of its interval.
        compared: recipes that were compared at once.
        adjusted: its p after Holm's correction for them; None before that.
    """

    freedom: float = math.inf
    compared: int = 1
    adjusted: float | None = None

    @property
    def p_value(self) -> float:
        """Two-sided p of the t test that its interval belongs to."""
        half = (self.high - self.low) / 2
        if half <= 1e-12:
            return float(abs(self.mean) <= 1e-12)
        return float(2 * stats.t.sf(abs(self.mean) / half * _reach(self.freedom), self.freedom))

    @property
    def shown(self) -> bool:
        """Whether it is beyond noise, after the correction where there was one."""
        return (self.p_value if self.adjusted is None else self.adjusted) < _ALPHA

    @property
    def gained(self) -> bool:
        """Whether it is above zero beyond noise."""
        return self.shown and self.mean > 0


def pooled_gain(entries: Sequence[Entry], over: Callable[[Entry], PairedGain | None]) -> PooledGain | None:
    """Returns a recipe's mean gain over the tasks; every task weighs the same, however often it was tried.

    Where a study has it with the same seeds on all of its tasks, the interval is Student's, of the seeds' means over
    the tasks, as docs/evidence.md has it. Several studies, or tasks of other seeds, with gains g_i and half intervals
    h_i are independent: sum w_i g_i has sqrt(sum (w_i h_i)^2), and the degrees of freedom of Welch and Satterthwaite.

    Args:
        entries: of one recipe.
        over: an entry's gain, over what is compared with.

    Returns:
        None where nothing was paired.
    """
    paired = [(each, gain) for each in entries if (gain := over(each)) is not None]
    if not paired:
        return None
    tasks = Counter(each.task for each, _ in paired)
    studies: dict[tuple[str, int, int], list[tuple[Entry, PairedGain]]] = {}
    for each, gain in paired:
        studies.setdefault((each.study, each.layers, each.width), []).append((each, gain))
    parts: list[
        tuple[float, float, float, float]
    ] = []  # weight, gain, half of its interval, degrees of freedom
    for together in studies.values():
        weights = [1 / (tasks[each.task] * len(tasks)) for each, _ in together]
        gains = [gain for _, gain in together]
        if _same_seeds(gains):
            means = [fmean((gain.seeds[seed] for gain in gains), weights) for seed in gains[0].seeds]
            freedom = len(means) - 1
            half = _reach(freedom) * stdev(means) / math.sqrt(len(means))
            parts.append((sum(weights), fmean(means), half, freedom))
        else:
            parts += [
                (weight, gain.mean, (gain.high - gain.low) / 2, max(1, (len(gain.seeds) or each.seeds) - 1))
                for weight, (each, gain) in zip(weights, together, strict=True)
            ]
    mean = sum(weight * gain for weight, gain, _, _ in parts)
    return _independent(mean, [(weight * half, freedom) for weight, _, half, freedom in parts])


def gap(one: PooledGain, other: PooledGain) -> PooledGain:
    """Returns by how much one gain is above another; the two are taken as independent."""
    halves = [((each.high - each.low) / 2, each.freedom) for each in (one, other)]
    return _independent(one.mean - other.mean, halves)


def corrected(gains: Mapping[str, PooledGain | None]) -> dict[str, PooledGain | None]:
    """Corrects gains for their number (Holm 1979): the best of several looks better than it is."""
    adjusted = holm([None if gain is None else gain.p_value for gain in gains.values()])
    compared = sum(p is not None for p in adjusted)
    return {
        name: None if gain is None else replace(gain, compared=compared, adjusted=p)
        for (name, gain), p in zip(gains.items(), adjusted, strict=True)
    }


def _independent(mean: float, halves: Sequence[tuple[float, float]]) -> PooledGain:
    """Returns the sum of independent parts of these half intervals and degrees of freedom."""
    half = math.hypot(*(each for each, _ in halves))
    errors = [(each / _reach(freedom), freedom) for each, freedom in halves if each > 0]
    share = sum(error**4 / freedom for error, freedom in errors)
    freedom = sum(error**2 for error, _ in errors) ** 2 / share if share > 0 else math.inf
    return PooledGain(mean, mean - half, mean + half, freedom)


def _reach(freedom: float) -> float:
    return float(stats.t.ppf(0.975, freedom))


def _same_seeds(gains: Sequence[PairedGain]) -> bool:
    """Whether the gains of several tasks are of the same two seeds or more; a single one has its own interval."""
    return len(gains) > 1 and len(gains[0].seeds) > 1 and len({frozenset(each.seeds) for each in gains}) == 1


def show_gain(gain: Interval | None) -> str:
    """Returns `+0.8 [-0.1, +1.7]`, in points."""
    return "-" if gain is None else f"{gain.mean:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]"


def verdict(gain: PooledGain) -> str:
    """Says what a gain allows to say."""
    if not gain.shown:
        return "within noise"
    return "beyond noise" if gain.mean > 0 else "worse, beyond noise"


def gain_in_words(gain: PooledGain) -> str:
    """Returns gain, interval and verdict; with p where the interval alone would say more than the correction leaves."""
    text = f"{show_gain(gain)}: {verdict(gain)}"
    if gain.adjusted is None or gain.compared == 1 or gain.p_value >= _ALPHA:
        return text
    p = f"= {gain.p_value:.2g}" if gain.p_value >= 0.001 else "< 0.001"
    adjusted = f"{gain.adjusted:.2g}" if gain.adjusted >= 0.001 else "below 0.001"
    return f"{text} (p {p}; {adjusted} after Holm's correction for {gain.compared} recipes)"
