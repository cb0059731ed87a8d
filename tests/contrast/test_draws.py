"""Draws of K out of n: exactly uniform, without repeats, at a cost that does not depend on n."""

from __future__ import annotations

import itertools
from unittest.mock import patch

import pytest
import torch
from scipy.stats import chisquare

from codir.contrast import draws
from codir.contrast.draws import draw_allowed, draw_indices


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# rejection, permutation, all, replacement
@pytest.mark.parametrize(("n", "k"), [(9, 2), (4, 2), (3, 3), (2, 4)])
def test_every_ordered_choice_is_equally_likely(n: int, k: int) -> None:
    rows = draw_indices(torch.full((20_000,) if n > 4 * k else (4_000,), n), k, generator())
    without = n >= k
    kinds = list(itertools.permutations(range(n), k) if without else itertools.product(range(n), repeat=k))
    numbers = {kind: index for index, kind in enumerate(kinds)}
    counts = torch.bincount(torch.tensor([numbers[tuple(row)] for row in rows.tolist()]), minlength=len(kinds))
    assert counts.sum() == rows.shape[0]
    assert chisquare(counts.numpy()).pvalue > 1e-3


def test_rejection_is_uniform_where_repeats_are_many() -> None:
    n, k = 41, 10  # just above 4 K: about one repeat in nine draws
    rows = draw_indices(torch.full((5_000,), n), k, generator())
    assert all(len(set(row)) == k for row in rows.tolist())
    for position in (0, 4, 9):
        assert chisquare(torch.bincount(rows[:, position], minlength=n).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("k", [1, 5, 40])
def test_rows_with_different_counts(k: int) -> None:
    counts = torch.tensor([1, 3, 5, 19, 21, 40, 163, 1_000_000, 2**40])
    rows = draw_indices(counts, k, generator())
    assert rows.shape == (len(counts), k)
    for n, row in zip(counts.tolist(), rows.tolist(), strict=True):
        assert min(row) >= 0
        assert max(row) < n
        if n >= k:
            assert len(set(row)) == k
    if k == 5:
        assert sorted(rows[2].tolist()) == [0, 1, 2, 3, 4]


def test_a_second_round_is_drawn_where_the_first_was_not_enough() -> None:
    original, calls = draws._uniform, []

    def unlucky(counts, k, source):
        calls.append(k)
        drawn = original(counts, k, source)
        return torch.zeros_like(drawn) if len(calls) == 1 else drawn

    with patch.object(draws, "_uniform", unlucky):
        rows = draw_indices(torch.tensor([100, 1000]), 20, generator())
    assert len(calls) > 1
    assert all(len(set(row)) == 20 for row in rows.tolist())


def combinations(allowed: list[bool], k: int) -> list[tuple[int, ...]]:
    columns = [column for column, keep in enumerate(allowed) if keep]
    return list(itertools.combinations(columns, min(k, len(columns))))


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("shared", [True, False])
def test_every_choice_of_allowed_columns_is_equally_likely(k: int, shared: bool) -> None:
    allowed = torch.tensor([[True, False, True, True, True], [False, True, True, True, True], [False] * 5])
    numbers = generator()
    drawn = torch.stack([draw_allowed(allowed, k, shared, numbers) for _ in range(3000)])
    for row, columns in enumerate(allowed.tolist()):
        seen = [tuple(index for index, keep in enumerate(choice) if keep) for choice in drawn[:, row].tolist()]
        kinds = combinations(columns, k)
        assert set(seen) == set(kinds)
        if len(kinds) > 1:
            assert chisquare([seen.count(kind) for kind in kinds]).pvalue > 1e-3
    # Rows with the same columns allowed keep the same of them only if they share.
    twice = torch.stack([draw_allowed(allowed[[0, 0]], 2, shared, numbers) for _ in range(50)])
    assert bool((twice[:, 0] == twice[:, 1]).all()) == shared


def test_fewer_allowed_than_wanted_are_all_taken() -> None:
    allowed = torch.tensor([[True, False, True], [False, False, False]])
    for k in (2, 3, 500):
        assert torch.equal(draw_allowed(allowed, k, True, generator()), allowed)
