"""The sources of negatives in real trainings: what they see of the mini-batch, accumulated or not, and resumed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from training_job import make_trainer

from codir.training.trainer import DistillationTrainer

SETTINGS: dict[str, dict[str, Any]] = {
    "bank": {"negatives": "in-batch-bank"},
    "bank-k": {"negatives": "in-batch-bank", "k": 5, "sharing": "independent"},
    "live": {"negatives": "in-batch", "negatives_gradient": True},
    "every": {"k": "all"},
}


def trainer_of(folder: Path, models: Path, crd: dict[str, Any], **settings: Any) -> DistillationTrainer:
    return make_trainer(
        folder,
        models,
        {"task": {}, "crd": {"weight": 0.5, "dim": 8, **crd}},
        eval_strategy="no",
        logging_steps=1,
        train_sampling_strategy="random",
        **settings,
    )


def final(trainer: DistillationTrainer) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in trainer.distillation.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # 60 examples in steps of 16, as two batches of 8: the last step of an epoch has 12.
        ("bank", [15, 15, 15, 11]),
        ("bank-k", [5, 5, 5, 5]),
        ("live", [7, 7, 7, (8 * 7 + 4 * 3) / 12]),
    ],
)
def test_how_many_negatives_there_are(tmp_path, models, name: str, expected: list[float]) -> None:
    trainer = trainer_of(
        tmp_path,
        models,
        SETTINGS[name],
        num_train_epochs=1,
        gradient_accumulation_steps=2,
        save_strategy="no",
    )
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "crd_negatives" in entry]
    assert [entry["crd_negatives"] for entry in logs] == pytest.approx(expected)
    assert all(0 <= entry["crd_accuracy"] <= 1 for entry in logs)
    assert [entry["loss_crd"] > 0 for entry in logs] == [count > 0 for count in expected]


@pytest.mark.parametrize("name", ["bank-k", "live", "every"])
def test_resumed_it_goes_on_bit_for_bit(tmp_path, models, name: str) -> None:
    crd = SETTINGS[name]
    whole = trainer_of(tmp_path / "run", models, crd, max_steps=6, save_steps=3)
    whole.train()
    resumed = trainer_of(tmp_path / "run", models, crd, max_steps=6, save_steps=3)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    expected = final(whole)
    assert all(torch.equal(value, expected[key]) for key, value in final(resumed).items())
