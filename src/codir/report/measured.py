"""Lines of the report's table from a run's own comparison."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codir.report.contents import ReportedModel
from codir.workflows.comparison import Comparison, ModelRow
from codir.workflows.timing import Timing

_BLOCKS = ("num_hidden_layers", "n_layers", "num_layers", "n_layer")


def of_row(row: ModelRow, comparison: Comparison, blocks: int | None = None) -> ReportedModel:
    """Returns a line of the report for one of a comparison."""
    line = ReportedModel(
        name=row.name,
        role=row.role,
        group=row.name,
        score=finite(row.score),
        metrics={name: value for name, value in row.metrics.items() if math.isfinite(value)},
        kept=comparison.share_kept(row),
        agreement=finite(row.agreement),
        blocks=blocks,
        parameters=row.parameters,
        embedding_parameters=row.embedding_parameters,
        bytes=row.bytes,
    )
    return line if row.timing is None else with_timing(line, row.timing)


def with_timing(line: ReportedModel, timing: Timing, where: str = "") -> ReportedModel:
    """Returns the line with what was measured; `where` is added to the conditions."""
    from dataclasses import replace

    return replace(
        line,
        milliseconds=timing.ms_per_sequence,
        low=min(timing.rounds, default=timing.ms_per_sequence),
        high=max(timing.rounds, default=timing.ms_per_sequence),
        speedup=finite(timing.speedup),
        measured=conditions(timing) + (f", {where}" if where else ""),
    )


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


def finite(value: float | None) -> float | None:
    """Returns None for what is not a finite number."""
    return None if value is None or not math.isfinite(value) else float(value)


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
