"""What can be set in a pre-training: corpus, masking, steps; the rest is as in `config`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from codir.config.student_config import StudentConfig
from codir.config.training_config import OptimisationConfig
from codir.settings import Section

DEFAULT_PRETRAINING = "codir-pre"
DEFAULT_STEPS = 10_000


class MaskingConfig(Section):
    """Which tokens are to be predicted, and what stands in their place; drawn anew in every epoch."""

    probability: float = Field(default=0.15, gt=0, le=1, description="share of the tokens that are predicted")
    masked: float = Field(default=0.8, ge=0, le=1, description="share of these that become the mask token")
    random: float = Field(default=0.1, ge=0, le=1, description="share of these that become a random token")

    @model_validator(mode="after")
    def _at_most_all(self) -> Self:
        if self.masked + self.random > 1 + 1e-9:
            raise ValueError(
                f"masked ({self.masked:g}) and random ({self.random:g}) are shares of the predicted tokens and add up "
                "to more than 1"
            )
        return self


class PretrainingConfig(OptimisationConfig):
    """How to pre-train. Defaults: the paper's second stage; the optimiser's are RoBERTa's."""

    elsewhere: ClassVar[Mapping[str, str]] = {
        **OptimisationConfig.elsewhere,
        "batch_size": "training.global_batch_size",
        "gradient_accumulation_steps": "training.global_batch_size",
        "micro_batch": "training.per_device_train_batch_size",
        "save_every": "training.save_steps",
        "save_strategy": "training.save_steps",
        "load_best_model_at_end": "training.max_steps",
    }

    learning_rate: float = Field(
        default=1e-4, gt=0, le=100, description="peak learning rate (the paper: 7e-4, then 1e-4)"
    )
    weight_decay: float = Field(default=0.01, ge=0, le=100, description="decoupled weight decay")
    max_steps: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000_000,
        description="optimiser steps (the paper: 35,000, then 10,000); 10,000 where num_train_epochs says nothing "
        "either",
    )
    num_train_epochs: float | None = Field(
        default=None, gt=0, le=100_000, description="passes over the corpus, instead of max_steps"
    )
    global_batch_size: int = Field(
        default=8192,
        ge=1,
        le=100_000_000,
        description="blocks of an optimiser step, over all processes (the paper: 8192)",
    )
    per_device_train_batch_size: int = Field(
        default=32,
        ge=1,
        le=1_000_000,
        description="blocks that one process computes at a time; the rest is accumulated",
    )
    neighbours: int = Field(
        default=4,
        ge=1,
        le=1_000_000,
        description="neighbouring blocks of a document that come into one batch together (1: plain shuffling)",
    )
    eval_steps: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000_000,
        description="score the held-out blocks after this many steps (default: at the end)",
    )
    save_steps: int = Field(default=500, ge=1, le=1_000_000_000, description="write a checkpoint after this many steps")

    @model_validator(mode="before")
    @classmethod
    def _some_length(cls, values: Any) -> Any:
        said = isinstance(values, Mapping) and (values.get("max_steps"), values.get("num_train_epochs"))
        return {**values, "max_steps": DEFAULT_STEPS} if said == (None, None) else values

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.max_steps is not None and self.num_train_epochs is not None:
            raise ValueError(
                f"max_steps ({self.max_steps}) and num_train_epochs ({self.num_train_epochs:g}) both say how long to "
                "train: leave out one of them"
            )
        return self

    def steps_for(self, blocks: int) -> int:
        """Returns the optimiser steps of a training on so many blocks; a pass has whole batches only."""
        if self.max_steps is not None:
            return self.max_steps
        return max(1, math.ceil((self.num_train_epochs or 0.0) * (blocks // self.global_batch_size)))


class PretrainConfig(Section):
    """A run of `codir pretrain`: a corpus, and a teacher but for the first stage, in; a pre-trained student out."""

    recipe: str = Field(default=DEFAULT_PRETRAINING, description="recipe to start from (`codir recipes` lists them)")
    corpus: Path = Field(description="folder that `codir corpus` has written", examples=["corpora/wiki"])
    teacher: str | None = Field(
        default=None,
        description="masked language model to distil: a folder or a Hub id",
        examples=["roberta-base"],
    )
    student: StudentConfig = Field(default_factory=StudentConfig, description="the student")
    trained: Literal["all", "head"] = Field(
        default="all", description="train the whole student, or only the head that predicts tokens"
    )
    objectives: dict[str, dict[str, Any]] = Field(
        default_factory=lambda: {"mlm": {}}, description="terms of the loss by name, each with its settings"
    )
    masking: MaskingConfig = Field(default_factory=MaskingConfig, description="which tokens are predicted")
    training: PretrainingConfig = Field(default_factory=PretrainingConfig, description="how to train")
    output: Path = Field(description="run folder to write", examples=["runs/codir-pre"])
    resume: bool = Field(default=False, description="go on with the run in the output folder where it stopped")

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        if not self.objectives:
            raise ValueError("objectives is empty: name at least one term of the loss, for example mlm")
        return self

    @model_validator(mode="after")
    def _student_without_a_task(self) -> Self:
        if self.student.origin is not None:
            raise ValueError(
                "student.origin is for distilling on a task; in a pre-training take that model as the student "
                f"(student.model={self.student.origin}), or cut it to fewer layers by naming it as the teacher"
            )
        if self.student.embeddings == "teacher":
            raise ValueError("student.embeddings: teacher is for distilling on a task: leave it out")
        if self.student.freeze and self.trained == "head":
            raise ValueError("trained: head keeps the whole encoder as it is: leave student.freeze out")
        return self
