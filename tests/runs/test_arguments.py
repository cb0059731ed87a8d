"""From the training section to transformers' arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from codir.config.training_config import TrainingConfig
from codir.errors import ConfigError
from codir.runs.arguments import to_arguments
from codir.training.arguments import DistillationArguments


def arguments(folder: Path, **settings: Any) -> DistillationArguments:
    return to_arguments(TrainingConfig(precision="fp32", **settings), folder, "accuracy", 100)


def test_every_setting_arrives(tmp_path: Path) -> None:
    same: dict[str, Any] = {
        **{
            "learning_rate": 3e-4,
            "per_device_train_batch_size": 7,
            "num_train_epochs": 2.5,
            "warmup_steps": 0.1,
        },
        **{
            "gradient_accumulation_steps": 3,
            "lr_scheduler_type": "cosine",
            "weight_decay": 0.2,
            "eval_steps": 9,
        },
        **{"adam_beta1": 0.8, "adam_beta2": 0.9, "adam_epsilon": 1e-7, "max_grad_norm": 0.5, "seed": 11},
        **{"save_total_limit": 5, "data_seed": 12},
    }
    given = arguments(tmp_path, **same)
    assert {name: getattr(given, name) for name in same} == same
    assert (given.save_steps, given.train_sampling_strategy) == (9, "group_by_length")
    assert given.output_dir == str(tmp_path)


def test_a_budget_in_steps_is_the_same_for_data_of_any_size(tmp_path: Path) -> None:
    for examples in (100, 10_000):
        given = to_arguments(TrainingConfig(precision="fp32", max_steps=45), tmp_path, "accuracy", examples)
        assert (given.max_steps, given.eval_steps, given.save_steps) == (45, 5, 5)
        assert (given.eval_strategy, given.save_strategy) == ("steps", "steps")
    given = arguments(tmp_path, max_steps=45, eval_steps=9)
    assert (given.max_steps, given.eval_steps) == (45, 9)
    assert to_arguments(TrainingConfig(precision="fp32", max_steps=3), tmp_path, "accuracy", 8, 99).max_steps == 3


def test_the_best_checkpoint(tmp_path: Path) -> None:
    given = arguments(tmp_path)
    assert (given.load_best_model_at_end, given.metric_for_best_model) == (True, "eval_accuracy")
    assert given.greater_is_better
    by_loss = arguments(tmp_path, metric_for_best_model="eval_loss")
    assert by_loss.greater_is_better is False  # the smallest loss is the best
    assert not arguments(tmp_path, load_best_model_at_end=False).load_best_model_at_end
    assert arguments(tmp_path, load_best_model_at_end=False, early_stopping_patience=2).load_best_model_at_end


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gradient_checkpoint": True}, "did you mean 'gradient_checkpointing'"),
        ({"optim": "no_such"}, "no_such"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is not supported"),
        ({"report_to": ["tensorbord"]}, "did you mean 'tensorboard'"),
    ],
)
def test_refusals(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        arguments(tmp_path, **settings)
