"""The losses over logits against plain loops: the task's own, Eq. 2, and the squared distance."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from codir.errors import ConfigError, DataError
from codir.kinds.classification import softened_divergence as kd_loss
from codir.losses.base import ObjectiveSettings
from codir.losses.kd import KD, KDSettings, LogitMSE, logit_mse
from codir.losses.registry import check_objectives, needs_of
from codir.losses.task import Task

# ---- the task's own -------------------------------------------------------------------------------------------------


def squared_errors(logits: list[list[float]], labels: list[float]) -> list[float]:
    return [(output - score) ** 2 for (output,), score in zip(logits, labels, strict=True) if not math.isnan(score)]


def cross_entropies(logits: list[list[float]], labels: list[int]) -> list[float]:
    return [
        -math.log(math.exp(row[label]) / sum(math.exp(value) for value in row))
        for row, label in zip(logits, labels, strict=True)
        if label != -100
    ]


@pytest.mark.parametrize("batch", [1, 4])
def test_cross_entropy(context, make_step, batch: int) -> None:
    step = make_step(list(range(batch)))
    losses = cross_entropies(step.student.logits.tolist(), step.labels.tolist())
    term = Task(ObjectiveSettings(), context)(step)
    assert term.loss.item() == pytest.approx(sum(losses) / batch, rel=1e-5)
    term.loss.backward()
    assert step.student.logits.grad is not None
    step.student.logits = step.student.logits.detach().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Task(ObjectiveSettings(), context)(step).loss.dtype == torch.float32


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_squared_error_does_not_broadcast(regression, make_step, batch: int, dtype: torch.dtype) -> None:
    step = make_step(list(range(batch)), outputs=1, labels=regression.labels.to(dtype))
    losses = squared_errors(step.student.logits.tolist(), step.labels.tolist())
    term = Task(ObjectiveSettings(), regression)(step)
    assert term.loss.item() == pytest.approx(sum(losses) / batch, rel=1e-5)
    assert term.loss.dtype == torch.float32


def test_labels_are_needed(context, make_step) -> None:
    with pytest.raises(DataError, match="label"):
        check_objectives({"task": {}}, replace(context, labels=None))
    with pytest.raises(DataError, match="label"):
        Task(ObjectiveSettings(), context)(replace(make_step([0]), labels=None))


@pytest.mark.parametrize("missing", [[], [0], [1, 3], [0, 1, 2, 3, 4]])
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_only_labelled_examples_count(context, regression, make_step, missing: list[int], kind: str) -> None:
    scores = kind == "regression"
    of = replace(regression if scores else context, unlabeled=7)
    labels = of.labels.clone()
    labels[missing] = math.nan if scores else -100
    step = make_step(list(range(5)), outputs=1 if scores else 3, labels=labels)
    naive = squared_errors if scores else cross_entropies
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
    # As a part of a step: the sum is divided by what it is told, whatever the batch's own number.
    part = Task(ObjectiveSettings(), of)(replace(step, labelled=2.5))
    assert part.loss.item() == pytest.approx(sum(losses) / 2.5, rel=1e-5)
    assert not part.empty


def test_a_step_without_any_label_is_zero(context, make_step) -> None:
    of = replace(context, unlabeled=3, labels=torch.full_like(context.labels, -100))
    term = Task(ObjectiveSettings(), of)(replace(make_step([0, 1], labels=of.labels), labelled=0.0))
    assert term.loss.item() == 0
    assert term.empty


# ---- Eq. 2 ----------------------------------------------------------------------------------------------------------


def naive_kd(student: Tensor, teacher: Tensor, rho: float) -> float:
    def softened(row: list[float]) -> list[float]:
        powers = [math.exp(value / rho) for value in row]
        return [power / sum(powers) for power in powers]

    total = 0.0
    for s_row, t_row in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = softened(s_row), softened(t_row)
        total += sum(p_c * math.log(p_c / q_c) for p_c, q_c in zip(p, q, strict=True))
    return total / len(student)


@pytest.mark.parametrize(("batch", "classes", "rho"), [(1, 1, 2.0), (1, 2, 1.0), (5, 3, 2.0), (3, 7, 0.5)])
def test_divergence_against_plain_loops(batch: int, classes: int, rho: float) -> None:
    student, teacher = (torch.randn(batch, classes, dtype=torch.float64) * 3 for _ in range(2))
    expected = naive_kd(student, teacher, rho)
    for squared, averaged, factor in (
        (False, False, 1),
        (True, False, rho**2),
        (False, True, 1 / classes),  # BERT-PKD's code: the mean over all cells of the batch
        (True, True, rho**2 / classes),
    ):
        found = kd_loss(student, teacher, rho, squared, averaged)
        assert found.item() == pytest.approx(expected * factor, rel=1e-9, abs=1e-14)


def test_gradients_reach_only_the_student() -> None:
    student = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    # For one example the gradient is (softmax(z_s/rho) - softmax(z_t/rho)) / rho / B.
    slope = (torch.softmax(student / 2, 1) - torch.softmax(teacher / 2, 1)) / 2 / 4
    for loss, expected in (
        (lambda s, t: kd_loss(s, t, 2.0), slope),
        (lambda s, t: kd_loss(s, t, 2.0, True, True), slope * 4 / 3),
        (logit_mse, 2 * (student - teacher) / 4),
    ):
        assert torch.autograd.gradcheck(lambda s: loss(s, teacher.detach()), (student,))  # noqa: B023
        student.grad = None
        loss(student, teacher).backward()
        torch.testing.assert_close(student.grad, expected.detach())
    assert teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_extreme_logits(dtype: torch.dtype) -> None:
    student, teacher = torch.tensor([[60.0, -60.0]], dtype=dtype), torch.tensor([[-60.0, 60.0]], dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = kd_loss(student, teacher, 1.0), logit_mse(student * 5, torch.zeros(1, 2, dtype=dtype))
    assert all(loss.dtype == torch.float32 for loss in losses)
    assert losses[0].item() == pytest.approx(120.0, rel=1e-4)
    assert losses[1].item() == 180_000


@pytest.mark.parametrize(("batch", "classes"), [(1, 1), (1, 3), (4, 1), (5, 3)])
def test_squared_distance_against_plain_loops(batch: int, classes: int) -> None:
    student, teacher = (torch.randn(batch, classes, dtype=torch.float64) for _ in range(2))
    rows = zip(student.tolist(), teacher.tolist(), strict=True)
    expected = sum((z_t - z_s) ** 2 for s, t in rows for z_s, z_t in zip(s, t, strict=True)) / batch
    assert logit_mse(student, teacher).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("cls", [KD, LogitMSE])
def test_of_classes(context, make_step, cls) -> None:
    step = make_step([0, 1, 2, 3])
    chosen = {"temperature": 3.0, "squared": True, "averaged": True} if cls is KD else {}
    term = cls(cls.Settings(**chosen), context)(step)
    own, other = step.student.logits, step.teacher.logits
    expected = kd_loss(own, other, 3.0) * 9 / 3 if cls is KD else logit_mse(own, other)
    torch.testing.assert_close(term.loss, expected)
    same = sum(s.index(max(s)) == t.index(max(t)) for s, t in zip(own.tolist(), other.tolist(), strict=True))
    assert term.metrics["agreement"].item() == pytest.approx(same / 4)
    assert not term.metrics["agreement"].requires_grad


@pytest.mark.parametrize("cls", [KD, LogitMSE])
def test_of_scores_it_is_the_squared_error(regression, make_step, cls) -> None:
    step = make_step([0, 1, 2], outputs=1)
    pairs = zip(step.student.logits.tolist(), step.teacher.logits.tolist(), strict=True)
    term = cls(cls.Settings(), regression)(step)
    assert term.loss.item() == pytest.approx(sum((s[0] - t[0]) ** 2 for s, t in pairs) / 3, rel=1e-5)
    assert term.metrics == {}


@pytest.mark.parametrize("cls", [KD, LogitMSE])
def test_needs_and_refusals(context, corpus, make_step, cls) -> None:
    assert needs_of({cls.name: {}}).teacher_logits
    assert not KDSettings().squared
    with pytest.raises(ConfigError, match="needs a teacher"):
        check_objectives({cls.name: {}}, replace(context, teacher=None))
    with pytest.raises(ConfigError, match="teacher's logits"):
        cls(cls.Settings(), context)(replace(make_step([0]), teacher=None))
    if cls is LogitMSE:
        with pytest.raises(ConfigError, match="use 'mlm' or 'kd'"):
            check_objectives({"logit_mse": {}}, corpus)
