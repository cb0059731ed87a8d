"""What `codir latency` measured and `codir export` made, as times of the page's models and lines of its own.

A row of a measurement belongs to the model whose folder it names, an export to the model it was made from; never by a
name. All else is left out, and the page says so.
"""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from codir.deploy.latency_table import BUSY, LatencyResult, LatencyRow
from codir.engines.folder import Manifest, is_deployed
from codir.errors import CodirError, RunError
from codir.files import read_json
from codir.measure.timing import Timing
from codir.reports.files import finite, layers_in, numbers
from codir.reports.values import AVERAGE, Model, Panel, Report

TORCH = "torch"
_SUFFIXES = ("-int8", "-fp32", "-bf16", "-fp16")


@dataclass(frozen=True)
class Wanted:
    """What a report is asked for beside its folder, see `codir.report`."""

    latency: Path | None = None
    exported: Sequence[Path] = ()
    data_dir: Path | None = None
    examples: int = 0  # 0 runs no model


@dataclass(frozen=True)
class Owners:
    """Where the models of one panel lie.

    Attributes:
        page: the run's or the study's folder; all that lies in it is of this page.
        folders: those of each model of the panel, in their order; in a study of all its seeds.
        teachers: the page's teachers, for any task.
        examples: validation examples by split that the page's scores are of; empty where it is not known.
        max_length: tokens that texts were cut at for these scores.
    """

    page: Path
    folders: Sequence[Sequence[Path]]
    teachers: Sequence[Path] = ()
    examples: Mapping[str, int] = field(default_factory=dict)
    max_length: int | None = None

    def own(self, path: str | Path) -> int | None:
        """Returns the number of the model whose folder this is, or None."""
        found = self.resolved(path)
        mine = (n for n, each in enumerate(self.folders) if any(_resolved(one) == found for one in each))
        return next(mine, None)

    def is_here(self, path: str | Path) -> bool:
        """Says whether a folder lies in the page's folder, or is one of its teachers."""
        found = self.resolved(path)
        return found.is_relative_to(_resolved(self.page)) or found in map(_resolved, self.teachers)

    def source(self, manifest: Manifest) -> int | None:
        """Returns the number of the model that an export was made from, by its path or by its weights; or None."""
        from codir.deploy.export import weights_digest
        from codir.models.loading import load_classifier

        named = self.own(manifest.source) if manifest.source else None
        if named is not None or not manifest.source_digest:
            return named
        for number, folder in ((n, each) for n, folders in enumerate(self.folders) for each in folders):
            try:
                there = (folder / "config.json").is_file()
                if there and weights_digest(load_classifier(folder)) == manifest.source_digest:
                    return number
            except (CodirError, OSError, ValueError):
                continue
        return None

    def resolved(self, path: str | Path) -> Path:
        """Resolves a path that may have been named from another working directory: beside the page or above it."""
        given = Path(path).expanduser()
        if not given.is_absolute() and not given.exists():
            above = _resolved(self.page)
            given = next((up / given for up in (above, *above.parents) if (up / given).exists()), given)
        return given.resolve()


def _resolved(path: str | Path) -> Path:
    return Path(path).expanduser().resolve()


def add_times(
    report: Report, owners: Owners | Sequence[Owners], wanted: Wanted, command: Sequence[str]
) -> None:
    """Puts measured times into all panels and adds exports; says what is left out, and how to measure.

    Args:
        owners: of each panel, or of all.
        command: what measures this page's models, without its output.

    Raises:
        RunError: a file or an export that was named cannot be used, or none of a measurement is of this page.
    """
    if not report.panels:
        return
    each = [owners] * len(report.panels) if isinstance(owners, Owners) else list(owners)
    own = each[0].page / "latency.json"
    path = wanted.latency or (own if own.is_file() else None)
    if path is not None:
        try:
            result = _read(path)
        except RunError as error:
            if wanted.latency is not None:
                raise
            report.miss(str(error), "times")
        else:
            report.warnings += [f"{path.name}: {note}" for note in result.notes if note.startswith(BUSY)]
            inside = path.resolve() == own.resolve() and report.kind == "run"
            placed: set[int] = set()
            panels = zip(report.panels, each, strict=True)
            report.panels = [_with_rows(p, result, o, wanted, placed, inside, report) for p, o in panels]
            _name_strangers(path, result, placed, each[0], wanted, command, report)
    pairs = zip(report.panels, each, strict=True)
    report.panels = [
        p if p.task == AVERAGE else _with_exports(p, wanted.exported, o, report) for p, o in pairs
    ]
    if not any(model.milliseconds for panel in report.panels for model in panel.models) and command:
        again = ["--overwrite"] if own.exists() else []
        way = shlex.join([*command, "--output", str(own), *again])
        report.miss(f"the {report.kind} measured none: `{way}` does, and the report picks it up", "times")


