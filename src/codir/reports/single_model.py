"""The report's table for runs without a comparison: a fine-tuned model, a pre-trained student."""

from __future__ import annotations

from typing import Any

from codir.reports.contents import Panel, ReportedModel
from codir.reports.details import task_in_words, task_name
from codir.reports.measured import blocks_in, finite, numbers, whole
from codir.reports.run_files import RunFiles, items, mapping
from codir.runs.timing import model_size

FINE_TUNED = "fine-tuned model"


def single_panel(run: RunFiles) -> list[Panel]:
    """Returns the table of a fine-tuning or a pre-training; none where its results are missing."""
    return _pretrained(run) if run.command == "pretrain" else _fine_tuned(run)


def masked_rows(run: RunFiles) -> list[dict[str, Any]]:
    """Returns the rows of a pre-training's table, see `codir.runs.masked_scores`."""
    return [mapping(row) for row in items(mapping(run.metrics.get("scores")).get("rows"))]


def _pretrained(run: RunFiles) -> list[Panel]:
    roles = {"teacher": "teacher", "student": "codir"}
    models = [
        ReportedModel(
            name=str(row.get("name")),
            role=roles.get(str(row.get("name")), "other"),
            group=str(row.get("name")),
            score=finite(row.get("accuracy")),
            metrics=numbers({key: row.get(key) for key in ("accuracy", "loss")}),
            agreement=finite(row.get("agreement")),
            blocks=whole(row.get("blocks")),
            parameters=whole(row.get("parameters")),
            embedding_parameters=whole(row.get("embedding_parameters")),
        )
        for row in masked_rows(run)
    ]
    return [Panel(task_name(run), "accuracy", models)] if models else []


def _fine_tuned(run: RunFiles) -> list[Panel]:
    metric, metrics = str(run.metrics.get("main_metric") or ""), mapping(run.metrics.get("metrics"))
    model = ReportedModel(
        name=FINE_TUNED,
        role="teacher",
        group=FINE_TUNED,
        score=finite(metrics.get(metric)),
        metrics=numbers(metrics),
        blocks=blocks_in(run.path),
        bytes=model_size(run.path) or None,
    )
    return [Panel(task_name(run), metric, [model], label=task_in_words(run))]
