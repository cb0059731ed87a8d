"""`codir report`: one page on a run or a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
        typer.Option(
            "--output",
            help="the page (default: report.html in the folder, where an earlier report is replaced)",
            metavar="FILE",
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="open the page in the browser")] = False,
    latency: Annotated[
        Path | None,
        typer.Option(
            "--latency",
            help="file of `codir latency --output` (default: latency.json in the folder, if it is there)",
            metavar="FILE",
        ),
    ] = None,
    exported: Annotated[
        list[Path] | None,
        typer.Option(
            "--with", help="folder of `codir export`, to be shown beside; may be repeated", metavar="FOLDER"
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir", help="folder of the task's data, where the run's own is gone", metavar="FOLDER"
        ),
    ] = None,
    examples: Annotated[
        int,
        typer.Option("--examples", help="validation examples to run the models over, at most", metavar="N"),
    ] = 1000,
    models: Annotated[
        bool,
        typer.Option("--models/--no-models", help="run teacher and students once over these examples"),
    ] = True,
    images: Annotated[
        Path | None,
        typer.Option("--images", help="also write the main figures there, as SVG and PNG", metavar="FOLDER"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a file that is no report")] = False,
) -> None:
    """Show a run or a study on one page: scores against speed, curves, similarities, disagreements, costs.

    The page is one file that needs no network. The folder is only read, also while a training works in it.

    Example: codir report runs/student --open
    """
    from codir.reports.make import report as workflow
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