def _read(path: Path) -> LatencyResult:
    if not path.is_file():
        raise RunError(f"{path} is no file: `codir latency MODEL ... --output FILE.json` writes one.")
    try:
        return LatencyResult.from_json(read_json(path))
    except CodirError as error:
        text = str(error).partition(" Measure again")[0]  # said once, with the file
        text = f"{text.removesuffix('.')}."
        again = f"Measure again: codir latency MODEL ... --output {shlex.quote(str(path))} --overwrite"
        raise RunError(f"{text if str(path) in text else f'{path}: {text}'} {again}") from error


def _name_strangers(
    path: Path,
    result: LatencyResult,
    placed: set[int],
    owners: Owners,
    wanted: Wanted,
    command: Sequence[str],
    report: Report,
) -> None:
    """Says what of a measurement is left out, for it is of other models; raises where it is all that was named."""
    rows = [f"{row.path} ({row.engine})" for n, row in enumerate(result.rows) if n not in placed]
    if not rows:
        return
    shown = ", ".join(rows[:6]) + (f" and {len(rows) - 6} more" if len(rows) > 6 else "")
    if wanted.latency is not None and not placed:
        have = " and ".join(map(str, (*owners.teachers, owners.page)))
        way = shlex.join([*command, "--output", "times.json"])  # not over a file of other models
        none = f"{path} measured {shown}, and none of it is of this {report.kind}, which has {have}"
        raise RunError(f"{none}. Measure these: {way}")
    report.miss(
        f"{path} measured models that are not of this {report.kind}: {shown}; they are left out", "times"
    )


def _with_rows(
    panel: Panel,
    result: LatencyResult,
    owners: Owners,
    wanted: Wanted,
    placed: set[int],
    inside: bool,
    report: Report,
) -> Panel:
    """Puts measured times into the lines of the models they belong to, and adds lines for their other engines.

    A row belongs to the model whose folder it names. A row in plain PyTorch whose folder is of this page lends its
    times, not its score, to models of the same shape that were not measured. An exported folder has a line if it was
    made from a model of the panel, or was asked for. `placed` gets the rows that belong to the page.
    """
    rows, models, extra = result.rows, list(panel.models), list[Model]()
    where = f"one run of codir latency on {result.machine.get('cpu') or 'this machine'}"
    owned = _moved(rows, panel, owners) if inside else [owners.own(row.path) for row in rows]
    exports = {n: _export_of(row, owners, wanted) for n, row in enumerate(rows) if owned[n] is None}
    here = {n for n, row in enumerate(rows) if owned[n] is not None or exports[n] or owners.is_here(row.path)}
    placed |= here
    timings, taken = _timings(panel, rows, owned, here), set[int]()
    lines = panel.task != AVERAGE
    for number in sorted(here):
        row, own, manifest = rows[number], owned[number], exports.get(number)
        if own is not None and row.engine == TORCH:
            if own not in taken:  # in a study several seeds may have been measured: the first stands for all
                models[own] = _timed(models[own], row, timings[number], where)
                taken.add(own)
        elif own is not None and lines:
            line = _engine_line(row, panel, models[own], result.task)
            if any(line.name == other.name for other in extra):
                line = replace(
                    line, name=engine_named(f"{models[own].name}, {row.name}", row.engine, row.precision)
                )
            extra.append(_timed(line, row, timings[number], where))
        elif manifest is not None and lines and _is_whole(manifest, Path(row.path), report):
            line = _export_line(Path(row.path).expanduser(), manifest, panel, owners, report, row.name)
            extra.append(_timed(line, row, timings[number], where))
    for number in sorted(here):
        for place, model in enumerate(models):
            if place not in taken and not exports.get(number) and _is_shaped(model, rows[number]):
                models[place] = _timed(model, rows[number], timings[number], where)
                taken.add(place)
    return replace(panel, models=[*models, *extra])


