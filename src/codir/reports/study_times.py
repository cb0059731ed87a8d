"""Times in a study's tables: trials share a machine and measure none, so `codir latency` has to."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from codir.errors import CodirError, RunError
from codir.reports.contents import Panel, Report
from codir.reports.export_lines import add_exports
from codir.reports.latency_lines import Measured, Placed, add_latency, name_strangers, read_latency
from codir.reports.owners import Owners
from codir.reports.run_files import mapping
from codir.reports.wishes import Wishes
from codir.storage import read_json
from codir.studies.config import StudyConfig
from codir.studies.findings import AVERAGE, Findings
from codir.studies.results import TrialResult
from codir.studies.trial import TRIALS


def add_times(
    report: Report,
    folder: Path,
    findings: Findings,
    results: Sequence[TrialResult],
    config: StudyConfig | None,
    wishes: Wishes,
) -> None:
    """Puts measured times into all tables, one student of a shape standing for all of it, and adds exports.

    Raises:
        RunError: the file that was named cannot be used, or measured nothing of this study.
    """
    own = folder / "latency.json"
    path = wishes.latency or (own if own.is_file() else None)
    owners = [_owners(panel, folder, findings, results, config) for panel in report.panels]
    if path is not None and report.panels:
        try:
            measured = Measured(path, read_latency(path), wishes.exported)
        except RunError as error:
            if wishes.latency is not None:
                raise
            report.missing.append(("times", str(error)))
        else:
            placed = Placed()
            report.panels = [
                add_latency(panel, measured, each, placed, report.missing, lines=panel.task != AVERAGE)
                for panel, each in zip(report.panels, owners, strict=True)
            ]
            teachers = ", ".join(map(str, owners[0].teachers))
            have = f"the trials in {folder / TRIALS}" + (f" and the teachers {teachers}" if teachers else "")
            way = _measure(report.panels[0].task, Path("times.json"), folder, results, config)
            name_strangers(measured, placed, "study", have, way, wishes.latency is not None, report.missing)
    report.panels = [
        panel if panel.task == AVERAGE else add_exports(panel, wishes.exported, each, report.missing)
        for panel, each in zip(report.panels, owners, strict=True)
    ]
    if report.panels and not any(
        model.milliseconds is not None for panel in report.panels for model in panel.models
    ):
        way = _measure(report.panels[0].task, Path("times.json"), folder, results, config)
        report.missing.append(
            (
                "times",
                f"the trials measured none: `{way}`, then "
                f"`codir report {shlex.quote(str(folder))} --latency times.json`; students of "
                "one shape take one time",
            )
        )


def _owners(
    panel: Panel,
    folder: Path,
    findings: Findings,
    results: Sequence[TrialResult],
    config: StudyConfig | None,
) -> Owners:
    """Returns the folders of a panel's models: a recipe's are those of all its seeds."""
    teachers = config.teachers if config is not None else {}
    cells: dict[str, list[Path]] = {}
    for (row, task), cell in findings.cells.items():
        if panel.task in (task, AVERAGE):
            cells.setdefault(str(row), []).extend(result.folder for result in cell.results)
    own_teachers = [Path(path) for task, path in teachers.items() if panel.task in (task, AVERAGE)]
    found = [own_teachers if model.role == "teacher" else cells.get(model.name, []) for model in panel.models]
    of_task = [result for result in results if result.task == panel.task]
    data = config.tasks.get(panel.task) if config is not None else None
    return Owners(
        page=folder,
        folders=found,
        teachers=[Path(path) for path in teachers.values()],
        examples=_examples(of_task[0].folder) if of_task else {},
        max_length=None if data is None else data.max_length,
    )


def _examples(folder: Path) -> dict[str, int]:
    try:
        metrics = mapping(read_json(folder / "metrics.json"))
    except (CodirError, OSError):
        return {}
    splits = mapping(metrics.get("validation_examples"))
    return {split: many for split, many in splits.items() if isinstance(many, int)}


def _measure(
    task: str, output: Path, folder: Path, results: Sequence[TrialResult], config: StudyConfig | None
) -> str:
    """Returns the command that measures a teacher and a student of this study."""
    teacher = config.teachers.get(task, "TEACHER") if config is not None else "TEACHER"
    student = next((result.folder for result in results if result.task == task), folder / TRIALS / "...")
    again = ["--overwrite"] if output.exists() else []
    models = [str(teacher), str(student)]
    return shlex.join(["codir", "latency", *models, "--task", task, "--output", str(output), *again])
