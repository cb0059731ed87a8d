"""How to train: the section `training` of a run's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from codir.config.sections import Section

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Scheduler = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
]


class OptimisationConfig(Section):
    """What every training has. The defaults of the optimiser are those of the paper's released code."""

    # transformers' names of what the section already sets, and the key to use instead
    set_by_us: ClassVar[Mapping[str, str]] = {}

    learning_rate: float = Field(
        default=2e-5, gt=0, le=100, description="peak learning rate (the paper: 1e-5 or 2e-5)"
    )
    warmup: float = Field(
        default=0.06, ge=0, le=1, description="share of the steps in which the learning rate rises"
    )
    scheduler: Scheduler = Field(
        default="linear", description="how the learning rate falls after the warm-up"
    )
    weight_decay: float = Field(default=0.1, ge=0, le=100, description="decoupled weight decay")
    adam_beta1: float = Field(default=0.9, ge=0, lt=1, description="Adam's decay of the mean gradient")
    adam_beta2: float = Field(default=0.98, ge=0, lt=1, description="Adam's decay of the squared gradient")
    adam_epsilon: float = Field(default=1e-6, gt=0, le=1, description="Adam's epsilon")
    max_grad_norm: float = Field(
        default=1.0, ge=0, le=1e6, description="gradients are clipped to this norm (0: never)"
    )
    precision: Precision = Field(
        default="auto",
        description="number format: fp32, bf16, fp16, or auto (bf16 where the hardware has it)",
    )
    save_total_limit: int = Field(
        default=2, ge=1, le=1_000_000, description="checkpoints kept in the run folder"
    )
    keep_checkpoints: bool = Field(
        default=False, description="keep the checkpoints once the run is finished and the model is written"
    )
    seed: int = Field(default=42, ge=0, lt=2**32, description="seeds everything that is drawn")
    report_to: list[str] = Field(
        default_factory=list, description="loggers known to transformers (tensorboard, wandb, mlflow, ...)"
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict,
        description="anything else, passed on to transformers.TrainingArguments by its names there",
    )

    @field_validator("report_to", mode="before")
    @classmethod
    def _names_with_commas(cls, value: Any) -> Any:
        return [name.strip() for name in value.split(",")] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _nothing_twice(self) -> Self:
        for name in self.arguments:
            if name in self.set_by_us:
                raise ValueError(f"arguments.{name} is set by codir: use {self.set_by_us[name]} instead")
        return self


SET_BY_US = {
    "output_dir": "output",
    "learning_rate": "training.learning_rate",
    "warmup_steps": "training.warmup",
    "warmup_ratio": "training.warmup",
    "lr_scheduler_type": "training.scheduler",
    "weight_decay": "training.weight_decay",
    "adam_beta1": "training.adam_beta1",
    "adam_beta2": "training.adam_beta2",
    "adam_epsilon": "training.adam_epsilon",
    "max_grad_norm": "training.max_grad_norm",
    "bf16": "training.precision",
    "fp16": "training.precision",
    "save_total_limit": "training.save_total_limit",
    "seed": "training.seed",
    "report_to": "training.report_to",
    "resume_from_checkpoint": "resume",
}


class TrainingConfig(OptimisationConfig):
    """How to train on a task."""

    set_by_us: ClassVar[Mapping[str, str]] = {
        **SET_BY_US,
        "per_device_train_batch_size": "training.batch_size",
        "num_train_epochs": "training.epochs",
        "max_steps": "training.steps",
        "gradient_accumulation_steps": "training.gradient_accumulation",
        "group_by_length": "training.group_by_length",
        "train_sampling_strategy": "training.group_by_length",
        "eval_strategy": "training.evaluate_every",
        "eval_steps": "training.evaluate_every",
        "save_strategy": "training.evaluate_every",
        "save_steps": "training.evaluate_every",
        "load_best_model_at_end": "training.keep_best",
    }

    batch_size: int = Field(
        default=32, ge=1, le=1_000_000, description="examples per step and device (the paper: 16 or 32)"
    )
    epochs: float = Field(default=10.0, gt=0, le=100_000, description="passes over the training data")
    steps: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000_000,
        description="optimiser steps instead of epochs, evaluated ten times unless evaluate_every says otherwise: the "
        "same budget for data sets of different sizes",
    )
    gradient_accumulation: int = Field(
        default=1, ge=1, le=1_000_000, description="batches added up for one optimiser step"
    )
    group_by_length: bool = Field(default=True, description="put texts of similar length into one batch")
    evaluate_every: Literal["epoch"] | int = Field(
        default="epoch", description="evaluate and save after each `epoch`, or after this many steps"
    )
    keep_best: bool = Field(
        default=True, description="give out the best checkpoint on the validation data, not the last"
    )
    early_stopping: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="stop after this many evaluations without a better score",
    )

    @field_validator("evaluate_every")
    @classmethod
    def _at_least_one_step(cls, value: Literal["epoch"] | int) -> Literal["epoch"] | int:
        if isinstance(value, int) and not 1 <= value <= 1_000_000_000:
            raise ValueError("must be `epoch` or a number of steps from 1 to 1,000,000,000")
        return value
