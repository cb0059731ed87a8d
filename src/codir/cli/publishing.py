"""`codir publish`: a run folder or an exported model to the Hugging Face Hub."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from codir.cli.reporting import reports_errors
from codir.errors import ConfigError


@reports_errors
def publish(
    folder: Annotated[
        Path, typer.Argument(help="finished run folder, or one that `codir export` made", metavar="FOLDER")
    ],
    repo: Annotated[str, typer.Argument(help="the repository on the Hub", metavar="USER/MODEL-NAME")],
    exported: Annotated[
        list[Path] | None,
        typer.Option(
            "--with",
            help="exported folder of the same model, for a subfolder onnx/, openvino-int8/, ...; may be repeated",
            metavar="FOLDER",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show what would be sent; needs neither network nor token")
    ] = False,
    private: Annotated[bool, typer.Option("--private", help="make the repository private")] = False,
    license: Annotated[
        str | None, typer.Option("--license", help="licence of the model, such as apache-2.0", metavar="ID")
    ] = None,
    language: Annotated[
        str | None,
        typer.Option("--language", help="its language or languages, such as en or en,de", metavar="CODE"),
    ] = None,
    report: Annotated[bool, typer.Option("--report", help="send report.html too")] = False,
    regenerate: Annotated[
        bool,
        typer.Option("--regenerate", help="write the card anew instead of sending the folder's README.md"),
    ] = False,
    update: Annotated[
        bool, typer.Option("--update", help="replace the model in a repository that holds files already")
    ] = False,
    revision: Annotated[
        str, typer.Option("--revision", help="branch to send to; made if it is missing", metavar="BRANCH")
    ] = "main",
    message: Annotated[
        str | None, typer.Option("--message", help="message of the commit", metavar="TEXT")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
) -> None:
    """Publish a model on the Hugging Face Hub: weights, tokenizer, card with metrics, and how it was made.

    Paths of this machine are replaced first; --dry-run shows everything and sends nothing.

    Example: codir publish runs/student user/model-name --dry-run
    """
    if not (dry_run or yes or _at_a_terminal()):
        raise ConfigError("Nobody can be asked here: add --yes to publish without a question, or --dry-run.")
    from codir.deploy import publish as workflow
    from codir.runs.progress import quiet_libraries

    quiet_libraries()
    workflow.publish(
        folder,
        repo,
        exported=exported or (),
        dry_run=dry_run,
        private=private,
        update=update,
        regenerate=regenerate,
        report=report,
        revision=revision,
        message=message,
        license=license,
        language=language,
        confirm=None if yes else typer.confirm,
    )


def _at_a_terminal() -> bool:
    return sys.stdin.isatty()
