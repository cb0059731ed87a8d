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

# Names that codir had before it took those of TrainingArguments.
_OLD = {
    "epochs": "num_train_epochs",
    "steps": "max_steps",
    "batch_size": "per_device_train_batch_size",
    "warmup": "warmup_steps (a number below 1 is a share of the steps)",
    "scheduler": "lr_scheduler_type",
    "gradient_accumulation": "gradient_accumulation_steps",
    "group_by_length": "train_sampling_strategy (group_by_length or random)",
    "evaluate_every": "eval_steps (left out: after each epoch)",
    "keep_best": "load_best_model_at_end",
    "early_stopping": "early_stopping_patience",
}
# Arguments of TrainingArguments that codir sets itself, and the setting to use instead.
_SET_BY_CODIR = {
    "output_dir": "output",
    "warmup_ratio": "training.warmup_steps (a number below 1 is a share of the steps)",
    "bf16": "training.precision",
    "fp16": "training.precision",
    "resume_from_checkpoint": "resume",
    "eval_strategy": "training.eval_steps",
}


class OptimisationConfig(Section):
    """What every training has. The defaults of the optimiser are those of the paper's released code."""

    model_config = ConfigDict(extra="allow")
    old_names: ClassVar[Mapping[str, str]] = _OLD
    set_by_codir: ClassVar[Mapping[str, str]] = _SET_BY_CODIR

    learning_rate: float = Field(
        default=2e-5, gt=0, le=100, description="peak learning rate (the paper: 1e-5 or 2e-5)"
    )
    warmup_steps: float = Field(
        default=0.06,
        ge=0,
        le=1_000_000_000,
        description="steps in which the learning rate rises; a number below 1 is a share of all steps",
    )
    lr_scheduler_type: Scheduler = Field(
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

    @field_validator("report_to", mode="before")
    @classmethod
    def _names_with_commas(cls, value: Any) -> Any:
        return [name.strip() for name in value.split(",")] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _names_of_today(self) -> Self:
        for name in self.more():
            if (problem := self.problem_of(name)) is not None:
                raise ValueError(f"{name} {problem}")
        return self

    @classmethod
    def problem_of(cls, name: str) -> str | None:
        """Returns what is to be said of a name that the section had once, or that codir sets itself."""
        if name == "arguments":
            return "is gone: its arguments stand in the section `training` itself now"
        if name in cls.old_names:
            return f"is called {cls.old_names[name]} now"
        return f"is set by codir: use {cls.set_by_codir[name]} instead" if name in cls.set_by_codir else None

    def more(self) -> dict[str, Any]:
        """Returns the arguments of TrainingArguments that codir has no default for."""
        return dict(self.model_extra or {})


class TrainingConfig(OptimisationConfig):
    """How to train on a task."""

    set_by_codir: ClassVar[Mapping[str, str]] = {
        **_SET_BY_CODIR,
        "save_strategy": "training.eval_steps",
        "save_steps": "training.eval_steps",
    }

    per_device_train_batch_size: int = Field(
        default=32, ge=1, le=1_000_000, description="examples per step and device (the paper: 16 or 32)"
    )
    num_train_epochs: float = Field(
        default=10.0, gt=0, le=100_000, description="passes over the training data"
    )
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
