"""`codir augment`: more texts for the teacher to label."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codir.cli import options as o
from codir.cli.flags import Given, section, with_settings
from codir.cli.reporting import reports_errors
from codir.config.data_config import DataConfig
from codir.errors import ConfigError

_PANEL = "Copies"


@reports_errors
@with_settings(DataConfig, without=("unlabeled", "limit_validation", "limit_unlabeled"), panel="Data")
def augment(
    given: Given,
    model: Annotated[
        str,
        typer.Option(
            "--model", help="masked language model, with its head: folder or Hub id", metavar="MODEL"
        ),
    ],
    output: Annotated[Path, typer.Option("--output", help="file to write, .jsonl", metavar="FILE")],
    copies: Annotated[
        int,
        typer.Option("--copies", help="of each text, at most", min=1, metavar="N", rich_help_panel=_PANEL),
    ] = 20,
    probability: Annotated[
        float,
        typer.Option("--probability", help="of a word being replaced", metavar="P", rich_help_panel=_PANEL),
    ] = 0.4,
    candidates: Annotated[
        int,
        typer.Option("--candidates", help="words to choose from", min=1, metavar="K", rich_help_panel=_PANEL),
    ] = 15,
    together: Annotated[
        float,
        typer.Option(
            "--together",
            help="share of a text's words masked in one pass; 0 is one at a time, as the paper, 0.15 takes a "
            "fraction of the time on long texts",
            metavar="SHARE",
            rich_help_panel=_PANEL,
        ),
    ] = 0.0,
    seed: Annotated[
        int, typer.Option("--seed", help="of the draws", min=0, metavar="N", rich_help_panel=_PANEL)
    ] = 0,
    batch_size: o.EvaluationBatch = 64,
    precision: Annotated[
        str, typer.Option("--precision", help="auto, fp32, bf16 or fp16", metavar="NAME")
    ] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="go on with an interrupted run")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace an output file that exists")
    ] = False,
) -> None:
    """Write copies of the training texts with words replaced, for `codir distill --unlabeled`.

    Example: codir augment --model bert-base-uncased --task cola --output augmented.jsonl
    """
    known = ("auto", "fp32", "bf16", "fp16")
    if precision not in known:
        raise ConfigError(f"--precision {precision} is unknown. Known: {', '.join(known)}.")
    if not given.keys() & {"task", "train"}:
        raise ConfigError("There are no training texts: add --task cola, or --train texts.csv --text review.")
    data = section(DataConfig, given)
    from codir.runs import augment as workflow
    from codir.runs.progress import quiet_libraries

    quiet_libraries()
    workflow.augment(
        model,
        data,
        output,
        copies=copies,
        probability=probability,
        candidates=candidates,
        together=together,
        seed=seed,
        batch_size=batch_size,
        precision=precision,
        resume=resume,
        overwrite=overwrite,
    )
