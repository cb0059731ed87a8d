"""The page: one HTML file that needs no network, written whole or not at all."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from codir import __version__
from codir.errors import RunError
from codir.files import write_text
from codir.reports.curves import training_figures
from codir.reports.figures import COLOURS, VIRIDIS, Figure
from codir.reports.scores import Looks, forest_figure, latency_figures, measured_models, page_looks, score_figure
from codir.reports.text import clean, count, for_script, known, milliseconds, points, share, shortened, size, times
from codir.reports.values import AVERAGE, Model, Panel, Report, leaders

TEMPLATES = Path(__file__).parent / "templates"
_KINDS = ("lost", "won", "both wrong", "far apart")
Show = Callable[[float | None], str]
Tile = dict[str, str]


def write_page(report: Report, path: str | Path) -> None:
    """Writes the page to `path` by way of a temporary file beside it; raises `RunError` where it cannot."""
    text = render(report)
    try:
        write_text(path, text)
    except OSError as error:
        why = error.strerror or error
        raise RunError(f"Cannot write the report {path}: {why}. Choose another --output.") from error


def render(report: Report) -> str:
    """Returns the page: styles, scripts (plotly.js once) and data inside, and a policy that forbids all requests.

    Everything that comes from data sets, models and folders is text: jinja2 escapes it in HTML, `text` in plotly's
    labels and in JSON, and the scripts set it with `textContent` only. Should one of these fail, the page's content
    security policy lets no script run but its own, known by their digests.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # every text that the page shows goes through here first, then through the escaping
        finalize=lambda value: value if isinstance(value, Markup) else clean(value),
    )
    environment.filters["shortened"] = shortened
    panels, training, figures = all_figures(report)
    library = get_plotlyjs() if figures else ""
    head, code, style = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("head.js", "page.js", "page.css"))
    light, dark = (" ".join(f"--{name}: {pair[mode]};" for name, pair in COLOURS.items()) for mode in (0, 1))
    # WebGL figures: plotly compiles their drawing functions
    compiles = any(trace["type"] == "scattergl" for figure in figures for trace in figure.data)
    kinds = [each.kind for each in report.disagreements]
    listed = [
        {key: clean(value) if isinstance(value, str) else value for key, value in asdict(each).items()}
        for each in report.disagreements
    ]
    return environment.get_template("page.html").render(
        report=report,
        title=_title(report),
        policy=_policy([head, library, code] if library else [head, code], compiles),
        styles=f":root {{ {light} color-scheme: light; }}\n"
        f":root[data-theme='dark'] {{ {dark} color-scheme: dark; }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root:not([data-theme]) {{ {dark} color-scheme: dark; }} }}\n"
        f"@media print {{ :root, :root[data-theme] {{ {light} color-scheme: light; }} }}\n{style}",
        head=head,
        library=library,
        code=code,
        tiles=tiles(report),
        panels=panels,
        training=training,
        ramp=f"linear-gradient(to right, {', '.join(VIRIDIS)})",
        disagreements=for_script(listed) if listed else "",
        kinds=[(kind, kinds.count(kind)) for kind in dict.fromkeys([*_KINDS, *kinds]) if kind in kinds],
        specs=[(figure.name, figure.json()) for figure in figures],
        version=__version__,
        sections=_sections(report, panels),
    )


def all_figures(report: Report) -> tuple[list[dict[str, Any]], list[Figure], list[Figure]]:
    """Returns the panels of the results with their figures, the curves' figures, and all figures of the page."""
    looks = page_looks(report)
    panels = [_panel(panel, report, f"panel-{number}", looks) for number, panel in enumerate(report.panels)]
    tasks = {panel.task for panel in report.panels}
    for task in dict.fromkeys(item.task for item in report.differences if item.task not in tasks):
        # the average of all tasks has differences, and perhaps no table
        forest = forest_figure(report.differences, task, key := f"panel-{len(panels)}")
        panels.append({"key": key, "task": task, "figures": [], "table": None, "forest": forest})
    student, drawn = report.panels[0].student if report.panels else None, [c.model for c in report.curves]
    main = student.name if student is not None and student.name in drawn else next(iter(drawn), "")
    training = training_figures(report.curves, "" if report.kind == "study" else main, looks)
    of_panels = [f for panel in panels for f in (*panel["figures"], panel["forest"]) if f is not None]
    return panels, training, [*of_panels, *training, *report.similarities, *report.clouds, *report.confusions]


