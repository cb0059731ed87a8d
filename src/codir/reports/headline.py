"""The three to five large numbers at the head of the page."""

from __future__ import annotations

from dataclasses import dataclass

from codir.reports.contents import Panel, Report, ReportedModel
from codir.reports.escaping import clean, shortened
from codir.reports.numbers import count, deviation, known, milliseconds, plural, points, share, size, times


@dataclass(frozen=True)
class Tile:
    """One large number, what it is, what it compares with, and its spread (small, beside it)."""

    value: str
    name: str
    note: str = ""
    spread: str = ""


def main_student(panel: Panel) -> ReportedModel | None:
    """Returns the run's main student: the first of the role `codir`, else `kd`, else the first that is no teacher."""
    students = trained(panel) or [model for model in panel.models if model.role != "teacher"]
    for role in ("codir", "kd"):
        for model in students:
            if model.role == role:
                return model
    return students[0] if students else None


def teacher_of(panel: Panel) -> ReportedModel | None:
    """Returns the teacher, if there is one."""
    return next((model for model in panel.models if model.role == "teacher"), None)


def trained(panel: Panel) -> list[ReportedModel]:
    """Returns the students as they were trained: neither the teacher, nor exports, other engines or other models."""
    return [m for m in panel.models if m.role not in ("teacher", "other") and m.engine == "torch"]


def tiles(report: Report) -> list[Tile]:
    """Returns the numbers that are known, at most five."""
    if report.kind == "study":
        return _study_tiles(report)[:5]
    return _run_tiles(report.panels[0])[:5] if report.panels else []


def _run_tiles(panel: Panel) -> list[Tile]:
    student, teacher = main_student(panel), teacher_of(panel)
    if student is None:
        student, teacher = teacher, None
    if student is None:
        return []
    found = []
    metric = clean(panel.metric)
    against = f"{metric} {points(student.score)}" + (
        f", the teacher's {points(teacher.score)}" if teacher is not None and known(teacher.score) else ""
    )
    if known(student.kept):
        found.append(Tile(share(student.kept), "of the teacher's score", against))
    elif known(student.score):
        found.append(Tile(points(student.score), metric, ""))
    if known(student.speedup):
        found.append(Tile(times(student.speedup), "as fast", _fast_note(panel, student)))
    elif known(student.milliseconds):
        found.append(Tile(milliseconds(student.milliseconds), "ms per sequence"))
    if known(student.parameters):
        found.append(
            Tile(
                count(student.parameters),
                "parameters",
                _of(student.parameters, teacher and teacher.parameters, count),
            )
        )
    if known(student.bytes):
        found.append(
            Tile(size(student.bytes), "on disk", _of(student.bytes, teacher and teacher.bytes, size))
        )
    if known(student.agreement):
        found.append(Tile(share(student.agreement), "agreement", "answered as the teacher does"))
    return found


def _of(value: float, whole: float | None, show: object) -> str:
    if not known(whole) or not whole or not callable(show):
        return ""
    return f"{100 * value / whole:.0f}\u202f% of the teacher's {show(whole)}"


def _fast_note(panel: Panel, student: ReportedModel) -> str:
    exported = [
        model
        for model in panel.models
        if known(model.speedup) and model.engine != "torch" and model.speedup > (student.speedup or 0.0)
    ]
    if exported:
        fastest = max(exported, key=lambda model: model.speedup or 0.0)
        return f"up to {times(fastest.speedup)} as {shortened(fastest.engine, 30)}"
    if known(student.milliseconds):
        return f"{milliseconds(student.milliseconds)} ms per sequence"
    return ""


def _study_tiles(report: Report) -> list[Tile]:
    found = []
    for panel in report.panels:
        students = [model for model in trained(panel) if known(model.score)]
        if not students:
            continue
        best = max(students, key=lambda model: model.score or 0.0)
        spread = deviation(best.scores)
        teacher = teacher_of(panel)
        note = shortened(best.name, 40)
        if teacher is not None and known(teacher.score):
            note += f"; the teacher's {points(teacher.score)}"
        name = (
            "best average"
            if panel.task == "average"
            else f"best {clean(panel.metric)} on {clean(panel.task)}"
        )
        found.append(Tile(points(best.score), name, note, "" if spread is None else f"± {points(spread)}"))
    found = found[:3]
    if report.differences:
        shown = sum(item.shown for item in report.differences)
        found.append(
            Tile(
                f"{shown} of {len(report.differences)}",
                plural(len(report.differences), "difference", number_shown=False) + " shown",
                "beyond noise, after correction",
            )
        )
    runs = sum(
        max(1, len(model.scores))
        for panel in report.panels
        for model in trained(panel)
        if known(model.score) and panel.task != "average"
    )
    if runs:
        found.append(
            Tile(
                str(runs),
                plural(runs, "trained student", number_shown=False),
                plural(len([panel for panel in report.panels if panel.task != "average"]), "task"),
            )
        )
    return found
