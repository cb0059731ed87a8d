"""The paper's tables, one YAML file each beside this one: their figures, how each row is made here, and ours beside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from codir.config.loading import Settings, build
from codir.config.yaml_text import read_yaml
from codir.errors import ConfigError, nearest
from codir.settings import Section
from codir.studies.findings import Spread
from codir.studies.report import spread_text
from codir.table import Column, Table, Value

ScaleName = Literal["paper", "small"]
TABLES = ("table1", "table2", "table3", "table4", "table5")
PAPER, OURS = "paper", "ours"
Scores = Mapping[tuple[str, str], Mapping[int, float]]
"""By a row's name and a column's heading: scores by seed."""


class TableColumn(Section):
    """One column of scores: a task and its metric; of a further split as SPLIT/METRIC."""

    task: str
    metric: str


class TableRow(Section):
    """One row: the paper's figures, and what it is here."""

    name: str  # as in the paper
    # column by column, the average last; for a table of speed see there
    paper: list[float | None] = Field(default=[])
    recipe: str | None = None  # the study's recipe that makes it; none: not made here
    student: str | None = None  # the pre-training that its student comes from
    teacher: bool = False  # the row of the teacher itself
    statistic: Literal["mean", "median", "max", "std"] = "mean"  # of the seeds
    config: dict[str, Any] | None = None  # a model by its configuration, for the speed
    given: Literal["teacher", "student"] | None = None  # the user's model, or its half


class Speed(Section):
    """How the speed is measured."""

    batch_size: int = Field(ge=1)  # sequences
    max_length: int = Field(ge=1)  # tokens of each sequence
    classes: int = Field(ge=1)
    rounds: int = Field(ge=1)  # runs; their mean counts


class Scale(Section):
    """How much of a table is made."""

    about: list[str]  # what to know of this scale
    tasks: list[str] | None = None  # default: all of the columns
    data: dict[str, Any] = Field(default={})  # settings of the data of all tasks
    block: int = Field(default=512, ge=8)  # tokens in a block of the pre-training corpus
    # stages by name: settings of `codir pretrain`, and `after`: the stage whose student goes on
    pretraining: dict[str, dict[str, Any]] = Field(default={})
    study: dict[str, Any] = Field(default={})  # settings of the studies
    sequences: int = Field(default=9815, ge=1)  # that are timed; the paper: MNLI's development set


class PaperTable(Section):
    """One table of the paper."""

    title: str
    source: str  # where it stands in the paper
    paper_scores: str  # what the paper's figures are measured on
    note: str = ""  # what to know when comparing
    columns: dict[str, TableColumn] = Field(default={})  # columns of scores by heading
    average: str | None = None  # heading of the average; none: the table has none
    recipes: dict[str, Any] = Field(default={})  # under names of their own
    baseline: str | None = None  # recipe that a study's report compares with
    rows: list[TableRow]
    speed: Speed | None = None  # for a table of speed
    scales: dict[ScaleName, Scale]

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
        raise ConfigError(f"There is no {name!r}{nearest(name, TABLES)}: there are {', '.join(TABLES)}.")
    text = (files("codir.studies") / "paper" / f"{name}.yaml").read_text(encoding="utf-8")
    content, places = read_yaml(text, f"{name}.yaml")
    settings, own = Settings(), Settings()
    settings.merge(content, places)
    own.merge(content["scales"][scale], {key[2:]: place for key, place in places.items() if len(key) > 2})
    own.set_given(overrides, None)
    table = build(PaperTable, settings)
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
    headings, made = list(table.columns), set(made)
    have = [heading for heading in headings if table.columns[heading].task in tasks]
    reduced = table.average is not None and have != headings
    columns = [Column("row", left=True), Column("of", left=True), *map(Column, headings)]
    columns += [Column(table.average)] if table.average is not None else []
    columns += [Column(f"average of {', '.join(have)}" if len(have) > 1 else f"{have[0]} alone")] * reduced
    rows: list[list[Value]] = []
    for row in table.rows:
        figures = row.paper or [None] * (len(columns) - 2 - reduced)
        digits = 2 if row.statistic == "std" else 1
        shown: list[Value] = [None if each is None else f"{each:.{digits}f}" for each in figures]
        known = [figure for h in have if (figure := figures[headings.index(h)]) is not None]
        average = f"{sum(known) / len(known):.1f}" if known and len(known) == len(have) else None
        rows.append([row.name, PAPER, *shown, *[average] * reduced])
        if row.name in made:
            ours = {heading: scores.get((row.name, heading), {}) for heading in headings}
            seeds = sorted(set.intersection(*(set(ours[heading]) for heading in have)))
            mean = {seed: sum(ours[heading][seed] for heading in have) / len(have) for seed in seeds}
            texts: list[Value] = [_text(ours[heading], row.statistic) for heading in headings]
            if table.average is not None:
                texts += [*[None] * reduced, _text(mean, row.statistic)]
            rows.append(["", OURS, *texts])
    count = len({seed for some in scores.values() for seed in some})
    how = f"{count} seeds" if count > 1 else "one seed, so that there is no spread"
    note = f"Paper: {table.paper_scores}. Ours: development sets, {how if count else 'nothing finished yet'}."
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
