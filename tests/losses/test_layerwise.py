"""Stages of progressive distillation, at their edges."""

from __future__ import annotations

from typing import Any

import pytest
from token_world import token_context

from codir.errors import ConfigError
from codir.losses.layerwise import LayerwiseLoss
from codir.losses.registry import build_objectives, settings_for

FULL = [(1, 2), (2, 4), (3, 6), (4, 8)]


def build(pairs: list[tuple[int, int]] | None = None, **settings: Any) -> LayerwiseLoss:
    context = token_context((24, 8, 2), (24, 8, 2))
    given = {"task": {}, "pooled_cosine": {"matching": pairs or FULL, **settings}}
    objective = build_objectives(given, context)["pooled_cosine"]
    assert isinstance(objective, LayerwiseLoss)
    return objective


def counted(objective: LayerwiseLoss, progress: float) -> list[int]:
    return [position for position, *_ in objective.counted(progress)]


@pytest.mark.parametrize("stages", [1, 2, 3, 5, 6, 7, 12, 24])
@pytest.mark.parametrize("window", [(0.0, 1.0), (0.1, 0.7), (0.2, 0.8), (0.3, 0.9)])
def test_stages_divide_the_window_equally(stages: int, window: tuple[float, float]) -> None:
    # Boundaries such as 0.5 of (0.2, 0.8) are not met exactly: (0.5 - 0.2) / (0.8 - 0.2) < 0.5
    start, end = window
    pairs = [(layer, layer) for layer in range(1, stages + 1)]
    objective = build(pairs, progressive="transfer", start=start, end=end)
    for number in range(stages):
        assert counted(objective, start + (end - start) * number / stages) == [number]
    steps = 10 * stages
    found = [counted(objective, start + (end - start) * step / steps) for step in range(steps)]
    assert [found.count([number]) for number in range(stages)] == [10] * stages
    assert counted(objective, 1.0) == counted(objective, 0.999999999) == ([stages - 1] if end == 1 else [])
    assert counted(objective, start - 1e-3) == []


def test_none_counts_all_pairs_inside_of_the_window_only() -> None:
    objective = build(end=0.5)
    assert counted(objective, 0.0) == counted(objective, 0.499) == [0, 1, 2, 3]
    assert counted(objective, 0.5) == []
    assert objective.frozen_layers(0.25) == frozenset()


@pytest.mark.parametrize(
    ("progress", "position", "layers"),
    [(0.0, 0, {0}), (0.124, 0, {0}), (0.125, 1, {0, 1}), (0.25, 2, {0, 1, 2}), (0.49, 3, {0, 1, 2, 3})],
)
def test_transfer_trains_one_layer_on_frozen_ones(progress: float, position: int, layers: set[int]) -> None:
    objective = build(progressive="transfer", end=0.5)
    assert counted(objective, progress) == [position]
    assert objective.frozen_layers(progress) == layers


def test_layers_that_are_not_matched_are_trained_with_the_next_one_above() -> None:
    objective = build([(2, 3), (5, 9)], progressive="transfer")
    assert objective.frozen_layers(0.0) == {0}  # layer 1 learns, with layer 2
    assert objective.frozen_layers(0.5) == {0, 1, 2}  # layers 3 and 4 learn, with layer 5


def test_unlock_adds_pairs_and_freezes_nothing() -> None:
    objective = build(progressive="unlock", end=0.8)
    assert [counted(objective, progress) for progress in (0.0, 0.19, 0.2, 0.4, 0.6, 0.79, 0.8)] == [
        [0], [0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3], [],
    ]  # fmt: skip
    assert objective.frozen_layers(0.5) == frozenset()


def test_words() -> None:
    with pytest.raises(ConfigError, match="'none', 'transfer' or 'unlock'"):
        settings_for("pooled_cosine", {"progressive": "all"})
    assert build(progressive="transfer").describe()[0].endswith("; one layer at a time, those below frozen")
