"""pkd as an objective: matched blocks, maps, what it reads."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from token_world import token_context, token_step

from codir.errors import ConfigError
from codir.losses.base import Step
from codir.losses.pkd import PKD, PKDSettings


def settings(**values) -> PKDSettings:
    return PKDSettings.model_validate(values)


def naive(step: Step, pairs: list[tuple[int, int]], maps: list[torch.Tensor] | None = None) -> float:
    """sum over examples and pairs of || h_s / ||h_s|| - h_t / ||h_t|| ||^2, divided by the examples."""
    assert step.teacher is not None
    student, teacher = step.student.pooled["cls"].double(), step.teacher.pooled["cls"].double()
    total = 0.0
    for b in range(len(student)):
        for position, (own, other) in enumerate(pairs):
            s, t = student[b, own - 1].tolist(), teacher[b, other - 1].tolist()
            if maps is not None:
                matrix = maps[position]
                s = [sum(x * matrix[n, m].item() for n, x in enumerate(s)) for m in range(matrix.shape[1])]
            s_norm, t_norm = (math.sqrt(sum(x * x for x in side)) for side in (s, t))
            total += sum((x / s_norm - y / t_norm) ** 2 for x, y in zip(s, t, strict=True))
    return total / len(student)


@pytest.mark.parametrize(
    ("matching", "pairs"),
    [
        ("skip", [(1, 2), (2, 4)]),
        ("last", [(1, 4), (2, 5)]),
        ("spread", [(1, 2), (2, 4), (3, 6)]),
        ([[3, 1]], [(3, 1)]),
    ],
)
def test_against_plain_loops(matching, pairs: list[tuple[int, int]]) -> None:
    context = token_context((3, 8, 2), (6, 8, 2))
    step = token_step(context)
    objective = PKD(settings(matching=matching), context)
    term = objective(step)
    assert step.teacher is not None
    assert term.loss.item() == pytest.approx(naive(step, pairs), rel=1e-5)
    student, teacher = step.student.pooled["cls"], step.teacher.pooled["cls"].float()
    cosines = [
        torch.nn.functional.cosine_similarity(student[:, own - 1], teacher[:, other - 1]).mean().item()
        for own, other in pairs
    ]
    assert term.metrics["cosine"].item() == pytest.approx(sum(cosines) / len(cosines), rel=1e-4, abs=1e-5)
    assert not term.metrics["cosine"].requires_grad
    assert not list(objective.parameters())


def test_paper_names() -> None:
    """BERT-PKD with 6 of 12: Skip {2, 4, 6, 8, 10}, Last {7, 8, 9, 10, 11}."""
    context = token_context((6, 8, 2), (12, 8, 2))
    assert PKD(settings(), context).describe() == [
        "pkd: student blocks 1, 2, 3, 4, 5 learn from the teacher's 2, 4, 6, 8, 10 ([CLS] states)"
    ]
    assert "the teacher's 7, 8, 9, 10, 11" in PKD(settings(matching="last"), context).describe()[0]


def test_the_mean_of_the_released_code() -> None:
    context = token_context((3, 8, 2), (6, 8, 2))
    step = token_step(context)
    summed, averaged = (PKD(settings(averaged=value), context)(step) for value in (False, True))
    assert averaged.loss.item() == pytest.approx(naive(step, [(1, 2), (2, 4)]) / (2 * 8), rel=1e-5)
    torch.testing.assert_close(averaged.metrics, summed.metrics)


def test_learned_maps() -> None:
    context = token_context((3, 6, 2), (6, 8, 2))
    step = token_step(context)
    objective = PKD(settings(projection="auto"), context)
    maps = [weight.detach().double().T for weight in objective.parameters()]
    assert len(maps) == 2
    term = objective(step)
    assert term.loss.item() == pytest.approx(naive(step, [(1, 2), (2, 4)], maps), rel=1e-5)
    term.loss.backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in objective.parameters())
    gradient = step.student.pooled["cls"].grad
    assert gradient is not None
    assert gradient[:, :2].any()
    assert not gradient[:, 2].any()
    assert "2 learned maps from 6 to 8" in objective.describe()[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("projection", ["never", "always"])
def test_half_precision_under_autocast(dtype: torch.dtype, projection: str) -> None:
    context = token_context((2, 8, 2), (4, 8, 2))
    step = token_step(context, torch.ones(1, 1, dtype=torch.bool))
    step.student.pooled["cls"] = step.student.pooled["cls"].detach().to(dtype)
    objective = PKD(settings(projection=projection), context)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective(step).loss
    maps = [weight.detach().double().T for weight in objective.parameters()]
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(naive(step, [(1, 2)], maps or None), rel=1e-5)


def test_needs_and_refusals() -> None:
    context = token_context()
    assert PKD.needs(settings()).pooled == {"cls"}
    assert not PKD.needs(settings()).teacher_logits
    PKD.check(settings(), context)
    PKD.check(settings(), replace(context, aligned=False))  # [CLS] stands for the whole text
    with pytest.raises(ConfigError, match="needs a teacher"):
        PKD.check(settings(), replace(context, teacher=None))
    with pytest.raises(ConfigError, match=r"pkd\.matching: .*leaves nothing of a student with 1 block"):
        PKD.check(settings(), token_context((1, 8, 2), (4, 8, 2)))
    narrow = token_context((2, 6, 2), (4, 8, 2))
    with pytest.raises(ConfigError, match=r"set pkd\.projection to auto, which learns a map from 6 to 8"):
        PKD.check(settings(), narrow)
    PKD.check(settings(projection="auto"), narrow)
