"""What `codir latency` measured, as times of the page's models and lines of their other engines."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from codir.deploy.latency_table import BUSY, LatencyResult, LatencyRow
from codir.engines.folder import Manifest, is_deployed
from codir.errors import CodirError, RunError
from codir.reports.contents import Panel, ReportedModel
from codir.reports.export_lines import Missing, base_engine, engine_name, export_line, is_whole, kept, named
from codir.reports.measured import finite, with_timing
from codir.reports.owners import Owners, resolved
from codir.runs.timing import Timing
from codir.storage import read_json

TORCH = "torch"


@dataclass(frozen=True)
class Measured:
    """A measurement and where it was read.

    Attributes:
        path: the file.
        result: its content.
        asked: exported folders that the page shall show, whatever they were made from.
        inside: the file lies in the page's own folder, so that rows of a folder that was moved may be known again.
    """

    path: Path
    result: LatencyResult
    asked: Sequence[Path] = ()
    inside: bool = False

    @property
    def warnings(self) -> list[str]:
        """What was said of a busy machine when it was measured, with the file it stands in."""
        return [f"{self.path.name}: {note}" for note in self.result.notes if note.startswith(BUSY)]


@dataclass
class Placed:
    """Rows of a measurement that were found to be of the page, by number; shared by all its panels."""

    rows: set[int] = field(default_factory=set)


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
        text = str(error).partition(" Measure again")[0]  # said once, with the file
        text += "" if text.endswith(".") else "."
        again = f"Measure again: codir latency MODEL ... --output {shlex.quote(str(path))} --overwrite"
        raise RunError(f"{text if str(path) in text else f'{path}: {text}'} {again}") from error


def add_latency(
    panel: Panel, measured: Measured, owners: Owners, placed: Placed, missing: Missing, lines: bool = True
) -> Panel:
    """Puts measured times into the lines of the models they belong to, and adds lines for their other engines.

    A row belongs to the model whose folder it names. A row in plain PyTorch whose folder is of this run or study
    lends its times, not its score, to models of the same shape (blocks and parameters) that were not measured. An
    exported folder has a line if it was made from a model of the panel, or was asked for. All else is left out.

    Args:
        panel: the table.
        measured: of `codir latency`.
        owners: where the panel's models lie.
        placed: gets the rows that belong to the page.
        missing: gets what cannot be shown, and why.
        lines: whether engines and exports become lines.
    """
    models = list(panel.models)
    extra: list[ReportedModel] = []
    where = f"one run of codir latency on {measured.result.machine.get('cpu') or 'this machine'}"
    owned = _owned(panel, measured, owners)
    rows = measured.result.rows
    exports = {n: _export(row, measured, owners) for n, row in enumerate(rows) if owned[n] is None}
    here = {n for n, own in enumerate(owned) if own is not None}
    here |= {n for n, manifest in exports.items() if manifest is not None or owners.is_here(rows[n].path)}
    placed.rows |= here
    timings = _timings(panel, rows, owned, here)
    taken: set[int] = set()
    for number, row in enumerate(rows):
        own, manifest = owned[number], exports.get(number)
        if own is not None and row.engine == TORCH:
            if own not in taken:  # in a study several seeds may have been measured: the first stands for all
                models[own] = _timed(models[own], row, timings[number], where)
                taken.add(own)
        elif own is not None and lines:
            line = _engine_line(row, panel, models[own], measured.result.task)
            if any(line.name == other.name for other in extra):
                line = replace(line, name=named(f"{models[own].name}, {row.name}", row.engine, row.precision))
            extra.append(with_timing(line, timings[number], where))
        elif manifest is not None and lines and is_whole(manifest, Path(row.path), missing):
            line = export_line(Path(row.path).expanduser(), manifest, panel, owners, missing, row.name)
            extra.append(_timed(line, row, timings[number], where))
    for number in sorted(here):
        row = rows[number]
        if row.engine == TORCH and (owned[number] is not None or owners.is_here(row.path)):
            for place, model in enumerate(models):
                if place not in taken and _is_shaped(model, row):
                    models[place] = _timed(model, row, timings[number], where)
                    taken.add(place)
    return replace(panel, models=[*models, *extra])


def name_strangers(
    measured: Measured, placed: Placed, kind: str, have: str, way: str, required: bool, missing: Missing
) -> None:
    """Says what of a measurement is left out, for it is of other models.

    Args:
        measured: of `codir latency`.
        placed: the rows that belong to the page.
        kind: `run` or `study`.
        have: what the page has, in words.
        way: the command that measures it.
        required: the file was named: it must have something to show.
        missing: gets the sentence.

    Raises:
        RunError: nothing of a file that was named belongs to the page.
    """
    rows = measured.result.rows
    strangers = [f"{row.path} ({row.engine})" for n, row in enumerate(rows) if n not in placed.rows]
    if not strangers:
        return
    shown = ", ".join(strangers[:6]) + (f" and {len(strangers) - 6} more" if len(strangers) > 6 else "")
    if required and not placed.rows:
        raise RunError(
            f"{measured.path} measured {shown}, and none of it is of this {kind}, which has {have}. Measure "
            f"these: {way}"
        )
    missing.append(
        ("times", f"{measured.path} measured models that are not of this {kind}: {shown}; they are left out")
    )


def _owned(panel: Panel, measured: Measured, owners: Owners) -> list[int | None]:
    """Returns for each row the number of the panel's model whose folder it names, or None."""
    rows = measured.result.rows
    owned = [owners.own(row.path) for row in rows]
    if not measured.inside:
        return owned
    # The run was moved or copied with its measurement: its folder has another name now, its score tells it.
    main = next((n for n, model in enumerate(panel.models) if model.role == "codir"), 0)
    model = panel.models[main]
    moved: dict[str, int] = {}
    for row, own in zip(rows, owned, strict=True):
        gone = own is None and not Path(row.path).expanduser().exists()
        same = row.metric == panel.metric and row.score is not None and row.score == model.score
        if gone and same and row.engine == TORCH and model.parameters in (None, row.parameters):
            moved[row.path] = main
    return [moved.get(row.path) if own is None else own for row, own in zip(rows, owned, strict=True)]


