"""A run folder as a report: its table, curves, what its models show of themselves, costs and facts."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from codir.errors import CodirError, ModelError, RunError
from codir.kinds.metrics import constant_score, is_metric
from codir.models.heads import require_one_answer
from codir.models.loading import load_config
from codir.reports.contents import PairedOutcome, Panel, Report
from codir.reports.curves import curves_of
from codir.reports.details import costs_of, data_in_words, facts_of, task_in_words, task_name, title_of
from codir.reports.export_lines import add_exports
from codir.reports.headline import deployed
from codir.reports.latency_lines import Measured, Placed, add_latency, name_strangers, read_latency
from codir.reports.measured import blocks_in, finite, of_row, with_error
from codir.reports.outputs import Examples
from codir.reports.owners import Owners
from codir.reports.run_files import RunFiles, items, mapping, read_log, read_run
from codir.reports.single_model import FINE_TUNED, masked_rows, single_panel
from codir.reports.views import ALL_VIEWS, Folders, add_views, add_views_of_one
from codir.reports.wishes import Wishes
from codir.runs.comparison import TITLES, Comparison
from codir.runs.prepare import main_role


def gather_run(folder: Path, wishes: Wishes) -> Report:
    """Brings together what a run folder holds and, unless not wanted, what its models say of validation data.

    Nothing is written. What cannot be had is named in `Report.missing`; a run may be unfinished or under way.

    Raises:
        RunError: the folder is no run.
        ModelError: its model gives several answers to a text, which its numbers misread.
    """
    run = read_run(folder)
    _require_one_answer(run)
    report = Report(
        title=title_of(run),
        place=folder.resolve().name,
        kind="run",
        subtitle=_subtitle(run),
        finished=run.finished,
        costs=[],
        facts=facts_of(run),
        config=run.config_text,
        missing=run.missing,
        recipe=str(run.config.get("recipe") or ""),
    )
    comparison = _comparison(run, report)
    names = _names(run, comparison)
    report.costs = costs_of(run, names)
    report.panels = _panels(run, comparison)
    _add_times(run, comparison, wishes, report)
    report.words = _words(run, _as_shown(comparison, report.panels), _exported_in_words(report.panels))
    _add_curves(run, names, report)
    _add_views(run, names, wishes, report)
    return report


def _require_one_answer(run: RunFiles) -> None:
    try:
        config = load_config(run.path)
    except ModelError:  # none yet, or damaged, which is said where the model is run
        return
    if run.command != "pretrain":
        require_one_answer(config, str(run.path))


def _add_views(run: RunFiles, names: dict[str, str], wishes: Wishes, report: Report) -> None:
    examples = wishes.examples if wishes.models else 0
    if run.command == "pretrain":
        why = "it is shown for runs of `codir distill`, on the validation data of a task"
        report.missing += [(part, why) for part in ALL_VIEWS]
        return
    if run.command == "finetune":
        seen = add_views_of_one(run, FINE_TUNED, examples, wishes.data_dir, report)
    else:
        seen = add_views(run, _folders(run, names), examples, wishes.data_dir, report)
    _add_constant(seen, report)


def _add_constant(examples: Examples | None, report: Report) -> None:
    """Fills in what one answer to everything scores, which older runs do not say."""
    for number, panel in enumerate(report.panels):
        if panel.constant is not None:
            continue
        known = examples is not None and len(examples.numbers) == examples.whole and is_metric(panel.metric)
        if known and examples is not None:
            constant = constant_score(panel.metric, examples.labels)
            report.panels[number] = replace(panel, constant=constant)
        else:
            why = "the run does not say what answering one class to everything scores"
            report.missing.append(("constant answer", why))


def _subtitle(run: RunFiles) -> str:
    recipe, teacher = run.config.get("recipe"), run.config.get("teacher")
    made = {"distill": "distilled", "finetune": "fine-tuned", "pretrain": "pre-trained"}[run.command]
    parts = [f"{made} with {recipe}" if recipe else made, f"on {data_in_words(run) or 'unknown data'}"]
    if teacher:
        parts.append(f"teacher {teacher}")
    elif run.config.get("model"):
        parts.append(f"from {run.config['model']}")
    return ", ".join(parts)


def _comparison(run: RunFiles, report: Report) -> Comparison | None:
    content = run.metrics.get("comparison")
    if content is None:
        return None
    try:
        comparison = Comparison.from_json(content)
        comparison.plain_words()
        for row in comparison.rows:
            of_row(row, comparison)
            if row.role not in (*TITLES, "other"):
                raise ValueError(f"there is no role {row.role!r}")
    except (CodirError, ValueError, TypeError, AttributeError, KeyError) as error:
        report.missing.append(
            ("table", f"{run.path / 'metrics.json'} is not what this codir writes: {error}")
        )
        return None
    return comparison


def _names(run: RunFiles, comparison: Comparison | None) -> dict[str, str]:
    """Returns what each student is called, by role."""
    names = dict(TITLES)
    if comparison is not None:
        names |= {row.role: row.name for row in comparison.rows}
    return names


def main_student(run: RunFiles) -> str:
    """Returns the role of the run's own student."""
    return main_role(run.section("objectives")) if run.section("objectives") else "codir"


