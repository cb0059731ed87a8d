"""What can be set in a run: typed, range-checked, every field described once for the help and the errors.

The models here check what can be checked without data, models or torch. `codir.recipes.loading` builds them
from a recipe, a YAML file, `--set` and the command line, and turns a refusal into a `ConfigError` that names
the place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

Kind = Literal["classification", "regression"]
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
InitName = Literal["spread", "first", "last", "random"]
DEFAULT_RECIPE = "codir-fine"


class Section(BaseModel):
    """One level of the configuration: unknown keys are refused, numbers are finite, a yes/no is no number."""

    model_config = ConfigDict(
        extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True, validate_assignment=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_yes_or_no_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields.get(info.field_name or "")
        if isinstance(value, bool) and field is not None and not _mentions_bool(field.annotation):
            raise ValueError("true and false are not allowed here")
        return value


def _mentions_bool(annotation: Any) -> bool:
    if annotation in (bool, Any):
        return True
    return get_origin(annotation) in (Union, UnionType) and any(
        _mentions_bool(part) for part in get_args(annotation)
    )


def section_at(model: type[BaseModel], path: Sequence[str]) -> type[BaseModel]:
    """Returns the model of the section at `path` inside `model`; `()` is `model` itself.

    A field that maps names to sections is passed by any name.
    """
    names = list(path)
    while names:
        name = names.pop(0)
        annotation: Any = model.model_fields[name].annotation
        if get_origin(annotation) is dict and names:
            names.pop(0)
            annotation = get_args(annotation)[1]
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            raise KeyError(f"{name} is a setting of {model.__name__}, not a section")
        model = annotation
    return model


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
    text: str | None = Field(
        default=None, description="column with the text (default: `text`)", examples=["review"]
    )
    text_pair: str | None = Field(default=None, description="column with the second text, for pairs")
    label: str | None = Field(
        default=None, description="column with the label (default: `label`)", examples=["stars"]
    )
    kind: Kind | None = Field(
        default=None,
        description="what the labels are: classification or regression (default: as the task says)",
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
    max_length: int = Field(default=128, ge=4, description="texts are cut to this many tokens")
    limit_train: int | None = Field(default=None, ge=1, description="use only this many training examples")
    limit_unlabeled: int | None = Field(default=None, ge=1, description="use only this many unlabelled texts")
    limit_validation: int | None = Field(
        default=None, ge=1, description="use only this many validation examples"
    )

    @field_validator("unlabeled", mode="before")
    @classmethod
    def _one_file_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | Path) else value or None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        files = [name for name in ("train", "validation") if getattr(self, name) is not None]
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
        if self.task is not None:
            columns = [
                name for name in ("text", "text_pair", "label", "kind") if getattr(self, name) is not None
            ]
            if columns:
                raise ValueError(
                    f"{', '.join(columns)} can only be set with data of your own (train, validation); "
                    f"the task {self.task} has its own columns"
                )
        elif self.data_dir is not None:
            raise ValueError(
                "data_dir is the folder of a task by name: set task, or give your own files by train"
            )
        return self


class StudentConfig(Section):
    """The student: blocks taken from the teacher (layers, init), or any model, or any configuration."""

    layers: int | None = Field(
        default=None, ge=1, description="number of blocks of the student (default: half of the teacher's)"
    )
    init: InitName | list[int] = Field(
        default="spread",
        description="where its weights come from: teacher blocks `spread` evenly, the `first`, the `last`, "
        "a list of block numbers counted from 1, or `random` weights",
    )
    model: str | None = Field(
        default=None, description="take this model (folder or Hub id) as the student instead"
    )
    config: Path | dict[str, Any] | None = Field(
        default=None,
        description="build the student, with random weights, from this model config instead: a json file, or its "
        "settings right here (`model_type: bert`, ...)",
    )
    embeddings: Literal["random", "teacher"] = Field(
        default="random",
        description="word embeddings of a student built from a config: `random`, or a copy of the `teacher`'s",
    )
    origin: str | None = Field(
        default=None,
        description="take blocks and embeddings from this model of the teacher's family (folder or Hub id) instead of "
        "from the teacher; layers, init, width and intermediate choose from it, the classifier stays the teacher's",
    )
    width: int | None = Field(
        default=None,
        ge=1,
        description="hidden size of a narrower student, a multiple of the size of a head: the dimensions and heads "
        "with the largest weights are kept (default: as wide as what it is cut out of)",
    )
    intermediate: int | None = Field(
        default=None,
        ge=1,
        description="feed-forward neurons of a block of a narrower student, those with the largest weights (default: "
        "in proportion to width)",
    )
    freeze: list[Literal["embeddings"] | int] | None = Field(
        default=None,
        description="what is never trained: `embeddings`, and numbers of the student's blocks, counted from 1",
    )

    @field_validator("config")
    @classmethod
    def _names_its_family(cls, value: Path | dict[str, Any] | None) -> Path | dict[str, Any] | None:
        if isinstance(value, dict) and not value.get("model_type"):
            raise ValueError("the config does not name its family: add model_type: bert (or roberta, ...)")
        return value

    @field_validator("freeze", mode="before")
    @classmethod
    def _list_of_parts(cls, value: Any) -> Any:
        """Lets `embeddings,1,2` on the command line, and a single number, mean a list."""
        if isinstance(value, int) and not isinstance(value, bool):
            return [value]
        if isinstance(value, str):
            value = value.split(",")
        if not isinstance(value, list | tuple):
            return value
        if any(isinstance(part, bool) for part in value):
            raise ValueError(
                "true and false are not allowed here: name `embeddings` or the numbers of blocks"
            )
        parts = [part.strip() if isinstance(part, str) else part for part in value]
        return [int(part) if isinstance(part, str) and part.isdigit() else part for part in parts]

    @field_validator("freeze")
    @classmethod
    def _each_part_once(
        cls, value: list[Literal["embeddings"] | int] | None
    ) -> list[Literal["embeddings"] | int] | None:
        for part in value or []:
            if isinstance(part, int) and part < 1:
                raise ValueError(
                    f"{part} is no block: they are counted from 1, and below them are `embeddings`"
                )
        if value and len(set(value)) < len(value):
            raise ValueError(f"{', '.join(map(str, value))}: a part is named twice")
        return value or None

    @field_validator("init", mode="before")
    @classmethod
    def _list_of_numbers(cls, value: Any) -> Any:
        """Lets `2,4,6` on the command line, and a single number, mean a list."""
        if isinstance(value, int) and not isinstance(value, bool):
            return [value]
        if isinstance(value, str) and value and all(part.strip().isdigit() for part in value.split(",")):
            return [int(part) for part in value.split(",")]
        return value

    @field_validator("init")
    @classmethod
    def _counted_from_one(cls, value: InitName | list[int]) -> InitName | list[int]:
        if isinstance(value, list):
            if not value:
                raise ValueError("the list of teacher blocks is empty")
            if min(value) < 1:
                raise ValueError("teacher blocks are counted from 1 (the embeddings are always copied)")
        return value

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.model is not None and self.config is not None:
            raise ValueError(
                "model and config exclude each other: the student is either a model or built from a config"
            )
        if self.model is not None or self.config is not None:
            other = "model" if self.model is not None else "config"
            cut = [
                name
                for name in ("layers", "origin", "width", "intermediate")
                if getattr(self, name) is not None
            ]
            if cut or self.init != "spread":
                raise ValueError(
                    f"{[*cut, 'init'][0]} says how to build the student from another model's blocks, but {other} says "
                    f"to take {self.model or config_name(self.config)}: leave out one of the two"
                )
        if self.origin is not None and self.init == "random":
            raise ValueError(
                f"origin says to take the weights of {self.origin}, but init says random: leave out one of the two"
            )
        if self.embeddings == "teacher" and self.config is None:
            raise ValueError(
                "embeddings: teacher is for a student that is built from a config; one cut out of the teacher has its "
                "embeddings anyway, and a model brings its own: leave embeddings out"
            )
        if isinstance(self.init, list) and self.layers is not None and self.layers != len(self.init):
            raise ValueError(
                f"init lists {len(self.init)} teacher blocks, but layers is {self.layers}: leave one out or "
                "make them agree"
            )
        return self


def config_name(config: Path | Mapping[str, Any] | None) -> str:
    """Says in messages which config is meant: its path, or the family that an inline one names."""
    return f"the config of a {config['model_type']} model" if isinstance(config, Mapping) else str(config)


class OptimisationConfig(Section):
    """What every training has. The defaults of the optimiser are those of the paper's released code."""

    # transformers' names of what the section already sets, and the key to use instead
    set_by_us: ClassVar[Mapping[str, str]] = {}

    learning_rate: float = Field(
        default=2e-5, gt=0, description="peak learning rate (the paper: 1e-5 or 2e-5)"
    )
    warmup: float = Field(
        default=0.06, ge=0, le=1, description="share of the steps in which the learning rate rises"
    )
    scheduler: Scheduler = Field(
        default="linear", description="how the learning rate falls after the warm-up"
    )
    weight_decay: float = Field(default=0.1, ge=0, description="decoupled weight decay")
    adam_beta1: float = Field(default=0.9, ge=0, lt=1, description="Adam's decay of the mean gradient")
    adam_beta2: float = Field(default=0.98, ge=0, lt=1, description="Adam's decay of the squared gradient")
    adam_epsilon: float = Field(default=1e-6, gt=0, description="Adam's epsilon")
    max_grad_norm: float = Field(
        default=1.0, ge=0, description="gradients are clipped to this norm (0: never)"
    )
    precision: Precision = Field(
        default="auto",
        description="number format: fp32, bf16, fp16, or auto (bf16 where the hardware has it)",
    )
    save_total_limit: int = Field(default=2, ge=1, description="checkpoints kept in the run folder")
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
        default=32, ge=1, description="examples per step and device (the paper: 16 or 32)"
    )
    epochs: float = Field(default=10.0, gt=0, description="passes over the training data")
    steps: int | None = Field(
        default=None,
        ge=1,
        description="optimiser steps instead of epochs, evaluated ten times unless evaluate_every says otherwise: the "
        "same budget for data sets of different sizes",
    )
    gradient_accumulation: int = Field(default=1, ge=1, description="batches added up for one optimiser step")
    group_by_length: bool = Field(default=True, description="put texts of similar length into one batch")
    evaluate_every: Literal["epoch"] | int = Field(
        default="epoch", description="evaluate and save after each `epoch`, or after this many steps"
    )
    keep_best: bool = Field(
        default=True, description="give out the best checkpoint on the validation data, not the last"
    )
    early_stopping: int | None = Field(
        default=None, ge=1, description="stop after this many evaluations without a better score"
    )

    @field_validator("evaluate_every")
    @classmethod
    def _at_least_one_step(cls, value: Literal["epoch"] | int) -> Literal["epoch"] | int:
        if isinstance(value, int) and value < 1:
            raise ValueError("must be `epoch` or a number of steps from 1")
        return value


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
