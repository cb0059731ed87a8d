"""The report's table for runs without a comparison: a fine-tuned model, a pre-trained student."""

from __future__ import annotations

from codir.report.contents import Panel, ReportedModel
from codir.report.details import task_name
from codir.report.measured import blocks_in, finite
from codir.report.run_files import RunFiles, mapping

FINE_TUNED = "fine-tuned model"


def single_panel(run: RunFiles) -> list[Panel]:
    """Returns the table of a fine-tuning or a pre-training; none where its results are missing."""
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
        name=FINE_TUNED,
        role="teacher",
        group=FINE_TUNED,
        score=finite(metrics.get(metric)),
        metrics={name: value for name, value in metrics.items() if finite(value) is not None},
        blocks=blocks_in(run.path),
        bytes=size or None,
    )
    return [Panel(task_name(run), metric, [model])]