def _panel(panel: Panel, report: Report, key: str, looks: Looks) -> dict[str, Any]:
    """Returns what the template draws of one task: latency if there are times, else (and for seeds) the scores."""
    several_times = sum(map(len, measured_models(panel).values())) > 1
    figures = latency_figures(panel, key, looks) if several_times else []
    if not figures or any(len(model.scores) > 1 for model in panel.models):
        scores = score_figure(panel, key, looks)
        if scores is not None and sum(known(model.score) for model in panel.models) > 1:
            figures.append(scores)
    forest = forest_figure(report.differences, panel.task, key)
    shown = {"key": key, "task": panel.shown, "figures": figures}
    return {**shown, "table": model_table(panel), "forest": forest}


def _title(report: Report) -> str:
    """Returns the page's title: the folder's name, and what it is of, by which open pages and files are told apart."""
    named = " and ".join([panel.shown for panel in report.panels if panel.task != AVERAGE][:3])
    about = [report.place if report.place != report.title else "", report.recipe]
    about += [named] if named.lower() not in report.title.lower() else []
    return " – ".join(filter(None, [report.title, ", ".join(filter(None, about))]))


def _policy(scripts: Sequence[str], compiles: bool) -> str:
    """Returns the content security policy: no request to anywhere, no script but these."""
    raw = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    digests = " ".join(f"'sha256-{digest}'" for digest in raw) + (" 'unsafe-eval'" if compiles else "")
    return (
        f"default-src 'none'; script-src {digests}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _sections(report: Report, panels: Sequence[Any]) -> list[tuple[str, str]]:
    """Returns id and name of every section that has something to show."""
    parts = {
        ("summary", "In words"): len(report.words) > 1,
        ("results", "Results"): panels,
        ("training", "Training"): report.curves,
        ("similarity", "Similarity"): report.similarities,
        ("clouds", "Representations"): report.clouds,
        ("confusions", "Confusions"): report.confusions,
        ("disagreements", "Disagreements"): report.disagreements,
        ("costs", "Cost"): report.costs,
        ("facts", "Facts"): report.facts or report.config,
    }
    return [part for part, there in parts.items() if there]


# ---- the large numbers at the head -----------------------------------------------------------------------------------


def _tile(value: str, name: str, note: str = "", spread: str = "") -> Tile:
    return {"value": value, "name": name, "note": note, "spread": spread}


def tiles(report: Report) -> list[Tile]:
    """Returns the numbers that are known, at most five: value, name, note, and small beside the value its spread."""
    return (_study_tiles(report) if report.kind == "study" else _run_tiles(report))[:5]


def _run_tiles(report: Report) -> list[Tile]:
    panel = report.panels[0] if report.panels else None
    student = (panel.student or panel.teacher) if panel else None
    if panel is None or student is None:
        return []
    teacher, found, metric = panel.teacher, list[Tile](), clean(panel.metric)

    def add(value: float | None, show: Show, name: str, *notes: str) -> None:
        if known(value):
            found.append(_tile(show(value), name, ", ".join(filter(None, notes))))

    def of_teachers(value: float | None, whole: float | None, show: Show) -> str:
        if teacher is student or not known(value) or not known(whole) or not whole:
            return ""
        return f"{100 * value / whole:.0f}\u202f% of the teacher's {show(whole)}"

    if known(student.kept) and teacher is not None:
        both = f"{metric} {points(student.score)}", f"the teacher's {points(teacher.score)}"
        add(student.kept, share, "of the teacher's score", *both)
    else:
        add(student.score, points, metric)
    # of what will be deployed, which is an export where there is one
    export = panel.deployed or student
    name = "" if export is student else f"as {shortened(export.group, 30)}"
    if name and known(export.speedup):
        plain = f"; {times(student.speedup)} in PyTorch" if known(student.speedup) else ""
        add(export.speedup, times, "as fast", name + plain)
    elif known(student.speedup):
        time = f"{milliseconds(student.milliseconds)} ms per sequence"
        add(student.speedup, times, "as fast", f"in PyTorch; {name} it was not timed" if name else time)
    else:
        add(student.milliseconds, milliseconds, "ms per sequence")
    whole, stored = teacher or student, export if known(export.bytes) else student
    add(student.parameters, count, "parameters", of_teachers(student.parameters, whole.parameters, count))
    add(stored.bytes, size, "on disk", name if stored is export else "", of_teachers(stored.bytes, whole.bytes, size))
    add(student.agreement, share, "agreement", "answered as the teacher does")
    return found


def _study_tiles(report: Report) -> list[Tile]:
    found, runs, tasks = list[Tile](), 0, [panel for panel in report.panels if panel.task != AVERAGE]
    for panel in report.panels:
        students = [model for model in panel.trained if known(model.score)]
        if not students:
            continue
        runs += sum(max(1, len(model.scores)) for model in students) if panel in tasks else 0
        first, teacher = leaders(students), panel.teacher
        note = ", ".join(shortened(each.name, 40) for each in first)
        note += f"; the teacher's {points(teacher.score)}" if teacher and known(teacher.score) else ""
        name = f"best {clean(panel.metric)} on {clean(panel.shown)}" if panel in tasks else "best average"
        if len(found) < 3:
            found.append(_tile(points(first[0].score), name, note, _spread(first[0]) if len(first) == 1 else ""))
    if many := len(report.differences):
        shown, what = sum(item.shown for item in report.differences), "difference" + "s" * (many != 1)
        found.append(_tile(f"{shown} of {many}", f"{what} shown", "beyond noise, after correction"))
    if runs:
        found.append(
            _tile(str(runs), "trained student" + "s" * (runs != 1), f"{len(tasks)} task" + "s" * (len(tasks) != 1))
        )
    return found


# ---- the table -------------------------------------------------------------------------------------------------------


def model_table(panel: Panel) -> dict[str, Any]:
    """Returns headings, lines and what the headings mean; a column in which no model has a value is left out."""
    columns = [each for each in _columns(panel) if any(known(each[1](model)) for model in panel.models)]
    lines = [{"name": clean(model.name), "role": model.role, "note": "", "cells": []} for model in panel.models]
    for model, line in zip(panel.models, lines, strict=True):
        engine = clean(model.engine)
        line["note"] = "" if engine == "torch" or engine.lower() in model.name.lower() else engine
    for _, value, show, better, _, *note in columns:
        students = [value(model) for model in panel.models if model.role not in ("teacher", "other")]
        finite = [each for each in students if known(each)]
        several = better and len(finite) > 1 and min(finite) < max(finite)
        best = (max(finite) if better > 0 else min(finite)) if several else None
        for model, line in zip(panel.models, lines, strict=True):
            key = found if known(found := value(model)) else None
            is_best = key is not None and key == best and model.role not in ("teacher", "other")
            beside = note[0](model) if note and key is not None else ""
            line["cells"].append({"text": show(key), "note": beside, "key": key, "best": is_best})
    explained = "; ".join(f"{heading}: {meaning}" for heading, _, _, _, meaning, *_ in columns if meaning)
    return {"headings": [each[0] for each in columns], "lines": lines, "explained": explained}


def _columns(panel: Panel) -> list[tuple[Any, ...]]:
    """Returns heading, value of a model, form, whether more (1) or less (-1) is better, meaning, and a note beneath."""
    columns: list[tuple[Any, ...]] = [
        (clean(panel.metric), lambda m: m.score, points, 1, "", _spread),
        ("kept", lambda m: m.kept, share, 1, "share of the teacher's score"),
        ("agrees", lambda m: m.agreement, share, 1, "answers as the teacher does"),
        ("ms", lambda m: m.milliseconds, milliseconds, -1, "median per sequence", _rounds),
        ("speed-up", lambda m: m.speedup, times, 1, ""),
    ]
    for texts in sorted({texts for model in panel.models for texts in model.requests}):
        what = "one text" if texts == 1 else f"{texts} texts"

        def request(model: Model, place: int = 0, texts: int = texts) -> float | None:
            return model.requests[texts][place] if texts in model.requests else None

        def slowest(model: Model, request: Callable[..., float | None] = request) -> str:
            return f"95 % in {milliseconds(request(model, 1))}"

        meaning = f"a request of {what} at real length, median"
        columns.append((f"{what}, ms", request, milliseconds, -1, meaning, slowest))
    columns += [
        ("memory", lambda m: m.peak_memory, size, -1, "at its peak, above the engine alone"),
        ("layers", lambda m: m.layers, count, 0, ""),
        ("parameters", lambda m: m.parameters, count, 0, ""),
        ("embedding", lambda m: m.embedding_parameters, count, 0, "parameters of the word embeddings"),
        ("on disk", lambda m: m.bytes, size, -1, ""),
    ]
    more = dict.fromkeys(name for model in panel.models for name in model.metrics if name != panel.metric)
    for name in more:
        # a loss is no share of anything: as it is, less is better
        plain = any(word in name.lower() for word in ("loss", "perplexity"))
        form = (milliseconds, -1) if plain else (points, 1)
        columns.append((clean(name), lambda m, name=name: m.metrics.get(name), *form, ""))
    return columns


def _spread(model: Model) -> str:
    return f"± {points(model.deviation)}" if known(model.deviation) else ""


def _rounds(model: Model) -> str:
    there = known(model.low) and known(model.high)
    return f"{milliseconds(model.low)} to {milliseconds(model.high)}" if there else ""