def _export(row: LatencyRow, measured: Measured, owners: Owners) -> Manifest | None:
    """Returns the manifest of an exported folder that belongs to the page, or was asked for."""
    folder = owners.resolved(row.path)
    if not is_deployed(folder):
        return None
    try:
        manifest = Manifest.read(folder)
    except CodirError:
        return None
    asked = any(resolved(each) == folder for each in measured.asked)
    return manifest if asked or owners.source(manifest) is not None else None


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
    first = rows[(teachers or sorted(here))[0]].timing
    found = {}
    for number in here:
        timing = rows[number].timing
        ratios = [a / b for a, b in zip(first.rounds, timing.rounds, strict=False) if b > 0]
        speedup = statistics.median(ratios) if ratios else first.ms_per_sequence / timing.ms_per_sequence
        found[number] = replace(timing, speedup=speedup)
    return found


def _is_shaped(model: ReportedModel, row: LatencyRow) -> bool:
    return (
        model.engine == TORCH
        and model.parameters is not None
        and model.parameters == row.parameters
        and model.blocks in (None, row.blocks)
    )


def _timed(model: ReportedModel, row: LatencyRow, timing: Timing, where: str) -> ReportedModel:
    return replace(
        with_timing(model, timing, where),
        requests=_requests(row),
        peak_memory=row.peak_memory,
        blocks=model.blocks if model.blocks is not None else row.blocks,
        parameters=model.parameters if model.parameters is not None else row.parameters,
        embedding_parameters=model.embedding_parameters
        if model.embedding_parameters is not None
        else row.embedding_parameters,
        bytes=model.bytes if model.bytes is not None else row.bytes,
    )


def _engine_line(row: LatencyRow, panel: Panel, own: ReportedModel, task: str) -> ReportedModel:
    """The line of another engine of one of the panel's models; its score counts where it is of this task and metric."""
    same = task.lower() == panel.task.lower() and row.metric == panel.metric
    score = finite(row.score) if same else None
    return ReportedModel(
        name=named(own.name, row.engine, row.precision),
        role=own.role,
        group=engine_name(row.engine, row.precision),
        score=score,
        kept=kept(score, panel),
        blocks=row.blocks,
        parameters=row.parameters,
        embedding_parameters=row.embedding_parameters,
        bytes=row.bytes,
        requests=_requests(row),
        peak_memory=row.peak_memory,
        engine=base_engine(row.engine),
    )


def _requests(row: LatencyRow) -> dict[int, tuple[float, float]]:
    return {times.batch_size: (times.p50, times.p95) for times in row.real.values()}
