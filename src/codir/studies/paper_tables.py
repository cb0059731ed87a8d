"""The paper's tables: what stands in them, and how each row is made here; one file a table in `studies/paper/`."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from codir.config.loading import Settings, build
from codir.config.sections import Section
from codir.config.yaml_text import read_yaml
from codir.errors import ConfigError, nearest

ScaleName = Literal["paper", "small"]
Statistic = Literal["mean", "median", "max", "std"]
# The student that most rows start from; without pre-training it is cut out of the teacher.
MLM_PRE = "mlm-pre"


class TableColumn(Section):
    """One column of scores."""

    task: str = Field(description="the task")
    metric: str = Field(description="its metric; of a further split as SPLIT/METRIC")


class TableRow(Section):
    """One row: the paper's figures, and what it is here."""

    name: str = Field(description="as in the paper")
    paper: list[float | None] = Field(
        default_factory=list, description="the figures, column by column, the average last"
    )
    recipe: str | None = Field(
        default=None, description="the study's recipe that makes it; none: not made here"
    )
    student: str | None = Field(default=None, description="the pre-training that its student comes from")
    teacher: bool = Field(default=False, description="the row of the teacher itself")
    statistic: Statistic = Field(default="mean", description="of the seeds")
    config: dict[str, Any] | None = Field(
        default=None, description="a model by its configuration, for the speed"
    )
    given: Literal["teacher", "student"] | None = Field(
        default=None, description="the user's model, or its half"
    )


class Speed(Section):
    """How the speed is measured."""

    task: str = Field(description="whose development texts are read")
    batch_size: int = Field(ge=1, description="sequences in a batch")
    max_length: int = Field(ge=1, description="tokens; shorter sequences are padded")
    classes: int = Field(ge=1, description="of the classifiers")
    rounds: int = Field(ge=1, description="runs; the median counts")


class Scale(Section):
    """How much of a table is made."""

    about: list[str] = Field(description="what to know of this scale")
    tasks: list[str] | None = Field(default=None, description="tasks; default: all of the columns")
    data: dict[str, Any] = Field(default_factory=dict, description="settings of the data of all tasks")
    block: int = Field(default=512, ge=8, description="tokens in a block of the pre-training corpus")
    pretraining: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="stages by name: settings of `codir pretrain`, and `after`: the stage whose student goes on",
    )
    study: dict[str, Any] = Field(default_factory=dict, description="settings of the studies")
    sequences: int | None = Field(default=None, ge=1, description="sequences timed; default: all")


class PaperTable(Section):
    """One table of the paper."""

    title: str = Field(description="what it shows")
    source: str = Field(description="where it stands in the paper")
    paper_scores: str = Field(description="what the paper's figures are measured on")
    note: str = Field(default="", description="what to know when comparing")
    columns: dict[str, TableColumn] = Field(default_factory=dict, description="columns of scores by heading")
    average: str | None = Field(default=None, description="heading of the average; none: the table has none")
    recipes: dict[str, Any] = Field(
        default_factory=dict, description="recipes of the study under names of their own"
    )
    baseline: str | None = Field(default=None, description="recipe that a study's report compares with")
    rows: list[TableRow] = Field(description="the rows")
    speed: Speed | None = Field(default=None, description="for a table of speed")
    submission: bool = Field(default=False, description="also write the archive for GLUE's server")
    scales: dict[ScaleName, Scale] = Field(description="how it is made")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        width = 5 if self.speed is not None else len(self.columns) + (self.average is not None)
        for row in self.rows:
            if row.paper and len(row.paper) != width:
                raise ValueError(f"row {row.name}: {len(row.paper)} figures for {width} columns")
        return self


def table_names() -> list[str]:
    """Returns `table1`, `table2`, ..."""
    folder = files("codir.studies") / "paper"
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def load_table(name: str, scale: ScaleName | None = None, overrides: Iterable[str] = ()) -> PaperTable:
    """Reads a table.

    Args:
        name: `table2`, or `2`.
        scale: the one that `overrides` are for; they need one.
        overrides: texts such as `study.training.epochs=1` or `data.limit_train=100`, over the scale's settings.

    Raises:
        ConfigError: no such table, or an override that is no setting.
    """
    name = f"table{name}" if name.isdigit() else name
    if name not in table_names():
        raise ConfigError(
            f"There is no {name!r} to reproduce{nearest(name, table_names())}: there are {', '.join(table_names())}."
        )
    text = (files("codir.studies") / "paper" / f"{name}.yaml").read_text(encoding="utf-8")
    content, places = read_yaml(text, f"{name}.yaml")
    settings = Settings()
    settings.merge(content, places)
    table = build(PaperTable, settings)
    if scale is None:
        return table
    own = Settings()
    own.merge(content["scales"][scale], {key[2:]: place for key, place in places.items() if len(key) > 2})
    own.set_given(overrides, None)
    return table.model_copy(update={"scales": {**table.scales, scale: build(Scale, own)}})
