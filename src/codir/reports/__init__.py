"""The page people look at: what a run or a study kept and gained, as one self-contained HTML file."""

from __future__ import annotations

import contextlib
import importlib.util
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from codir.errors import ConfigError, RunError
from codir.files import held, output_file
from codir.printing import Console, terminal

__all__ = ["report"]

PAGE = "report.html"
# What says that a page is ours and may be replaced; it stands in the page's head.
MARKER = b'<meta name="generator" content="codir'


def report(
    folder: str | Path,
    output: str | Path | None = None,
    *,
    latency: str | Path | None = None,
    exported: Sequence[str | Path] = (),
    data_dir: str | Path | None = None,
    examples: int = 1000,
    models: bool = True,
    images: str | Path | None = None,
    overwrite: bool = False,
    show: bool = False,
    console: Console | None = None,
) -> Path:
    """Writes one self-contained HTML page on a run or a study, finished or not, and returns where it is.

    Args:
        folder: run folder of `codir distill`, `finetune` or `pretrain`, or a study's folder; it is only read.
        output: the page; `report.html` in the folder by default, where an earlier report is replaced.
        latency: file of `codir latency --output`; by default `latency.json` in the folder, if it is there.
        exported: folders of `codir export` to be shown beside.
        data_dir: folder of the task's data, instead of the one that the run names.
        examples: validation examples that each model is run over once, at most.
        models: False runs no model; what needs one is left out, and the page says so.
        images: folder for the page's figures as pictures.
        overwrite: replaces any file at `output`.
        show: opens the page in the browser.
        console: where to print; the terminal by default.

    Raises:
        RunError: the folder is neither a run nor a study, or a file is in the way or cannot be used.
        ConfigError: plotly or jinja2 is not installed, or a setting is out of range.
    """
    console = terminal(console)
    folder = Path(folder).expanduser()
    page = folder / PAGE if output is None else Path(output).expanduser()
    # said before minutes are spent
    if absent := [name for name in ("jinja2", "plotly") if importlib.util.find_spec(name) is None]:
        raise ConfigError(f'The report needs {" and ".join(absent)}: pip install "codir[report]"')
    if examples < 2:
        raise ConfigError(f"--examples {examples}: give at least 2, or --no-models to run no model.")
    with contextlib.ExitStack() as stack:
        if folder.is_dir():
            stack.enter_context(output_file(page, overwrite=overwrite, own=_is_ours))
        if images is not None:
            stack.enter_context(held(images, "--images"))
        from codir.reports.page import write_page
        from codir.reports.run import read_run
        from codir.reports.study import read_study
        from codir.reports.values import Wanted
        from codir.studies.results import is_study

        where = [None if each is None else Path(each).expanduser() for each in (latency, data_dir)]
        also = [Path(each).expanduser() for each in exported]
        wanted = Wanted(where[0], also, where[1], examples if models else 0)
        found = read_study(folder, wanted) if is_study(folder) else read_run(folder, wanted)
        write_page(found, page)
        lines = [*found.words[:1], *(f"Not shown: {part}: {why}." for part, why in found.missing)]
        lines.append(f"The report is in {page}.")
        if images is not None:
            from codir.reports.images import write_images

            lines.append(f"{len(write_images(found, Path(images)))} pictures are in {images}.")
        for each in lines:
            dim = "dim" if each.startswith("Not shown: ") else None
            console.print(each, highlight=False, markup=False, style=dim)
    if show and not webbrowser.open(page.resolve().as_uri()):
        console.print("No browser could be opened here.", highlight=False)
    return page


def _is_ours(page: Path) -> bool:
    try:
        with open(page, "rb") as file:
            return MARKER in file.read(16_384)
    except OSError as error:
        why = error.strerror or error
        raise RunError(f"{page} cannot be read: {why}. Choose another --output.") from error
