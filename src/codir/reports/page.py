"""The page: one HTML file that needs no network, written whole or not at all."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codir import __version__
from codir.errors import ConfigError, RunError
from codir.files import write_text
from codir.reports.curves import training_figures
from codir.reports.figures import COLOURS, VIRIDIS, Figure
from codir.reports.scores import (
    Looks,
    forest_figure,
    latency_figures,
    measured_models,
    page_looks,
    score_figure,
)
from codir.reports.summary import model_table, tiles
from codir.reports.text import clean, for_script, known, shortened
from codir.reports.values import AVERAGE, Disagreement, Panel, Report

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
_LABEL = 120  # characters of a class in the list of examples
_KINDS = ("lost", "won", "both wrong", "far apart")


def write_page(report: Report, path: str | Path) -> None:
    """Writes the page to `path` by way of a temporary file beside it.

    Raises:
        ConfigError: plotly or jinja2 is not installed.
        RunError: it cannot be written.
    """
    text = render(report)
    try:
        write_text(path, text)
    except OSError as error:
        why = error.strerror or error
        raise RunError(
            f"Cannot write the report {path}: {why}. Choose another place with --output."
        ) from error


def all_figures(report: Report) -> tuple[list[dict[str, Any]], list[Figure], list[Figure]]:
    """Returns the panels of the results with their figures, the curves' figures, and all figures of the page."""
    looks = page_looks(report)
    panels = [_panel(panel, report, f"panel-{number}", looks) for number, panel in enumerate(report.panels)]
    tasks = {panel.task for panel in report.panels}
    for task in dict.fromkeys(item.task for item in report.differences if item.task not in tasks):
        # the average of all tasks has differences, and perhaps no table
        forest = forest_figure(report.differences, task, key := f"panel-{len(panels)}")
        panels.append({"key": key, "task": task, "figures": [], "table": None, "forest": forest})
    training = training_figures(report.curves, "" if report.kind == "study" else _main_name(report), looks)
    drawn = [
        figure for panel in panels for figure in (*panel["figures"], panel["forest"]) if figure is not None
    ]
    return panels, training, [*drawn, *training, *report.similarities, *report.clouds, *report.confusions]


def render(report: Report) -> str:
    """Returns the page: styles, scripts (plotly.js once) and data inside, and a policy that forbids all requests.

    Everything that comes from data sets, models and folders is text: jinja2 escapes it in HTML, `text` in plotly's
    labels and in JSON, and the scripts set it with `textContent` only. Should one of these fail, the page's content
    security policy lets no script run but its own, known by their digests.

    Raises:
        ConfigError: plotly or jinja2 is not installed.
    """
    environment, library = _environment(), _plotly_js()
    panels, training, figures = all_figures(report)
    head, code = _read("head.js"), _read("page.js")
    scripts = [head, library, code] if figures else [head, code]
    listed = _disagreements(report.disagreements)
    return environment.get_template("page.html").render(
        report=report,
        title=_title(report),
        policy=_policy(
            scripts, any(trace["type"] == "scattergl" for figure in figures for trace in figure.data)
        ),
        styles=_styles(),
        head=head,
        library=library if figures else "",
        code=code,
        tiles=tiles(report),
        panels=panels,
        training=training,
        ramp=f"linear-gradient(to right, {', '.join(VIRIDIS)})",
        disagreements=for_script(listed) if listed else "",
        kinds=_kinds(report.disagreements),
        specs=[(figure.name, figure.json()) for figure in figures],
        version=__version__,
        sections=_sections(report, panels),
    )


def _title(report: Report) -> str:
    """Returns the page's title: the folder's name, and what it is of, by which open pages and files are told apart."""
    tasks = [panel.shown for panel in report.panels if panel.task != AVERAGE]
    named = " and ".join(tasks[:3]) + (" and more" if len(tasks) > 3 else "")
    about = [report.place if report.place != report.title else "", report.recipe]
    about += [named] if named.lower() not in report.title.lower() else []
    return " – ".join([report.title, *filter(None, [", ".join(filter(None, about))])])


def _environment() -> Environment:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise ConfigError('The report needs jinja2: pip install "codir[report]"') from error
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
    return environment


def _plotly_js() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ConfigError('The report needs plotly: pip install "codir[report]"') from error
    return get_plotlyjs()


def _read(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _styles() -> str:
    light, dark = (" ".join(f"--{name}: {pair[mode]};" for name, pair in COLOURS.items()) for mode in (0, 1))
    return (
        f":root {{ {light} color-scheme: light; }}\n"
        f":root[data-theme='dark'] {{ {dark} color-scheme: dark; }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root:not([data-theme]) {{ {dark} color-scheme: dark; }} }}\n"
        f"@media print {{ :root, :root[data-theme] {{ {light} color-scheme: light; }} }}\n{_read('page.css')}"
    )


def _policy(scripts: Sequence[str], evaluates: bool) -> str:
    """Returns the content security policy: no request to anywhere, no script but these."""
    raw = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    digests = " ".join(f"'sha256-{digest}'" for digest in raw)
    compiles = " 'unsafe-eval'" if evaluates else ""  # WebGL figures: plotly compiles their drawing functions
    return (
        f"default-src 'none'; script-src {digests}{compiles}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _main_name(report: Report) -> str:
    student, curves = report.panels[0].student if report.panels else None, [c.model for c in report.curves]
    return student.name if student is not None and student.name in curves else next(iter(curves), "")


def _panel(panel: Panel, report: Report, key: str, looks: Looks) -> dict[str, Any]:
    """Returns what the template draws of one task: latency if there are times, else (and for seeds) the scores."""
    several_times = sum(map(len, measured_models(panel).values())) > 1
    figures = latency_figures(panel, key, looks) if several_times else []
    if not figures or any(len(model.scores) > 1 for model in panel.models):
        scores = score_figure(panel, key, looks)
        if scores is not None and sum(known(model.score) for model in panel.models) > 1:
            figures.append(scores)
    forest = forest_figure(report.differences, panel.task, key)
    return {
        "key": key,
        "task": panel.shown,
        "figures": figures,
        "table": model_table(panel),
        "forest": forest,
    }


def _kinds(disagreements: Sequence[Disagreement]) -> list[tuple[str, int]]:
    found = [shortened(item.kind, 40) for item in disagreements]
    order = [kind for kind in dict.fromkeys([*_KINDS, *found]) if kind in found]
    return [(kind, found.count(kind)) for kind in order]


def _disagreements(items: Sequence[Disagreement]) -> list[dict[str, Any]]:
    """Returns the examples under short keys."""
    return [
        {
            "n": item.number,
            "t": clean(item.text),
            "p": None if item.text_pair is None else clean(item.text_pair),
            "l": shortened(item.label, _LABEL),
            "a": shortened(item.teacher, _LABEL),
            "b": shortened(item.student, _LABEL),
            "c": item.teacher_confidence,
            "d": item.student_confidence,
            "k": shortened(item.kind, 40),
        }
        for item in items
    ]


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