def _moved(rows: Sequence[LatencyRow], panel: Panel, owners: Owners) -> list[int | None]:
    """Finds the owners of rows in a run's own measurement, with which it may have been moved: its score tells it."""
    main = next((n for n, model in enumerate(panel.models) if model.role == "codir"), 0)
    model = panel.models[main]
    moved = {
        row.path
        for row in rows
        if row.metric == panel.metric
        and row.score is not None
        and row.score == model.score
        and row.engine == TORCH
        and model.parameters in (None, row.parameters)
        and not Path(row.path).expanduser().exists()
    }
    owned = [owners.own(row.path) for row in rows]
    return [main if own is None and row.path in moved else own for row, own in zip(rows, owned, strict=True)]


def _export_of(row: LatencyRow, owners: Owners, wanted: Wanted) -> Manifest | None:
    """Returns the manifest of an exported folder that belongs to the page, or was asked for."""
    folder = owners.resolved(row.path)
    try:
        manifest = Manifest.read(folder) if is_deployed(folder) else None
    except CodirError:
        return None
    asked = folder in map(_resolved, wanted.exported)
    return manifest if manifest and (asked or owners.source(manifest) is not None) else None


def _timings(
    panel: Panel, rows: Sequence[LatencyRow], owned: Sequence[int | None], here: set[int]
) -> Mapping[int, Timing]:
    """Returns the times of the rows that belong here; speed-ups are against one of them.

    `codir latency` counts from the first row. Where that is a stranger, they are counted anew from the page's teacher,
    or else from the first row that belongs here: the median over the rounds, as there.
    """
    if 0 in here or not here:
        return {number: rows[number].timing for number in here}
    teachers = [
        n
        for n in sorted(here)
        if (own := owned[n]) is not None and panel.models[own].role == "teacher" and rows[n].engine == TORCH
    ]
    first, found = rows[(teachers or sorted(here))[0]].timing, {}
    for number in here:
        timing = rows[number].timing
        ratios = [a / b for a, b in zip(first.rounds, timing.rounds, strict=False) if b > 0]
        found[number] = replace(timing, speedup=statistics.median(ratios) if ratios else 1.0)
    return found


def _is_shaped(model: Model, row: LatencyRow) -> bool:
    same = model.parameters is not None and model.parameters == row.parameters
    return same and model.engine == row.engine == TORCH and model.layers in (None, row.layers)


def _timed(model: Model, row: LatencyRow, timing: Timing, where: str) -> Model:
    own = {
        "layers": row.layers,
        **{key: getattr(row, key) for key in ("parameters", "embedding_parameters", "bytes")},
    }
    return replace(
        model.timed(timing, where),
        requests={times.batch_size: (times.p50, times.p95) for times in row.real.values()},
        peak_memory=row.peak_memory,
        **{key: value for key, value in own.items() if getattr(model, key) is None},
    )


def _engine_line(row: LatencyRow, panel: Panel, own: Model, task: str) -> Model:
    """The line of another engine of one of the panel's models; its score counts where it is of this task and metric."""
    same = task.lower() == panel.task.lower() and row.metric == panel.metric
    score = finite(row.score) if same else None
    name, group = engine_named(own.name, row.engine, row.precision), _engine_words(row.engine, row.precision)
    return Model(name, own.role, group, score=score, kept=panel.kept(score), engine=_base(row.engine))


# ---- exported folders ------------------------------------------------------------------------------------------------


