from __future__ import annotations

import pytest
import torch
from torch import nn

from codir.errors import ModelError
from codir.teacher.frozen import FrozenTeacher

INPUTS = {
    "input_ids": torch.tensor([[2, 9, 10, 3], [2, 11, 3, 0]]),
    "attention_mask": torch.tensor([[1] * 4, [1, 1, 1, 0]]),
}


def test_stays_in_eval_mode_whatever_is_called(tiny_classifier):
    model = tiny_classifier(hidden_dropout_prob=0.5)
    teacher = FrozenTeacher(model)
    around = nn.ModuleDict({"teacher": teacher, "other": nn.Linear(2, 2)})
    around.train()
    assert around["other"].training
    assert not any(module.training for module in teacher.modules())
    teacher.train()
    assert not any(module.training for module in teacher.modules())
    model.train()  # behind its back
    one, two = (teacher.represent(INPUTS, ["mean"]) for _ in range(2))
    assert torch.equal(one.logits, two.logits)
    assert torch.equal(one.pooled["mean"], two.pooled["mean"])


def test_no_gradients(tiny_classifier):
    model = tiny_classifier()
    assert any(parameter.requires_grad for parameter in model.parameters())
    teacher = FrozenTeacher(model)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    outputs = teacher.represent(INPUTS, ["cls"])
    assert not outputs.logits.requires_grad
    # what comes out can be used in a loss (inference tensors could not)
    weight = torch.ones(32, requires_grad=True)
    (outputs.pooled["cls"] * weight).sum().backward()
    assert weight.grad is not None


def test_logits_in_the_datas_order(tiny_classifier):
    model = tiny_classifier(labels=("a", "b", "c"))
    with torch.no_grad():
        expected = model(**INPUTS).logits
    assert torch.equal(FrozenTeacher(model, logit_order=(2, 0, 1)).represent(INPUTS).logits, expected[:, [2, 0, 1]])
    assert torch.equal(FrozenTeacher(model)(**INPUTS).logits, expected)
    with pytest.raises(ModelError, match=r"0\.\.2"):
        FrozenTeacher(model, logit_order=(0, 1))


def test_precision_does_not_depend_on_a_surrounding_autocast(tiny_classifier):
    model = tiny_classifier()
    plain = FrozenTeacher(model).represent(INPUTS).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(FrozenTeacher(model).represent(INPUTS).logits, plain)
    half = FrozenTeacher(model, autocast=torch.bfloat16).represent(INPUTS).logits
    assert half.dtype == torch.float32
    assert not torch.equal(half, plain)
