"""Grouped products against plain loops, in every way they are computed."""

from __future__ import annotations

import pytest
import torch

from codir.contrast.similarity import group_similarity


@pytest.mark.parametrize(
    "group",
    [
        [0],
        [0, 0, 0],
        [2, 0, 1],  # as many groups as anchors, not in order
        [1, 0, 1, 1, 2],
        [*range(9), 3, 3, 0],
        [8, 7, 6, 5, 4, 3, 2, 1, 0, 0],
    ],
)
def test_against_plain_loops(group: list[int]) -> None:
    groups = max(group) + 1
    anchor = torch.randn(len(group), 4, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(groups, 6, 4, dtype=torch.float64)
    result = group_similarity(anchor, rows, torch.tensor(group))
    assert result.shape == (len(group), 6)
    for b, g in enumerate(group):
        for j in range(6):
            expected = sum(float(anchor.detach()[b, i]) * float(rows[g, j, i]) for i in range(4))
            assert result[b, j].item() == pytest.approx(expected)
    assert torch.autograd.gradcheck(lambda a: group_similarity(a, rows, torch.tensor(group)), (anchor,))
