"""A study as a report: a table for each task and their average, differences with intervals, costs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from codir.errors import CodirError
from codir.files import read_json
from codir.measure.timing import Timing, model_size
from codir.reports.curves import curves_of
from codir.reports.files import finite, layers_in, numbers, read_log
from codir.reports.run import environment_facts
from codir.reports.text import duration, plural, points, together
from codir.reports.times import add_times
from codir.reports.values import AVERAGE, Curve, Difference, Model, Panel, Report, Wanted
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
    final = [result for result in results if result.phase == "final"]
    name = folder.resolve().name
    report = Report(title=name, kind="study", place=name)
    recipes = {row.recipe for row in findings.rows}
    seeds = {seed for cell in findings.cells.values() for seed in cell.scores}
    report.subtitle = (
        f"{plural(len(recipes), 'recipe')} on {', '.join(findings.tasks) or 'no task yet'}, "
        f"{plural(len(seeds), 'seed')}, {plural(findings.trials, 'trial')} finished"
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
    teacher = config.teachers.get(findings.tasks[0], "TEACHER") if findings.tasks else "TEACHER"
    student = str(final[0].folder if final else folder / TRIALS / "...")
    command = ["codir", "latency", str(teacher), student, "--task", *findings.tasks[:1]]
    add_times(report, folder, wanted, command)
    return report


def _headline(findings: Findings) -> list[str]:
    """Who has the highest mean, and how many differences are more than noise: the first thing to know."""
    means = {row: cell.spread.mean for (row, _), cell in findings.cells.items() if cell.spread is not None}
    if len(findings.tasks) > 1:
        means = {row: spread.mean for row, spread in findings.averages.items()}
    if not means:
        return []
    high = max(round(100 * mean, 1) for mean in means.values())
    first = [row for row, mean in means.items() if round(100 * mean, 1) == high]
    where = f"the average of {len(findings.tasks)} tasks" if len(findings.tasks) != 1 else findings.tasks[0]
    line = f"{first[0]} has the highest mean on {where}: {high:.1f} points"
    if len(first) > 1:
        names = together(list(map(str, first)))
        line = f"No recipe is ahead on {where}: {names} have the same mean, {high:.1f}"
    against = next((row for row in means if row.recipe == findings.baseline), None)
    if against is not None and against not in first:
        line += f", {points(means[against])} for {against}"
    if tested := [each for each in findings.differences.values() if each.has_interval]:
        shown = sum(each.shown for each in tested)
        many = f"{shown or 'none'} of {plural(len(tested), 'difference')}"
        line += f"; {many} from {findings.baseline} {'is' if shown == 1 else 'are'} more than noise"
    return [f"{line}."]


def _panels(findings: Findings, results: Sequence[TrialResult], config: StudyConfig) -> list[Panel]:
    panels = []
    for task in findings.tasks:
        cells = {row: findings.cells[row, task] for row in findings.rows if (row, task) in findings.cells}
        metric = next(cell.metric for cell in cells.values())
        first = next(result for result in results if result.task == task)
        named = config.teachers.get(task)
        folder = Path(named).expanduser() if named else None
        score = finite(findings.teachers.get(task))
        shape = {"kept": None if score is None else 1.0, "parameters": first.teacher_parameters}
        if folder is not None:
            shape |= {"layers": layers_in(folder), "bytes": model_size(folder) or None, "folders": (folder,)}
        teacher = Model("teacher", "teacher", "teacher", score, metrics=numbers({metric: score}), **shape)
        examples = _json(first.folder / "metrics.json").get("validation_examples") or {}
        models = [teacher, *(_model(row, cell) for row, cell in cells.items())]
        panels.append(Panel(task, metric, models, findings.constants.get(task), examples=examples))
    if len(findings.tasks) > 1:
        panels.append(_average(findings, panels))
    return panels


def _model(row: Row, cell: Cell) -> Model:
    own = cell.results
    names = sorted({name for result in own for name in result.metrics})
    model = Model(
        name=str(row),
        role=row.recipe,
        group=str(row),
        score=cell.spread.mean if cell.spread is not None else None,
        scores=tuple(cell.scores[seed] for seed in sorted(cell.scores)),
        metrics=numbers({name: _mean([result.metrics.get(name) for result in own]) for name in names}),
        kept=cell.kept,
        agreement=_mean([result.agreement for result in own]),
        layers=layers_in(own[0].folder),
        parameters=cell.parameters,
        embedding_parameters=own[0].embedding_parameters,
        bytes=own[0].size,
        folders=tuple(result.folder for result in own),
    )
    for result in own:  # trials that share a machine with others measure no time
        rows = (_json(result.folder / "metrics.json").get("comparison") or {}).get("rows") or []
        timing = next((row.get("timing") for row in rows if row.get("role") != "teacher"), None)
        if timing:
            return model.timed(Timing.from_dict(timing), "measured by a trial")
    return model


def _mean(values: Sequence[float | None]) -> float | None:
    known = [each for value in values if (each := finite(value)) is not None]
    return statistics.fmean(known) if known else None


def _average(findings: Findings, panels: Sequence[Panel]) -> Panel:
    """The table of the average: the models' shapes, without what belongs to one task."""
    models: dict[str, Model] = {}
    for model in (model for panel in panels for model in panel.models):
        before = models.get(model.name, model)
        folders = tuple(dict.fromkeys((*before.folders, *model.folders)))
        models[model.name] = replace(model, folders=folders, kept=None, metrics={}, agreement=None, scores=())
    teachers = [findings.teachers.get(task, math.nan) for task in findings.tasks]
    shown = [replace(models["teacher"], score=finite(sum(teachers) / len(teachers)))]
    for row, spread in findings.averages.items():
        cells = [findings.cells[row, task] for task in findings.tasks]
        seeds = sorted(set.intersection(*(set(cell.scores) for cell in cells)))
        means = tuple(statistics.fmean(cell.scores[seed] for cell in cells) for seed in seeds)
        shown.append(replace(models[str(row)], score=spread.mean, scores=means))
    return Panel(AVERAGE, "mean of the tasks' metrics", shown)


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
        cells = [cell for (of, _), cell in findings.cells.items() if of == row]
        seconds, trials = sum(cell.seconds_total for cell in cells), sum(len(cell.results) for cell in cells)
        words = f"{duration(seconds)} in {plural(trials, 'trial')}, {duration(seconds / trials)} each"
        lines.append((f"training {row}", words))
        total += seconds
    if findings.search_trials:
        search = f"{duration(findings.search_seconds)} in {plural(findings.search_trials, 'trial')}"
        lines.append(("search on top", search))
    return [("training in all, on the wall clock", duration(total)), *lines] if lines else []


def _facts(
    folder: Path, findings: Findings, results: Sequence[TrialResult], config: StudyConfig
) -> list[tuple[str, str]]:
    facts = [("trials finished", f"{findings.trials}")]
    facts += [("recipes", ", ".join(config.recipes)), ("tasks", ", ".join(config.tasks))]
    facts += [("seeds", ", ".join(map(str, config.seeds)))]
    facts += [(f"teacher of {task}", teacher) for task, teacher in config.teachers.items()]
    facts += [("teachers are fine-tuned from", str(config.model))] if config.model else []
    facts += [("differences are from", findings.baseline)] if findings.baseline is not None else []
    facts += environment_facts(_json(results[0].folder / "environment.json")) if results else []
    return [*facts, ("folder", str(folder))]


def _json(path: Path) -> Mapping[str, Any]:
    try:
        return read_json(path)
    except (CodirError, OSError):
        return {}
