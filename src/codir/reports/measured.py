"""Lines of the report's table from a run's own comparison."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from codir.reports.contents import ReportedModel
from codir.runs.comparison import Comparison, ModelRow
from codir.runs.timing import Timing

_SHARES = ("accuracy",)
_BLOCKS = ("num_hidden_layers", "n_layers", "num_layers", "n_layer")


def of_row(row: ModelRow, comparison: Comparison, blocks: int | None = None) -> ReportedModel:
    """Returns a line of the report for one of a comparison."""
    line = ReportedModel(
        name=str(row.name),
        role=str(row.role),
        group=str(row.name),
        score=finite(row.score),
        metrics=numbers(row.metrics),
        kept=comparison.share_kept(row),
        agreement=finite(row.agreement),
        blocks=blocks,
        parameters=whole(row.parameters),
        embedding_parameters=whole(row.embedding_parameters),
        bytes=whole(row.bytes),
    )
    return line if row.timing is None else with_timing(line, row.timing)


def with_timing(line: ReportedModel, timing: Timing, where: str = "") -> ReportedModel:
    """Returns the line with what was measured; `where` is added to the conditions."""
    return replace(
        line,
        milliseconds=finite(timing.ms_per_sequence),
        low=min(timing.rounds, default=timing.ms_per_sequence),
        high=max(timing.rounds, default=timing.ms_per_sequence),
        speedup=finite(timing.speedup),
        measured=conditions(timing) + (f", {where}" if where else ""),
    )


def with_error(line: ReportedModel, metric: str, examples: int | None) -> ReportedModel:
    """Returns the line with the standard error of its score, sqrt(p (1 - p) / n).

    Only of an accuracy: it is a share of independent examples; F1 and correlations are none.
    """
    if metric not in _SHARES or not examples or line.score is None or not 0 <= line.score <= 1:
        return line
    return replace(line, error=math.sqrt(line.score * (1 - line.score) / examples), examples=examples)


def conditions(timing: Timing) -> str:
    """Says under which conditions a time was measured; what differs between engines (their precision) is left out."""
    length = (
        f"every text {timing.max_length} tokens long"
        if timing.padded
        else f"texts as long as they are, up to {timing.max_length} tokens"
    )
    threads = (
        f", {timing.threads} thread{'s' if timing.threads != 1 else ''}" if timing.device == "cpu" else ""
    )
    return f"batches of {timing.batch_size}, {length}, on {timing.device}{threads}"


def finite(value: Any) -> float | None:
    """Returns None for what is not a finite number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and math.isfinite(value) else None


def whole(value: Any) -> int | None:
    """Returns None for what is no count."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Returns those of the metrics that are finite numbers."""
    return {str(name): float(value) for name, value in metrics.items() if finite(value) is not None}


def blocks_in(folder: Path | None) -> int | None:
    """Reads the number of blocks off a model folder's `config.json`; None where it does not say."""
    if folder is None:
        return None
    try:
        config: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(config, Mapping):
        return None
    return next((config[name] for name in _BLOCKS if isinstance(config.get(name), int)), None)