def _folders(run: RunFiles, names: dict[str, str]) -> Folders:
    undistilled = run.path / "comparison" / "finetune"
    return Folders(
        student=run.path,
        student_name=names[main_student(run)],
        undistilled=undistilled if (undistilled / "config.json").is_file() else None,
        undistilled_name=names["finetune"],
    )


def _panels(run: RunFiles, comparison: Comparison | None) -> list[Panel]:
    if comparison is None:
        return single_panel(run) if run.metrics and run.command != "distill" else []
    main = main_student(run)
    models = []
    for row, folder in zip(comparison.rows, _model_folders(run, comparison), strict=True):
        model = with_error(
            of_row(row, comparison, blocks_in(folder)), comparison.main_metric, _main_examples(run)
        )
        # `codir` is the run's own student, whatever it learned from
        models.append(replace(model, role="codir") if row.role == main else model)
    tests, label = _tests(comparison), task_in_words(run)
    return [Panel(task_name(run), comparison.main_metric, models, comparison.constant, tests, label)]


def _tests(comparison: Comparison) -> list[PairedOutcome]:
    plain = comparison.row("finetune")
    found: list[PairedOutcome] = []
    if plain is None:
        return found
    for name, test in comparison.tests.items():
        with contextlib.suppress(TypeError, ValueError):  # of another version: the page does without
            names = frozenset((str(plain.name), str(name)))
            found.append(PairedOutcome(names, bool(test.significant), test.in_words()))
    return found


def _examples_by_split(run: RunFiles) -> dict[str, int]:
    return {
        split: many
        for split, many in mapping(run.metrics.get("validation_examples")).items()
        if isinstance(many, int)
    }


def _main_examples(run: RunFiles) -> int | None:
    """How many examples the main metric is of: of the first split, which is the main one."""
    return next(iter(_examples_by_split(run).values()), None)


def _model_folders(run: RunFiles, comparison: Comparison) -> list[Path | None]:
    """Returns the folder of each row's model, in their order; None where it is not here."""
    found: list[Path | None] = []
    for row in comparison.rows:
        if row.role == "teacher":
            teacher = run.config.get("teacher")
            found.append(run.find(str(teacher)) if teacher else None)
        else:
            found.append(run.path if row.role == main_student(run) else run.path / "comparison" / row.role)
    return found


def _add_times(run: RunFiles, comparison: Comparison | None, wishes: Wishes, report: Report) -> None:
    """Adds what `codir latency` measured and what was exported."""
    own = run.path / "latency.json"
    path = wishes.latency or (own if own.is_file() else None)
    if path is not None and report.panels:
        try:
            measured = Measured(
                path, read_latency(path), wishes.exported, inside=path.resolve() == own.resolve()
            )
        except RunError as error:
            if wishes.latency is not None:
                raise
            report.missing.append(("times", str(error)))
        else:
            placed, owners = Placed(), _owners(run, comparison)
            report.warnings += measured.warnings
            report.panels = [
                add_latency(panel, measured, owners, placed, report.missing) for panel in report.panels
            ]
            have = " and ".join(str(folder) for folder in (*owners.teachers, run.path))
            way = _measure(run, Path("times.json"))  # not over a file of other models
            name_strangers(measured, placed, "run", have, way, wishes.latency is not None, report.missing)
    owners = _owners(run, comparison)
    report.panels = [add_exports(panel, wishes.exported, owners, report.missing) for panel in report.panels]
    if report.panels and run.command != "pretrain":
        models = report.panels[0].models
        if not any(model.milliseconds is not None for model in models):
            why = f"the run measured none: `{_measure(run, own)}` does, and the report picks it up"
            report.missing.append(("times", why))


def _owners(run: RunFiles, comparison: Comparison | None) -> Owners:
    teacher = run.config.get("teacher")
    found = None if not teacher else run.find(str(teacher)) or Path(str(teacher))
    if comparison is not None:
        folders = [[] if folder is None else [folder] for folder in _model_folders(run, comparison)]
        for row, each in zip(comparison.rows, folders, strict=True):
            if row.role == "teacher" and not each and found is not None:
                each.append(found)  # a name of the Hub, or a folder that is gone
    elif run.command == "pretrain":
        folders = [[run.path] if row.get("name") == "student" else [] for row in masked_rows(run)]
    else:
        folders = [[run.path]]
    length = run.section("data").get("max_length")
    return Owners(
        page=run.path,
        folders=folders,
        teachers=[] if found is None else [found],
        examples=_examples_by_split(run),
        max_length=length if isinstance(length, int) else None,
    )


