"""hidden_mse as an objective: blocks, the learned map, padding, precision. Tests its base `MatchedStates`, too."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from token_world import MASK, token_context, token_step

from codir.errors import ConfigError
from codir.losses.base import Step, Views
from codir.losses.hidden_mse import HiddenMSE, HiddenMSESettings
from codir.losses.registry import build_objectives
from codir.models.representations import TokenView


def settings(**values) -> HiddenMSESettings:
    return HiddenMSESettings.model_validate(values)


def hidden(step: Step, own: int, other: int) -> tuple[torch.Tensor, torch.Tensor]:
    assert step.teacher is not None
    return step.student.tokens[TokenView("hidden", own)], step.teacher.tokens[TokenView("hidden", other)]


def naive(step: Step, own: int, other: int, matrix: torch.Tensor | None = None) -> float:
    """TinyBERT: MSE(H_S W_h, H_T) of one text's real tokens, the mean over l x d entries; mean over the texts."""
    student, teacher = (tensor.double() for tensor in hidden(step, own, other))
    mask = step.student.mask
    assert mask is not None
    total = 0.0
    for b in range(len(mask)):
        squares = []
        for t in (t for t in range(mask.shape[1]) if mask[b, t]):
            state = student[b, t].tolist()
            if matrix is not None:  # [d_student, d_teacher]
                state = [
                    sum(x * matrix[n, m].item() for n, x in enumerate(state)) for m in range(matrix.shape[1])
                ]
            squares += [(x - y) ** 2 for x, y in zip(state, teacher[b, t].tolist(), strict=True)]
        total += sum(squares) / len(squares) if squares else 0.0
    return total / len(mask)


def test_without_a_map_against_plain_loops() -> None:
    context = token_context()
    step = token_step(context)
    term = HiddenMSE(settings(), context)(step)
    expected = {"block_1": naive(step, 1, 2), "block_2": naive(step, 2, 4)}
    assert {name: value.item() for name, value in term.metrics.items()} == pytest.approx(expected, rel=1e-5)
    assert term.loss.item() == pytest.approx(sum(expected.values()), rel=1e-5)
    assert term.loss.dtype == torch.float32


@pytest.mark.parametrize("shared", [True, False])
def test_with_maps_against_plain_loops(shared: bool) -> None:
    context = token_context((2, 6, 2), (4, 8, 2))
    step = token_step(context)
    objective = HiddenMSE(settings(shared_projection=shared), context)
    weights = [parameter.detach().double().T for parameter in objective.parameters()]
    assert [tuple(weight.shape) for weight in weights] == [(6, 8)] * (1 if shared else 2)
    expected = naive(step, 1, 2, weights[0]) + naive(step, 2, 4, weights[-1])
    assert objective(step).loss.item() == pytest.approx(expected, rel=1e-5)


def test_padding_rows_and_sizes() -> None:
    context = token_context((1, 6, 2), (1, 8, 2))
    masks = {
        "one token": torch.ones(1, 1, dtype=torch.bool),
        "an empty row": torch.tensor([[1, 1, 0], [0, 0, 0]], dtype=torch.bool),
        "nothing": torch.zeros(1, 3, dtype=torch.bool),
    }
    for name, mask in masks.items():
        step = token_step(context, mask)
        objective = HiddenMSE(settings(), context)
        term = objective(step)
        weight = next(objective.parameters()).detach().double().T
        assert term.loss.item() == pytest.approx(naive(step, 1, 1, weight), rel=1e-5), name
        term.loss.backward()
        student, _ = hidden(step, 1, 1)
        assert student.grad is not None, name
        assert torch.isfinite(student.grad).all(), name
        assert not student.grad[~mask].any(), name


@pytest.mark.parametrize(("left", "right"), [(0, 3), (3, 0), (1, 2)])
def test_more_padding_changes_nothing(left: int, right: int) -> None:
    context = token_context()
    step = token_step(context)
    assert step.teacher is not None
    objective = HiddenMSE(settings(projection="always"), context)
    alone = objective(step).loss
    for side, value in ((step.student, 40.0), (step.teacher, -3.0)):
        side.tokens = {
            view: torch.nn.functional.pad(tensor.detach(), (0, 0, left, right), value=value)
            for view, tensor in side.tokens.items()
        }
        side.mask = torch.nn.functional.pad(MASK, (left, right))
    torch.testing.assert_close(objective(step).loss, alone)


