"""The released code's loss against a naive version in float64 over several steps."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from naive_losses import dot, unit

from codir.errors import ConfigError
from codir.losses.base import ObjectiveContext
from codir.losses.crd_official import OfficialCRD, OfficialCRDSettings
from codir.losses.registry import build_objectives, needs_of

Vector = list[float]


def project(pooled: torch.Tensor, layers: list[int], linear: torch.nn.Linear) -> Vector:
    flat = [value for layer in layers for value in pooled[layer - 1].tolist()]
    weight, bias = linear.weight.tolist(), linear.bias.tolist()
    return unit([dot(row, flat) + b for row, b in zip(weight, bias, strict=True)])


def direction(live: list[Vector], bank: list[Vector], rows: list[list[int]], z: float | None) -> tuple[float, float]:
    """One direction with tau = 0.07: rows[b][0] is the positive. Returns the loss and Z."""
    powers = [[math.exp(dot(h, bank[i]) / 0.07) for i in row] for h, row in zip(live, rows, strict=True)]
    if z is None:
        z = sum(map(sum, powers)) / sum(map(len, powers)) * len(bank)
    noise, loss = (len(rows[0]) - 1) / len(bank), 0.0
    for row in powers:
        p = [value / z for value in row]
        loss -= math.log(p[0] / (p[0] + noise + 1e-7))
        loss -= sum(math.log(noise / (value + noise + 1e-7)) for value in p[1:])
    return loss / len(rows), z


def build(context: ObjectiveContext, **settings: Any) -> OfficialCRD:
    objective = build_objectives({"crd_official": {"dim": 4, "k": 5, **settings}}, context)["crd_official"]
    assert isinstance(objective, OfficialCRD)
    return objective


@pytest.mark.parametrize("divide", [True, False])
def test_several_steps_against_plain_loops(context, make_step, divide: bool) -> None:
    objective = build(context, divide_by_batch=divide)
    s_bank, t_bank = objective.student_bank.data.tolist(), objective.teacher_bank.data.tolist()
    assert s_bank != t_bank
    z_s: float | None = None
    z_t: float | None = None
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)
    for number, ids in enumerate([[0, 1, 5, 6], [7, 1, 2, 0], [23]]):
        step = make_step(ids, seed=number)
        state = objective.generator.get_state()
        drawn = objective.sampler.draw(step.ids, 5)
        objective.generator.set_state(state)
        rows = [[i, *drawn.ids[g].tolist()] for i, g in zip(ids, drawn.group.tolist(), strict=True)]
        teacher = [
            project(row.double(), [1, 3], objective.teacher_projection.linear) for row in step.teacher.pooled["cls"]
        ]
        student = [
            project(row.detach().double(), [1, 2], objective.student_projection.linear)
            for row in step.student.pooled["cls"]
        ]
        loss_s, z_s = direction(student, t_bank, rows, z_s)
        loss_t, z_t = direction(teacher, s_bank, rows, z_t)
        term = objective(step)
        expected = (loss_s + loss_t) / 2 / (len(ids) if divide else 1)
        assert term.loss.item() == pytest.approx(expected, rel=1e-4)
        term.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        objective.after_step(True)
        for b, i in enumerate(ids):
            s_bank[i] = unit([0.5 * old + 0.5 * new for old, new in zip(s_bank[i], student[b], strict=True)])
            t_bank[i] = unit([0.5 * old + 0.5 * new for old, new in zip(t_bank[i], teacher[b], strict=True)])
        torch.testing.assert_close(objective.student_bank.data, torch.tensor(s_bank), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(objective.teacher_bank.data, torch.tensor(t_bank), atol=1e-5, rtol=1e-5)


def test_defaults_are_the_released_codes(context) -> None:
    settings = OfficialCRDSettings()
    assert (settings.pooling, settings.sharing, settings.divide_by_batch) == ("cls", "independent", True)
    objective = build(context)
    assert objective.teacher_projection.layers == (1, 3)
    assert needs_of({"crd_official": {}}).pooled == {"cls"}
    assert "2 of 24 x 4, 768 B" in "\n".join(objective.describe())


def test_constants_freeze_at_the_first_training_batch_and_are_restored(context, make_step) -> None:
    objective = build(context)
    objective.eval()
    with torch.no_grad():
        assert objective(make_step([0, 1])).loss.isfinite()
    assert objective.state_dict()["_log_constants"].isnan().all()
    objective.train()
    objective(make_step([0, 1], seed=1))
    frozen = objective.state_dict()["_log_constants"].clone()
    objective.after_step(True)
    objective(make_step([4, 5], seed=2))
    assert torch.equal(objective.state_dict()["_log_constants"], frozen)
    objective.after_step(False)
    restored = build(replace(context, seed=9))
    restored.load_state_dict(objective.state_dict())
    for seed in (3, 4):
        step = make_step([6, 7, 8], seed=seed)
        assert restored(step).loss.item() == objective(step).loss.item()
        restored.after_step(True)
        objective.after_step(True)
    assert torch.equal(restored.teacher_bank.data, objective.teacher_bank.data)


@pytest.mark.parametrize(
    ("settings", "message"), [({"k": "all"}, "no meaning"), ({"negatives": "hard"}, "fewer than K")]
)
def test_refusals(context, settings, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(context, **settings)
