"""What can be set in a fine-tuning and a distillation: typed, range-checked, every field described once.

What can be checked without data, models or torch is checked here; `codir.config.loading` builds the configuration
from a recipe, a YAML file, `--set` and the command line, and names the place of what is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from codir.config.student_config import StudentConfig
from codir.config.training_config import TrainingConfig
from codir.data.encodings import require_encoding
from codir.data.reading import require_delimiter
from codir.errors import ConfigError
from codir.settings import Section


class DataConfig(Section):
    """Where the examples come from: a task by name, or files (or a Hub data set) by column names."""

    task: str | None = Field(
        default=None,
        description="task by name: a GLUE task (cola, sst2, mrpc, ...) or the built-in one, `acceptability`",
        examples=["sst2"],
    )
    data_dir: Path | None = Field(
        default=None, description="local folder that holds the task in GLUE's own format, instead of the Hub"
    )
    train: str | None = Field(
        default=None,
        description="training data: a .csv, .tsv, .jsonl, .parquet file or a data set on the Hub",
        examples=["train.csv"],
    )
    validation: str | None = Field(
        default=None, description="validation data, in the same form (default: a part of train)"
    )
    text: str | None = Field(default=None, description="column with the text (default: `text`)", examples=["review"])
    text_pair: str | None = Field(default=None, description="column with the second text, for pairs")
    label: str | None = Field(default=None, description="column with the label (default: `label`)", examples=["stars"])
    kind: str | None = Field(
        default=None,
        description="what the labels are: classification or regression (default: as the task says)",
    )
    encoding: str | None = Field(
        default=None,
        description="encoding of your own text files where it is not UTF-8",
        examples=["cp1252"],
    )
    delimiter: str | None = Field(
        default=None,
        description="character between the fields of your own .csv and .tsv files (default: as the ending says)",
        examples=[";"],
    )
    holdout: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="validate on this share of the training data, the same rows for every seed, and leave the task's "
        "validation data unopened: to choose settings by",
    )
    unlabeled: list[Path] | None = Field(
        default=None,
        description="texts without labels, which the teacher labels: a .txt file (a text a line), or .csv, .tsv, "
        ".jsonl, .parquet with the task's text columns; may be repeated",
        examples=["more.txt"],
    )
    max_length: int = Field(default=128, ge=4, le=1_000_000, description="texts are cut to this many tokens")
    limit_train: int | None = Field(default=None, ge=1, description="use only this many training examples")
    limit_unlabeled: int | None = Field(default=None, ge=1, description="use only this many unlabelled texts")
    limit_validation: int | None = Field(default=None, ge=1, description="use only this many validation examples")

    @field_validator("unlabeled", mode="before")
    @classmethod
    def _one_file_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | Path) else value or None

    @field_validator("encoding", "delimiter", "kind")
    @classmethod
    def _one_there_is(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        try:
            if info.field_name == "kind":
                from codir.kinds import kind_named  # reads the kinds, and with them transformers

                return kind_named(value).name
            return require_encoding(value) if info.field_name == "encoding" else require_delimiter(value)
        except ConfigError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        def those_set(*names: str) -> list[str]:
            return [name for name in names if getattr(self, name)]

        files = those_set("train", "validation")
        if self.task is not None and files:
            raise ValueError(
                f"a task by name ({self.task}) and {' and '.join(files)} data of your own exclude each "
                f"other: set either task or {'/'.join(files)}"
            )
        if self.task is None and not files:
            raise ValueError(
                "nothing is set: name a task (for example --task sst2) or give files (for example "
                "--train train.csv --validation dev.csv --text review --label stars)"
            )
        if self.holdout is not None and self.validation is not None:
            raise ValueError(
                f"holdout ({self.holdout:g}) takes the validation data out of the training data, and validation names "
                f"{self.validation}: leave one of the two out"
            )
        if self.limit_unlabeled is not None and not self.unlabeled:
            raise ValueError(
                f"limit_unlabeled is {self.limit_unlabeled}, and there are no unlabelled texts: name their file with "
                "unlabeled"
            )
        own = those_set("text", "text_pair", "label", "kind")
        own += [] if self.unlabeled else those_set("encoding", "delimiter")
        if self.task is not None and own:
            raise ValueError(
                f"{', '.join(own)} can only be set with files of your own (train, validation, unlabeled); the task "
                f"{self.task} has its own columns and its own format"
            )
        if self.task is None and self.data_dir is not None:
            raise ValueError("data_dir is the folder of a task by name: set task, or give your own files by train")
        return self


DEFAULT_RECIPE = "codir-fine"


class RunConfig(Section):
    """What fine-tuning and distilling have in common."""

    data: DataConfig = Field(description="the examples")
    training: TrainingConfig = Field(default_factory=TrainingConfig, description="how to train")
    output: Path = Field(description="run folder to write", examples=["runs/student"])
    resume: bool = Field(default=False, description="go on with the run in the output folder where it stopped")

    @model_validator(mode="after")
    def _data_to_train_on(self) -> Self:
        if self.data.task is None and self.data.train is None:
            raise ValueError("data.validation alone is not enough: add training data, for example --train train.csv")
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

    recipe: str = Field(default=DEFAULT_RECIPE, description="recipe to start from (`codir recipes` lists them)")
    teacher: str = Field(description="fine-tuned model to distil: a folder or a Hub id", examples=["runs/teacher"])
    student: StudentConfig = Field(default_factory=StudentConfig, description="the student")
    objectives: dict[str, dict[str, Any]] = Field(
        default_factory=lambda: {"task": {}}, description="terms of the loss by name, each with its settings"
    )
    cache: bool = Field(default=True, description="compute the teacher's outputs once and read them from disk")
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
    kd: bool = Field(default=False, description="also train a student by plain knowledge distillation, for the table")

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
