"""The statistics against plain loops and against published small examples."""

import itertools
import math

import numpy as np
import pytest

from codir.studies.statistics import (
    Spread,
    nemenyi_critical_difference,
    paired_difference,
    ranking,
)

# Student (1908), additional hours of sleep gained by ten patients under two drugs.
FIRST = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]

# After Demšar (2006), table 6, AUC of four variants of C4.5 on 14 data sets: values in the order that gives its ranks.
C45 = ["C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf"]
AUC = [
    [0.763, 0.768, 0.771, 0.798],
    [0.599, 0.591, 0.590, 0.569],
    [0.954, 0.971, 0.968, 0.967],
    [0.628, 0.661, 0.654, 0.657],
    [0.882, 0.888, 0.886, 0.898],
    [0.936, 0.931, 0.916, 0.931],
    [0.661, 0.668, 0.609, 0.685],
    [0.583, 0.583, 0.563, 0.625],
    [0.775, 0.838, 0.866, 0.875],
    [1.000, 1.000, 1.000, 1.000],
    [0.940, 0.962, 0.965, 0.962],
    [0.619, 0.666, 0.614, 0.669],
    [0.972, 0.981, 0.975, 0.973],
    [0.957, 0.978, 0.946, 0.970],
]


def test_spread_by_hand():
    spread = Spread.of([3.0, 1.0, 2.0, 6.0])
    assert (spread.n, spread.mean, spread.median, spread.high, spread.low) == (4, 3.0, 2.5, 6.0, 1.0)
    assert spread.std == pytest.approx(math.sqrt((0 + 4 + 1 + 9) / 3))


def test_one_score_has_no_deviation():
    assert Spread.of([0.5]).std is None


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_a_spread_refuses_what_is_no_sample(values):
    with pytest.raises(ValueError, match="finite"):
        Spread.of(values)


def test_the_sleep_data():
    result = paired_difference(SECOND, FIRST)
    assert result.n == 10
    assert result.difference == pytest.approx(1.58)
    assert (result.low, result.high) == pytest.approx((0.7001142, 2.4598858), abs=1e-6)
    assert result.p_value == pytest.approx(0.002833, abs=1e-6)
    assert not result.includes_zero
    assert result.shown


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_sign_flips_against_all_of_them(n):
    generator = np.random.default_rng(n)
    a, b = generator.normal(0.3, 1, n), generator.normal(0, 1, n)
    observed = abs(sum(a - b) / n)
    count = 0
    for signs in itertools.product([1, -1], repeat=n):
        total = 0.0
        for sign, x, y in zip(signs, a, b, strict=True):
            total += sign * (x - y)
        count += abs(total / n) >= observed - 1e-12
    result = paired_difference(list(a), list(b))
    assert result.p_flip == pytest.approx(count / 2**n)
    assert result.p_flip_smallest == 2 / 2**n
    assert result.p_flip >= result.p_flip_smallest


def test_many_pairs_are_drawn_and_repeatable():
    generator = np.random.default_rng(0)
    a = list(generator.normal(0.2, 1, 30))
    b = [0.0] * 30
    assert paired_difference(a, b).p_flip == paired_difference(a, b).p_flip


def test_the_interval_covers_as_often_as_it_says():
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(600):
        seeds = generator.normal(0.8, 0.05, 5)  # what a seed does to both
        a = seeds + generator.normal(0.01, 0.02, 5)
        result = paired_difference(list(a), list(seeds))
        assert result.low is not None
        assert result.high is not None
        covered += result.low <= 0.01 <= result.high
    assert 0.925 < covered / 600 < 0.975


def test_without_pairs_there_is_no_interval():
    nothing, one = paired_difference([], []), paired_difference([0.9], [0.1])
    assert math.isnan(nothing.difference)
    assert one.difference == pytest.approx(0.8)
    for result in (nothing, one):
        assert not result.has_interval
        assert result.p_value is None
        assert result.p_flip is None
        assert result.includes_zero
        assert not result.shown
        assert result.without


