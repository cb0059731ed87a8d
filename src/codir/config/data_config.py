"""Which examples: the section `data` of a run's configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from codir.data.encodings import require_encoding
from codir.data.reading import require_delimiter
from codir.errors import ConfigError
from codir.settings import Section


def _checked(check: Callable[[str], str], value: str | None) -> str | None:
    try:
        return None if value is None else check(value)
    except ConfigError as error:
        raise ValueError(str(error)) from None


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
    limit_validation: int | None = Field(
        default=None, ge=1, description="use only this many validation examples"
    )

    @field_validator("unlabeled", mode="before")
    @classmethod
    def _one_file_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | Path) else value or None

    @field_validator("encoding")
    @classmethod
    def _a_known_encoding(cls, value: str | None) -> str | None:
        return _checked(require_encoding, value)

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, value: str | None) -> str | None:
        return _checked(require_delimiter, value)

    @field_validator("kind")
    @classmethod
    def _one_there_is(cls, value: str | None) -> str | None:
        if value is not None:
            from codir.kinds import kind_named  # reads the kinds, and with them transformers

            _checked(lambda name: kind_named(name).name, value)
        return value

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
            if not self.unlabeled and (
                own := [each for each in ("encoding", "delimiter") if getattr(self, each)]
            ):
                raise ValueError(
                    f"{' and '.join(own)} can only be set with files of your own (train, validation, unlabeled); those "
                    f"of the task {self.task} have their own format"
                )
        elif self.data_dir is not None:
            raise ValueError(
                "data_dir is the folder of a task by name: set task, or give your own files by train"
            )
        return self
