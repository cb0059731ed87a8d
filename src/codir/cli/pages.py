"""`codir report`: one page on a run or a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codir.cli.flags import option
from codir.cli.reporting import reports_errors


@reports_errors
def report(
    folder: Annotated[
        Path,
        typer.Argument(
            help="run folder of `codir distill`, `finetune` or `pretrain`, or a study's folder; it may be unfinished",
            metavar="FOLDER",
        ),
    ],
    output: Annotated[
        Path | None,
        option("--output", help="the page (default: report.html in the folder, replaced)", metavar="FILE"),
    ] = None,
    show: Annotated[bool, option("--open", help="open the page in the browser")] = False,
    latency: Annotated[
        Path | None,
        option("--latency", help="file of `codir latency` (default: latency.json, if there)", metavar="FILE"),
    ] = None,
    exported: Annotated[
        list[Path] | None,
        option("--with", help="folder of `codir export`, shown beside; may be repeated", metavar="FOLDER"),
    ] = None,
    data_dir: Annotated[
        Path | None,
        option("--data-dir", help="folder of the task's data, where the run's own is gone", metavar="FOLDER"),
    ] = None,
    examples: Annotated[
        int,
        option("--examples", help="examples to run the models over, at most (default: 1000)", metavar="N"),
    ] = 1000,
    models: Annotated[
        bool, option("--models/--no-models", help="run teacher and students once over these examples")
    ] = True,
    images: Annotated[
        Path | None, option("--images", help="also write the main figures there (SVG, PNG)", metavar="FOLDER")
    ] = None,
    overwrite: Annotated[bool, option("--overwrite", help="replace a file that is no report")] = False,
) -> None:
    """Show a run or a study on one page: scores against speed, curves, similarities, disagreements, costs.

    The page is one file that needs no network. The folder is only read, also while a training works in it.

    Example: codir report runs/student --open
    """
    from codir.reports import report as workflow
    from codir.runs.progress import quiet_libraries

    quiet_libraries()
    workflow(
        folder,
        output,
        latency=latency,
        exported=exported or (),
        data_dir=data_dir,
        examples=examples,
        models=models,
        images=images,
        overwrite=overwrite,
        show=show,
    )