def test_equal_pairs_show_nothing():
    result = paired_difference([0.1 + 0.2, 0.5], [0.3, 0.5])
    assert result.difference == 0
    assert "equal" in result.without
    assert result.p_flip == 1
    assert not result.shown


def test_equal_differences_have_no_t_interval():
    result = paired_difference([0.4, 0.5, 0.6], [0.3, 0.4, 0.5])
    assert not result.has_interval
    assert result.p_value is None
    assert result.p_flip == pytest.approx(0.25)
    assert not result.shown


def test_pairs_must_be_pairs():
    with pytest.raises(ValueError, match="no pairs"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="finite"):
        paired_difference([float("nan")], [1.0])


def test_demsars_example():
    result = ranking(C45, AUC)
    assert dict(zip(result.names, result.ranks, strict=True)) == pytest.approx(
        {"C4.5": 3.143, "C4.5+m": 2.000, "C4.5+cf": 2.893, "C4.5+m+cf": 1.964}, abs=5e-4
    )
    assert result.names[0] == "C4.5+m+cf"
    # the paper gives 9.28 without the correction for ties, which only raises the statistic
    plain = 12 * 14 / (4 * 5) * (sum(rank**2 for rank in result.ranks) - 4 * 25 / 4)
    assert plain == pytest.approx(9.28, abs=0.01)
    assert result.statistic is not None
    assert plain < result.statistic < plain * 1.2
    assert result.shown
    assert result.critical_difference == pytest.approx(1.25, abs=0.01)


def test_friedman_without_ties_is_the_plain_formula():
    table = [[0.3, 0.2, 0.1], [0.9, 0.7, 0.8], [0.5, 0.4, 0.1], [0.2, 0.6, 0.1]]
    result = ranking(["a", "b", "c"], table)
    totals = dict.fromkeys("abc", 0)
    for row in table:
        for name, value in zip("abc", row, strict=True):
            totals[name] += 1 + sum(other > value for other in row)
    statistic = 12 / (4 * 3 * 4) * sum(total**2 for total in totals.values()) - 3 * 4 * 4
    assert result.statistic == pytest.approx(statistic)
    assert result.f_statistic == pytest.approx(3 * statistic / (4 * 2 - statistic))


# Demšar (2006), table 5a: critical values at 0.05
@pytest.mark.parametrize(
    ("k", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850), (8, 3.031), (10, 3.164)]
)
def test_nemenyi_against_the_published_table(k, q):
    assert nemenyi_critical_difference(k, 10) == pytest.approx(q * math.sqrt(k * (k + 1) / 60), abs=1e-3)


def test_groups_are_maximal_and_strictly_closer():
    # many blocks, always in the same order but for two that change places
    rows = [[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 1.0, 2.0]] * 40
    result = ranking(["a", "b", "c", "d"], rows)
    assert result.names[:2] == ("a", "b")
    assert result.groups == ((2, 3),)


def test_ranks_with_two_treatments_or_only_ties_have_no_friedman_test():
    assert ranking(["a", "b"], [[1.0, 0.0], [1.0, 0.5]]).p_value is None
    ties = ranking(["a", "b", "c"], [[1.0, 1.0, 1.0]] * 3)
    assert ties.p_value is None
    assert not ties.shown
    assert ties.ranks == (2.0, 2.0, 2.0)


def test_a_perfect_order_has_no_f():
    result = ranking(["a", "b", "c"], [[3.0, 2.0, 1.0]] * 6)
    assert result.f_statistic is None
    assert result.shown


@pytest.mark.parametrize("table", [[[1.0, 2.0]], [[1.0], [2.0]], [[1.0, float("nan")], [1.0, 2.0]]])
def test_ranking_refuses_what_is_no_table(table):
    with pytest.raises(ValueError, match="ranks need"):
        ranking(["a", "b"][: len(table[0])], table)
