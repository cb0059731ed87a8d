"""Feature map transfer as an objective: blocks, projections, stages."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from token_world import MASK, token_context, token_step

from codir.errors import ConfigError
from codir.losses.base import Step
from codir.losses.feature_map_mse import FeatureMapMSE, FeatureMapMSESettings
from codir.losses.registry import check_objectives
from codir.models.representations import TokenView


def settings(**values) -> FeatureMapMSESettings:
    return FeatureMapMSESettings.model_validate(values)


def naive(step: Step, own: int, other: int, linear: torch.nn.Linear | None = None) -> float:
    """MobileBERT: 1 / (T N) sum_t sum_n (H_teacher - H_student)^2 for each example; mean over the examples."""
    assert step.teacher is not None
    mask, teacher = step.student.mask, step.teacher.tokens[TokenView("hidden", other)].double().tolist()
    assert mask is not None
    student = step.student.tokens[TokenView("hidden", own)].double().tolist()
    if linear is not None:
        weight = linear.weight.double().tolist()

        def mapped(state: list[float]) -> list[float]:
            return [sum(w * h for w, h in zip(row, state, strict=True)) for row in weight]

        student = [[mapped(state) for state in text] for text in student]
    total = 0.0
    for b in range(len(mask)):
        real = [t for t in range(mask.shape[1]) if mask[b, t]]
        squares = [(x - y) ** 2 for t in real for x, y in zip(teacher[b][t], student[b][t], strict=True)]
        total += sum(squares) / len(squares) / len(mask)
    return total


def test_against_plain_loops() -> None:
    context = token_context()
    step = token_step(context)
    objective = FeatureMapMSE(settings(), context)
    assert not list(objective.parameters())
    term = objective(step)
    expected = {"block_1": naive(step, 1, 2), "block_2": naive(step, 2, 4)}
    assert {name: value.item() for name, value in term.metrics.items()} == pytest.approx(expected, rel=1e-5)
    assert term.loss.item() == pytest.approx(sum(expected.values()), rel=1e-5)
    term.loss.backward()
    for view, vectors in step.student.tokens.items():
        assert (vectors.grad is not None) == (view.kind == "hidden"), view
    gradient = step.student.tokens[TokenView("hidden", 1)].grad
    assert gradient is not None
    assert gradient[~MASK].abs().max() == 0


def test_maps_means_and_variances_as_the_released_code_weighs_them() -> None:
    """100 * maps + 5000 * means + 5 * variances of a block, divided by the number of blocks."""
    context = token_context()
    step = token_step(context)
    values = {"normalised": True, "mean_weight": 50.0, "variance_weight": 0.05, "averaged": True}
    term = FeatureMapMSE(settings(**values), context)(step)
    assert step.teacher is not None
    mask = step.student.mask
    assert mask is not None
    total = 0.0
    for own, other in ((1, 2), (2, 4)):
        student = step.student.tokens[TokenView("hidden", own)].double()
        teacher = step.teacher.tokens[TokenView("hidden", other)].double()
        for b in range(len(mask)):
            real = [t for t in range(mask.shape[1]) if mask[b, t]]
            for t in real:
                (x, mx, vx), (y, my, vy) = (_normal(side[b, t].tolist()) for side in (student, teacher))
                maps = sum((one - two) ** 2 for one, two in zip(x, y, strict=True)) / len(x)
                total += (100 * maps + 5000 * (mx - my) ** 2 + 5 * abs(vx - vy)) / len(real) / len(mask) / 2
    assert 100 * term.loss.item() == pytest.approx(total, rel=1e-4)
    with pytest.raises(ConfigError, match="normalised to true"):
        check_objectives({"feature_map_mse": {"mean_weight": 1.0}}, context)


def _normal(state: list[float]) -> tuple[list[float], float, float]:
    mean = sum(state) / len(state)
    variance = sum((value - mean) ** 2 for value in state) / len(state)
    return [(value - mean) / (variance + 1e-12) ** 0.5 for value in state], mean, variance


def test_other_widths_are_projected_one_map_for_each_block() -> None:
    context = token_context((2, 8, 2), (4, 12, 2))
    step = token_step(context)
    objective = FeatureMapMSE(settings(), context)
    first, second = objective.projections.maps
    assert isinstance(first, torch.nn.Linear)
    assert isinstance(second, torch.nn.Linear)
    expected = naive(step, 1, 2, first) + naive(step, 2, 4, second)
    term = objective(step)
    assert term.loss.item() == pytest.approx(expected, rel=1e-5)
    term.loss.backward()
    assert all(parameter.grad is not None for parameter in objective.parameters())
    assert any("through 2 learned maps from 8 to 12" in line for line in objective.describe())
    state = torch.get_rng_state()
    again = FeatureMapMSE(settings(), context)
    assert torch.equal(torch.get_rng_state(), state)
    for one, other in zip(objective.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(first.weight, second.weight)
    assert len(FeatureMapMSE(settings(projection="always"), token_context()).projections.maps) == 2


@pytest.mark.parametrize("mask", [MASK[:1], MASK[:, :1] | True, torch.ones(1, 1, dtype=torch.bool)])
def test_small_batches_and_one_block(mask: torch.Tensor) -> None:
    context = token_context((1, 8, None), (1, 8, None))
    step = token_step(context, mask)
    assert FeatureMapMSE(settings(), context)(step).loss.item() == pytest.approx(naive(step, 1, 1), rel=1e-5)


def test_stages() -> None:
    context = token_context((3, 8, 2), (6, 8, 2))
    objective = FeatureMapMSE(settings(progressive="transfer", start=0.1, end=0.7), context)
    for progress, block in ((0.1, 1), (0.3, 2), (0.5, 3), (0.69, 3)):
        assert set(objective(token_step(context, progress=progress)).metrics) == {f"block_{block}"}
        assert objective.frozen_blocks(progress) == set(range(block))
    for progress in (0.0, 0.7, 0.95):
        assert objective.frozen_blocks(progress) == set()


@pytest.mark.parametrize("teacher", [8, 12])
def test_half_precision_inside_autocast(teacher: int) -> None:
    context = token_context(teacher=(4, teacher, 2))
    step = token_step(context, student_dtype=torch.bfloat16)
    objective = FeatureMapMSE(settings(matching="top"), context)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        term = objective(step)
    linear = next(iter(objective.projections.maps), None)
    assert linear is None or isinstance(linear, torch.nn.Linear)
    assert term.loss.dtype == torch.float32
    assert term.loss.item() == pytest.approx(naive(step, 2, 4, linear), rel=1e-5)


def test_it_declares_what_it_reads() -> None:
    context = token_context()
    assert context.teacher is not None
    views = FeatureMapMSE.views(settings(matching="top"), context.student, context.teacher)
    assert ({str(view) for view in views.student}, {str(view) for view in views.teacher}) == (
        {"hidden.2"},
        {"hidden.4"},
    )


def test_refusals() -> None:
    for context, values, message in (
        (token_context(teacher=(4, 12, 2)), {"projection": "never"}, "8 numbers, the teacher's 12"),
        (token_context(aligned=False), {}, "tokenise differently"),
        (replace(token_context(), teacher=None), {}, "needs a teacher"),
        (token_context(), {"matching": [[3, 4]]}, "block 3 of the student"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_objectives({"feature_map_mse": values}, context)
