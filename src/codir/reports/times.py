"""What `codir latency` measured and `codir export` made, as times of the page's models and lines of its own.

A row of a measurement belongs to the model whose folder it names, an export to the model it was made from; never by a
name. All else is left out, and the page says so.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from codir.deploy.latency import BUSY, LatencyResult, LatencyRow
from codir.engines.folder import Manifest, is_deployed
from codir.errors import CodirError, RunError
from codir.files import read_json
from codir.measure.timing import Timing
from codir.record.run_data import find_near
from codir.reports.files import finite, layers_in, numbers
from codir.reports.values import AVERAGE, Model, Panel, Report, Wanted

TORCH = "torch"


def add_times(report: Report, page: Path, wanted: Wanted, command: Sequence[str]) -> None:
    """Puts measured times into all panels and adds exports; says what is left out, and how to measure.

    Args:
        page: the run's or the study's folder; all that lies in it is of this page.
        command: what measures this page's models, without its output.

    Raises:
        RunError: a file or an export that was named cannot be used, or none of a measurement is of this page.
    """
    if not report.panels:
        return
    own = page / "latency.json"
    if wanted.latency is not None or own.is_file():
        try:
            _add_rows(report, page, wanted.latency or own, wanted, command)
        except RunError as error:
            if wanted.latency is not None:
                raise
            report.miss(str(error), "times")
    for folder in wanted.exported:
        if not is_deployed(folder):
            raise RunError(f"{folder} is no exported model: name a folder that `codir export` made.")
        try:
            manifest = Manifest.read(folder)
        except CodirError as error:
            raise RunError(str(error)) from error
        for number, panel in enumerate(report.panels):
            there = _owner(panel, folder, page) is not None or panel.task == AVERAGE
            line = None if there else _export_line(folder, manifest, panel, page, report)
            report.panels[number] = replace(panel, models=[*panel.models, line]) if line else panel
    if not any(model.milliseconds for panel in report.panels for model in panel.models):
        way = shlex.join([*command, "--output", str(own), *(["--overwrite"] if own.exists() else [])])
        report.miss(f"the {report.kind} measured none: `{way}` does, and the report picks it up", "times")


def _resolved(path: str | Path, page: Path) -> Path:
    """Resolves a path that may have been named from another working directory: beside the page or above it."""
    return (find_near(page, path) or Path(path).expanduser()).resolve()


def _owner(panel: Panel, path: str | Path, page: Path) -> int | None:
    """Returns the number of the model whose folder this is, or None."""
    found = _resolved(path, page) if str(path) else None
    owners = (n for n, m in enumerate(panel.models) if found in [_resolved(each, page) for each in m.folders])
    return next(owners, None)


def _read(path: Path) -> LatencyResult:
    if not path.is_file():
        raise RunError(f"{path} is no file: `codir latency MODEL ... --output FILE.json` writes one.")
    try:
        return LatencyResult.from_json(read_json(path))
    except CodirError as error:
        text = str(error).partition(" Measure again")[0].removesuffix(".")
        way = f"codir latency MODEL ... --output {shlex.quote(str(path))} --overwrite"
        raise RunError(f"{path} cannot be used: {text}. Measure again: {way}") from error


def _add_rows(report: Report, page: Path, path: Path, wanted: Wanted, command: Sequence[str]) -> None:
    """Puts a file's times into all panels; says which rows are of other models, and refuses a file of no others."""
    result, placed = _read(path), set[int]()
    report.warnings += [f"{path.name}: {note}" for note in result.notes if note.startswith(BUSY)]
    at = [_resolved(row.path, page) for row in result.rows]
    if report.kind == "run" and path.resolve() == (page / "latency.json").resolve():
        # with its own measurement the run may have been moved: its score tells which rows are its own
        main = report.panels[0].student or report.panels[0].models[0]
        scores = {row.path: row.score for row in result.rows if row.metric == report.panels[0].metric}
        mine = [main.score is not None and scores.get(row.path) == main.score for row in result.rows]
        at = [page.resolve() if own and not each.exists() else each for own, each in zip(mine, at, strict=True)]
    for number, panel in enumerate(report.panels):
        report.panels[number], here = _with_rows(panel, result, at, page, wanted, report)
        placed |= here
    strangers = [f"{row.path} ({row.engine})" for n, row in enumerate(result.rows) if n not in placed]
    shown = ", ".join(strangers[:6]) + (f" and {len(strangers) - 6} more" if len(strangers) > 6 else "")
    if strangers and wanted.latency is not None and not placed:
        way = shlex.join([*command, "--output", "times.json"])  # not over a file of other models
        none = f"{path} measured {shown}, and none of it is of this {report.kind}, {page}"
        raise RunError(f"{none}. Measure its models: {way}")
    if strangers:
        why = f"{path} measured models that are not of this {report.kind}: {shown}; they are left out"
        report.miss(why, "times")


