"""Exported folders as lines of the report's table, with scores where they are of the same examples as the page's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from codir.engines.folder import Manifest, is_deployed
from codir.errors import CodirError, RunError
from codir.reports.contents import Panel, ReportedModel
from codir.reports.measured import blocks_in, finite, with_error
from codir.reports.owners import Owners, resolved

Missing = list[tuple[str, str]]
_SUFFIXES = ("-int8", "-fp32", "-bf16", "-fp16")


def add_exports(panel: Panel, folders: Sequence[Path], owners: Owners, missing: Missing) -> Panel:
    """Adds exported folders with their scores; those that were measured are there already and get what they lack.

    Args:
        panel: the table, perhaps with measured lines.
        folders: of `codir export`.
        owners: where the panel's models lie.
        missing: gets what cannot be shown, and why.

    Raises:
        RunError: a folder is no exported one.
    """
    models = list(panel.models)
    there = {resolved(model.folder): n for n, model in enumerate(models) if model.folder is not None}
    for folder in folders:
        if not is_deployed(folder):
            raise RunError(f"{folder} is no exported model: name a folder that `codir export` made.")
        try:
            manifest = Manifest.read(folder)
        except CodirError as error:
            raise RunError(str(error)) from error
        if resolved(folder) in there:
            continue
        if not is_whole(manifest, folder, missing):
            continue
        there[resolved(folder)] = len(models)
        models.append(export_line(folder, manifest, panel, owners, missing))
    return replace(panel, models=models)


def is_whole(manifest: Manifest, folder: Path, missing: Missing) -> bool:
    """Says whether the files of an export are whole, and notes it where they are not."""
    try:
        manifest.check_files(folder)
    except (CodirError, OSError) as error:
        _note(missing, folder.resolve().name, f"it is left out: {str(error).rstrip('.')}")
        return False
    return True


def export_line(
    folder: Path, manifest: Manifest, panel: Panel, owners: Owners, missing: Missing, name: str = ""
) -> ReportedModel:
    """Returns the line of an export, without times.

    Its role is that of the model it was made from, `other` if that is not on the page. The scores stay out, and
    `missing` says so, where they are of another task, of other examples or of texts cut elsewhere: put beside the
    page's they would show a difference that is none.
    """
    source = owners.source(manifest)
    metrics = dict(next(iter((manifest.metrics_after or {}).values()), {}))
    why = _of_other_data(folder, manifest, panel, owners) if metrics else None
    if why is not None:
        _note(missing, f"score of {folder.resolve().name}", why)
        metrics = {}
    score = finite(metrics.get(panel.metric))
    line = ReportedModel(
        name=named(name or folder.resolve().name, manifest.engine, manifest.precision),
        role="other" if source is None else panel.models[source].role,
        group=engine_name(manifest.engine, manifest.precision),
        score=score,
        metrics={name: value for name, value in metrics.items() if finite(value) is not None},
        kept=kept(score, panel),
        blocks=blocks_in(folder),
        parameters=manifest.parameters,
        embedding_parameters=manifest.embedding_parameters,
        bytes=manifest.bytes,
        engine=manifest.engine,
        folder=str(folder),
    )
    return with_error(line, panel.metric, _first(owners, manifest))


def _of_other_data(folder: Path, manifest: Manifest, panel: Panel, owners: Owners) -> str | None:
    """Returns why the scores of an export cannot stand beside the page's, or None."""
    task = manifest.task
    if task and task.lower() != panel.task.lower():
        return f"it was checked on {task}, and this page is on {panel.task}: the two do not compare"
    splits = getattr(manifest, "examples", None) or {}
    split = next(iter(manifest.metrics_after or {}), "")
    own = _first(owners, manifest)
    many = splits.get(split)
    if isinstance(many, int) and own is not None and many != own:
        return (
            f"it is of {many:,} validation examples, and this page's scores are of {own:,}: the two do not compare. "
            f"`codir export` with the run's own data gives one that does"
        )
    limit, length = owners.max_length, manifest.max_length
    if limit is not None and length is not None and length not in {limit, *_positions(folder, limit)}:
        return f"its texts were cut at {length} tokens, those of this page's scores at {limit}: the two do not compare"
    return None


def _positions(folder: Path, limit: int) -> set[int]:
    """Returns the limits that come of the model's positions where it has fewer than `limit` (RoBERTa skips two)."""
    try:
        positions = json.loads((folder / "config.json").read_text(encoding="utf-8"))[
            "max_position_embeddings"
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return (
        {each for each in (positions, positions - 2) if each < limit} if isinstance(positions, int) else set()
    )


def _first(owners: Owners, manifest: Manifest) -> int | None:
    """Returns how many examples the page has of the split that an export was scored on."""
    split = next(iter(manifest.metrics_after or {}), "")
    return owners.examples.get(split, next(iter(owners.examples.values()), None))


def named(name: str, engine: str, precision: str) -> str:
    """Returns a model's name with its engine, unless the name says it, as that of a folder `openvino-int8` does."""
    said = engine_name(engine, precision)
    return name if set(said.split()) <= {name, *name.split("-")} else f"{name} ({said})"


def engine_name(engine: str, precision: str) -> str:
    """Names an engine with its precision, once: `torch-bf16`, `onnxruntime int8`, whether it is called -int8 or not."""
    if engine.startswith("torch"):
        return engine if precision in engine or engine == "torch" else f"{engine} {precision}"
    return f"{base_engine(engine)} {precision}"


def base_engine(engine: str) -> str:
    """Returns `openvino` for `openvino-int8`, which is what `codir latency` calls it; torch's names stay."""
    if engine.startswith("torch"):
        return engine
    return next((engine.removesuffix(each) for each in _SUFFIXES if engine.endswith(each)), engine)


def kept(score: float | None, panel: Panel) -> float | None:
    """Returns the share of the teacher's score."""
    teacher = next((model.score for model in panel.models if model.role == "teacher"), None)
    return score / teacher if score is not None and teacher is not None and teacher > 0 else None


def _note(missing: Missing, part: str, why: str) -> None:
    if (part, why) not in missing:  # a study's panels see the same folder
        missing.append((part, why))
