"""Paired gains of several tasks and studies as one, and how they are said. Pure functions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean, stdev

from scipy import stats

from codir.recipes.evidence import Entry, Interval, PairedGain


def pooled_gain(entries: Sequence[Entry], over: Callable[[Entry], PairedGain | None]) -> Interval | None:
    """Returns a recipe's mean gain over the tasks; every task weighs the same, however often it was tried.

    Where a study has it with the same seeds on all of its tasks, the interval is Student's, of the seeds' means over
    the tasks, as docs/evidence.md has it. Several studies, or tasks of other seeds, with gains g_i and half intervals
    h_i are independent: sum w_i g_i has sqrt(sum (w_i h_i)^2).

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
    parts: list[tuple[float, float, float]] = []  # weight, gain, half of its interval
    for together in studies.values():
        weights = [1 / (tasks[each.task] * len(tasks)) for each, _ in together]
        gains = [gain for _, gain in together]
        if _same_seeds(gains):
            means = [fmean((gain.seeds[seed] for gain in gains), weights) for seed in gains[0].seeds]
            half = float(stats.t.ppf(0.975, len(means) - 1)) * stdev(means) / math.sqrt(len(means))
            parts.append((sum(weights), fmean(means), half))
        else:
            parts += [
                (weight, gain.mean, (gain.high - gain.low) / 2)
                for weight, gain in zip(weights, gains, strict=True)
            ]
    mean = sum(weight * gain for weight, gain, _ in parts)
    half = math.hypot(*(weight * half for weight, _, half in parts))
    return Interval(mean, mean - half, mean + half)


def _same_seeds(gains: Sequence[PairedGain]) -> bool:
    """Whether the gains of several tasks are of the same two seeds or more; a single one has its own interval."""
    return len(gains) > 1 and len(gains[0].seeds) > 1 and len({frozenset(each.seeds) for each in gains}) == 1


def show_gain(gain: Interval | None) -> str:
    """Returns `+0.8 [-0.1, +1.7]`, in points."""
    return "-" if gain is None else f"{gain.mean:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]"


def verdict(gain: Interval) -> str:
    """Says what an interval allows to say."""
    if gain.low > 0:
        return "beyond noise"
    return "worse, beyond noise" if gain.high < 0 else "within noise"
