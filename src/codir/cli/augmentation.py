"""`codir augment`: more texts for the teacher to label."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from codir.cli import flags as o
from codir.cli.flags import Given, section, with_settings
from codir.cli.reporting import reports_errors
from codir.config.config import DataConfig
from codir.errors import ConfigError


def _option(flag: str, words: str, metavar: str, **more: Any) -> Any:
    return typer.Option(flag, help=words, metavar=metavar, rich_help_panel="Copies", **more)


_MODEL = typer.Option("--model", help="masked language model, with its head: folder or Hub id", metavar="MODEL")
_TOGETHER = _option(
    "--together",
    "share of a text's words masked in one pass; 0 is one at a time, as the paper, 0.15 takes a fraction of the time "
    "on long texts",
    "SHARE",
)


@reports_errors
@with_settings(DataConfig, without=("unlabeled", "limit_validation", "limit_unlabeled"), panel="Data")
def augment(
    given: Given,
    model: Annotated[str, _MODEL],
    output: Annotated[Path, typer.Option("--output", help="file to write, .jsonl", metavar="FILE")],
    copies: Annotated[int, _option("--copies", "of each text, at most", "N", min=1)] = 20,
    probability: Annotated[float, _option("--probability", "of a word being replaced", "P")] = 0.4,
    candidates: Annotated[int, _option("--candidates", "words to choose from", "K", min=1)] = 15,
    together: Annotated[float, _TOGETHER] = 0.0,
    seed: Annotated[int, _option("--seed", "of the draws", "N", min=0)] = 0,
    batch_size: o.EvaluationBatch = 64,
    precision: Annotated[str, typer.Option("--precision", help="auto, fp32, bf16 or fp16", metavar="NAME")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="go on with an interrupted run")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an output file that exists")] = False,
) -> None:
    """Write copies of the training texts with words replaced, for `codir distill --unlabeled`.

    Example: codir augment --model bert-base-uncased --task cola --output augmented.jsonl
    """
    if precision not in (known := ("auto", "fp32", "bf16", "fp16")):
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
