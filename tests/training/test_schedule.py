"""Terms that count for a part of the training only, and layers that are frozen for a part of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from transformers import TrainerCallback

sys.path.insert(0, str(Path(__file__).parent))
from training_job import make_trainer

from codir.errors import ConfigError
from codir.losses.base import Objective, ObjectiveContext, ObjectiveSettings, Term
from codir.losses.registry import check_schedule
from codir.models.representations import EncoderShape

SHORT = {"num_train_epochs": 1, "save_strategy": "no", "eval_strategy": "no", "logging_steps": 1}


class Freezes(Objective):
    """Keeps the embeddings and layer 1 as they are in the first half of the training."""

    name = "freezes"

    def forward(self, step):
        return Term(step.student.logits.float().square().mean())

    def frozen_layers(self, progress):
        return frozenset({0, 1}) if progress < 0.5 else frozenset()


def test_a_term_counts_between_its_start_and_its_end(tmp_path, models):
    objectives = {"task": {"start": 0.5}, "kd": {"end": 0.5}}
    trainer = make_trainer(tmp_path, models, objectives, **SHORT)
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    first, second = steps[: len(steps) // 2], steps[len(steps) // 2 :]
    assert all("loss_kd" in entry and "loss_task" not in entry for entry in first)
    assert all("loss_task" in entry and "loss_kd" not in entry for entry in second)


def test_frozen_layers_do_not_move_at_all_and_then_do(tmp_path, models):
    objectives = {f"{__name__}:Freezes": {}, "task": {}}
    trainer = make_trainer(tmp_path, models, objectives, **SHORT, weight_decay=0.1, max_steps=4)
    student = trainer.distillation.student
    history = []

    def snapshot():
        history.append({name: value.detach().clone() for name, value in student.named_parameters()})

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            snapshot()

    snapshot()
    trainer.add_callback(Look())
    trainer.train()
    low = [n for n in history[0] if ".embeddings." in n or ".layer.0." in n]
    high = "bert.encoder.layer.1.output.dense.weight"
    assert len(low) > 10
    assert all(torch.equal(history[0][name], history[2][name]) for name in low)
    assert not torch.equal(history[0][high], history[2][high])
    assert not torch.equal(history[2][low[0]], history[4][low[0]])


def test_a_student_whose_layers_cannot_be_told_apart_is_refused_before_training(tmp_path, models):
    from codir.errors import ModelError
    from codir.training.model import DistillationModel

    class OneLayer(nn.Module):
        config = None

    shape = EncoderShape(1, 8)
    objective = Freezes(ObjectiveSettings(), ObjectiveContext(shape, None, 8, None, "classification", num_classes=2))
    with pytest.raises(ModelError):
        DistillationModel(OneLayer(), {"freezes": objective}, frozenset())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        ({"a": (0.0, 1.0)}, None),
        ({"a": (0.0, 0.5), "b": (0.5, 1.0)}, None),
        ({"a": (0.4, 1.0), "b": (0.0, 0.6)}, None),
        ({"a": (0.1, 1.0)}, "Between 0% of the training and 10%"),
        ({"a": (0.0, 0.4), "b": (0.5, 1.0)}, "Between 40% of the training and 50%"),
        ({"a": (0.0, 0.9)}, "Between 90% of the training and 100%"),
        ({"weightless": (0.0, 1.0), "b": (0.5, 1.0)}, "Between 0%"),
    ],
)
def test_terms_must_cover_the_training(windows, message):
    settings = {
        name: ObjectiveSettings(start=start, end=end, weight=float(name != "weightless"))
        for name, (start, end) in windows.items()
    }
    if message is None:
        check_schedule(settings)
        return
    with pytest.raises(ConfigError, match=message):
        check_schedule(settings)


def test_start_must_be_before_end():
    with pytest.raises(ValidationError, match="smaller than end"):
        ObjectiveSettings(start=0.5, end=0.5)
    settings = ObjectiveSettings(start=0.25, end=0.5)
    assert [settings.counts_at(share) for share in (0.0, 0.25, 0.49, 0.5, 0.75)] == [0, 1, 1, 0, 0]
