"""The commands around pre-training: `codir corpus`, `codir pretrain`, `codir plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from codir.cli import flags as o
from codir.cli.flags import Given, with_settings
from codir.cli.reporting import reports_errors
from codir.config.pretraining import PretrainConfig
from codir.errors import ConfigError


@reports_errors
def corpus(
    more: Annotated[
        list[str] | None, typer.Argument(help="further inputs, as for --input", metavar="[INPUT]...")
    ] = None,
    input: Annotated[  # the flag's name
        list[str] | None,
        typer.Option(
            "--input",
            help="text: .txt, .jsonl or .parquet files, folders, patterns, Hub data sets (owner/name:config:split); "
            "several after one another, or the flag several times",
            metavar="INPUT...",
        ),
    ] = None,
    tokenizer: Annotated[
        str, typer.Option("--tokenizer", help="model or tokenizer folder, or Hub id", metavar="MODEL")
    ] = ...,  # type: ignore[assignment]
    output: Annotated[
        Path, typer.Option("--output", help="the corpus folder, missing or empty", metavar="FOLDER")
    ] = ...,  # type: ignore[assignment]
    block: Annotated[
        int, typer.Option("--block", help="the most tokens of a block, special ones included", metavar="N")
    ] = 512,
    text: Annotated[
        str, typer.Option("--text", help="column of the text in .jsonl and .parquet", metavar="COLUMN")
    ] = "text",
    documents: Annotated[
        str,
        typer.Option(
            "--documents",
            help="what a document is in .txt: each `line`, the lines between `blank` lines, what follows a `heading` "
            "of WikiText, the whole `file`, or `auto`: decided for each file, and reported",
            metavar="HOW",
        ),
    ] = "auto",
    encoding: Annotated[
        str | None,
        typer.Option("--encoding", help="of the .txt and .jsonl files that are not UTF-8", metavar="NAME"),
    ] = None,
    validation: Annotated[
        float, typer.Option("--validation", help="share of the documents to hold out", metavar="SHARE")
    ] = 0.01,
    workers: Annotated[
        int | None, typer.Option("--workers", help="processes (default: all cores)", min=1, metavar="N")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="of the choice of documents held out", metavar="N")] = 0,
    allow_skipped: Annotated[
        float,
        typer.Option(
            "--allow-skipped", help="share of files or documents that may be unusable", metavar="SHARE"
        ),
    ] = 0.01,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on with a corpus that was interrupted")
    ] = False,
) -> None:
    """Prepare a corpus for pre-training: text into packed blocks of tokens on disk.

    Example: codir corpus --input articles.jsonl wiki/*.txt --tokenizer roberta-base --output corpora/wiki
    """
    inputs = [*(input or ()), *(more or ())]
    if not inputs:
        raise ConfigError("There is no input: add --input articles.jsonl (files, folders or a Hub data set).")
    from codir.runs import corpus as workflow
    from codir.runs.progress import quiet_libraries

    quiet_libraries()
    workflow.corpus(
        inputs,
        tokenizer,
        output,
        block=block,
        text=text,
        documents=documents,
        encoding=encoding,
        validation=validation,
        workers=workers,
        seed=seed,
        allow_skipped=allow_skipped,
        resume=resume,
    )


@reports_errors
@with_settings(PretrainConfig, without=("recipe", "student.origin"))
def pretrain(
    given: Given,
    recipe: o.RecipeName = None,
    config: o.ConfigFile = None,
    overrides: o.Overrides = None,
) -> None:
    """Pre-train a smaller encoder on a corpus, with a pre-trained teacher or, in the first stage, without.

    Several processes: torchrun --nproc_per_node 8 -m codir pretrain ...

    Example: codir pretrain --corpus corpora/wiki --teacher roberta-base --student runs/stage1 --output runs/codir-pre
    """
    from codir.config.loading import load_pretrain

    settings = load_pretrain(recipe=recipe, config=config, overrides=overrides or (), flags=given)
    from codir.runs import pretrain as workflow
    from codir.runs.progress import quiet_libraries

    quiet_libraries()
    workflow.pretrain(settings)


def _plan_option(flag: str, help: str, metavar: str | None = None, **more: Any) -> Any:
    return typer.Option(flag, help=help, metavar=metavar, show_default=False, rich_help_panel="Plan", **more)


@reports_errors
@with_settings(PretrainConfig, without=("recipe", "output", "resume", "student.origin"))
def plan(
    given: Given,
    recipe: Annotated[
        str | None,
        _plan_option(
            "--recipe",
            "recipe to plan, or several with commas between them, one stage each (default: codir-pre)",
            "NAMES",
        ),
    ] = None,
    blocks: Annotated[
        int | None, _plan_option("--blocks", "blocks of the corpus, where there is none yet", "N", min=1)
    ] = None,
    block: Annotated[
        int | None, _plan_option("--block", "tokens of a block, likewise (default: 512)", "TOKENS", min=4)
    ] = None,
    gpus: Annotated[int, _plan_option("--gpus", "processes, one for each GPU (default: 1)", "N", min=1)] = 1,
    device: Annotated[
        str | None,
        _plan_option(
            "--device",
            "GPU to estimate for: t4, v100, a10, l4, l40s, a100, h100 or h200 (default: a100)",
            "NAME",
        ),
    ] = None,
    efficiency: Annotated[
        float | None, _plan_option("--efficiency", "share of the peak that is reached (default: 0.35)", "X")
    ] = None,
    measure: Annotated[
        bool, _plan_option("--measure", "time a few warm-up steps on this machine instead of estimating")
    ] = False,
    paper: Annotated[
        bool, _plan_option("--paper", "the paper's own setting: RoBERTa-base to 6 layers, both stages")
    ] = False,
    json_file: Annotated[
        Path | None, _plan_option("--json", "write the numbers to this file as well", "FILE")
    ] = None,
    config: o.ConfigFile = None,
    overrides: o.Overrides = None,
) -> None:
    """Say what a pre-training will cost before it starts: parameters, operations, memory, hours.

    Example: codir plan --recipe codir-pre --teacher roberta-base --corpus corpora/wiki --gpus 8 --device h100
    """
    from codir.runs import plan as workflow
    from codir.runs.progress import quiet_libraries

    quiet_libraries()
    workflow.plan(
        recipes=recipe,
        config=config,
        overrides=overrides or (),
        flags=given,
        blocks=blocks,
        block=block,
        gpus=gpus,
        device=device,
        efficiency=efficiency,
        measured=measure,
        paper=paper,
        json_file=json_file,
    )
