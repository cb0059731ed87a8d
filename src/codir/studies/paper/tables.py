"""The paper's tables, one file each in `studies/paper/`: their figures, how each row is made here, and ours beside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from codir.config.loading import Settings, build
from codir.config.yaml_text import read_yaml
from codir.errors import ConfigError, nearest
from codir.settings import Section
from codir.studies.report import spread_text
from codir.studies.statistics import Spread
from codir.table import Column, Table, Value

ScaleName = Literal["paper", "small"]
TABLES = ("table1", "table2", "table3", "table4", "table5")
# The student that most rows start from; without pre-training it is cut out of the teacher.
MLM_PRE = "mlm-pre"
PAPER, OURS = "paper", "ours"
Scores = Mapping[tuple[str, str], Mapping[int, float]]
"""By a row's name and a column's heading: scores by seed."""


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
    statistic: Literal["mean", "median", "max", "std"] = Field(default="mean", description="of the seeds")
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
    rounds: int = Field(ge=1, description="runs; their mean counts")


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
    recipes: dict[str, Any] = Field(default_factory=dict, description="recipes under names of their own")
    baseline: str | None = Field(default=None, description="recipe that a study's report compares with")
    rows: list[TableRow] = Field(description="the rows")
    speed: Speed | None = Field(default=None, description="for a table of speed")
    scales: dict[ScaleName, Scale] = Field(description="how it is made")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        width = 5 if self.speed is not None else len(self.columns) + (self.average is not None)
        for row in self.rows:
            if row.paper and len(row.paper) != width:
                raise ValueError(f"row {row.name}: {len(row.paper)} figures for {width} columns")
        return self


def load_table(name: str, scale: ScaleName = "paper", overrides: Iterable[str] = ()) -> PaperTable:
    """Reads a table, with texts such as `study.training.num_train_epochs=1` over the settings of one of its scales.

    Raises:
        ConfigError: no such table, or an override that is no setting.
    """
    if name not in TABLES:
        raise ConfigError(
            f"There is no {name!r} to reproduce{nearest(name, TABLES)}: there are {', '.join(TABLES)}."
        )
    text = (files("codir.studies") / "paper" / f"{name}.yaml").read_text(encoding="utf-8")
    content, places = read_yaml(text, f"{name}.yaml")
    settings = Settings()
    settings.merge(content, places)
    table = build(PaperTable, settings)
    own = Settings()
    own.merge(content["scales"][scale], {key[2:]: place for key, place in places.items() if len(key) > 2})
    own.set_given(overrides, None)
    return table.model_copy(update={"scales": {**table.scales, scale: build(Scale, own)}})


def side_by_side(table: PaperTable, tasks: Sequence[str], made: Iterable[str], scores: Scores) -> Table:
    """Returns a line of the paper's figures for each row, and one of ours for each that is made here.

    Ours are mean and standard deviation over the seeds (or the row's own statistic), in points. Where a task is missing
    there is a further average, over the columns that both have: the paper's printed one is over all of them.

    Args:
        table: the paper's.
        tasks: those that were run.
        made: names of the rows that are made here, finished or not.
        scores: what they gave.
    """
    headings = list(table.columns)
    have = [heading for heading in headings if table.columns[heading].task in tasks]
    reduced = table.average is not None and have != headings
    columns = [Column("row", left=True), Column("of", left=True), *map(Column, headings)]
    columns += [Column(table.average)] if table.average is not None else []
    columns += [Column(f"average of {', '.join(have)}" if len(have) > 1 else f"{have[0]} alone")] * reduced
    rows: list[list[Value]] = []
    for row in table.rows:
        figures = row.paper or [None] * (len(columns) - 2 - reduced)
        shown: list[Value] = [
            None if f is None else f"{f:.{2 if row.statistic == 'std' else 1}f}" for f in figures
        ]
        some = [figures[headings.index(heading)] for heading in have]
        known = [figure for figure in some if figure is not None]
        average = f"{sum(known) / len(known):.1f}" if known and len(known) == len(some) else None
        rows.append([row.name, PAPER, *shown, *[average] * reduced])
        if row.name not in made:
            continue
        ours = {heading: scores.get((row.name, heading), {}) for heading in headings}
        seeds = sorted(set.intersection(*(set(ours[heading]) for heading in have)))
        mean = {seed: sum(ours[heading][seed] for heading in have) / len(have) for seed in seeds}
        texts: list[Value] = [_text(ours[heading], row.statistic) for heading in headings]
        if table.average is not None:
            texts += [None, _text(mean, row.statistic)] if reduced else [_text(mean, row.statistic)]
        rows.append(["", OURS, *texts])
    all_seeds = sorted({seed for some in scores.values() for seed in some})
    how = f"{len(all_seeds)} seeds" if len(all_seeds) > 1 else "one seed, so that there is no spread"
    note = f"Paper: {table.paper_scores}. Ours: development sets, {how if all_seeds else 'nothing finished yet'}."
    return Table(f"{table.source} of the paper: {table.title}", columns, rows, f"{note} {table.note}".strip())


def _text(by_seed: Mapping[int, float], statistic: str) -> str | None:
    if not by_seed:
        return None
    spread = Spread.of(list(by_seed.values()))
    if statistic == "mean":
        return spread_text(spread)
    if statistic == "std":
        return None if spread.std is None else f"{100 * spread.std:.2f}"
    return f"{100 * (spread.median if statistic == 'median' else spread.high):.1f}"
