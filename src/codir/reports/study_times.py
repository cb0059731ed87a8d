"""Times in a study's tables: trials share a machine and measure none, so `codir latency` has to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from codir.errors import RunError
from codir.reports.contents import Panel, Report
from codir.reports.latency_lines import add_latency, read_latency
from codir.reports.wishes import Wishes
from codir.studies.config import StudyConfig
from codir.studies.findings import AVERAGE
from codir.studies.results import TrialResult
from codir.studies.trial import TRIALS
from codir.workflows.latency_table import LatencyResult


def add_times(
    report: Report, folder: Path, results: Sequence[TrialResult], config: StudyConfig | None, wishes: Wishes
) -> LatencyResult | None:
    """Puts measured times into all tables; one student of a shape stands for all of it.

    Returns:
        What was measured, if there is anything.

    Raises:
        RunError: the file that was named cannot be used.
    """
    own = folder / "latency.json"
    path = wishes.latency or (own if own.is_file() else None)
    latency = None
    if path is not None:
        try:
            latency = read_latency(path)
        except RunError as error:
            if wishes.latency is not None:
                raise
            report.missing.append(("times", str(error)))
            return None
        report.panels = [_timed(panel, latency, results, config) for panel in report.panels]
    if report.panels and not any(
        model.milliseconds is not None for panel in report.panels for model in panel.models
    ):
        report.missing.append(("times", _way_out(report.panels[0].task, folder, results, config)))
    return latency


def _timed(
    panel: Panel, latency: LatencyResult, results: Sequence[TrialResult], config: StudyConfig | None
) -> Panel:
    # models of their own belong to the task whose texts they were measured on, if to any
    others = panel.task.lower() == latency.task.lower()
    return add_latency(panel, latency, _folders(panel, latency, results, config), others)


def _folders(
    panel: Panel, latency: LatencyResult, results: Sequence[TrialResult], config: StudyConfig | None
) -> list[Path | None]:
    """Returns for each model of a panel the folder by which a row of the measurement may mean it."""
    measured = {Path(row.path).expanduser().resolve() for row in latency.rows}
    teachers = config.teachers if config is not None else {}
    found: list[Path | None] = []
    for model in panel.models:
        if model.role == "teacher":
            candidates = [Path(path) for task, path in teachers.items() if panel.task in (task, AVERAGE)]
        else:
            recipe = model.role.partition(" [")[0]
            candidates = [
                result.folder
                for result in results
                if result.recipe == recipe and panel.task in (result.task, AVERAGE)
            ]
        found.append(next((path for path in candidates if path.resolve() in measured), None))
    return found


def _way_out(task: str, folder: Path, results: Sequence[TrialResult], config: StudyConfig | None) -> str:
    teacher = config.teachers.get(task, "TEACHER") if config is not None else "TEACHER"
    student = next((result.folder for result in results if result.task == task), folder / TRIALS / "...")
    return (
        f"the trials measured none: `codir latency {teacher} {student} --task {task} --output times.json`, then `codir "
        f"report {folder} --latency times.json`; students of one shape take one time"
    )
