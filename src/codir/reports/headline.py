"""The three to five large numbers at the head of the page."""

from __future__ import annotations

from collections.abc import Sequence
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


def deployed(panel: Panel) -> ReportedModel | None:
    """Returns what of the main student will be deployed: the fastest of its exports, or any if none was timed.

    One that costs more than two points of the score counts only where there is no other.
    """
    student = main_student(panel)
    if student is None:
        return None
    exports = [each for each in panel.models if each.engine != "torch" and each.role == student.role]
    whole = [
        each
        for each in exports
        if not known(each.score) or not known(student.score) or each.score >= student.score - 0.02
    ]
    return max(whole or exports, key=lambda each: each.speedup or 0.0, default=None)


def leaders(models: Sequence[ReportedModel]) -> list[ReportedModel]:
    """Returns the models with the highest score as the page shows it: several in a tie."""
    scored = [model for model in models if known(model.score)]
    best = max((round(100 * (model.score or 0.0), 1) for model in scored), default=0.0)
    return [model for model in scored if round(100 * (model.score or 0.0), 1) == best]


def together(names: Sequence[str]) -> str:
    """Returns `a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


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
    export = deployed(panel)
    if known(student.speedup) or (export is not None and known(export.speedup)):
        found.append(_speed(student, export))
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
    stored = export if export is not None and known(export.bytes) else student
    if known(stored.bytes):
        parts = [] if stored is student else [f"as {shortened(stored.group, 30)}"]
        parts += filter(None, [_of(stored.bytes, teacher and teacher.bytes, size)])
        found.append(Tile(size(stored.bytes), "on disk", ", ".join(parts)))
    if known(student.agreement):
        found.append(Tile(share(student.agreement), "agreement", "answered as the teacher does"))
    return found


def _of(value: float, whole: float | None, show: object) -> str:
    if not known(whole) or not whole or not callable(show):
        return ""
    return f"{100 * value / whole:.0f}\u202f% of the teacher's {show(whole)}"


def _speed(student: ReportedModel, export: ReportedModel | None) -> Tile:
    """The speed of what will be deployed, which an export's is where one was timed."""
    if export is not None and known(export.speedup):
        beside = f"; {times(student.speedup)} in PyTorch" if known(student.speedup) else ""
        return Tile(times(export.speedup), "as fast", f"as {shortened(export.group, 30)}{beside}")
    time = f"{milliseconds(student.milliseconds)} ms per sequence" if known(student.milliseconds) else ""
    if export is None:
        return Tile(times(student.speedup), "as fast", time)
    return Tile(
        times(student.speedup), "as fast", f"in PyTorch; as {shortened(export.group, 30)} it was not timed"
    )


def _study_tiles(report: Report) -> list[Tile]:
    found = []
    for panel in report.panels:
        students = [model for model in trained(panel) if known(model.score)]
        if not students:
            continue
        first = leaders(students)
        best = first[0]
        spread = deviation(best.scores) if len(first) == 1 else None
        teacher = teacher_of(panel)
        note = together([shortened(each.name, 40) for each in first])
        if teacher is not None and known(teacher.score):
            note += f"; the teacher's {points(teacher.score)}"
        name = (
            "best average"
            if panel.task == "average"
            else f"best {clean(panel.metric)} on {clean(panel.shown)}"
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
