"""A training step of masked language modelling against the stock model with logits at all positions."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import BertConfig, BertForMaskedLM

from codir.errors import ConfigError
from codir.losses.base import ObjectiveContext
from codir.losses.registry import build_objectives
from codir.models.loading import encoder_shape
from codir.models.student import build_student
from codir.teacher.frozen import FrozenTeacher
from codir.training.global_batch import PositionCounts
from codir.training.model import DistillationModel

VOCABULARY = 61


@pytest.fixture
def teacher() -> BertForMaskedLM:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.3,
    )
    return BertForMaskedLM(config).eval()


def batch() -> tuple[dict[str, Any], torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, VOCABULARY, (4, 16), generator=generator)
    mask = torch.ones_like(ids)
    mask[2, 10:] = 0
    chosen = (torch.rand(4, 16, generator=generator) < 0.3) & mask.bool()
    labels = torch.where(chosen, ids, -100)
    return {"input_ids": torch.where(chosen, 4, ids), "attention_mask": mask}, labels


def model_of(teacher: BertForMaskedLM, objectives: dict[str, Any]) -> DistillationModel:
    student = build_student(teacher, 2, "random", seed=3)
    context = ObjectiveContext(
        student=encoder_shape(student),
        teacher=encoder_shape(teacher),
        examples=100,
        labels=None,
        kind="masked-lm",
        num_classes=VOCABULARY,
    )
    return DistillationModel(student, build_objectives(objectives, context), frozenset()).train()


def test_step_equals_the_stock_model(teacher: BertForMaskedLM) -> None:
    inputs, labels = batch()
    model = model_of(teacher, {"mlm": {}, "kd": {"weight": 0.1, "temperature": 2.0}})
    stock = copy.deepcopy(model.student)
    outputs = model(
        inputs, labels, torch.arange(4), FrozenTeacher(teacher).represent(inputs, (), labels != -100)
    )
    outputs["loss"].backward()

    # as transformers computes it: all logits, then the chosen ones
    logits = stock(**inputs).logits
    with torch.no_grad():
        others = teacher(**inputs).logits[labels != -100]
    chosen = logits[labels != -100]
    mlm = functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    own, target = functional.log_softmax(chosen / 2, 1), functional.log_softmax(others / 2, 1)
    kd = functional.kl_div(own, target, reduction="batchmean", log_target=True)
    (mlm + 0.1 * kd).backward()

    torch.testing.assert_close(outputs["loss"], mlm + 0.1 * kd)
    torch.testing.assert_close(outputs["terms"]["mlm"].loss, mlm.detach())
    torch.testing.assert_close(outputs["terms"]["kd"].loss, kd.detach())
    torch.testing.assert_close(
        outputs["terms"]["mlm"].metrics["accuracy"],
        (chosen.argmax(1) == labels[labels != -100]).float().mean(),
    )
    for (name, mine), theirs in zip(model.student.named_parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_teacher_is_left_alone_where_no_objective_reads_its_logits(teacher: BertForMaskedLM) -> None:
    inputs, labels = batch()
    model = model_of(teacher, {"mlm": {}})
    assert model(inputs, labels, torch.arange(4))["loss"].isfinite()
    with pytest.raises(ConfigError, match="needs the teacher's logits"):
        model_of(teacher, {"kd": {}})(inputs, labels, torch.arange(4))


def test_positions_make_the_mean_global(teacher: BertForMaskedLM) -> None:
    """Two unequal halves, each divided by the mean number of positions, average to the mean over all positions."""
    inputs, labels = batch()
    model = model_of(teacher, {"mlm": {}})
    whole = model(inputs, labels, torch.arange(4))["loss"]
    mean = PositionCounts(float((labels != -100).sum()) / 2, float(inputs["attention_mask"].sum()) / 2)
    halves = [
        model(
            {key: value[rows] for key, value in inputs.items()},
            labels[rows],
            torch.arange(4)[rows],
            positions=mean,
        )["loss"]
        for rows in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(sum(halves) / 2, whole)


def test_a_batch_without_a_masked_position(teacher: BertForMaskedLM) -> None:
    inputs, labels = batch()
    model = model_of(teacher, {"mlm": {}, "kd": {}})
    nothing = torch.full_like(labels, -100)
    outputs = model(
        inputs, nothing, torch.arange(4), FrozenTeacher(teacher).represent(inputs, (), nothing != -100)
    )
    assert outputs["loss"].item() == 0.0
    outputs["loss"].backward()


def test_evaluation_scores_each_block(teacher: BertForMaskedLM) -> None:
    inputs, labels = batch()
    model = model_of(teacher, {"mlm": {}}).eval()
    found = model(inputs, labels)
    with torch.no_grad():
        logits = model.student(**inputs).logits
    for row in range(4):
        chosen = labels[row] != -100
        loss = functional.cross_entropy(logits[row][chosen], labels[row][chosen], reduction="sum")
        right = (logits[row][chosen].argmax(1) == labels[row][chosen]).sum()
        expected = torch.stack([loss, right.float(), chosen.sum().float()])
        torch.testing.assert_close(found["logits"][row], expected)
    torch.testing.assert_close(found["loss"], found["logits"][:, 0].sum() / found["logits"][:, 2].sum())


@pytest.mark.parametrize(
    ("kind", "objectives"), [("masked-lm", {"task": {}}), ("classification", {"mlm": {}})]
)
def test_wrong_kind_of_data(teacher: BertForMaskedLM, kind: Any, objectives: dict[str, Any]) -> None:
    shape = encoder_shape(teacher)
    context = ObjectiveContext(shape, shape, 10, torch.zeros(10, dtype=torch.long), kind, 2)
    with pytest.raises(ConfigError, match=r"use '(mlm|task)'"):
        build_objectives(objectives, context)
