"""What `codir latency` measured and `codir export` made, as lines of the report's table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from codir.deployment.folder import Manifest, is_deployed
from codir.errors import CodirError, RunError
from codir.reports.contents import Panel, ReportedModel
from codir.reports.measured import blocks_in, finite, with_timing
from codir.storage import read_json
from codir.workflows.latency_table import LatencyResult, LatencyRow

TORCH = "torch"


def read_latency(path: Path) -> LatencyResult:
    """Reads the file that `codir latency --output` wrote.

    Raises:
        RunError: it is missing, damaged, or something else.
    """
    if not path.is_file():
        raise RunError(f"{path} is no file: `codir latency MODEL ... --output FILE.json` writes one.")
    try:
        return LatencyResult.from_json(read_json(path))
    except CodirError as error:
        raise RunError(f"{path}: {error}") from error


def add_latency(
    panel: Panel, result: LatencyResult, folders: Sequence[Path | None], others: bool = True
) -> Panel:
    """Puts measured times into the lines of the models they belong to, and adds a line for every other row.

    A row in plain PyTorch belongs to the model whose folder it names; models of the same shape as that one (blocks
    and parameters) take the same time and get it, too.

    Args:
        panel: the table.
        result: of `codir latency`.
        folders: of the panel's models, in their order; None where unknown.
        others: whether rows that belong to none of them become lines.
    """
    models = list(panel.models)
    extra: list[ReportedModel] = []
    where = f"one run of codir latency on {result.machine.get('cpu') or 'this machine'}"
    measured: set[int] = set()
    for row in result.rows:
        own = _own(row, folders)
        if own is None or row.engine != TORCH:
            if others and not _same_shape(models, row):
                extra.append(_line(row, panel, models[own] if own is not None else None, where))
            continue
        models[own] = _timed(models[own], row, where)
        measured.add(own)
    for row in result.rows:
        if row.engine == TORCH:
            for number, model in enumerate(models):
                if number not in measured and _is_shaped(model, row):
                    models[number] = _timed(model, row, where)
                    measured.add(number)
    return replace(panel, models=[*models, *extra])


def add_exports(panel: Panel, folders: Sequence[Path], latency: LatencyResult | None = None) -> Panel:
    """Adds exported folders with their scores; the lines of those that were measured only get what they lack.

    Args:
        panel: the table, with the lines of `latency`.
        folders: of `codir export`.
        latency: what was measured.

    Raises:
        RunError: a folder is no exported one.
    """
    models = list(panel.models)
    measured = {_resolved(row.path): row.name for row in latency.rows} if latency is not None else {}
    for folder in folders:
        if not is_deployed(folder):
            raise RunError(f"{folder} is no exported model: name a folder that `codir export` made.")
        try:
            manifest = Manifest.read(folder)
        except CodirError as error:
            raise RunError(str(error)) from error
        line = _exported(folder, manifest, panel)
        name = _name(measured.get(_resolved(folder), ""), manifest.engine, manifest.precision)
        known = next((n for n, model in enumerate(models) if model.name == name), None)
        if known is None:
            models.append(line)
        elif models[known].score is None or not models[known].metrics:
            score = models[known].score if models[known].score is not None else line.score
            models[known] = replace(
                models[known], score=score, metrics=line.metrics, kept=_kept(score, panel)
            )
    return replace(panel, models=models)


def _own(row: LatencyRow, folders: Sequence[Path | None]) -> int | None:
    path = _resolved(row.path)
    return next((n for n, folder in enumerate(folders) if folder and _resolved(folder) == path), None)


def _same_shape(models: Sequence[ReportedModel], row: LatencyRow) -> bool:
    return row.engine == TORCH and any(_is_shaped(model, row) for model in models)


def _is_shaped(model: ReportedModel, row: LatencyRow) -> bool:
    return (
        model.engine == TORCH
        and model.parameters is not None
        and model.parameters == row.parameters
        and model.blocks in (None, row.blocks)
    )


def _timed(model: ReportedModel, row: LatencyRow, where: str) -> ReportedModel:
    return replace(
        with_timing(model, row.timing, where),
        requests=_requests(row),
        peak_memory=row.peak_memory,
        blocks=model.blocks if model.blocks is not None else row.blocks,
        parameters=model.parameters if model.parameters is not None else row.parameters,
        embedding_parameters=model.embedding_parameters
        if model.embedding_parameters is not None
        else row.embedding_parameters,
        bytes=model.bytes if model.bytes is not None else row.bytes,
    )


def _line(row: LatencyRow, panel: Panel, own: ReportedModel | None, where: str) -> ReportedModel:
    """A line of its own: an export, another engine, or a model that is no part of the run."""
    plain = row.engine == TORCH and own is None
    score = finite(row.score) if row.metric in (None, panel.metric) else None
    line = ReportedModel(
        name=row.name if plain else _name(own.name if own else row.name, row.engine, row.precision),
        role=own.role if own else "other",
        group="other models" if plain else _engine(row.engine, row.precision),
        score=score,
        kept=_kept(score, panel),
        blocks=row.blocks,
        parameters=row.parameters,
        embedding_parameters=row.embedding_parameters,
        bytes=row.bytes,
        requests=_requests(row),
        peak_memory=row.peak_memory,
        engine=row.engine,
    )
    return with_timing(line, row.timing, where)


def _requests(row: LatencyRow) -> dict[int, tuple[float, float]]:
    return {times.batch_size: (times.p50, times.p95) for times in row.real.values()}


def _exported(folder: Path, manifest: Manifest, panel: Panel) -> ReportedModel:
    metrics = next(iter((manifest.metrics_after or {}).values()), {})
    score = finite(metrics.get(panel.metric))
    return ReportedModel(
        name=_name(folder.resolve().name, manifest.engine, manifest.precision),
        role="other",
        group=_engine(manifest.engine, manifest.precision),
        score=score,
        metrics={name: value for name, value in metrics.items() if finite(value) is not None},
        kept=_kept(score, panel),
        blocks=blocks_in(folder),
        parameters=manifest.parameters,
        embedding_parameters=manifest.embedding_parameters,
        bytes=manifest.bytes,
        engine=manifest.engine,
    )


def _name(name: str, engine: str, precision: str) -> str:
    return f"{name} ({_engine(engine, precision)})"


def _engine(engine: str, precision: str) -> str:
    """Names an engine with its precision, once: `torch-bf16`, `onnxruntime int8`."""
    return engine if precision in engine else f"{engine} {precision}"


def _kept(score: float | None, panel: Panel) -> float | None:
    teacher = next((model.score for model in panel.models if model.role == "teacher"), None)
    return score / teacher if score is not None and teacher is not None and teacher > 0 else None


def _resolved(path: str | Path) -> Path:
    return Path(path).expanduser().resolve()
