"""Stages of progressive distillation, at their edges."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from codir.losses.progressive import ProgressiveSettings, counted, describe, frozen, stage

FULL = [(1, 2), (2, 4), (3, 6), (4, 8)]
SPARSE = [(2, 3), (5, 9)]


def settings(**values) -> ProgressiveSettings:
    return ProgressiveSettings.model_validate(values)


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (0.0, None),
        (0.199, None),
        (0.2, 0),
        (0.349, 0),
        (0.35, 1),
        (0.5, 2),
        (0.65, 3),
        (0.799, 3),
        (0.8, None),
        (1.0, None),
    ],
)
def test_stages_divide_the_window_equally(progress: float, expected: int | None) -> None:
    # 0.35, 0.5 and 0.65 are boundaries that floating point does not meet exactly: (0.5 - 0.2) / (0.8 - 0.2) < 0.5
    assert stage(settings(start=0.2, end=0.8), 4, progress) == expected


@pytest.mark.parametrize("stages", [1, 2, 3, 5, 6, 7, 12, 24])
@pytest.mark.parametrize("window", [(0.0, 1.0), (0.1, 0.7), (0.3, 0.9)])
def test_every_boundary_begins_its_stage(stages: int, window: tuple[float, float]) -> None:
    start, end = window
    chosen = settings(start=start, end=end)
    for number in range(stages):
        assert stage(chosen, stages, start + (end - start) * number / stages) == number
    steps = 10 * stages
    found = [stage(chosen, stages, start + (end - start) * step / steps) for step in range(steps)]
    assert [found.count(number) for number in range(stages)] == [10] * stages


def test_the_end_of_the_training_belongs_to_the_last_stage() -> None:
    assert stage(settings(), 3, 0.999999999999) == 2
    assert stage(settings(), 3, 1.0) == 2
    assert stage(settings(end=0.5), 3, 1.0) is None


def test_none_counts_all_pairs_inside_of_the_window_only() -> None:
    chosen = settings(end=0.5)
    assert counted(chosen, FULL, 0.0) == counted(chosen, FULL, 0.499) == (0, 1, 2, 3)
    assert counted(chosen, FULL, 0.5) == ()
    assert frozen(chosen, FULL, 0.25) == frozenset()


@pytest.mark.parametrize(
    ("progress", "position", "blocks"),
    [(0.0, 0, {0}), (0.124, 0, {0}), (0.125, 1, {0, 1}), (0.25, 2, {0, 1, 2}), (0.49, 3, {0, 1, 2, 3})],
)
def test_transfer_trains_one_block_on_frozen_ones(progress: float, position: int, blocks: set[int]) -> None:
    chosen = settings(progressive="transfer", end=0.5)
    assert counted(chosen, FULL, progress) == (position,)
    assert frozen(chosen, FULL, progress) == blocks


def test_after_its_window_transfer_counts_and_freezes_nothing() -> None:
    chosen = settings(progressive="transfer", start=0.25, end=0.5)
    for progress in (0.0, 0.249, 0.5, 0.9):
        assert counted(chosen, FULL, progress) == ()
        assert frozen(chosen, FULL, progress) == frozenset()


def test_blocks_that_are_not_matched_are_trained_with_the_next_one_above() -> None:
    chosen = settings(progressive="transfer")
    assert frozen(chosen, SPARSE, 0.0) == {0}  # block 1 learns, with block 2
    assert frozen(chosen, SPARSE, 0.5) == {0, 1, 2}  # blocks 3 and 4 learn, with block 5


def test_unlock_adds_pairs_and_freezes_nothing() -> None:
    chosen = settings(progressive="unlock", end=0.8)
    assert [counted(chosen, FULL, progress) for progress in (0.0, 0.19, 0.2, 0.4, 0.6, 0.79, 0.8)] == [
        (0,), (0,), (0, 1), (0, 1, 2), (0, 1, 2, 3), (0, 1, 2, 3), (),
    ]  # fmt: skip
    assert frozen(chosen, FULL, 0.5) == frozenset()


def test_one_pair() -> None:
    for how in ("none", "transfer", "unlock"):
        assert counted(settings(progressive=how), [(3, 7)], 0.99) == (0,)
    assert frozen(settings(progressive="transfer"), [(3, 7)], 0.99) == {0}


def test_words() -> None:
    with pytest.raises(ValidationError, match="'none', 'transfer' or 'unlock'"):
        settings(progressive="all")
    assert describe(settings(progressive="transfer")) == "; one block at a time, those below frozen"
    assert describe(settings()) == ""
