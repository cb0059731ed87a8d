"""What can be set in a run: typed, range-checked, every field described once for the help and the errors.

The models here check what can be checked without data, models or torch. `codir.config.loading` builds them
from a recipe, a YAML file, `--set` and the command line, and turns a refusal into a `ConfigError` that names
the place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from codir.config.data_config import DataConfig
from codir.config.student_config import StudentConfig
from codir.config.training_config import TrainingConfig
from codir.settings import Section

DEFAULT_RECIPE = "codir-fine"


class RunConfig(Section):
    """What fine-tuning and distilling have in common."""

    data: DataConfig = Field(description="the examples")
    training: TrainingConfig = Field(default_factory=TrainingConfig, description="how to train")
    output: Path = Field(description="run folder to write", examples=["runs/student"])
    resume: bool = Field(
        default=False, description="go on with the run in the output folder where it stopped"
    )

    @model_validator(mode="after")
    def _data_to_train_on(self) -> Self:
        if self.data.task is None and self.data.train is None:
            raise ValueError(
                "data.validation alone is not enough: add training data, for example --train train.csv"
            )
        return self


class FinetuneConfig(RunConfig):
    """A run of `codir finetune`: an encoder and a task in, a teacher out."""

    model: str = Field(description="encoder to fine-tune: a folder or a Hub id", examples=["roberta-base"])

    @model_validator(mode="after")
    def _only_labelled_texts(self) -> Self:
        if self.data.unlabeled:
            raise ValueError(
                f"data.unlabeled names {', '.join(map(str, self.data.unlabeled))}, and fine-tuning learns from labels "
                "alone: leave it out here and give it to `codir distill`, whose teacher labels the texts"
            )
        return self


class DistillConfig(RunConfig):
    """A run of `codir distill`: a fine-tuned teacher in, a smaller student out."""

    recipe: str = Field(
        default=DEFAULT_RECIPE, description="recipe to start from (`codir recipes` lists them)"
    )
    teacher: str = Field(
        description="fine-tuned model to distil: a folder or a Hub id", examples=["runs/teacher"]
    )
    student: StudentConfig = Field(default_factory=StudentConfig, description="the student")
    objectives: dict[str, dict[str, Any]] = Field(
        default_factory=lambda: {"task": {}}, description="terms of the loss by name, each with its settings"
    )
    cache: bool = Field(
        default=True, description="compute the teacher's outputs once and read them from disk"
    )
    cache_dir: Path | None = Field(
        default=None, description="folder for the teacher's outputs (default: the user's cache)"
    )
    cache_tokens_gb: float = Field(
        default=20.0,
        ge=0,
        description="largest size in GB of the cached vectors of the teacher's single tokens; objectives that "
        "need more run the teacher live in each step",
    )
    baseline: bool = Field(default=True, description="also train the undistilled student, for the table")
    kd: bool = Field(
        default=False, description="also train a student by plain knowledge distillation, for the table"
    )

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        if not self.objectives:
            raise ValueError("objectives is empty: name at least one term of the loss, for example task")
        return self

    @model_validator(mode="after")
    def _something_of_unlabeled_texts(self) -> Self:
        if self.data.unlabeled and set(self.objectives) == {"task"}:
            raise ValueError(
                f"the loss is task alone, which learns from labels, and data.unlabeled names "
                f"{', '.join(map(str, self.data.unlabeled))}, which has none: leave the file out, or take a recipe "
                "that learns from the teacher (kd, codir-fine)"
            )
        return self
