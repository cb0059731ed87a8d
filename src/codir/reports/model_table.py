"""The table of models: which columns there are, what stands in them and what they are sorted by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from codir.reports.contents import Panel, ReportedModel
from codir.reports.escaping import clean
from codir.reports.numbers import count, deviation, known, milliseconds, points, share, size, times


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: as shown.
        note: smaller, after it.
        key: what the column is sorted by; None comes last.
        best: the best of the students.
        beside: the note stands on the same line.
    """

    text: str
    note: str = ""
    key: float | None = None
    best: bool = False
    beside: bool = False


@dataclass(frozen=True)
class Line:
    """One model: its name, what it is, and a cell for each column."""

    name: str
    role: str
    note: str
    cells: Sequence[Cell]


@dataclass(frozen=True)
class ModelTable:
    """The table.

    Attributes:
        headings: of the columns after the model's name.
        lines: one for each model.
        explained: what the short headings mean.
    """

    headings: Sequence[str]
    lines: Sequence[Line]
    explained: str


@dataclass(frozen=True)
class _Column:
    heading: str
    value: Callable[[ReportedModel], float | None]
    show: Callable[[float | None], str]
    note: Callable[[ReportedModel], str] = lambda model: ""
    better: int = 0  # 1: more is better, -1: less is, 0: neither
    meaning: str = ""
    beside: bool = False


def model_table(panel: Panel) -> ModelTable:
    """Returns the table of a panel; a column in which no model has a value is left out."""
    columns = [
        column for column in _columns(panel) if any(known(column.value(model)) for model in panel.models)
    ]
    best = {
        number: _best([column.value(model) for model in panel.models if _is_student(model)], column.better)
        for number, column in enumerate(columns)
    }
    lines = []
    for model in panel.models:
        cells = []
        for number, column in enumerate(columns):
            value = column.value(model)
            finite = known(value)
            cells.append(
                Cell(
                    text=column.show(value),
                    note=column.note(model) if finite else "",
                    key=value if finite else None,
                    best=finite and _is_student(model) and value == best[number],
                    beside=column.beside,
                )
            )
        engine = clean(model.engine)
        note = "" if engine == "torch" or engine.lower() in model.name.lower() else engine
        lines.append(Line(clean(model.name), clean(model.role), note, cells))
    explained = "; ".join(f"{column.heading}: {column.meaning}" for column in columns if column.meaning)
    return ModelTable([column.heading for column in columns], lines, explained)


def _is_student(model: ReportedModel) -> bool:
    """Whether a model is of the page's students, in any engine: neither a teacher nor a model from elsewhere."""
    return model.role not in ("teacher", "other")


def _columns(panel: Panel) -> list[_Column]:
    more = list(
        dict.fromkeys(name for model in panel.models for name in model.metrics if name != panel.metric)
    )
    return [
        _Column(clean(panel.metric), lambda model: model.score, points, _spread, 1, beside=True),
        _Column("kept", lambda model: model.kept, share, better=1, meaning="share of the teacher's score"),
        _Column(
            "agrees", lambda model: model.agreement, share, better=1, meaning="answers as the teacher does"
        ),
        _Column("ms", lambda model: model.milliseconds, milliseconds, _rounds, -1, "median per sequence"),
        _Column("speed-up", lambda model: model.speedup, times, better=1),
        *(_request_column(texts) for texts in sorted({n for model in panel.models for n in model.requests})),
        _Column(
            "memory",
            lambda model: model.peak_memory,
            size,
            better=-1,
            meaning="at its peak, above the engine alone",
        ),
        _Column("blocks", lambda model: model.blocks, count),
        _Column("parameters", lambda model: model.parameters, count),
        _Column(
            "embedding",
            lambda model: model.embedding_parameters,
            count,
            meaning="parameters of the word embeddings",
        ),
        _Column("on disk", lambda model: model.bytes, size, better=-1),
        *(_metric_column(name) for name in more),
    ]


def _request_column(texts: int) -> _Column:
    what = "one text" if texts == 1 else f"{texts} texts"

    def time(model: ReportedModel, which: int) -> float | None:
        return model.requests[texts][which] if texts in model.requests else None

    return _Column(
        f"{what}, ms",
        lambda model: time(model, 0),
        milliseconds,
        lambda model: f"95 % in {milliseconds(time(model, 1))}",
        -1,
        f"a request of {what} at real length, median",
    )


def _metric_column(name: str) -> _Column:
    plain = (
        "loss" in name.lower() or "perplexity" in name.lower()
    )  # no share of anything: as it is, less is better
    return _Column(clean(name), _metric(name), milliseconds if plain else points, better=-1 if plain else 1)


def _metric(name: str) -> Callable[[ReportedModel], float | None]:
    return lambda model: model.metrics.get(name)


def _spread(model: ReportedModel) -> str:
    spread = deviation(model.scores)
    return "" if spread is None else f"± {points(spread)}"


def _rounds(model: ReportedModel) -> str:
    if not known(model.low) or not known(model.high):
        return ""
    return f"{milliseconds(model.low)} to {milliseconds(model.high)}"


def _best(values: list[float | None], better: int) -> float | None:
    finite = [value for value in values if known(value)]
    if not better or len(finite) < 2 or min(finite) == max(finite):
        return None
    return max(finite) if better > 0 else min(finite)
