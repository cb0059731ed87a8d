"""How to train: the section `training` of a run's configuration, in the names of transformers' TrainingArguments.

What has a default of codir's own stands here, with its type, range and help. Any other argument of TrainingArguments
may stand in the section as well: it is checked (`codir.config.trainer_arguments`) and passed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from codir.settings import Section

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

# Names of codir's flags and arguments of TrainingArguments that are no settings of their own: what to set instead.
_ELSEWHERE = {
    "epochs": "training.num_train_epochs",
    "steps": "training.max_steps",
    "batch_size": "training.per_device_train_batch_size",
    "lr": "training.learning_rate",
    "warmup": "training.warmup_steps (a number below 1 is a share of the steps)",
    "warmup_ratio": "training.warmup_steps (a number below 1 is a share of the steps)",
    "output_dir": "output",
    "bf16": "training.precision",
    "fp16": "training.precision",
    "resume_from_checkpoint": "resume",
    "eval_strategy": "training.eval_steps",
}


class OptimisationConfig(Section):
    """What every training has. The defaults of the optimiser are those of the paper's released code."""

    model_config = ConfigDict(extra="allow")
    elsewhere: ClassVar[Mapping[str, str]] = _ELSEWHERE

    learning_rate: float = Field(default=2e-5, gt=0, le=100, description="peak learning rate (the paper: 1e-5 or 2e-5)")
    warmup_steps: float = Field(
        default=0.06,
        ge=0,
        le=1_000_000_000,
        description="steps in which the learning rate rises; a number below 1 is a share of all steps",
    )
    lr_scheduler_type: Scheduler = Field(default="linear", description="how the learning rate falls after the warm-up")
    weight_decay: float = Field(default=0.1, ge=0, le=100, description="decoupled weight decay")
    adam_beta1: float = Field(default=0.9, ge=0, lt=1, description="Adam's decay of the mean gradient")
    adam_beta2: float = Field(default=0.98, ge=0, lt=1, description="Adam's decay of the squared gradient")
    adam_epsilon: float = Field(default=1e-6, gt=0, le=1, description="Adam's epsilon")
    max_grad_norm: float = Field(default=1.0, ge=0, le=1e6, description="gradients are clipped to this norm (0: never)")
    precision: Precision = Field(
        default="auto",
        description="number format: fp32, bf16, fp16, or auto (bf16 where the hardware has it)",
    )
    save_total_limit: int = Field(default=2, ge=1, le=1_000_000, description="checkpoints kept in the run folder")
    keep_checkpoints: bool = Field(
        default=False, description="keep the checkpoints once the run is finished and the model is written"
    )
    seed: int = Field(default=42, ge=0, lt=2**32, description="seeds everything that is drawn")
    report_to: list[str] = Field(
        default_factory=list, description="loggers known to transformers (tensorboard, wandb, mlflow, ...)"
    )

    @field_validator("report_to", mode="before")
    @classmethod
    def _names_with_commas(cls, value: Any) -> Any:
        return [name.strip() for name in value.split(",")] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _names_of_codirs_own(self) -> Self:
        for name in self.more():
            if name in self.elsewhere:
                raise ValueError(f"{name} {self.not_here(name)}")
        return self

    @classmethod
    def not_here(cls, name: str) -> str:
        """Returns what is to be said of a name that is `elsewhere`."""
        return f"is no setting of its own: use {cls.elsewhere[name]} instead"

    def more(self) -> dict[str, Any]:
        """Returns the arguments of TrainingArguments that codir has no default for."""
        return dict(self.model_extra or {})


class TrainingConfig(OptimisationConfig):
    """How to train on a task."""

    elsewhere: ClassVar[Mapping[str, str]] = {
        **_ELSEWHERE,
        **dict.fromkeys(("save_strategy", "save_steps", "evaluate_every"), "training.eval_steps"),
    }

    per_device_train_batch_size: int = Field(
        default=32, ge=1, le=1_000_000, description="examples per step and device (the paper: 16 or 32)"
    )
    num_train_epochs: float = Field(default=10.0, gt=0, le=100_000, description="passes over the training data")
    max_steps: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000_000,
        description="optimiser steps instead of epochs, evaluated ten times unless eval_steps says otherwise: the same "
        "budget for data sets of different sizes",
    )
    gradient_accumulation_steps: int = Field(
        default=1, ge=1, le=1_000_000, description="batches added up for one optimiser step"
    )
    train_sampling_strategy: Literal["group_by_length", "random"] = Field(
        default="group_by_length", description="`group_by_length` puts texts of similar length into one batch"
    )
    eval_steps: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000_000,
        description="evaluate and save after this many steps (default: after each epoch)",
    )
    load_best_model_at_end: bool = Field(
        default=True, description="give out the best checkpoint on the validation data, not the last"
    )
    early_stopping_patience: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="stop after this many evaluations without a better score",
    )
