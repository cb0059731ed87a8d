"""What the scores of several seeds allow to say: spread, paired differences, ranks. Plain numbers in and out.

`codir.runs.paired` compares two models on the same examples and speaks of the examples; the functions here compare
two recipes over the same seeds and speak of the seeds. `codir.studies.findings` applies them to a study's trials.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
ALPHA = 0.05
# up to this many sign patterns the permutation test is exact: 2^13 = 8192
_PERMUTATIONS = 9999
T_TEST = "paired t test over seeds"
SIGN_FLIP = "sign-flip permutation test over seeds"


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
        """Summarises finite values, at least one.

        Raises:
            ValueError: there are none, or one is not finite.
        """
        if not values or not all(math.isfinite(value) for value in values):
            raise ValueError(f"a spread needs finite values, at least one: {list(values)}")
        std = statistics.stdev(values) if len(values) > 1 else None
        return cls(
            len(values), statistics.fmean(values), statistics.median(values), max(values), min(values), std
        )


@dataclass(frozen=True)
class PairedDifference:
    """Mean of paired differences, with what can be said about its noise.

    Attributes:
        n: number of pairs.
        difference: mean of (score - baseline's score); NaN without pairs.
        low, high: 95 % interval of the mean by Student's t with n - 1 degrees of freedom; None where there is none.
        p_value: two-sided p of the paired t test, which belongs to the interval; None where there is none.
        p_flip: two-sided p of the sign-flip permutation test, exact up to 13 pairs; None with fewer than two pairs.
        p_flip_smallest: the smallest p that this test can give with n pairs, 2 / 2^n: with five pairs 0.0625.
        adjusted: `p_value` after Holm's correction over the recipes compared; None until `holm` was applied.
        without: why there is no interval; empty where there is one.
    """

    n: int
    difference: float
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_flip: float | None = None
    p_flip_smallest: float | None = None
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

    The interval is mean +- t(0.975, n - 1) * s / sqrt(n) with the sample standard deviation s of the differences
    (Student 1908). It assumes that the seeds are independent draws and their differences about normal, and it speaks of
    other seeds on the same data, not of other data. The sign-flip test (Fisher 1935) assumes only that under no
    difference each pair's sign could as well be the other one; its p cannot fall below 2 / 2^n.

    Args:
        scores: [n] scores.
        baseline: [n] the baseline's, in the same order.
        seed: of the sign flips where there are too many to try all.

    Raises:
        ValueError: the samples differ in length or hold values that are not finite.
    """
    if len(scores) != len(baseline):
        raise ValueError(f"{len(scores)} scores and {len(baseline)} of the baseline are no pairs")
    differences = np.asarray(scores, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    if not np.isfinite(differences).all():
        raise ValueError(f"paired scores must be finite: {list(scores)}, {list(baseline)}")
    n = len(differences)
    if n == 0:
        return PairedDifference(0, math.nan, without="no seed in common")
    mean = float(differences.mean())
    if n == 1:
        return PairedDifference(1, mean, without="one pair has no interval")
    p_flip = _sign_flip(differences, seed)
    smallest = 2.0 / 2.0**n
    error = float(differences.std(ddof=1)) / math.sqrt(n)
    # differences of equal scores that went different ways through floating point count as equal
    if error <= 1e-12 * max(1.0, abs(mean)):
        if abs(mean) <= 1e-12:
            return PairedDifference(
                n, 0.0, p_flip=1.0, p_flip_smallest=smallest, without=f"all {n} pairs are equal"
            )
        reason = f"all {n} differences are the same, a t interval needs spread"
        return PairedDifference(n, mean, p_flip=p_flip, p_flip_smallest=smallest, without=reason)
    reach = float(stats.t.ppf(0.5 + LEVEL / 2, n - 1)) * error
    p_value = float(2 * stats.t.sf(abs(mean) / error, n - 1))
    return PairedDifference(n, mean, mean - reach, mean + reach, p_value, p_flip, smallest)


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


@dataclass(frozen=True)
class Ranking:
    """Average ranks over blocks, with Friedman's test and Nemenyi's critical difference.

    Attributes:
        names: the treatments, best average rank first.
        ranks: their average ranks; 1 is best, ties share their ranks.
        blocks: number of blocks.
        statistic, p_value: Friedman's chi-square, corrected for ties, and its p; None with fewer than three
            treatments or where all blocks tie.
        f_statistic, f_p_value: Iman and Davenport's (1980) F, less conservative than the chi-square for few blocks.
        critical_difference: average ranks at least this far apart differ by Nemenyi's test at 0.05.
        groups: maximal runs of neighbouring treatments that lie closer than the critical difference, as (first, last)
            indices into `names`; runs of one are left out.
    """

    names: tuple[str, ...]
    ranks: tuple[float, ...]
    blocks: int
    statistic: float | None
    p_value: float | None
    f_statistic: float | None
    f_p_value: float | None
    critical_difference: float
    groups: tuple[tuple[int, int], ...]

    @property
    def shown(self) -> bool:
        """Whether Friedman's test finds the treatments to differ at 0.05; only then Nemenyi's is to be read."""
        return self.p_value is not None and self.p_value < ALPHA


def ranking(names: Sequence[str], scores: Sequence[Sequence[float]]) -> Ranking:
    """Ranks the treatments within each block and tests whether their average ranks differ (Demšar 2006).

    Friedman's test assumes that blocks are independent of each other and that scores within a block can be ordered; not
    that they are normal or of one scale. Blocks here are (task, seed): seeds of one task share its data and its
    teacher, so that they are independent only given the tasks: the test speaks of more seeds on these tasks, not of
    other tasks, and with few blocks (below 10) its chi-square is rough.

    Args:
        names: [k] treatments, at least two.
        scores: `[N][k]` score of each treatment in each block, higher is better, N at least two.

    Raises:
        ValueError: fewer than two treatments or blocks, a ragged table, or values that are not finite.
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != len(names) or min(table.shape) < 2:
        raise ValueError(
            f"ranks need at least 2 blocks of at least 2 treatments: {table.shape}, {len(names)}"
        )
    if not np.isfinite(table).all():
        raise ValueError("ranks need finite scores")
    blocks, k = table.shape
    # what differs only by rounding is a tie
    means = stats.rankdata(-np.round(table, 12), axis=1).mean(axis=0)
    order = sorted(range(k), key=lambda column: (means[column], column))
    statistic = p_value = f_statistic = f_p_value = None
    if k > 2 and (np.ptp(np.round(table, 12), axis=1) > 0).any():
        outcome = stats.friedmanchisquare(*np.round(table, 12).T)
        statistic, p_value = float(outcome.statistic), float(outcome.pvalue)
        rest = blocks * (k - 1) - statistic
        if rest > 1e-9:
            f_statistic = (blocks - 1) * statistic / rest
            f_p_value = float(stats.f.sf(f_statistic, k - 1, (k - 1) * (blocks - 1)))
    critical = nemenyi_critical_difference(k, blocks)
    sorted_ranks = tuple(float(means[column]) for column in order)
    return Ranking(
        names=tuple(names[column] for column in order),
        ranks=sorted_ranks,
        blocks=blocks,
        statistic=statistic,
        p_value=p_value,
        f_statistic=f_statistic,
        f_p_value=f_p_value,
        critical_difference=critical,
        groups=_groups(sorted_ranks, critical),
    )


def nemenyi_critical_difference(treatments: int, blocks: int, alpha: float = ALPHA) -> float:
    """Returns q * sqrt(k (k + 1) / (6 N)) (Demšar 2006).

    q is the studentized range at infinite degrees of freedom over sqrt(2).

    Args:
        treatments: k, at least 2.
        blocks: N, at least 1.
        alpha: level of the family of all pairs.
    """
    q = float(stats.studentized_range.ppf(1 - alpha, treatments, np.inf)) / math.sqrt(2)
    return q * math.sqrt(treatments * (treatments + 1) / (6 * blocks))


def _groups(ranks: Sequence[float], critical: float) -> tuple[tuple[int, int], ...]:
    groups: list[tuple[int, int]] = []
    for first in range(len(ranks)):
        last = first
        while last + 1 < len(ranks) and ranks[last + 1] - ranks[first] < critical:
            last += 1
        if last > first and (not groups or last > groups[-1][1]):
            groups.append((first, last))
    return tuple(groups)
