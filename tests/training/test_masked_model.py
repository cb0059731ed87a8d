"""A training step of masked language modelling against the stock model, and against plain loops in double precision."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import BertConfig, BertForMaskedLM

from codir.errors import ConfigError
from codir.losses.base import ObjectiveContext, TokenChunk
from codir.losses.kd import KD
from codir.losses.registry import build_objectives
from codir.models import vocabulary
from codir.models.loading import encoder_shape
from codir.models.student import build_student
from codir.teacher.frozen import FrozenTeacher
from codir.training.model import DistillationModel
from codir.training.processes import plan_step

VOCABULARY = 37
ALL = {"kd": {"weight": 5.0, "positions": "all"}}


@pytest.fixture(scope="module")
def teacher() -> BertForMaskedLM:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.4,
    )
    return BertForMaskedLM(config).double().eval()


def batch(rows: int = 4, length: int = 9) -> tuple[dict[str, Any], Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, VOCABULARY, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    if length > 1:
        mask[-1, length // 2 :] = 0
    chosen = (torch.rand(rows, length, generator=generator) < 0.4) & mask.bool()
    return {"input_ids": torch.where(chosen, 4, ids), "attention_mask": mask}, torch.where(chosen, ids, -100)


def model_of(teacher: BertForMaskedLM, objectives: dict[str, Any]) -> DistillationModel:
    student = build_student(teacher, 1, "random", seed=3).double()
    context = ObjectiveContext(
        student=encoder_shape(student),
        teacher=encoder_shape(teacher),
        examples=100,
        labels=None,
        kind="masked-lm",
        num_classes=VOCABULARY,
    )
    return DistillationModel(student, build_objectives(objectives, context), frozenset()).train()


def run(model: DistillationModel, teacher: BertForMaskedLM, inputs: Any, labels: Any, **more: Any) -> dict[str, Any]:
    positions = model.chosen_positions(inputs, labels, more.get("progress", 0.0))
    taught = FrozenTeacher(teacher).represent(inputs, (), positions)
    return model(inputs, labels, torch.arange(len(labels)), taught, **more)


def naive_divergence(student: list[float], teacher: list[float], rho: float) -> float:
    def logs(row: list[float]) -> list[float]:
        top = max(value / rho for value in row)
        total = math.log(sum(math.exp(value / rho - top) for value in row))
        return [value / rho - top - total for value in row]

    return sum(math.exp(t) * (t - s) for s, t in zip(logs(student), logs(teacher), strict=True))


@pytest.mark.parametrize(("rows", "length"), [(3, 7), (1, 7), (3, 2), (1, 1)])
@pytest.mark.parametrize("positions", ["all", "masked"])
@pytest.mark.parametrize("averaged", [False, True])
def test_against_plain_loops(teacher: BertForMaskedLM, rows: int, length: int, positions: str, averaged: bool) -> None:
    inputs, labels = batch(rows, length)
    kd = {"weight": 5.0, "temperature": 2.0, "squared": True, "positions": positions, "averaged": averaged}
    model = model_of(teacher, {"mlm": {"weight": 2.0}, "kd": kd})
    with torch.no_grad():
        own, others = model.student(**inputs).logits, teacher(**inputs).logits
    outputs = run(model, teacher, inputs, labels)
    divergences, entropies, same, right = [], [], 0, 0
    for b in range(rows):
        for t in range(length):
            z_s, z_t, label = own[b, t].tolist(), others[b, t].tolist(), int(labels[b, t])
            if inputs["attention_mask"][b, t] if positions == "all" else label != -100:
                divergences.append(naive_divergence(z_s, z_t, 2.0) * 4 / (VOCABULARY if averaged else 1))
                same += z_s.index(max(z_s)) == z_t.index(max(z_t))
            if label != -100:
                entropies.append(max(z_s) + math.log(sum(math.exp(z - max(z_s)) for z in z_s)) - z_s[label])
                right += z_s.index(max(z_s)) == label
    mean, masked = (sum(each) / max(len(each), 1) for each in (divergences, entropies))
    terms = outputs["terms"]
    assert terms["kd"].loss.item() == pytest.approx(mean, rel=1e-9)
    if divergences:
        assert terms["kd"].metrics["agreement"].item() == pytest.approx(same / len(divergences))
    assert terms["mlm"].loss.item() == pytest.approx(masked, rel=1e-9)
    if entropies:
        assert terms["mlm"].metrics["accuracy"].item() == pytest.approx(right / len(entropies))
    assert outputs["loss"].item() == pytest.approx(5 * mean + 2 * masked, rel=1e-6)
    outputs["loss"].backward()


@pytest.mark.parametrize("positions", ["all", "masked"])
def test_gradients_are_those_of_whole_logits(
    teacher: BertForMaskedLM, monkeypatch: pytest.MonkeyPatch, positions: str
) -> None:
    """Three positions at a time: no logits of all positions exist, and the gradients are the same."""
    inputs, labels = batch()
    model = model_of(teacher, {"mlm": {"weight": 2.0}, "kd": {"weight": 5.0, "positions": positions}})
    stock, seen, original = copy.deepcopy(model.student), [], KD.token_loss

    def watched(self: KD, chunk: TokenChunk) -> Any:
        seen.append(len(chunk.student))
        return original(self, chunk)

    monkeypatch.setattr(KD, "token_loss", watched)
    monkeypatch.setattr(vocabulary, "chunk_of", lambda *_: 3)
    run(model, teacher, inputs, labels)["loss"].backward()
    chosen = inputs["attention_mask"] != 0 if positions == "all" else labels != -100
    assert (max(seen), sum(seen)) == (3, int(chosen.sum()))
    logits = stock(**inputs).logits
    with torch.no_grad():
        others = teacher(**inputs).logits
    own, target = (functional.log_softmax(each[chosen] / 2, 1) for each in (logits, others))
    kd = functional.kl_div(own, target, reduction="batchmean", log_target=True)
    (2 * functional.cross_entropy(logits.flatten(0, 1), labels.flatten()) + 5 * kd).backward()
    for (name, mine), theirs in zip(model.student.named_parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-6, atol=1e-9, msg=name)


def test_padding_counts_nothing(teacher: BertForMaskedLM) -> None:
    inputs, labels = batch()
    model = model_of(teacher, ALL)
    before = run(model, teacher, inputs, labels)["loss"]
    longer = {
        "input_ids": functional.pad(inputs["input_ids"], (0, 4), value=9),
        "attention_mask": functional.pad(inputs["attention_mask"], (0, 4)),
    }
    after = run(model, teacher, longer, functional.pad(labels, (0, 4), value=-100))["loss"]
    torch.testing.assert_close(before, after)


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_batch_without_a_masked_token(teacher: BertForMaskedLM, everywhere: bool) -> None:
    inputs, labels = batch()
    model = model_of(teacher, {"mlm": {}, **(ALL if everywhere else {"kd": {}})})
    outputs = run(model, teacher, inputs, torch.full_like(labels, -100))
    assert outputs["terms"]["mlm"].loss.item() == 0.0
    assert (outputs["loss"].item() > 0) == everywhere
    outputs["loss"].backward()


def test_parts_of_a_step_make_the_mean_over_its_tokens(teacher: BertForMaskedLM) -> None:
    """Two unequal parts, planned as the trainer plans them, average to the loss of the whole batch."""
    inputs, labels = batch()
    model = model_of(teacher, {"mlm": {}, **ALL})
    whole = run(model, teacher, inputs, labels)["loss"]
    parts = [slice(0, 1), slice(1, 4)]
    cut = [({key: value[rows] for key, value in inputs.items()}, labels[rows]) for rows in parts]
    planned = plan_step(
        [
            {"inputs": own, "labels": wanted, "example_id": torch.arange(4)[rows]}
            for (own, wanted), rows in zip(cut, parts, strict=True)
        ]
    )
    losses = [
        part.weight * run(model, teacher, own, wanted, positions=part.positions)["loss"]
        for part, (own, wanted) in zip(planned, cut, strict=True)
    ]
    torch.testing.assert_close(sum(losses) / 2, whole)


def test_all_positions_only_while_such_a_term_counts(teacher: BertForMaskedLM) -> None:
    inputs, labels = batch()
    model = model_of(teacher, {"mlm": {}, "kd": {"positions": "all", "end": 0.5}})
    early, late = (model.chosen_positions(inputs, labels, progress) for progress in (0.1, 0.9))
    assert early is not None
    assert late is not None
    assert torch.equal(early, inputs["attention_mask"] != 0)
    assert torch.equal(late, labels != -100)
    assert set(run(model, teacher, inputs, labels, progress=0.9)["terms"]) == {"mlm"}


def test_the_teacher_is_left_alone_where_no_loss_reads_its_logits(teacher: BertForMaskedLM) -> None:
    inputs, labels = batch()
    assert model_of(teacher, {"mlm": {}})(inputs, labels, torch.arange(4))["loss"].isfinite()
    with pytest.raises(ConfigError, match="needs the teacher's logits"):
        model_of(teacher, {"kd": {}})(inputs, labels, torch.arange(4))


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
        expected = torch.stack([loss, right, chosen.sum()]).float()
        torch.testing.assert_close(found["logits"][row], expected)
    torch.testing.assert_close(found["loss"].float(), found["logits"][:, 0].sum() / found["logits"][:, 2].sum())
