"""The typed configuration refuses what makes no sense and has the paper's defaults."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from codir.config.config import DataConfig, DistillConfig, FinetuneConfig
from codir.config.pretraining import MaskingConfig, PretrainConfig, PretrainingConfig
from codir.config.student_config import StudentConfig
from codir.config.trainer_arguments import check_more
from codir.config.training_config import OptimisationConfig, TrainingConfig
from codir.errors import ConfigError
from codir.settings import Section, section_at

GOOD: dict[str, Any] = {"teacher": "t", "output": "o", "data": {"task": "sst2"}}


SECTIONS: list[type[Section]] = [DataConfig, StudentConfig, TrainingConfig, FinetuneConfig, DistillConfig]
SECTIONS += [MaskingConfig, PretrainingConfig, PretrainConfig]


def test_defaults_are_the_papers_and_its_codes() -> None:
    training = TrainingConfig()
    assert (training.learning_rate, training.per_device_train_batch_size) == (2e-5, 32)
    assert training.num_train_epochs == 10
    assert (training.adam_beta1, training.adam_beta2, training.adam_epsilon) == (0.9, 0.98, 1e-6)
    assert (training.weight_decay, training.warmup_steps, training.lr_scheduler_type) == (0.1, 0.06, "linear")


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_is_described(section: type[Section]) -> None:
    assert all(field.description for field in section.model_fields.values())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "nothing is set"),
        ({"task": "sst2", "train": "a.csv"}, "exclude each other"),
        ({"task": "sst2", "validation": "a.csv"}, "exclude each other"),
        ({"task": "sst2", "text": "review"}, "its own columns"),
        ({"task": "sst2", "kind": "regression"}, "its own columns"),
        ({"train": "a.csv", "data_dir": "d"}, "data_dir"),
        ({"task": "sst2", "max_length": 0}, "greater than or equal to 4"),
        ({"task": "sst2", "limit_train": 0}, "greater than or equal to 1"),
        ({"train": "a.csv", "kind": "regresion"}, "regression"),
    ],
)
def test_data_that_makes_no_sense(data: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        DataConfig.model_validate(data)


def test_validation_alone_is_for_evaluating_only() -> None:
    data = {"validation": "dev.csv"}
    assert DataConfig.model_validate(data).validation == "dev.csv"
    with pytest.raises(ValidationError, match="--train"):
        DistillConfig.model_validate({**GOOD, "data": data})


@pytest.mark.parametrize(
    ("student", "words"),
    [
        ({"model": "m", "config": "c.json"}, "exclude each other"),
        ({"model": "m", "layers": 3}, "leave out"),
        ({"model": "m", "init": "first"}, "leave out"),
        ({"config": "c.json", "init": [1, 2]}, "leave out"),
        ({"layers": 2, "init": [1, 2, 3]}, "agree"),
        ({"layers": 0}, "greater than"),
        ({"init": []}, "empty"),
        ({"init": [0, 1]}, "from 1"),
        ({"init": "sprad"}, "spread"),
    ],
)
def test_students_that_make_no_sense(student: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        StudentConfig.model_validate(student)


@pytest.mark.parametrize(
    ("given", "meant"), [("2,4,6", [2, 4, 6]), ("2, 4", [2, 4]), (3, [3]), ("3", [3]), ("last", "last")]
)
def test_layers_can_be_written_as_on_the_command_line(given: Any, meant: Any) -> None:
    assert StudentConfig(init=given).init == meant


OUT_OF_RANGE = {
    "learning_rate": (0, -1e-5, float("nan"), float("inf"), True),
    "per_device_train_batch_size": (0, 1.5, False),
    "num_train_epochs": (0,),
    "warmup_steps": (-0.1,),
    "lr_scheduler_type": ("liner",),
    "precision": ("fp8",),
    "adam_beta2": (1.0,),
    "eval_steps": (0, "step"),
    "early_stopping_patience": (0,),
    "seed": (-1,),
    "report_to": (3,),
    "train_sampling_strategy": ("perhaps",),
}


@pytest.mark.parametrize("key", OUT_OF_RANGE)
def test_training_values_out_of_range(key: str) -> None:
    for value in OUT_OF_RANGE[key]:
        with pytest.raises(ValidationError, match=key):
            TrainingConfig.model_validate({key: value})


def test_numbers_given_as_text_are_numbers() -> None:
    training = TrainingConfig.model_validate({"learning_rate": "1e-3", "per_device_train_batch_size": "16"})
    assert (training.learning_rate, training.per_device_train_batch_size) == (1e-3, 16)


def test_what_we_set_cannot_be_set_a_second_time() -> None:
    with pytest.raises(ValidationError, match=r"training\.precision"):
        TrainingConfig.model_validate({"bf16": True})
    assert TrainingConfig.model_validate({"dataloader_num_workers": 2}).more() == {"dataloader_num_workers": 2}


@pytest.mark.parametrize(
    ("section", "old", "new"),
    [
        (TrainingConfig, "epochs", "num_train_epochs"),
        (TrainingConfig, "batch_size", "per_device_train_batch_size"),
        (PretrainingConfig, "batch_size", "global_batch_size"),
        (PretrainingConfig, "micro_batch", "per_device_train_batch_size"),
    ],
)
def test_an_old_name_is_answered_with_the_new_one(section: type[Section], old: str, new: str) -> None:
    with pytest.raises(ValidationError, match=f"{old} is .*{new}"):
        section.model_validate({old: 1})


@pytest.mark.parametrize(("config", "section"), [(DistillConfig, TrainingConfig), (PretrainConfig, PretrainingConfig)])
def test_the_keys_named_instead_exist(config: type[Section], section: type[OptimisationConfig]) -> None:
    for path in [each.partition(" ")[0] for each in section.elsewhere.values()]:
        *sections, name = path.split(".")
        assert name in section_at(config, sections).model_fields


def test_a_loss_without_terms_is_refused() -> None:
    with pytest.raises(ValidationError, match="objectives is empty"):
        DistillConfig.model_validate({**GOOD, "objectives": {}})


@pytest.mark.parametrize("section", SECTIONS)
def test_unknown_keys_are_refused(section: type[Section]) -> None:
    if issubclass(section, OptimisationConfig):
        with pytest.raises(ConfigError, match="unknown key 'no_such_key'"):
            check_more(section.model_validate({"no_such_key": 1}))
        return
    with pytest.raises(ValidationError, match="extra_forbidden"):
        section.model_validate({**GOOD, "no_such_key": 1})
