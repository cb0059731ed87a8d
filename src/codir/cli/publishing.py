"""`codir publish` to the Hugging Face Hub, `codir submit` for GLUE's server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from codir.cli import flags as o
from codir.cli.reporting import reports_errors
from codir.errors import ConfigError


@reports_errors
def publish(
    folder: Annotated[
        Path, typer.Argument(help="finished run folder, or one that `codir export` made", metavar="FOLDER")
    ],
    repo: Annotated[str, typer.Argument(help="the repository on the Hub", metavar="USER/MODEL-NAME")],
    subfolder: Annotated[
        str,
        typer.Option(help="where in the repository (onnx, openvino-int8), not at its top", metavar="NAME"),
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show what would be sent; needs neither network nor token")
    ] = False,
    private: Annotated[bool, typer.Option("--private", help="make the repository private")] = False,
    license: Annotated[
        str | None, typer.Option("--license", help="licence of the model, such as apache-2.0", metavar="ID")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="its language or languages, such as en or en,de", metavar="CODE")
    ] = None,
    report: Annotated[bool, typer.Option("--report", help="send report.html too")] = False,
    update: Annotated[
        bool, typer.Option("--update", help="replace the model in a repository that holds files already")
    ] = False,
    revision: Annotated[
        str, typer.Option(help="branch to send to; made if it is missing", metavar="BRANCH")
    ] = "main",
    message: Annotated[str | None, typer.Option(help="message of the commit", metavar="TEXT")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    gone: Annotated[list[str] | None, typer.Option("--with", hidden=True)] = None,
) -> None:
    """Publish a model on the Hugging Face Hub: weights, tokenizer, card with metrics, and how it was made.

    Paths of this machine are cut to names; --dry-run shows everything and sends nothing.

    Example: codir publish runs/student user/model-name --dry-run
    """
    if gone:
        raise ConfigError(
            f"--with is gone: codir publish {gone[0]} {repo} --subfolder onnx (or another name)."
        )
    if not (dry_run or yes or _at_a_terminal()):
        raise ConfigError("Nobody can be asked here: add --yes to publish without a question, or --dry-run.")
    from codir.deploy import publish as workflow
    from codir.runs.progress import quiet_libraries

    quiet_libraries()
    workflow.publish(
        folder,
        repo,
        subfolder=subfolder,
        dry_run=dry_run,
        private=private,
        update=update,
        report=report,
        revision=revision,
        message=message,
        license=license,
        language=language,
        confirm=None if yes else typer.confirm,
    )


def _at_a_terminal() -> bool:
    return sys.stdin.isatty()


@reports_errors
def submit(
    models: Annotated[
        list[str],
        typer.Option(
            help="mrpc=runs/a,cola=runs/b, a run folder, or a folder of runs (a study's output); may be repeated",
            metavar="TASK=MODEL",
        ),
    ],
    data_dir: Annotated[
        Path, typer.Option(help="GLUE in its own format: holds CoLA/, ...", metavar="FOLDER")
    ],
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
        typer.Option(
            help="texts are cut to this many tokens (default: as in training)", min=4, metavar="TOKENS"
        ),
    ] = None,
    batch_size: o.EvaluationBatch = 32,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an archive that exists")] = False,
) -> None:
    """Write the archive GLUE's test server takes.

    Example: codir submit --models mrpc=runs/mrpc,cola=runs/cola --data-dir GLUE --output submission.zip
    """
    from codir.deploy import submit as workflow
    from codir.runs.progress import quiet_libraries

    quiet_libraries()
    workflow.submit(
        models,
        data_dir,
        output,
        fill=fill,
        max_length=max_length,
        batch_size=batch_size,
        overwrite=overwrite,
    )
