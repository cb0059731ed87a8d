"""A study as a report: a table for each task and their average, differences with intervals, costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from codir.data import BUILT_IN
from codir.errors import CodirError
from codir.files import read_json
from codir.kinds.metrics import constant_score, is_metric
from codir.measure.timing import Timing, model_size
from codir.record.data import load_data
from codir.reports.curves import curves_of
from codir.reports.files import examples_in, finite, layers_in, mapping, numbers, read_log
from codir.reports.run import environment_facts
from codir.reports.text import duration, plural, points, together
from codir.reports.times import Owners, Wanted, add_times
from codir.reports.values import AVERAGE, Curve, Difference, Model, Panel, Report
from codir.studies.config import StudyConfig
from codir.studies.findings import Cell, Findings, Row
from codir.studies.report import plain_words, read_findings
from codir.studies.trial import TRIALS, TrialResult


def read_study(folder: Path, wanted: Wanted) -> Report:
    """Brings together what a study's finished trials gave. Nothing is written, no model is run.

    Raises:
        RunError: there is no study, or a file that was named cannot be used.
    """
    damaged: list[str] = []
    findings, results, config = read_findings(folder, damaged=damaged)
    findings = replace(findings, constants=_constants(findings, config))
    final = [result for result in results if result.phase == "final"]
    report = Report(title=folder.resolve().name, kind="study", place=folder.resolve().name)
    report.subtitle = (
        f"{plural(len({row.recipe for row in findings.rows}), 'recipe')} on "
        f"{', '.join(findings.tasks) or 'no task yet'}, "
        f"{plural(len({seed for cell in findings.cells.values() for seed in cell.scores}), 'seed')}, "
        f"{plural(findings.trials, 'trial')} finished"
    )
    report.finished = findings.trials > 0 and not findings.missing and not damaged
    report.words = [*_headline(findings), *plain_words(findings)]
    report.missing = [("trials", line) for line in (*findings.missing, *damaged)]
    report.panels, report.curves = _panels(findings, final, config), _curves(findings)
    report.differences = [
        Difference(task or AVERAGE, f"{row} - {findings.baseline}", d.difference, d.low, d.high, d.shown)
        for (row, task), d in findings.differences.items()
        if math.isfinite(d.difference)
    ]
    report.costs, report.facts = _costs(findings), _facts(folder, findings, final, config)
    path = folder / "study.yaml"
    report.config = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    teacher = config.teachers.get(findings.tasks[0], "TEACHER") if config and findings.tasks else "TEACHER"
    student = str(final[0].folder if final else folder / TRIALS / "...")
    command = ["codir", "latency", str(teacher), student, "--task", *findings.tasks[:1]]
    owners = [_owners(panel, folder, findings, final, config) for panel in report.panels]
    add_times(report, owners, wanted, command)
    return report


def _headline(findings: Findings) -> list[str]:
    """Who has the highest mean, and how many differences are more than noise: the first thing to know."""
    several = len(findings.tasks) > 1
    means = (
        {row: spread.mean for row, spread in findings.averages.items()}
        if several
        else {row: cell.spread.mean for (row, _), cell in findings.cells.items() if cell.spread is not None}
    )
    if not means:
        return []
    high = max(round(100 * mean, 1) for mean in means.values())
    first = [row for row, mean in means.items() if round(100 * mean, 1) == high]
    where = f"the average of {len(findings.tasks)} tasks" if several else findings.tasks[0]
    if len(first) > 1:
        line = (
            f"No recipe is ahead on {where}: {together(list(map(str, first)))} have the same mean, {high:.1f}"
        )
    else:
        line = f"{first[0]} has the highest mean on {where}: {high:.1f} points"
    against = next((row for row in means if row.recipe == findings.baseline), None)
    if against is not None and against not in first:
        line += f", {points(means[against])} for {against}"
    tested = [each for each in findings.differences.values() if each.has_interval]
    if tested:
        shown = sum(each.shown for each in tested)
        verb = "is" if shown == 1 else "are"
        many = f"{shown or 'none'} of {plural(len(tested), 'difference')}"
        line += f"; {many} from {findings.baseline} {verb} more than noise"
    return [f"{line}."]


def _panels(findings: Findings, results: Sequence[TrialResult], config: StudyConfig | None) -> list[Panel]:
    panels = []
    for task in findings.tasks:
        group = [result for result in results if result.task == task]
        metric = next(cell.metric for (_, of), cell in findings.cells.items() if of == task)
        models = [_teacher(findings.teachers.get(task), group, metric, config)]
        models += [
            _model(row, findings.cells[row, task]) for row in findings.rows if (row, task) in findings.cells
        ]
        panels.append(Panel(task, metric, models, findings.constants.get(task)))
    if len(findings.tasks) > 1:
        panels.append(_average(findings, panels))
    return panels


def _teacher(
    score: float | None, group: Sequence[TrialResult], metric: str, config: StudyConfig | None
) -> Model:
    named = config.teachers.get(group[0].task) if config is not None and group else None
    folder = Path(named).expanduser() if named else None
    return Model(
        name="teacher",
        role="teacher",
        group="teacher",
        score=finite(score),
        metrics=numbers({metric: score}),
        kept=None if finite(score) is None else 1.0,
        layers=layers_in(folder),
        parameters=group[0].teacher_parameters if group else None,
        bytes=(model_size(folder) if folder else 0) or None,
    )


def _model(row: Row, cell: Cell) -> Model:
    own = cell.results
    first = own[0] if own else None
    agreements = [value for result in own if (value := finite(result.agreement)) is not None]
    values: dict[str, list[float]] = {}
    for result in own:
        for name, value in numbers(result.metrics).items():
            values.setdefault(name, []).append(value)
    model = Model(
        name=str(row),
        role=row.recipe,
        group=str(row),
        score=cell.spread.mean if cell.spread is not None else None,
        scores=tuple(cell.scores[seed] for seed in sorted(cell.scores)),
        metrics={name: sum(each) / len(each) for name, each in values.items()},
        kept=cell.kept,
        agreement=sum(agreements) / len(agreements) if agreements else None,
        layers=layers_in(first.folder) if first else None,
        parameters=cell.parameters,
        embedding_parameters=first.embedding_parameters if first else None,
        bytes=first.size if first else None,
    )
    for result in own:  # trials that share a machine with others measure no time
        rows = mapping(_json(result.folder / "metrics.json").get("comparison")).get("rows") or []
        timing = next((row.get("timing") for row in rows if row.get("role") != "teacher"), None)
        if timing:
            return model.timed(Timing.from_dict(timing), "measured by a trial")
    return model


def _average(findings: Findings, panels: Sequence[Panel]) -> Panel:
    """The table of the average: the models' shapes, without what belongs to one task."""
    shapes = {model.name: model for panel in panels for model in panel.models}
    teachers = [findings.teachers.get(task, math.nan) for task in findings.tasks]
    scores: dict[str, tuple[float | None, tuple[float, ...]]] = {
        "teacher": (finite(sum(teachers) / len(teachers)), ())
    }
    for row, spread in findings.averages.items():
        cells = [findings.cells[row, task] for task in findings.tasks]
        seeds = sorted(set.intersection(*(set(cell.scores) for cell in cells)))
        means = tuple(sum(cell.scores[seed] for cell in cells) / len(cells) for seed in seeds)
        scores[str(row)] = spread.mean, means
    models = [
        replace(shapes[name], score=score, scores=seeds, kept=None, metrics={}, agreement=None)
        for name, (score, seeds) in scores.items()
    ]
    return Panel(AVERAGE, "mean of the tasks' metrics", models)


