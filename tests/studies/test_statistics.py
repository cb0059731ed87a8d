"""The statistics against plain loops and against published small examples."""

import itertools
import math

import numpy as np
import pytest

from codir.studies.findings import Spread, paired_difference

# Student (1908), additional hours of sleep gained by ten patients under two drugs.
FIRST = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


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
    assert result.p_flip >= 2 / 2**n


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
    with pytest.raises(ValueError, match=r"shorter|longer"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="finite"):
        paired_difference([float("nan")], [1.0])
