"""A trained temperature: against a float64 version of it, its range, its state, what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from codir.errors import ConfigError
from codir.losses.base import ObjectiveContext, Step
from codir.losses.crd import CRD
from codir.losses.registry import build_objectives
from codir.losses.temperature import LearnedTemperature

MakeStep = Callable[..., Step]
SOURCES: dict[str, dict[str, Any]] = {
    "drawn": {"k": 5},
    "all": {"k": "all"},
    "hard": {"k": 5, "negatives": "hard"},
    "in-batch-bank": {"negatives": "in-batch-bank"},
    "in-batch": {"negatives": "in-batch"},
    "queue": {"negatives": "queue", "queue_size": 8},
}


def build(context: ObjectiveContext, learn: bool = True, **settings: Any) -> CRD:
    mapping = {"crd": {"dim": 4, "learn_temperature": learn, **settings}}
    objective = build_objectives(mapping, context)["crd"]
    assert isinstance(objective, CRD)
    return objective


def naive(anchor: Tensor, live: Tensor, rows: list[list[Tensor]], x: Tensor) -> Tensor:
    """The mean loss in float64, one anchor at a time, with x = log(1/tau)."""
    losses = []
    for b, own in enumerate(rows):
        logits = [torch.exp(x) * (anchor[b] @ other) for other in (live[b], *own)]
        losses.append(torch.log(sum((torch.exp(each - logits[0]) for each in logits), torch.zeros(()))))
    return torch.stack(losses).mean()


def rows_of(objective: CRD, step: Step, live: Tensor) -> list[list[Tensor]]:
    """The negatives of the next forward pass."""
    name, ids = objective.settings.model_dump()["negatives"], step.ids.tolist()
    if name == "in-batch":
        return [[live[j] for j, other in enumerate(ids) if other != own] for own in ids]
    if name == "in-batch-bank":
        bank = objective.bank.rows(torch.arange(24)).double()
        return [[bank[other] for other in sorted(set(ids)) if other != own] for own in ids]
    if name == "queue":
        queue: Any = objective.source
        held = [
            (i, row)
            for i, row in zip(queue.queue.ids.tolist(), queue.queue.data.double(), strict=True)
            if i >= 0
        ]
        return [[row for other, row in held if other != own] for own in ids]
    bank = objective.bank.rows(torch.arange(24)).double()
    if objective.source.k == "all":
        allowed = objective.sampler.admissible(step.ids)(0, 24)
        return [[bank[j] for j in row.nonzero().flatten().tolist()] for row in allowed]
    state = objective.sampler.state()
    drawn = objective.sampler.draw(step.ids, objective.source.k)
    objective.sampler.load_state(state)
    found = []
    for group in drawn.group.tolist():
        keep = [True] * drawn.ids.shape[1] if drawn.mask is None else drawn.mask[group].tolist()
        found.append([bank[j] for j, kept in zip(drawn.ids[group].tolist(), keep, strict=True) if kept])
    return found


@pytest.mark.parametrize("source", SOURCES)
def test_several_steps_against_plain_loops(
    context: ObjectiveContext, make_step: MakeStep, source: str
) -> None:
    objective = build(context, temperature=0.2, temperature_rate=50.0, **SOURCES[source])
    learned = objective.learned_temperature
    assert learned is not None
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.001)
    x = torch.tensor(math.log(1 / 0.2), dtype=torch.float64)
    for number, ids in enumerate([[0, 1, 5, 6], [7, 1, 2, 0], [23], [0, 1, 2, 3, 4]]):
        step = make_step(ids, seed=number)
        assert step.teacher is not None
        anchor = objective.teacher_projection(step.teacher.pooled["mean"]).detach().double()
        live = objective.student_projection(step.student.pooled["mean"]).detach().double()
        x.requires_grad_()
        expected = naive(anchor, live, rows_of(objective, step, live), x)
        (slope,) = torch.autograd.grad(expected, x, allow_unused=True)
        term = objective(step)
        assert term.metrics["temperature"].item() == pytest.approx(math.exp(-x.item()), rel=1e-5)
        assert term.loss.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)
        term.loss.backward()
        assert learned.shift.grad is not None
        assert learned.shift.grad.item() == pytest.approx(slope.item(), rel=1e-3, abs=1e-5)
        optimizer.step()
        optimizer.zero_grad()
        objective.after_step()
        x = (x - 0.001 * 50.0 * slope).detach()  # SGD at 50 learning rates
    assert learned().item() != pytest.approx(0.2, rel=1e-3)


@pytest.mark.parametrize("source", SOURCES)
def test_at_the_start_nothing_differs(context: ObjectiveContext, make_step: MakeStep, source: str) -> None:
    steps = [make_step([0, 1, 2, 3]), make_step([0, 1, 2, 3])]
    for warm in (False, True):  # the queue is empty at first
        fixed, learned = build(context, False, **SOURCES[source]), build(context, True, **SOURCES[source])
        terms = []
        for objective, step in zip((fixed, learned), steps, strict=True):
            if warm:
                objective(make_step([7, 8, 9], seed=4))
                objective.after_step()
            step.student.pooled["mean"].grad = None
            terms.append(objective(step))
            terms[-1].loss.backward()
        torch.testing.assert_close(terms[0].loss, terms[1].loss)
        torch.testing.assert_close(*(step.student.pooled["mean"].grad for step in steps))
        assert terms[1].metrics.keys() - terms[0].metrics.keys() == {"temperature"}


def test_adam_moves_it_by_the_rate_and_the_range_holds() -> None:
    for sign, bound in ((1.0, 1.0), (-1.0, 0.01)):
        temperature = LearnedTemperature(0.07, 100.0)
        optimizer = torch.optim.AdamW(temperature.parameters(), lr=1e-3, weight_decay=0.0)
        taus = []
        for _ in range(40):
            (-sign * temperature()).backward()
            optimizer.step()
            optimizer.zero_grad()
            temperature.clamp()
            taus.append(temperature().item())
        assert math.log(taus[0] / 0.07) == pytest.approx(sign * 0.1, rel=1e-3)  # 100 times the learning rate
        assert taus[-1] == pytest.approx(bound, rel=1e-5)
        assert all(0.01 * (1 - 1e-5) <= tau <= 1 + 1e-5 for tau in taus)
        for _ in range(40):  # it does not stick there
            (sign * temperature()).backward()
            optimizer.step()
            optimizer.zero_grad()
            temperature.clamp()
        assert temperature().item() != pytest.approx(bound, rel=1e-2)


def test_its_gradient_is_that_of_the_logarithm() -> None:
    slopes = []
    for rate in (1.0, 100.0):
        temperature = LearnedTemperature(0.07, rate)
        temperature().backward()
        assert temperature.shift.grad is not None
        slopes.append(temperature.shift.grad.item())
    assert slopes == pytest.approx([-0.07, -0.07])  # d tau / d log(1/tau) = -tau, whatever the rate


@pytest.mark.parametrize("source", SOURCES)
def test_restored_it_goes_on_bit_for_bit(context: ObjectiveContext, make_step: MakeStep, source: str) -> None:
    def run(objective: CRD, optimizer: torch.optim.Optimizer, start: int, stop: int) -> list[float]:
        losses = []
        for number in range(start, stop):
            term = objective(make_step([number, (3 * number + 1) % 24, 11], seed=number))
            term.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            objective.after_step()
            losses += [term.loss.item(), term.metrics["temperature"].item()]
        return losses

    def start() -> tuple[CRD, torch.optim.Optimizer]:
        objective = build(context, **SOURCES[source])
        return objective, torch.optim.Adam(objective.parameters(), lr=1e-3)

    objective, optimizer = start()
    run(objective, optimizer, 0, 4)
    kept = (
        {key: value.clone() for key, value in objective.extra_state().items()},
        {key: value.clone() for key, value in objective.state_dict().items()},
    )
    adam = {
        number: {key: value.clone() for key, value in each.items()}
        for number, each in optimizer.state_dict()["state"].items()
    }
    expected = run(objective, optimizer, 4, 8)
    assert "learned_temperature.shift" in kept[1]
    restored, optimizer = start()
    restored.load_state_dict(kept[1])
    restored.load_extra_state(kept[0])
    optimizer.load_state_dict({"state": adam, "param_groups": optimizer.state_dict()["param_groups"]})
    assert run(restored, optimizer, 4, 8) == expected
    assert len(set(expected[1::2])) == 4  # it moves


@pytest.mark.parametrize("source", ["drawn", "all"])
def test_under_autocast_it_stays_fp32(context: ObjectiveContext, make_step: MakeStep, source: str) -> None:
    objective = build(context, **SOURCES[source])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        term = objective(make_step([0, 1, 2]))
    assert term.loss.dtype == term.metrics["temperature"].dtype == torch.float32
    assert term.metrics["temperature"].item() == pytest.approx(0.07, rel=1e-6)


def test_without_any_negative_it_has_no_slope(context: ObjectiveContext, make_step: MakeStep) -> None:
    objective = build(context, negatives="in-batch-bank")
    term = objective(make_step([3]))
    term.loss.backward()
    assert objective.learned_temperature is not None
    assert objective.learned_temperature.shift.grad is not None
    assert objective.learned_temperature.shift.grad.item() == 0
    assert term.metrics["negative"].item() == 0


@pytest.mark.parametrize(("temperature", "fine"), [(0.01, True), (1.0, True), (0.009, False), (1.5, False)])
def test_a_start_outside_of_the_range_is_refused(
    context: ObjectiveContext, temperature: float, fine: bool
) -> None:
    if fine:
        objective = build(context, k=5, temperature=temperature)
        assert "temperature: learned" in objective.describe()[-1]
        return
    with pytest.raises(ConfigError, match=rf"crd\.temperature={temperature} .*drop learn_temperature"):
        build(context, k=5, temperature=temperature)
    build(context, False, k=5, temperature=temperature)


def test_other_values_are_refused(context: ObjectiveContext) -> None:
    with pytest.raises(ConfigError, match=r"crd\.temperature_rate=0"):
        build(context, k=5, temperature_rate=0)
    assert build(context, False, k=5).learned_temperature is None
    assert not [key for key in build(context, False, k=5).state_dict() if "temperature" in key]
