"""The task's loss against plain loops, and the broadcasting fault of regression."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from codir.errors import DataError
from codir.losses.base import ObjectiveSettings
from codir.losses.task import Task


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


def naive_squared_errors(logits: list[list[float]], labels: list[float]) -> list[float]:
    return [
        (output - score) ** 2
        for (output,), score in zip(logits, labels, strict=True)
        if not math.isnan(score)
    ]


def naive_cross_entropies(logits: list[list[float]], labels: list[int]) -> list[float]:
    return [
        -math.log(math.exp(row[label]) / sum(math.exp(value) for value in row))
        for row, label in zip(logits, labels, strict=True)
        if label != -100
    ]


@pytest.mark.parametrize("missing", [[], [0], [1, 3], [0, 1, 2, 3, 4]])
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_only_labelled_examples_count(context, regression, make_step, missing: list[int], kind: str) -> None:
    scores = kind == "regression"
    of = replace(regression if scores else context, unlabeled=7)
    labels = of.labels.clone()
    labels[missing] = math.nan if scores else -100
    step = make_step(list(range(5)), outputs=1 if scores else 3, labels=labels)
    naive = naive_squared_errors if scores else naive_cross_entropies
    losses = naive(step.student.logits.double().tolist(), step.labels.tolist())
    term = Task(ObjectiveSettings(), of)(step)
    assert term.loss.item() == pytest.approx(sum(losses) / max(len(losses), 1), rel=1e-5)
    assert not term.empty
    term.loss.backward()
    gradient = step.student.logits.grad
    assert gradient is not None
    assert gradient.isfinite().all()
    for row in range(5):
        assert bool((gradient[row] == 0).all()) == (row in missing)
    # as a part of a step: the sum is divided by what it is told, whatever the batch's own number
    part = Task(ObjectiveSettings(), of)(replace(step, labelled=2.5))
    assert part.loss.item() == pytest.approx(sum(losses) / 2.5, rel=1e-5)
    assert not part.empty


def test_a_step_without_any_label_is_zero(context, make_step) -> None:
    of = replace(context, unlabeled=3, labels=torch.full_like(context.labels, -100))
    term = Task(ObjectiveSettings(), of)(replace(make_step([0, 1], labels=of.labels), labelled=0.0))
    assert term.loss.item() == 0
    assert term.empty


def test_with_all_labels_the_mean_is_the_same(context, make_step) -> None:
    step = make_step(list(range(6)))
    plain = Task(ObjectiveSettings(), context)(step).loss
    torch.testing.assert_close(Task(ObjectiveSettings(), replace(context, unlabeled=1))(step).loss, plain)