def _measure(run: RunFiles, output: Path) -> str:
    """Returns the command that measures this run's models."""
    data = run.section("data")
    task = ["--task", str(data["task"])] if data.get("task") else []
    folder = ["--data-dir", str(data["data_dir"])] if task and data.get("data_dir") else []
    models = [str(each) for each in (run.config.get("teacher"), run.path) if each]
    again = ["--overwrite"] if output.exists() else []
    return shlex.join(["codir", "latency", *models, *task, *folder, "--output", str(output), *again])


def _as_shown(comparison: Comparison | None, panels: Sequence[Panel]) -> Comparison | None:
    """Returns the comparison with the speed-ups of the table, which `codir latency` may have measured anew."""
    if comparison is None or not panels:
        return comparison
    speedups = {model.name: model.speedup for model in panels[0].models}
    teacher = comparison.row("teacher")
    if teacher is None or speedups.get(str(teacher.name)) != 1.0:  # they are against something else
        return comparison
    rows = []
    for row in comparison.rows:
        speedup = speedups.get(str(row.name))
        if row.timing is not None and speedup is not None:
            row = replace(row, timing=replace(row.timing, speedup=speedup))
        rows.append(row)
    return replace(comparison, rows=rows)


def _exported_in_words(panels: Sequence[Panel]) -> str:
    """Returns how fast what will be deployed is, where an export of the student was timed."""
    export = deployed(panels[0]) if panels else None
    if export is None or export.speedup is None:
        return ""
    return f" ({export.speedup:.2f} times as {export.group})"


def _words(run: RunFiles, comparison: Comparison | None, exported: str) -> list[str]:
    if not run.finished:
        return [_how_far(run), *(comparison.plain_words(exported) if comparison is not None else [])]
    if comparison is not None:
        return comparison.plain_words(exported)
    metric, metrics = str(run.metrics.get("main_metric")), mapping(run.metrics.get("metrics"))
    if finite(metrics.get(metric)) is not None:
        on = f" on {task_name(run)}" if run.section("data").get("task") else ""
        return [f"The fine-tuned model scores {metrics[metric]:.4f} in {metric}{on}."]
    rows = {str(row.get("name")): row for row in masked_rows(run)}
    before, after = (finite(rows.get(name, {}).get("accuracy")) for name in ("student before", "student"))
    if before is not None and after is not None:
        return [
            f"The student predicts {after:.1%} of the held-out masked tokens, {before:.1%} before its pre-training."
        ]
    return ["The run is finished; it has no scores to show."]


def _how_far(run: RunFiles) -> str:
    step = max((int(finite(entry.get("step")) or 0) for entry in run.log), default=0)
    state = {
        "running": "is under way (or was killed)",
        "interrupted": "was interrupted",
        "failed": "failed",
        "new": "has not begun",
        "finished": "is finished, but its results are missing or damaged",
    }.get(run.state, run.state)
    attempts = items(run.status.get("attempts"))
    error = mapping(attempts[-1]).get("error") if attempts else None
    why = f" ({error})" if error else ""
    return f"This run {state}{why}: its main student has logged up to step {step:,}. What there is so far is below."


def _add_curves(run: RunFiles, names: dict[str, str], report: Report) -> None:
    named = run.metrics.get("main_metric")
    metric = named if isinstance(named, str) else _guessed_metric(run.log)
    if run.command == "distill":
        report.curves += curves_of(run.log, names[main_student(run)], metric)
        for path in sorted((run.path / "comparison").glob("*/log.jsonl")):
            role = path.parent.name
            report.curves += curves_of(
                read_log(path, report.missing, run.finished), names.get(role, role), metric
            )
    else:
        name = "student" if run.command == "pretrain" else FINE_TUNED
        report.curves += curves_of(run.log, name, "accuracy" if run.command == "pretrain" else metric)
    if not report.curves:
        report.missing.append(("curves", f"{run.path / 'log.jsonl'} holds no steps"))


def _guessed_metric(log: Sequence[dict[str, Any]]) -> str | None:
    """The main metric of a run without results: the first that its evaluations name."""
    other = (
        "eval_loss",
        "eval_agreement",
        "eval_runtime",
        "eval_samples_per_second",
        "eval_steps_per_second",
    )
    for entry in log:
        for key in entry:
            if key.startswith("eval_") and key not in other:
                return key.removeprefix("eval_")
    return None
