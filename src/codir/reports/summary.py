"""The large numbers at the head of the page, and the table of models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from codir.reports.text import (
    clean,
    count,
    known,
    milliseconds,
    plural,
    points,
    share,
    shortened,
    size,
    times,
    together,
)
from codir.reports.values import AVERAGE, Model, Panel, Report, leaders


@dataclass(frozen=True)
class Tile:
    """One large number, what it is, what it compares with, and its spread (small, beside it)."""

    value: str
    name: str
    note: str = ""
    spread: str = ""


def tiles(report: Report) -> list[Tile]:
    """Returns the numbers that are known, at most five."""
    if report.kind == "study":
        return _study_tiles(report)[:5]
    return _run_tiles(report.panels[0])[:5] if report.panels else []


def _run_tiles(panel: Panel) -> list[Tile]:
    student = panel.student or panel.teacher
    if student is None:
        return []
    teacher = panel.teacher if student is not panel.teacher else None
    found, metric, export = [], clean(panel.metric), panel.deployed
    beside = f", the teacher's {points(teacher.score)}" if teacher and known(teacher.score) else ""
    if known(student.kept):
        found.append(
            Tile(share(student.kept), "of the teacher's score", f"{metric} {points(student.score)}{beside}")
        )
    elif known(student.score):
        found.append(Tile(points(student.score), metric))
    fast = _speed(student, export)
    found += [fast] if fast is not None else []
    if known(student.parameters):
        note = _of(student.parameters, teacher.parameters if teacher else None, count)
        found.append(Tile(count(student.parameters), "parameters", note))
    stored = export if export is not None and known(export.bytes) else student
    if known(stored.bytes):
        parts = [] if stored is student else [f"as {shortened(stored.group, 30)}"]
        parts.append(_of(stored.bytes, teacher.bytes if teacher else None, size))
        found.append(Tile(size(stored.bytes), "on disk", ", ".join(filter(None, parts))))
    if known(student.agreement):
        found.append(Tile(share(student.agreement), "agreement", "answered as the teacher does"))
    return found


def _of(value: float, whole: float | None, show: Callable[[float | None], str]) -> str:
    return (
        f"{100 * value / whole:.0f}\u202f% of the teacher's {show(whole)}" if known(whole) and whole else ""
    )


def _speed(student: Model, export: Model | None) -> Tile | None:
    """The speed of what will be deployed, which an export's is where one was timed."""
    name = "" if export is None else f"as {shortened(export.group, 30)}"
    if export is not None and known(export.speedup):
        beside = f"; {times(student.speedup)} in PyTorch" if known(student.speedup) else ""
        return Tile(times(export.speedup), "as fast", name + beside)
    if known(student.speedup):
        time = f"{milliseconds(student.milliseconds)} ms per sequence"
        return Tile(
            times(student.speedup), "as fast", f"in PyTorch; {name} it was not timed" if name else time
        )
    return (
        Tile(milliseconds(student.milliseconds), "ms per sequence") if known(student.milliseconds) else None
    )


def _study_tiles(report: Report) -> list[Tile]:
    found, runs, tasks = [], 0, [panel for panel in report.panels if panel.task != AVERAGE]
    for panel in report.panels:
        students = [model for model in panel.trained if known(model.score)]
        if not students:
            continue
        runs += sum(max(1, len(model.scores)) for model in students) if panel in tasks else 0
        first, teacher = leaders(students), panel.teacher
        spread = first[0].deviation if len(first) == 1 else None
        note = together([shortened(each.name, 40) for each in first])
        note += f"; the teacher's {points(teacher.score)}" if teacher and known(teacher.score) else ""
        name = f"best {clean(panel.metric)} on {clean(panel.shown)}" if panel in tasks else "best average"
        found.append(
            Tile(points(first[0].score), name, note, "" if spread is None else f"± {points(spread)}")
        )
    found = found[:3]
    if many := len(report.differences):
        shown = sum(item.shown for item in report.differences)
        what = f"difference{'' if many == 1 else 's'} shown"
        found.append(Tile(f"{shown} of {many}", what, "beyond noise, after correction"))
    if runs:
        found.append(
            Tile(str(runs), f"trained student{'' if runs == 1 else 's'}", plural(len(tasks), "task"))
        )
    return found