def _with_exports(panel: Panel, folders: Sequence[Path], owners: Owners, report: Report) -> Panel:
    """Adds exported folders with their scores; those that were measured are there already."""
    models = list(panel.models)
    there = {_resolved(model.folder) for model in models if model.folder is not None}
    for folder in folders:
        if not is_deployed(folder):
            raise RunError(f"{folder} is no exported model: name a folder that `codir export` made.")
        try:
            manifest = Manifest.read(folder)
        except CodirError as error:
            raise RunError(str(error)) from error
        if _resolved(folder) not in there and _is_whole(manifest, folder, report):
            there.add(_resolved(folder))
            models.append(_export_line(folder, manifest, panel, owners, report))
    return replace(panel, models=models)


def _is_whole(manifest: Manifest, folder: Path, report: Report) -> bool:
    try:
        manifest.check_files(folder)
    except (CodirError, OSError) as error:
        report.miss(f"it is left out: {str(error).rstrip('.')}", folder.resolve().name)
        return False
    return True


def _export_line(
    folder: Path, manifest: Manifest, panel: Panel, owners: Owners, report: Report, name: str = ""
) -> Model:
    """Returns the line of an export, without times; its role is that of the model it was made from, else `other`.

    The scores stay out, and the page says so, where they are of another task, of other examples or of texts cut
    elsewhere: put beside the page's they would show a difference that is none.
    """
    source, (split, metrics) = (
        owners.source(manifest),
        next(iter((manifest.metrics_after or {}).items()), ("", {})),
    )
    own = owners.examples.get(split, next(iter(owners.examples.values()), None))
    why = (
        _of_other_data(folder, manifest, panel, owners, manifest.examples.get(split), own)
        if metrics
        else None
    )
    if why is not None:
        report.miss(why, f"score of {folder.resolve().name}")
        metrics = {}
    score = finite(metrics.get(panel.metric))
    return Model(
        name=engine_named(name or folder.resolve().name, manifest.engine, manifest.precision),
        role="other" if source is None else panel.models[source].role,
        group=_engine_words(manifest.engine, manifest.precision),
        score=score,
        metrics=numbers(metrics),
        kept=panel.kept(score),
        layers=layers_in(folder),
        parameters=manifest.parameters,
        embedding_parameters=manifest.embedding_parameters,
        bytes=manifest.bytes,
        engine=manifest.engine,
        folder=str(folder),
    ).with_error(panel.metric, own)


def _of_other_data(
    folder: Path, manifest: Manifest, panel: Panel, owners: Owners, many: int | None, own: int | None
) -> str | None:
    """Returns why the scores of an export cannot stand beside the page's, or None."""
    if manifest.task and manifest.task.lower() != panel.task.lower():
        return f"it was checked on {manifest.task}, and this page is on {panel.task}: the two do not compare"
    if many is not None and own is not None and many != own:
        two = f"it is of {many:,} validation examples, and this page's scores are of {own:,}"
        return f"{two}: the two do not compare. `codir export` with the run's own data gives one that does"
    limit, length = owners.max_length, manifest.max_length
    if limit is not None and length is not None and length not in _limits(folder, limit):
        return f"its texts were cut at {length} tokens, those of this page's scores at {limit}: the two do not compare"
    return None


def _limits(folder: Path, limit: int) -> set[int]:
    """Returns a limit, and those that come of the model's positions where it has fewer (RoBERTa skips two)."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        positions = int(config["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError):
        return {limit}
    return {limit, *(each for each in (positions, positions - 2) if each < limit)}


def engine_named(name: str, engine: str, precision: str) -> str:
    """Returns a model's name with its engine, unless the name says it, as that of a folder `openvino-int8` does."""
    said = _engine_words(engine, precision)
    return name if set(said.split()) <= {name, *name.split("-")} else f"{name} ({said})"


def _engine_words(engine: str, precision: str) -> str:
    """Names an engine with its precision, once: `torch-bf16`, `onnxruntime int8`, whether it is called -int8 or not."""
    if engine.startswith(TORCH):
        return engine if precision in engine or engine == TORCH else f"{engine} {precision}"
    return f"{_base(engine)} {precision}"


def _base(engine: str) -> str:
    """Returns `openvino` for `openvino-int8`, which is what `codir latency` calls it; torch's names stay."""
    if engine.startswith(TORCH):
        return engine
    return next((engine.removesuffix(each) for each in _SUFFIXES if engine.endswith(each)), engine)
