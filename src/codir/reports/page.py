"""The page: one HTML file that needs no network, written whole or not at all."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codir import __version__
from codir.errors import ConfigError, RunError
from codir.reports.cloud_figure import Switches, cloud_figure
from codir.reports.colours import DARK, LIGHT, css_variables
from codir.reports.contents import Disagreement, Panel, Report
from codir.reports.escaping import clean, for_script, shortened
from codir.reports.figures import Figure
from codir.reports.headline import main_student, tiles
from codir.reports.heatmap_figures import confusion_figures, scale_css, similarity_figures, similarity_range
from codir.reports.latency_figure import latency_figures
from codir.reports.model_table import ModelTable, model_table
from codir.reports.numbers import known
from codir.reports.pareto import measured_models
from codir.reports.point_names import Looks, page_looks
from codir.reports.score_figures import forest_figure, score_figure
from codir.reports.training_figures import training_figures
from codir.storage import write_text

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
STYLES = ("base.css", "parts.css", "disagreements.css", "print.css")
SCRIPTS = ("theme.js", "figures.js", "tables.js", "tabs.js", "disagreements.js", "copy.js")
_LABEL = 120  # characters of a class in the list of examples
_KINDS = ("lost", "won", "both wrong", "far apart")


@dataclass(frozen=True)
class PanelView:
    """One task as the template draws it."""

    key: str
    task: str
    figures: Sequence[Figure]
    table: ModelTable | None
    forest: Figure | None


def write_page(report: Report, path: str | Path) -> None:
    """Writes the page to `path` by way of a temporary file beside it.

    Raises:
        ConfigError: plotly or jinja2 is not installed.
        RunError: the file cannot be written.
    """
    text = render(report)
    try:
        write_text(path, text)
    except OSError as error:
        raise RunError(
            f"Cannot write the report {path}: {error.strerror or error}. Choose another place with --output."
        ) from error


def render(report: Report) -> str:
    """Returns the page: styles, scripts (plotly.js once) and data inside, and a policy that forbids all requests.

    Everything that comes from data sets, models and folders is text: jinja2 escapes it in HTML, `escaping` in plotly's
    labels and in JSON, and the scripts set it with `textContent` only. Should one of these fail, the page's content
    security policy lets no script run but its own, known by their digests.

    Raises:
        ConfigError: plotly or jinja2 is not installed.
    """
    environment = _environment()
    library = _plotly_js()
    head = _read("theme_at_once.js")
    code = "\n".join(_read(name) for name in SCRIPTS)
    looks = page_looks(report)
    panels = _panel_views(report, looks)
    cloud_views = [cloud_figure(clouds, number) for number, clouds in enumerate(report.clouds)]
    main = "" if report.kind == "study" else _main_name(report)
    figures = [
        *(figure for view in panels for figure in (*view.figures, *([view.forest] if view.forest else []))),
        *(training := training_figures(report.curves, main, looks)),
        *(similarities := similarity_figures(report.similarities)),
        *(figure for figure, _ in cloud_views),
        *(confusions := confusion_figures(report.confusions)),
    ]
    scripts = [head, code] if not figures else [head, library, code]
    low, high = similarity_range(report.similarities) if report.similarities else (0.0, 1.0)
    return environment.get_template("page.html").render(
        report=report,
        title=_title(report),
        policy=_policy(scripts, any(_needs_eval(figure) for figure in figures)),
        styles=_styles(),
        head=head,
        library=library if figures else "",
        code=code,
        tiles=tiles(report),
        panels=panels,
        training=training,
        similarities=similarities,
        similarity_ends=(low, high),
        scale=scale_css(),
        clouds=[(figure, _switches(switches)) for figure, switches in cloud_views],
        confusions=confusions,
        disagreements=for_script(_disagreements(report.disagreements)) if report.disagreements else "",
        kinds=_kinds(report.disagreements),
        specs=[(figure.name, figure.json()) for figure in figures],
        version=__version__,
        sections=_sections(report, panels),
    )


def _title(report: Report) -> str:
    """Returns the page's title: the folder's name, and what it is of, by which open pages and files are told apart."""
    tasks = [panel.shown for panel in report.panels if panel.task != "average"]
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
    light, dark = css_variables(LIGHT), css_variables(DARK)
    colours = (
        f":root {{ {light} color-scheme: light; }}\n"
        f":root[data-theme='dark'] {{ {dark} color-scheme: dark; }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root:not([data-theme]) {{ {dark} color-scheme: dark; }} }}\n"
        f"@media print {{ :root, :root[data-theme] {{ {light} color-scheme: light; }} }}\n"
    )
    return colours + "\n".join(_read(name) for name in STYLES)


def _policy(scripts: Sequence[str], evaluates: bool) -> str:
    """Returns the content security policy: no request to anywhere, no script but these."""
    digests = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    compiles = " 'unsafe-eval'" if evaluates else ""  # WebGL figures: plotly compiles their drawing functions
    return (
        f"default-src 'none'; script-src {digests}{compiles}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _needs_eval(figure: Figure) -> bool:
    return any(str(trace.get("type", "")).endswith("gl") for trace in figure.data)


def _main_name(report: Report) -> str:
    student = main_student(report.panels[0]) if report.panels else None
    named = {curve.model for curve in report.curves}
    if student is not None and student.name in named:
        return student.name
    return report.curves[0].model if report.curves else ""


def _panel_views(report: Report, looks: Looks) -> list[PanelView]:
    views = [
        _panel_view(panel, report, f"panel-{number}", looks) for number, panel in enumerate(report.panels)
    ]
    tasks = {panel.task for panel in report.panels}
    for task in dict.fromkeys(item.task for item in report.differences):
        if task not in tasks:  # the average of all tasks has differences, and perhaps no table
            key = f"panel-{len(views)}"
            views.append(PanelView(key, task, [], None, forest_figure(report.differences, task, key)))
    return views


def _panel_view(panel: Panel, report: Report, key: str, looks: Looks) -> PanelView:
    figures: list[Figure] = []
    measured = measured_models(panel)
    if sum(map(len, measured.values())) > 1:
        figures = latency_figures(panel, key, looks)
    several = any(len(model.scores) > 1 for model in panel.models)
    if not figures or several:
        scores = score_figure(panel, key, looks)
        students = sum(known(model.score) for model in panel.models)
        if scores is not None and students > 1:
            figures.append(scores)
    return PanelView(
        key, panel.shown, figures, model_table(panel), forest_figure(report.differences, panel.task, key)
    )


def _switches(switches: Switches) -> dict[str, Any]:
    return {
        "clouds": [{"name": name, "shape": shape} for name, shape in switches.clouds],
        "classes": [{"name": name, "colour": colour} for name, colour in switches.classes],
    }


def _kinds(disagreements: Sequence[Disagreement]) -> list[tuple[str, int]]:
    found = [shortened(item.kind, 40) for item in disagreements]
    order = [kind for kind in _KINDS if kind in found]
    order += [kind for kind in dict.fromkeys(found) if kind not in _KINDS]
    return [(kind, found.count(kind)) for kind in order]


def _disagreements(items: Sequence[Disagreement]) -> list[dict[str, Any]]:
    """Returns the examples, worst first, under short keys."""
    return [
        {
            "n": item.number,
            "t": clean(item.text),
            "p": None if item.text_pair is None else clean(item.text_pair),
            "l": shortened(item.label, _LABEL),
            "a": shortened(item.teacher, _LABEL),
            "b": shortened(item.student, _LABEL),
            "c": _short(item.teacher_confidence),
            "d": _short(item.student_confidence),
            "k": shortened(item.kind, 40),
            "w": _short(item.badness),
        }
        for item in sorted(items, key=lambda item: -(item.badness if known(item.badness) else float("-inf")))
    ]


def _short(value: float | None) -> float | None:
    return round(float(value), 4) if known(value) else None


def _sections(report: Report, panels: Sequence[PanelView]) -> list[tuple[str, str]]:
    """Returns id and name of every section that has something to show."""
    parts = [
        ("summary", "In words", len(report.words) > 1),
        ("results", "Results", bool(panels)),
        ("training", "Training", bool(report.curves)),
        ("similarity", "Similarity", bool(report.similarities)),
        ("clouds", "Representations", bool(report.clouds)),
        ("confusions", "Confusions", bool(report.confusions)),
        ("disagreements", "Disagreements", bool(report.disagreements)),
        ("costs", "Cost", bool(report.costs)),
        ("facts", "Facts", bool(report.facts or report.config)),
    ]
    return [(key, name) for key, name, there in parts if there]