# ---- the table -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """A column of the table of models: whether more (1) or less (-1) is better, and what stands small beneath."""

    heading: str
    value: Callable[[Model], float | None]
    show: Callable[[float | None], str]
    better: int = 0
    meaning: str = ""
    note: Callable[[Model], str] = lambda model: ""


def model_table(panel: Panel) -> dict[str, Any]:
    """Returns headings, lines and what the headings mean; a column in which no model has a value is left out."""
    columns = [each for each in _columns(panel) if any(known(each.value(model)) for model in panel.models)]
    students = [model for model in panel.models if model.role not in ("teacher", "other")]
    best = [_best([column.value(model) for model in students], column.better) for column in columns]
    lines = []
    for model in panel.models:
        cells = []
        for column, top in zip(columns, best, strict=True):
            value = column.value(model)
            there = known(value)
            note = column.note(model) if there else ""
            is_best = there and model in students and value == top
            cells.append(
                {"text": column.show(value), "note": note, "key": value if there else None, "best": is_best}
            )
        engine = clean(model.engine)
        note = "" if engine == "torch" or engine.lower() in model.name.lower() else engine
        lines.append({"name": clean(model.name), "role": model.role, "note": note, "cells": cells})
    explained = "; ".join(f"{column.heading}: {column.meaning}" for column in columns if column.meaning)
    return {"headings": [column.heading for column in columns], "lines": lines, "explained": explained}


def _columns(panel: Panel) -> list[Column]:
    more = dict.fromkeys(name for model in panel.models for name in model.metrics if name != panel.metric)
    requests = sorted({texts for model in panel.models for texts in model.requests})
    return [
        Column(clean(panel.metric), lambda m: m.score, points, 1, note=_spread),
        Column("kept", lambda m: m.kept, share, 1, "share of the teacher's score"),
        Column("agrees", lambda m: m.agreement, share, 1, "answers as the teacher does"),
        Column("ms", lambda m: m.milliseconds, milliseconds, -1, "median per sequence", _rounds),
        Column("speed-up", lambda m: m.speedup, times, 1),
        *map(_request_column, requests),
        Column("memory", lambda m: m.peak_memory, size, -1, "at its peak, above the engine alone"),
        Column("layers", lambda m: m.layers, count),
        Column("parameters", lambda m: m.parameters, count),
        Column("embedding", lambda m: m.embedding_parameters, count, 0, "parameters of the word embeddings"),
        Column("on disk", lambda m: m.bytes, size, -1),
        *map(_metric_column, more),
    ]


def _request_column(texts: int) -> Column:
    what = "one text" if texts == 1 else f"{texts} texts"
    return Column(
        f"{what}, ms",
        lambda m: m.requests[texts][0] if texts in m.requests else None,
        milliseconds,
        -1,
        f"a request of {what} at real length, median",
        lambda m: f"95 % in {milliseconds(m.requests[texts][1])}",
    )


def _metric_column(name: str) -> Column:
    # a loss is no share of anything: as it is, less is better
    plain = any(word in name.lower() for word in ("loss", "perplexity"))
    show, better = (milliseconds, -1) if plain else (points, 1)
    return Column(clean(name), lambda m: m.metrics.get(name), show, better)


def _spread(model: Model) -> str:
    return f"± {points(model.deviation)}" if known(model.deviation) else ""


def _rounds(model: Model) -> str:
    there = known(model.low) and known(model.high)
    return f"{milliseconds(model.low)} to {milliseconds(model.high)}" if there else ""


def _best(values: Sequence[float | None], better: int) -> float | None:
    finite = [value for value in values if known(value)]
    if not better or len(finite) < 2 or min(finite) == max(finite):
        return None
    return max(finite) if better > 0 else min(finite)
