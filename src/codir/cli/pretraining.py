"""The commands around pre-training: `codir corpus`, `codir pretrain`, `codir plan`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any

import typer

from codir.cli import flags as o
from codir.cli.flags import Given, with_settings
from codir.cli.reporting import reports_errors
from codir.config.pretraining import PretrainConfig
from codir.errors import ConfigError


def _flag(name: str, help: str, metavar: str | None = None, panel: str | None = None, **more: Any) -> Any:
    shown = panel is None  # those of a plan say their defaults themselves
    return typer.Option(name, help=help, metavar=metavar, show_default=shown, rich_help_panel=panel, **more)


_plan = functools.partial(_flag, panel="Plan")
_INPUTS = (
    "text: .txt, .jsonl or .parquet files, folders, patterns, Hub data sets (owner/name:config:split); several after "
    "one another, or the flag several times"
)
_DOCUMENTS = (
    "what a document is in .txt: each `line`, the lines between `blank` lines, what follows a `heading` of WikiText, "
    "the whole `file`, or `auto`: decided for each file, and reported"
)


@reports_errors
def corpus(
    tokenizer: Annotated[str, _flag("--tokenizer", "model or tokenizer folder, or Hub id", "MODEL")],
    output: Annotated[Path, _flag("--output", "the corpus folder, missing or empty", "FOLDER")],
    more: Annotated[
        list[str] | None, typer.Argument(help="further inputs, as for --input", metavar="[INPUT]...")
    ] = None,
    input: Annotated[list[str] | None, _flag("--input", _INPUTS, "INPUT...")] = None,
    block: Annotated[int, _flag("--block", "the most tokens of a block, special ones included", "N")] = 512,
    text: Annotated[str, _flag("--text", "column of the text in .jsonl and .parquet", "COLUMN")] = "text",
    documents: Annotated[str, _flag("--documents", _DOCUMENTS, "HOW")] = "auto",
    encoding: Annotated[
        str | None, _flag("--encoding", "of the .txt and .jsonl files that are not UTF-8", "NAME")
    ] = None,
    validation: Annotated[float, _flag("--validation", "share of the documents to hold out", "SHARE")] = 0.01,
    workers: Annotated[int | None, _flag("--workers", "processes (default: all cores)", "N", min=1)] = None,
    seed: Annotated[int, _flag("--seed", "of the choice of documents held out", "N")] = 0,
    allow_skipped: Annotated[
        float, _flag("--allow-skipped", "share of files or documents that may be unusable", "SHARE")
    ] = 0.01,
    resume: Annotated[bool, _flag("--resume", "go on with a corpus that was interrupted")] = False,
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
    from codir.config.loading import load

    settings = load(PretrainConfig, recipe=recipe, config=config, overrides=overrides or (), flags=given)
    from codir.runs import pretrain as workflow
    from codir.runs.progress import quiet_libraries

    quiet_libraries()
    workflow.pretrain(settings)


@reports_errors
@with_settings(PretrainConfig, without=("recipe", "output", "resume", "student.origin"))
def plan(
    given: Given,
    recipe: Annotated[
        str | None,
        _plan("--recipe", "recipe, or several with commas, one stage each (default: codir-pre)", "NAMES"),
    ] = None,
    blocks: Annotated[
        int | None, _plan("--blocks", "blocks of the corpus, where there is none yet", "N", min=1)
    ] = None,
    block: Annotated[
        int | None, _plan("--block", "tokens of a block, likewise (default: 512)", "TOKENS", min=4)
    ] = None,
    gpus: Annotated[int, _plan("--gpus", "processes, one for each GPU (default: 1)", "N", min=1)] = 1,
    device: Annotated[
        str | None,
        _plan("--device", "t4, v100, a10, l4, l40s, a100, h100 or h200 (default: a100)", "NAME"),
    ] = None,
    efficiency: Annotated[
        float | None, _plan("--efficiency", "share of the peak that is reached (default: 0.35)", "X")
    ] = None,
    measure: Annotated[bool, _plan("--measure", "time a few steps here instead of estimating")] = False,
    paper: Annotated[bool, _plan("--paper", "the paper's own setting: RoBERTa-base to 6 layers, both stages")] = False,
    json_file: Annotated[Path | None, _plan("--json", "write the numbers to this file too", "FILE")] = None,
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