def _constants(findings: Findings, config: StudyConfig | None) -> dict[str, float]:
    """What one answer to everything scores, by task: older trials do not say it, but labels at hand do."""
    found = dict(findings.constants)
    for (_, task), cell in findings.cells.items():
        data = config.tasks.get(task) if config is not None else None
        # not from the Hub: a report waits for no network
        here = data is not None and (data.data_dir is not None or data.task is None or data.task == BUILT_IN)
        if task in found or data is None or not here or not is_metric(cell.metric):
            continue
        try:
            loaded = load_data(data, train=False)
            constant = constant_score(cell.metric, np.asarray(loaded.validation[loaded.main_split]["label"]))
        except (CodirError, OSError, ValueError):
            continue
        found |= {} if constant is None else {task: constant}
    return found


def _curves(findings: Findings) -> list[Curve]:
    """The main metric over the steps, a mean over the seeds, for each recipe and task whose seeds agree in steps."""
    curves = []
    for (row, task), cell in findings.cells.items():
        logs = [read_log(result.folder / "log.jsonl") for result in cell.results]
        found = [c for log in logs for c in curves_of(log, str(row), cell.metric) if c.kind == "score"]
        if len({tuple(each.steps) for each in found}) == 1:
            values = np.mean([each.values for each in found], axis=0).tolist()
            curves.append(Curve(f"{task} {cell.metric}", str(row), "score", found[0].steps, values))
    return curves