@pytest.mark.parametrize("projection", ["never", "always"])
def test_the_gradient_reaches_the_student_and_the_map_only(projection: str) -> None:
    context = token_context()
    step = token_step(context)
    assert step.teacher is not None
    step.teacher.tokens = {view: tensor.requires_grad_() for view, tensor in step.teacher.tokens.items()}
    objective = HiddenMSE(settings(projection=projection), context)
    objective(step).loss.backward()
    read = {view for view, tensor in step.student.tokens.items() if tensor.grad is not None}
    assert read == {TokenView("hidden", 1), TokenView("hidden", 2)}
    assert all(tensor.grad is None for tensor in step.teacher.tokens.values())
    assert all(weight.grad is not None and weight.grad.any() for weight in objective.parameters())
    if projection == "never":  # 2 (h_s - h_t) / (l d B) at real tokens
        student, teacher = hidden(step, 1, 2)
        lengths = MASK.sum(dim=1)[:, None, None]
        expected = 2 * (student.detach() - teacher.detach()) / (lengths * 8 * len(MASK)) * MASK[..., None]
        torch.testing.assert_close(student.grad, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_under_autocast(dtype: torch.dtype) -> None:
    context = token_context((2, 6, 2), (4, 8, 2))
    step = token_step(context, student_dtype=dtype)
    assert step.teacher is not None
    step.teacher.tokens = {view: tensor.half() for view, tensor in step.teacher.tokens.items()}
    objective = HiddenMSE(settings(), context)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        term = objective(step)
    weight = next(objective.parameters()).detach().double().T
    assert term.loss.dtype == torch.float32
    assert term.loss.item() == pytest.approx(naive(step, 1, 2, weight) + naive(step, 2, 4, weight), rel=1e-5)


def test_when_there_is_a_map() -> None:
    equal, narrow = token_context(), token_context((2, 6, 2), (4, 8, 2))
    numbers = {
        (name, context.student.width): len(list(HiddenMSE(settings(projection=name), context).parameters()))
        for name in ("auto", "always", "never")
        for context in (equal, narrow)
        if (name, context) != ("never", narrow)
    }
    assert numbers == {("auto", 8): 0, ("auto", 6): 1, ("always", 8): 1, ("always", 6): 1, ("never", 8): 0}


def test_maps_come_from_the_seed_alone() -> None:
    context = token_context((2, 6, 2), (4, 8, 2))

    def weights(seed: int) -> torch.Tensor:
        torch.rand(seed)  # whatever was drawn before
        state = torch.get_rng_state()
        objective = HiddenMSE(settings(), replace(context, seed=seed))
        assert torch.equal(torch.get_rng_state(), state)
        return next(objective.parameters())

    torch.testing.assert_close(weights(3), weights(3), rtol=0, atol=0)
    assert not torch.equal(weights(3), weights(4))


def test_views_and_description() -> None:
    context = token_context((3, 6, 2), (6, 8, 2))
    assert context.teacher is not None
    assert HiddenMSE.views(settings(), context.student, context.teacher) == Views(
        frozenset(TokenView("hidden", block) for block in (1, 2, 3)),
        frozenset(TokenView("hidden", block) for block in (2, 4, 6)),
    )
    assert HiddenMSE(settings(projection="never"), token_context((3, 8, 2), (6, 8, 2))).describe() == [
        "hidden_mse: student blocks 1, 2, 3 learn from the teacher's 2, 4, 6"
    ]
    assert HiddenMSE(settings(matching=[[2, 5]]), context).describe() == [
        "hidden_mse: student block 2 learns from the teacher's 5, through one learned map from 6 to 8"
    ]
    assert "3 learned maps" in HiddenMSE(settings(shared_projection=False), context).describe()[0]


def test_refusals() -> None:
    context = token_context((2, 6, 2), (4, 8, 2))
    HiddenMSE.check(settings(), context)
    with pytest.raises(ConfigError, match="needs a teacher"):
        HiddenMSE.check(settings(), replace(context, teacher=None))
    with pytest.raises(ConfigError, match="tokenise differently"):
        HiddenMSE.check(settings(), replace(context, aligned=False))
    with pytest.raises(ConfigError, match=r"hidden_mse\.matching: .*block 9 of the teacher"):
        HiddenMSE.check(settings(matching=[[1, 9]]), context)
    with pytest.raises(ConfigError, match=r"hidden_mse\.matching='sprea'.*did you mean 'spread'"):
        build_objectives({"hidden_mse": {"matching": "sprea"}}, context)
    with pytest.raises(
        ConfigError, match=r"have 6 numbers, the teacher's 8: set hidden_mse\.projection to auto"
    ):
        HiddenMSE.check(settings(projection="never"), context)
    with pytest.raises(ConfigError, match=r"hidden_mse\.projection='sometimes'"):
        build_objectives({"hidden_mse": {"projection": "sometimes"}}, context)
