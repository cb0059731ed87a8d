"""The sources of negatives in real trainings: what they see of the mini-batch, accumulated or not, and resumed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from processes_job import together
from training_job import make_trainer

from codir.errors import ConfigError
from codir.training.trainer import DistillationTrainer

SETTINGS: dict[str, dict[str, Any]] = {
    "bank": {"negatives": "in-batch-bank"},
    "bank-k": {"negatives": "in-batch-bank", "k": 5, "sharing": "independent"},
    "live": {"negatives": "in-batch", "negatives_gradient": True},
    "draws": {"k": 20},
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


@pytest.mark.parametrize("name", ["bank", "every"])
def test_accumulated_batches_take_the_step_of_one_large_batch(tmp_path, models, name: str) -> None:
    after = []
    for batch, accumulation in ((16, 1), (4, 4)):
        trainer = trainer_of(
            tmp_path / str(batch),
            models,
            SETTINGS[name],
            max_steps=4,
            save_strategy="no",
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            optim="sgd",
            learning_rate=0.05,
            max_grad_norm=0.0,
        )
        for module in trainer.distillation.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        trainer.train()
        after.append(final(trainer))
    for key, value in after[0].items():
        torch.testing.assert_close(after[1][key], value, rtol=1e-3, atol=1e-4, msg=key)


@pytest.mark.parametrize("name", SETTINGS)
def test_resumed_it_goes_on_bit_for_bit(tmp_path, models, name: str) -> None:
    crd = SETTINGS[name]
    whole = trainer_of(tmp_path / "run", models, crd, max_steps=6, save_steps=3)
    whole.train()
    resumed = trainer_of(tmp_path / "run", models, crd, max_steps=6, save_steps=3)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    expected = final(whole)
    assert all(torch.equal(value, expected[key]) for key, value in final(resumed).items())


def test_a_batch_of_one_example_is_refused_before_training(tmp_path, models) -> None:
    with pytest.raises(ConfigError, match="1 example in a mini-batch"):
        trainer_of(tmp_path, models, SETTINGS["bank"], per_device_train_batch_size=1)
    with pytest.raises(ConfigError, match="accumulated ones do not see each other"):
        trainer_of(
            tmp_path, models, SETTINGS["live"], per_device_train_batch_size=1, gradient_accumulation_steps=8
        )


@pytest.mark.parametrize("name", ["live", "bank"])
def test_two_processes_are_one(tmp_path, models, name: str) -> None:
    # 57 examples, 8 a step: the last step of an epoch has one, which the second process only copies.
    finals = {}
    for count, batch in ((1, 8), (2, 4)):
        folder = tmp_path / str(count)
        ended = together(
            count,
            folder,
            models,
            crd={"k": "auto", **SETTINGS[name]},
            examples=57,
            per_device_train_batch_size=batch,
        )
        assert [one.code for one in ended] == [0] * count, "\n".join(one.output for one in ended)
        finals[count] = [torch.load(folder / f"final-{rank}.pt", weights_only=True) for rank in range(count)]
    (one,), (first, second) = finals[1], finals[2]
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    for key, value in one.items():
        torch.testing.assert_close(
            first[key], value, rtol=0, atol=2e-5, msg=lambda text, k=key: f"{k}: {text}"
        )
