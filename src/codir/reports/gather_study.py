"""A study as a report: a table for each task and their average, differences with intervals, costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from codir.data import BUILT_IN
from codir.errors import CodirError
from codir.kinds.metrics import constant_score, is_metric
from codir.reports.contents import Curve, PairedDifference, Panel, Report, ReportedModel
from codir.reports.curves import curves_of
from codir.reports.details import duration, environment_facts
from codir.reports.headline import together
from codir.reports.measured import blocks_in, finite, with_timing
from codir.reports.numbers import plural
from codir.reports.run_files import mapping, read_log
from codir.reports.study_times import add_times
from codir.reports.wishes import Wishes
from codir.runs.data import load_data
from codir.runs.timing import Timing, model_size
from codir.storage import read_json
from codir.studies.config import StudyConfig
from codir.studies.findings import AVERAGE, Cell, Findings, Row
from codir.studies.report import read_findings
from codir.studies.results import TrialResult
from codir.studies.words import plain_words


def gather_study(folder: Path, wishes: Wishes) -> Report:
    """Brings together what a study's finished trials gave. Nothing is written, no model is run.

    Raises:
        RunError: there is no study, or a file that was named cannot be used.
    """
    damaged: list[str] = []
    findings, results, config = read_findings(folder, damaged=damaged)
    findings = replace(findings, constants=_constants(findings, config))
    final = [result for result in results if result.phase == "final"]
    report = Report(
        title=folder.resolve().name,
        place=folder.resolve().name,
        kind="study",
        subtitle=_subtitle(findings),
        finished=findings.trials > 0 and not findings.missing and not damaged,
        words=[*_headline(findings), *plain_words(findings)],
        panels=_panels(findings, final, config),
        curves=_curves(findings),
        differences=_differences(findings),
        costs=_costs(findings),
        facts=_facts(folder, findings, final, config),
        config=_text(folder / "study.yaml"),
        missing=[("trials", line) for line in (*findings.missing, *damaged)],
    )
    add_times(report, folder, findings, final, config, wishes)
    return report


def _subtitle(findings: Findings) -> str:
    recipes = len({row.recipe for row in findings.rows})
    seeds = len({seed for cell in findings.cells.values() for seed in cell.scores})
    tasks = ", ".join(findings.tasks)
    return (
        f"{plural(recipes, 'recipe')} on {tasks or 'no task yet'}, {plural(seeds, 'seed')}, "
        f"{plural(findings.trials, 'trial')} finished"
    )


def _headline(findings: Findings) -> list[str]:
    """Who has the highest mean, and how many differences are more than noise: the first thing to know."""
    if not findings.trials:
        return []
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
    best = first[0]
    where = f"the average of {len(findings.tasks)} tasks" if several else findings.tasks[0]
    if len(first) > 1:
        line = f"No recipe is ahead on {where}: {together([str(row) for row in first])} have the same mean, {high:.1f}"
    else:
        line = f"{best} has the highest mean on {where}: {100 * means[best]:.1f} points"
    against = next((row for row in means if row.recipe == findings.baseline), None)
    if against is not None and against not in first:
        line += f", {100 * means[against]:.1f} for {against}"
    tested = [each for each in findings.differences.values() if each.has_interval]
    if tested:
        shown = sum(each.shown for each in tested)
        if len(tested) == 1:
            line += f"; its difference from {findings.baseline} is {'' if shown else 'not '}more than noise"
        else:
            verb = "is" if shown == 1 else "are"
            line += f"; {shown or 'none'} of {len(tested)} differences from {findings.baseline} {verb} more than noise"
    return [f"{line}."]


def _panels(findings: Findings, results: Sequence[TrialResult], config: StudyConfig | None) -> list[Panel]:
    panels = []
    for task in findings.tasks:
        group = [result for result in results if result.task == task]
        metric = next(cell.metric for (_, of), cell in findings.cells.items() if of == task)
        models = [_teacher(findings.teachers.get(task), group, metric, config)]
        for row in findings.rows:
            if (row, task) in findings.cells:
                models.append(_model(row, findings.cells[row, task]))
        panels.append(Panel(task, metric, models, findings.constants.get(task)))
    if len(findings.tasks) > 1:
        panels.append(_average(findings, panels))
    return panels


def _teacher(
    score: float | None, group: Sequence[TrialResult], metric: str, config: StudyConfig | None
) -> ReportedModel:
    known = finite(score)
    named = config.teachers.get(group[0].task) if config is not None and group else None
    folder = Path(named).expanduser() if named else None
    weights = model_size(folder) if folder else 0
    return ReportedModel(
        name="teacher",
        role="teacher",
        group="teacher",
        score=known,
        metrics={metric: known} if known is not None else {},
        kept=None if known is None else 1.0,
        blocks=blocks_in(folder),
        parameters=group[0].teacher_parameters if group else None,
        bytes=weights or None,
    )


def _model(row: Row, cell: Cell) -> ReportedModel:
    own = cell.results
    agreements = [value for result in own if (value := finite(result.agreement)) is not None]
    first = own[0] if own else None
    model = ReportedModel(
        name=str(row),
        role=row.recipe,
        group=str(row),
        score=cell.spread.mean if cell.spread is not None else None,
        scores=tuple(cell.scores[seed] for seed in sorted(cell.scores)),
        metrics=_means([result.metrics for result in own]),
        kept=cell.kept,
        agreement=sum(agreements) / len(agreements) if agreements else None,
        blocks=blocks_in(first.folder) if first else None,
        parameters=cell.parameters,
        embedding_parameters=first.embedding_parameters if first else None,
        bytes=first.size if first else None,
    )
    return _with_own_time(model, own)


def _means(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = {name: None for each in metrics for name in each}
    found = {}
    for name in names:
        values = [each[name] for each in metrics if name in each and math.isfinite(each[name])]
        if values:
            found[name] = sum(values) / len(values)
    return found


def _with_own_time(model: ReportedModel, own: Sequence[TrialResult]) -> ReportedModel:
    """Puts in the time that a trial measured; trials that share a machine with others measure none."""
    for result in own:
        try:
            rows = read_json(result.folder / "metrics.json")["comparison"]["rows"]
            row = next(row for row in rows if row["role"] != "teacher")
            if row.get("timing"):
                return with_timing(model, Timing.from_dict(row["timing"]), "measured by a trial")
        except (CodirError, OSError, KeyError, TypeError, StopIteration):
            continue
    return model


def _average(findings: Findings, panels: Sequence[Panel]) -> Panel:
    teachers = [findings.teachers.get(task, math.nan) for task in findings.tasks]
    mean = finite(sum(teachers) / len(teachers))
    shapes = {model.name: model for panel in panels for model in panel.models}
    models = [_shape_of(shapes["teacher"], mean)]
    for row in findings.rows:
        if row not in findings.averages:
            continue
        cells = [findings.cells[row, task] for task in findings.tasks]
        seeds = sorted(set.intersection(*(set(cell.scores) for cell in cells)))
        scores = tuple(sum(cell.scores[seed] for cell in cells) / len(cells) for seed in seeds)
        average = findings.averages[row].mean
        models.append(_shape_of(shapes[str(row)], average, scores))
    return Panel(AVERAGE, "mean of the tasks' metrics", models)


def _shape_of(model: ReportedModel, score: float | None, scores: tuple[float, ...] = ()) -> ReportedModel:
    """The line of a model in the average: its shape, without what belongs to one task."""
    return replace(model, score=score, scores=scores, kept=None, metrics={}, agreement=None)


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
        if constant is not None:
            found[task] = constant
    return found


def _differences(findings: Findings) -> list[PairedDifference]:
    return [
        PairedDifference(
            task=AVERAGE if task is None else task,
            name=f"{row} - {findings.baseline}",
            mean=difference.difference,
            low=difference.low,
            high=difference.high,
            shown=difference.shown,
        )
        for (row, task), difference in findings.differences.items()
        if math.isfinite(difference.difference)
    ]


def _curves(findings: Findings) -> list[Curve]:
    """The main metric over the steps, a mean over the seeds, for each recipe and task whose seeds agree in steps."""
    curves = []
    for (row, task), cell in findings.cells.items():
        found = []
        for result in cell.results:
            log = read_log(result.folder / "log.jsonl")
            found += [each for each in curves_of(log, str(row), cell.metric) if each.kind == "score"]
        if not found or len({tuple(each.steps) for each in found}) != 1:
            continue
        values = [sum(column) / len(column) for column in zip(*(each.values for each in found), strict=True)]
        curves.append(Curve(f"{task} {cell.metric}", str(row), "score", found[0].steps, values))
    return curves


def _costs(findings: Findings) -> list[tuple[str, str]]:
    total = 0.0
    lines = []
    for row in findings.rows:
        cells = [findings.cells[row, task] for task in findings.tasks if (row, task) in findings.cells]
        seconds = sum(cell.seconds_total for cell in cells)
        trials = sum(len(cell.scores) + len(cell.undefined) for cell in cells)
        total += seconds
        each = f", {duration(seconds / trials)} each" if trials else ""
        lines.append((f"training {row}", f"{duration(seconds)} in {plural(trials, 'trial')}{each}"))
    if findings.search_trials:
        lines.append(
            (
                "search on top",
                f"{duration(findings.search_seconds)} in {plural(findings.search_trials, 'trial')}",
            )
        )
        total += findings.search_seconds
    return [("training in all, on the wall clock", duration(total)), *lines] if lines else []


def _facts(
    folder: Path, findings: Findings, results: Sequence[TrialResult], config: StudyConfig | None
) -> list[tuple[str, str]]:
    facts = [("trials finished", f"{findings.trials}")]
    if config is not None:
        facts += [
            ("recipes", ", ".join(config.recipes)),
            ("tasks", ", ".join(config.tasks)),
            ("seeds", ", ".join(map(str, config.seeds))),
            ("strategy", config.strategy),
        ]
        facts += [(f"teacher of {task}", teacher) for task, teacher in config.teachers.items()]
        if config.model:
            facts.append(("teachers are fine-tuned from", str(config.model)))
    if findings.baseline is not None:
        facts.append(("differences are from", findings.baseline))
    if results:
        try:
            environment = mapping(read_json(results[0].folder / "environment.json"))
        except (CodirError, OSError):
            environment = {}
        facts += environment_facts(environment)
    return [*facts, ("folder", str(folder))]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
