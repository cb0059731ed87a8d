"""`codir publish` to the Hugging Face Hub, `codir submit` for GLUE's server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from codir.cli import flags as o
from codir.cli.flags import Given, with_settings
from codir.cli.reporting import reports_errors
from codir.deploy.settings import PublishSettings
from codir.errors import ConfigError


@reports_errors
@with_settings(PublishSettings, panel="Hub")
def publish(
    given: Given,
    folder: Annotated[
        Path, typer.Argument(help="finished run folder, or one that `codir export` made", metavar="FOLDER")
    ],
    repo: Annotated[str, typer.Argument(help="the repository on the Hub", metavar="USER/MODEL-NAME")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
) -> None:
    """Publish a model on the Hugging Face Hub: weights, tokenizer, card with metrics, and how it was made.

    Paths of this machine are cut to names; --dry-run shows everything and sends nothing.

    Example: codir publish runs/student user/model-name --dry-run
    """
    if not (yes or "dry_run" in given or sys.stdin.isatty()):
        raise ConfigError("Nobody can be asked here: add --yes to publish without a question, or --dry-run.")
    from codir.deploy import publish as workflow
    from codir.runs.progress import quiet_libraries

    quiet_libraries()
    settings = {name: value for name, (_, value) in given.items()}
    workflow.publish(folder, repo, confirm=None if yes else typer.confirm, **settings)


@reports_errors
def submit(
    models: Annotated[
        list[str],
        typer.Option(
            help="mrpc=runs/a,cola=runs/b, a run folder, or a folder of runs (a study's output); may be repeated",
            metavar="TASK=MODEL",
        ),
    ],
    data_dir: Annotated[Path, typer.Option(help="GLUE in its own format: holds CoLA/, ...", metavar="FOLDER")],
    output: Annotated[Path, typer.Option(help="archive to write", metavar="FILE.zip")],
    fill: Annotated[
        bool,
        typer.Option(
            "--fill/--no-fill",
            help="fill files without a model with a constant, or refuse to write the archive",
        ),
    ] = True,
    max_length: Annotated[
        int | None,
        typer.Option(help="texts are cut to this many tokens (default: as in training)", min=4, metavar="TOKENS"),
    ] = None,
    batch_size: o.EvaluationBatch = 32,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an archive that exists")] = False,
) -> None:
    """Write the archive GLUE's test server takes.

    Example: codir submit --models mrpc=runs/mrpc,cola=runs/cola --data-dir GLUE --output submission.zip
    """
    settings = {name: value for name, value in locals().items() if name not in ("models", "data_dir", "output")}
    from codir.deploy import submit as workflow
    from codir.runs.progress import quiet_libraries

    quiet_libraries()
    workflow.submit(models, data_dir, output, **settings)
