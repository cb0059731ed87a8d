"""`codir report`: gathers a run or a study and writes its page."""

from __future__ import annotations

import contextlib
import importlib.util
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from codir.errors import ConfigError, RunError
from codir.outputs import held, output_file
from codir.printing import Console, terminal
from codir.reports.gather import gather

PAGE = "report.html"
# What says that a page is ours and may be replaced; it stands in the page's head.
MARKER = b'<meta name="generator" content="codir'
_HEAD = 16_384  # bytes in which it is looked for
_NEEDED = ("jinja2", "plotly")


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
    """Writes one self-contained HTML page on a run or a study, finished or not.

    Args:
        folder: run folder of `codir distill`, `finetune` or `pretrain`, or a study's folder; it is only read.
        output: the page; `report.html` in the folder by default, where an earlier report is replaced.
        latency: file of `codir latency --output`; by default `latency.json` in the folder, if it is there.
        exported: folders of `codir export` to be shown beside.
        data_dir: folder of the task's data, instead of the one that the run names.
        examples: validation examples that each model is run over once, at most.
        models: False runs no model; what needs one is left out, and the page says so.
        images: folder for the main figures as pictures.
        overwrite: replaces any file at `output`.
        show: opens the page in the browser.
        console: where to print; the terminal by default.

    Returns:
        The page.

    Raises:
        RunError: the folder is neither a run nor a study, or a file is in the way or cannot be used.
        ConfigError: plotly or jinja2 is not installed, or a setting is out of range.
    """
    console = terminal(console)
    folder = Path(folder).expanduser()
    page = folder / PAGE if output is None else Path(output).expanduser()
    _require_packages()
    with contextlib.ExitStack() as stack:
        if folder.is_dir():
            stack.enter_context(output_file(page, overwrite=overwrite, own=_is_ours))
        if images is not None:
            stack.enter_context(held(images, "--images"))
        found = gather(
            folder, latency=latency, exported=exported, data_dir=data_dir, examples=examples, models=models
        )
        from codir.reports.page import write_page

        write_page(found, page)
        if found.words:
            console.print(found.words[0], highlight=False, markup=False)
        for part, why in found.missing:
            console.print(f"Not shown: {part}: {why}.", highlight=False, markup=False, style="dim")
        console.print(f"The report is in {page}.", highlight=False, markup=False)
        if images is not None:
            from codir.reports.images import write_images

            written = write_images(found, Path(images))
            console.print(f"{len(written)} pictures are in {images}.", highlight=False, markup=False)
    if show and not webbrowser.open(page.resolve().as_uri()):
        console.print("No browser could be opened here.", highlight=False)
    return page


def _require_packages() -> None:
    """Says what is missing before minutes are spent."""
    absent = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        raise ConfigError(f'The report needs {" and ".join(absent)}: pip install "codir[report]"')


def _is_ours(page: Path) -> bool:
    """Says whether a file is a report of codir's, which may be replaced."""
    try:
        with open(page, "rb") as file:
            return MARKER in file.read(_HEAD)
    except OSError as error:
        raise RunError(
            f"{page} cannot be read: {error.strerror or error}. Choose another --output."
        ) from error
