"""What the scores of several seeds allow to say: spread and paired differences. Plain numbers in and out.

`codir.measure.paired` compares two models on the same examples and speaks of the examples; the functions here compare
two recipes over the same seeds and speak of the seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

LEVEL = 0.95
ALPHA = 0.05
_PERMUTATIONS = 9999  # up to 13 pairs, 2^13 = 8192 patterns of signs, the permutation test is exact


@dataclass(frozen=True)
class Spread:
    """A sample of scores in a few numbers.

    Attributes:
        n: number of scores.
        mean, median, high, low: of the sample (`high` is the maximum).
        std: sample standard deviation (divisor n - 1); None with fewer than two scores.
    """

    n: int
    mean: float
    median: float
    high: float
    low: float
    std: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarises finite values; raises `ValueError` where there are none, or one is not finite."""
        if not values or not all(math.isfinite(value) for value in values):
            raise ValueError(f"a spread needs finite values, at least one: {list(values)}")
        middle = statistics.fmean(values), statistics.median(values)
        std = statistics.stdev(values) if len(values) > 1 else None
        return cls(len(values), *middle, max(values), min(values), std)


@dataclass(frozen=True)
class PairedDifference:
    """Mean of paired differences, with what can be said about its noise.

    Attributes:
        n: number of pairs.
        difference: mean of (score - baseline's score); NaN without pairs.
        low, high: 95 % interval of the mean by Student's t with n - 1 degrees of freedom; None where there is none.
        p_value: two-sided p of the paired t test, which belongs to the interval; None where there is none.
        p_flip: two-sided p of the sign-flip permutation test, exact up to 13 pairs; None with fewer than two pairs.
        adjusted: `p_value` after Holm's correction over the recipes compared; None until `holm` was applied.
        without: why there is no interval; empty where there is one.
    """

    n: int
    difference: float
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_flip: float | None = None
    adjusted: float | None = None
    without: str = ""

    @property
    def has_interval(self) -> bool:
        """Whether an interval could be computed."""
        return self.low is not None and self.high is not None

    @property
    def includes_zero(self) -> bool:
        """Whether the interval includes zero; True where there is no interval, since then nothing is shown."""
        return self.low is None or self.high is None or self.low <= 0 <= self.high

    @property
    def shown(self) -> bool:
        """Whether a difference is shown: the interval excludes zero and Holm's p, where applied, is below 0.05."""
        p = self.p_value if self.adjusted is None else self.adjusted
        return not self.includes_zero and p is not None and p < ALPHA


def paired_difference(scores: Sequence[float], baseline: Sequence[float], seed: int = 0) -> PairedDifference:
    """Compares two samples whose entries belong together, one pair a seed.

    The interval and its test are Student's (1908): they assume that the seeds are independent draws and their
    differences about normal, and speak of other seeds on the same data, not of other data. The sign-flip test (Fisher
    1935) assumes only that under no difference each pair's sign could as well be the other one; its p cannot fall below
    2 / 2^n.

    Args:
        scores: [n] scores.
        baseline: [n] the baseline's, in the same order.
        seed: seed of the sign flips where there are too many to try all.

    Raises:
        ValueError: the samples differ in length or hold values that are not finite.
    """
    if len(scores) != len(baseline):
        raise ValueError(f"{len(scores)} scores and {len(baseline)} of the baseline are no pairs")
    differences = np.asarray(scores, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    if not np.isfinite(differences).all():
        raise ValueError(f"paired scores must be finite: {list(scores)}, {list(baseline)}")
    n = len(differences)
    if n < 2:
        mean = float(differences.mean()) if n else math.nan
        return PairedDifference(n, mean, without="one pair has no interval" if n else "no seed in common")
    mean = float(differences.mean())
    # differences of equal scores that went different ways through floating point count as equal
    if differences.std(ddof=1) / math.sqrt(n) <= 1e-12 * max(1.0, abs(mean)):
        if abs(mean) <= 1e-12:
            return PairedDifference(n, 0.0, p_flip=1.0, without=f"all {n} pairs are equal")
        reason = f"all {n} differences are the same, a t interval needs spread"
        return PairedDifference(n, mean, p_flip=_sign_flip(differences, seed), without=reason)
    test: Any = stats.ttest_1samp(differences, 0.0)
    low, high = test.confidence_interval(LEVEL)
    p_flip = _sign_flip(differences, seed)
    return PairedDifference(n, mean, float(low), float(high), float(test.pvalue), p_flip)


def _sign_flip(differences: np.ndarray, seed: int) -> float:
    outcome = stats.permutation_test(
        (differences,),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=_PERMUTATIONS,
        rng=np.random.default_rng(seed),
    )
    return float(min(1.0, outcome.pvalue))