def _costs(findings: Findings) -> list[tuple[str, str]]:
    total, lines = findings.search_seconds, []
    for row in findings.rows:
        cells = [findings.cells[row, task] for task in findings.tasks if (row, task) in findings.cells]
        seconds = sum(cell.seconds_total for cell in cells)
        trials = sum(len(cell.scores) + len(cell.undefined) for cell in cells)
        each = f", {duration(seconds / trials)} each" if trials else ""
        lines.append((f"training {row}", f"{duration(seconds)} in {plural(trials, 'trial')}{each}"))
        total += seconds
    if findings.search_trials:
        search = f"{duration(findings.search_seconds)} in {plural(findings.search_trials, 'trial')}"
        lines.append(("search on top", search))
    return [("training in all, on the wall clock", duration(total)), *lines] if lines else []


def _facts(
    folder: Path, findings: Findings, results: Sequence[TrialResult], config: StudyConfig | None
) -> list[tuple[str, str]]:
    facts = [("trials finished", f"{findings.trials}")]
    if config is not None:
        facts += [("recipes", ", ".join(config.recipes)), ("tasks", ", ".join(config.tasks))]
        facts += [("seeds", ", ".join(map(str, config.seeds)))]
        facts += [(f"teacher of {task}", teacher) for task, teacher in config.teachers.items()]
        facts += [("teachers are fine-tuned from", str(config.model))] if config.model else []
    facts += [("differences are from", findings.baseline)] if findings.baseline is not None else []
    facts += environment_facts(_json(results[0].folder / "environment.json")) if results else []
    return [*facts, ("folder", str(folder))]


def _owners(
    panel: Panel, folder: Path, findings: Findings, results: Sequence[TrialResult], config: StudyConfig | None
) -> Owners:
    """Returns the folders of a panel's models: a recipe's are those of all its seeds."""
    teachers = {task: Path(path) for task, path in config.teachers.items()} if config is not None else {}
    cells: dict[str, list[Path]] = {}
    for (row, task), cell in findings.cells.items():
        if panel.task in (task, AVERAGE):
            cells.setdefault(str(row), []).extend(result.folder for result in cell.results)
    cells["teacher"] = [path for task, path in teachers.items() if panel.task in (task, AVERAGE)]
    of_task = [result for result in results if result.task == panel.task]
    data = config.tasks.get(panel.task) if config is not None else None
    return Owners(
        page=folder,
        folders=[cells.get(model.name, []) for model in panel.models],
        teachers=list(teachers.values()),
        examples=examples_in(_json(of_task[0].folder / "metrics.json")) if of_task else {},
        max_length=None if data is None else data.max_length,
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        return mapping(read_json(path))
    except (CodirError, OSError):
        return {}