def _with_rows(
    panel: Panel, result: LatencyResult, at: Sequence[Path], page: Path, wanted: Wanted, report: Report
) -> tuple[Panel, set[int]]:
    """Puts times into the lines of the models they belong to, adds lines for other engines; returns the rows used.

    A row in plain PyTorch whose folder is of this page lends its times, not its score, to models of the same shape that
    were not measured. An exported folder has a line if it was made from a model of the panel, or was asked for.
    """
    rows, models, extra = result.rows, list(panel.models), list[Model]()
    folders = {_resolved(each, page) for p in report.panels for model in p.models for each in model.folders}
    owned = {n: own for n, folder in enumerate(at) if (own := _owner(panel, folder, page)) is not None}
    inside = {n for n, each in enumerate(at) if each in folders or each.is_relative_to(page.resolve())}
    asked, exports = {folder.resolve() for folder in wanted.exported}, dict[int, Manifest]()
    for number in {*range(len(rows))} - {*owned}:
        with contextlib.suppress(CodirError):
            manifest = Manifest.read(at[number])
            if at[number] in asked or _owner(panel, manifest.source, page) is not None:
                exports[number] = manifest
    here = sorted({*inside, *owned, *exports})
    # `codir latency` counts speed-ups from the first row. Where that is a stranger, they are counted anew from the
    # page's teacher, or else from the first row that belongs here: the median over the rounds, as there.
    timings = {number: rows[number].timing for number in here}
    if 0 not in timings:
        teachers = [n for n in owned if models[owned[n]].role == "teacher" and rows[n].engine == TORCH]
        first = timings[(teachers or here)[0]].rounds if here else ()
        for number, timing in timings.items():
            ratios = [a / b for a, b in zip(first, timing.rounds, strict=True) if b > 0]
            timings[number] = replace(timing, speedup=statistics.median(ratios) if ratios else 1.0)
    where = f"one run of codir latency on {result.machine.get('cpu') or 'this machine'}"
    taken, lines = set[int](), panel.task != AVERAGE
    for number in here:
        row, own = rows[number], owned.get(number)
        if own is not None and row.engine == TORCH:
            if own not in taken:  # in a study several seeds may have been measured: the first stands for all
                models[own] = _timed(models[own], row, timings[number], where)
                taken.add(own)
        elif own is not None and lines:
            # its score counts where it is of this task and metric
            same = result.task.lower() == panel.task.lower() and row.metric == panel.metric
            score, words = finite(row.score) if same else None, engine_words(row.engine, row.precision)
            line = Model(engine_named(models[own].name, words), models[own].role, words, engine=row.engine)
            line = replace(line, score=score, kept=panel.kept(score))
            extra.append(_timed(line, row, timings[number], where))
        elif number in exports and lines:
            line = _export_line(at[number], exports[number], panel, page, report)
            extra += [_timed(line, row, timings[number], where)] if line else []
    for number in here:
        shape = rows[number].parameters, rows[number].engine
        for place, model in enumerate(models):
            same = None not in shape and shape == (model.parameters, TORCH) and model.engine == TORCH
            if same and place not in taken and model.layers in (None, rows[number].layers):
                models[place] = _timed(model, rows[number], timings[number], where)
                taken.add(place)
    return replace(panel, models=[*models, *extra]), set(here)


def _timed(model: Model, row: LatencyRow, timing: Timing, where: str) -> Model:
    own = {"layers": row.layers, "parameters": row.parameters, "bytes": row.bytes}
    own["embedding_parameters"] = row.embedding_parameters
    return replace(
        model.timed(timing, where),
        requests={times.batch_size: (times.p50, times.p95) for times in row.real.values()},
        peak_memory=row.peak_memory,
        **{key: value for key, value in own.items() if getattr(model, key) is None},
    )


def _export_line(folder: Path, manifest: Manifest, panel: Panel, page: Path, report: Report) -> Model | None:
    """Returns the line of an export, without times; its role is that of the model it was made from, else `other`.

    Nothing is shown of a folder that is not whole. The scores stay out, and the page says so, where they are of another
    task or of other examples: put beside the page's they would show a difference that is none.
    """
    name = folder.resolve().name
    try:
        manifest.check_files(folder)
    except (CodirError, OSError) as error:
        report.miss(f"it is left out: {str(error).rstrip('.')}", name)
        return None
    source = _owner(panel, manifest.source, page)
    split, metrics = next(iter((manifest.metrics_after or {}).items()), ("", {}))
    many, own = (
        manifest.examples.get(split),
        panel.examples.get(split, next(iter(panel.examples.values()), None)),
    )
    why = None
    if manifest.task and manifest.task.lower() != panel.task.lower():
        why = f"it was checked on {manifest.task}, and this page is on {panel.task}: the two do not compare"
    elif many is not None and own is not None and many != own:
        why = f"it is of {many:,} validation examples, and this page's scores are of {own:,}: the two do not compare. "
        why += "`codir export` with the run's own data gives one that does"
    if metrics and why is not None:
        report.miss(why, f"score of {name}")
        metrics = {}
    score, words = finite(metrics.get(panel.metric)), engine_words(manifest.engine, manifest.precision)
    return Model(
        name=engine_named(name, words),
        role="other" if source is None else panel.models[source].role,
        group=words,
        score=score,
        metrics=numbers(metrics),
        kept=panel.kept(score),
        layers=layers_in(folder),
        parameters=manifest.parameters,
        embedding_parameters=manifest.embedding_parameters,
        bytes=manifest.bytes,
        engine=manifest.engine,
        folders=(folder,),
    ).with_error(panel.metric, own)


def engine_words(engine: str, precision: str) -> str:
    """Names an engine with its precision, once: `torch-bf16`, `onnxruntime int8`."""
    return engine if precision in engine or engine.startswith(TORCH) else f"{engine} {precision}"


def engine_named(name: str, words: str) -> str:
    """Returns a model's name with its engine, unless the name says it, as that of a folder `openvino-int8` does."""
    return name if set(re.split("[ -]", words)) <= set(re.split("[ -]", name)) else f"{name} ({words})"
