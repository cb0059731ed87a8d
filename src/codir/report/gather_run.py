"""A run folder as a report: its table, curves, what its models show of themselves, costs and facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codir.errors import CodirError
from codir.report.contents import Panel, Report
from codir.report.curves import curves_of
from codir.report.details import costs_of, data_in_words, facts_of, task_name
from codir.report.measured import blocks_in, finite, of_row
from codir.report.outputs import Examples
from codir.report.run_files import RunFiles, mapping, read_log, read_run
from codir.report.views import Folders, add_views
from codir.tasks.metrics import METRICS, constant_score
from codir.workflows.comparison import TITLES, Comparison
from codir.workflows.prepare import main_role


@dataclass(frozen=True)
class Wishes:
    """What a report is asked for beside the folder.

    Attributes:
        latency: file of `codir latency --output`.
        exported: folders of `codir export`.
        data_dir: folder of the task's data, instead of the one that the run names.
        examples: validation examples that models are run over.
        models: whether models are run at all.
    """

    latency: Path | None = None
    exported: Sequence[Path] = ()
    data_dir: Path | None = None
    examples: int = 1000
    models: bool = True


def gather_run(folder: Path, wishes: Wishes) -> Report:
    """Brings together what a run folder holds and, unless not wanted, what its models say of validation data.

    Nothing is written. What cannot be had is named in `Report.missing`; a run may be unfinished or under way.

    Raises:
        RunError: the folder is no run.
    """
    run = read_run(folder)
    report = Report(
        title=folder.resolve().name,
        kind="run",
        subtitle=_subtitle(run),
        finished=run.finished,
        costs=[],
        facts=facts_of(run),
        config=run.config_text,
        missing=run.missing,
    )
    comparison = _comparison(run, report)
    names = _names(run, comparison)
    report.costs = costs_of(run, names)
    report.panels = _panels(run, comparison, report)
    report.words = _words(run, comparison)
    _add_curves(run, names, report)
    if run.command == "distill":
        folders = _folders(run, names)
        seen = add_views(run, folders, wishes.examples if wishes.models else 0, wishes.data_dir, report)
        _add_constant(seen, report)
    return report


def _add_constant(examples: Examples | None, report: Report) -> None:
    """Fills in what one answer to everything scores, which older runs do not say."""
    for number, panel in enumerate(report.panels):
        if panel.constant is not None:
            continue
        known = examples is not None and len(examples.numbers) == examples.whole and panel.metric in METRICS
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
        return Comparison.from_json(content)
    except (CodirError, ValueError) as error:
        report.missing.append(("table", f"{run.path / 'metrics.json'}: {error}"))
        return None


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


def _panels(run: RunFiles, comparison: Comparison | None, report: Report) -> list[Panel]:
    if comparison is None:
        return _single_panel(run) if run.metrics else []
    teacher = run.find(str(run.config.get("teacher") or ""))
    models = []
    for row in comparison.rows:
        folder = teacher if row.role == "teacher" else run.path
        models.append(of_row(row, comparison, blocks_in(folder)))
    if not any(model.milliseconds is not None for model in models):
        report.missing.append(("times", _no_times(run)))
    return [Panel(task_name(run), comparison.main_metric, models, comparison.constant)]


def _no_times(run: RunFiles) -> str:
    teacher = run.config.get("teacher") or "TEACHER"
    return (
        "the run measured none: `codir latency "
        f"{teacher} {run.path} ... --output {run.path / 'latency.json'}` does, and the report picks it up"
    )


def _single_panel(run: RunFiles) -> list[Panel]:
    """The table of a fine-tuning or a pre-training."""
    from codir.report.contents import ReportedModel

    if run.command == "pretrain":
        rows = mapping(run.metrics.get("scores")).get("rows") or []
        models = [
            ReportedModel(
                name=str(row.get("name")),
                role="teacher"
                if row.get("name") == "teacher"
                else "codir"
                if row.get("name") == "student"
                else "other",
                group=str(row.get("name")),
                score=finite(row.get("accuracy")),
                metrics={key: row[key] for key in ("accuracy", "loss") if finite(row.get(key)) is not None},
                agreement=finite(row.get("agreement")),
                blocks=row.get("blocks"),
                parameters=row.get("parameters"),
                embedding_parameters=row.get("embedding_parameters"),
            )
            for row in map(mapping, rows)
        ]
        return [Panel(task_name(run), "accuracy", models)] if models else []
    metric, metrics = str(run.metrics.get("main_metric") or ""), mapping(run.metrics.get("metrics"))
    size = sum(path.stat().st_size for path in run.path.glob("model*.safetensors"))
    model = ReportedModel(
        name="fine-tuned model",
        role="teacher",
        group="fine-tuned model",
        score=finite(metrics.get(metric)),
        metrics={name: value for name, value in metrics.items() if finite(value) is not None},
        blocks=blocks_in(run.path),
        bytes=size or None,
    )
    return [Panel(task_name(run), metric, [model])]


def _words(run: RunFiles, comparison: Comparison | None) -> list[str]:
    if not run.finished:
        return [_how_far(run), *(comparison.plain_words() if comparison is not None else [])]
    if comparison is not None:
        return comparison.plain_words()
    metric, metrics = run.metrics.get("main_metric"), mapping(run.metrics.get("metrics"))
    if metric in metrics and finite(metrics[metric]) is not None:
        return [f"The fine-tuned model scores {metrics[metric]:.4f} in {metric} on {task_name(run)}."]
    rows = {
        row.get("name"): row for row in map(mapping, mapping(run.metrics.get("scores")).get("rows") or [])
    }
    before, after = (finite(rows.get(name, {}).get("accuracy")) for name in ("student before", "student"))
    if before is not None and after is not None:
        return [
            f"The student predicts {after:.1%} of the held-out masked tokens, {before:.1%} before its pre-training."
        ]
    return ["The run is finished; it has no scores to show."]


def _how_far(run: RunFiles) -> str:
    step = max((int(entry.get("step", 0)) for entry in run.log), default=0)
    state = {
        "running": "is under way (or was killed)",
        "interrupted": "was interrupted",
        "failed": "failed",
        "new": "has not begun",
        "finished": "is finished, but its results are missing or damaged",
    }.get(run.state, run.state)
    attempts: list[Any] = run.status.get("attempts") or [{}]
    error = mapping(attempts[-1]).get("error")
    why = f" ({error})" if error else ""
    return f"This run {state}{why}: its main student has logged up to step {step:,}. What there is so far is below."


def _add_curves(run: RunFiles, names: dict[str, str], report: Report) -> None:
    metric = run.metrics.get("main_metric") or _guessed_metric(run.log)
    if run.command == "distill":
        report.curves += curves_of(run.log, names[main_student(run)], metric)
        for path in sorted((run.path / "comparison").glob("*/log.jsonl")):
            role = path.parent.name
            report.curves += curves_of(read_log(path, report.missing), names.get(role, role), metric)
    else:
        name = "student" if run.command == "pretrain" else "fine-tuned model"
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
