"""The task's loss against plain loops, and the broadcasting fault of regression."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from codir.errors import DataError
from codir.objectives.base import ObjectiveSettings
from codir.objectives.task import Task


@pytest.mark.parametrize("batch", [1, 4])
def test_cross_entropy(context, make_step, batch: int) -> None:
    step = make_step(list(range(batch)))
    expected = 0.0
    for row, label in zip(step.student.logits.tolist(), step.labels.tolist(), strict=True):
        expected -= math.log(math.exp(row[label]) / sum(math.exp(value) for value in row)) / batch
    term = Task(ObjectiveSettings(), context)(step)
    assert term.loss.item() == pytest.approx(expected, rel=1e-5)
    term.loss.backward()
    assert step.student.logits.grad is not None


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_squared_error_does_not_broadcast(regression, make_step, batch: int, dtype: torch.dtype) -> None:
    step = make_step(list(range(batch)), outputs=1, labels=regression.labels.to(dtype))
    expected = 0.0
    for (output,), score in zip(step.student.logits.tolist(), step.labels.tolist(), strict=True):
        expected += (output - score) ** 2 / batch
    term = Task(ObjectiveSettings(), regression)(step)
    assert term.loss.item() == pytest.approx(expected, rel=1e-5)
    assert term.loss.dtype == torch.float32


def test_fp32_inside_autocast(context, make_step) -> None:
    step = make_step([0, 1])
    step.student.logits = step.student.logits.detach().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Task(ObjectiveSettings(), context)(step).loss.dtype == torch.float32


def test_labels_are_needed(context, make_step) -> None:
    with pytest.raises(DataError, match="label"):
        Task.check(ObjectiveSettings(), replace(context, labels=None))
    with pytest.raises(DataError, match="label"):
        Task(ObjectiveSettings(), context)(replace(make_step([0]), labels=None))
