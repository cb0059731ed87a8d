"""The commands around pre-training: `codir corpus`, `codir pretrain`, `codir plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codir.cli import options as o
from codir.cli.reporting import reports_errors
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
def pretrain(
    ctx: typer.Context,
    corpus: o.CorpusFolder = None,
    teacher: o.PretrainTeacher = None,
    student_layers: o.StudentLayers = None,
    student_init: o.StudentInit = None,
    student: o.StudentModel = None,
    student_config: o.StudentConfigFile = None,
    student_width: o.StudentWidth = None,
    student_intermediate: o.StudentIntermediate = None,
    student_freeze: o.StudentFreeze = None,
    steps: o.Steps = None,
    batch_size: o.GlobalBatch = None,
    micro_batch: o.MicroBatch = None,
    learning_rate: o.PretrainLearningRate = None,
    precision: o.PrecisionName = None,
    seed: o.Seed = None,
    recipe: o.PretrainRecipe = None,
    config: o.ConfigFile = None,
    overrides: o.Overrides = None,
    output: o.Output = None,
    resume: o.Resume = None,
) -> None:
    """Pre-train a smaller encoder on a corpus, with a pre-trained teacher or, in the first stage, without.

    Several processes: torchrun --nproc_per_node 8 -m codir pretrain ...

    Example: codir pretrain --corpus corpora/wiki --teacher roberta-base --student runs/stage1 --output runs/codir-pre
    """
    from codir.config.loading import load_pretrain

    settings = load_pretrain(
        recipe=recipe, config=config, overrides=overrides or (), flags=o.given(ctx.params)
    )
    from codir.runs import pretrain as workflow
    from codir.runs.progress import quiet_libraries

    quiet_libraries()
    workflow.pretrain(settings)


@reports_errors
def plan(
    ctx: typer.Context,
    recipe: o.PlanRecipes = None,
    teacher: o.PretrainTeacher = None,
    student_layers: o.StudentLayers = None,
    student_init: o.StudentInit = None,
    student: o.StudentModel = None,
    student_config: o.StudentConfigFile = None,
    student_width: o.StudentWidth = None,
    student_intermediate: o.StudentIntermediate = None,
    student_freeze: o.StudentFreeze = None,
    corpus: o.CorpusFolder = None,
    blocks: o.PlanBlocks = None,
    block: o.PlanBlock = None,
    steps: o.Steps = None,
    batch_size: o.GlobalBatch = None,
    micro_batch: o.MicroBatch = None,
    precision: o.PrecisionName = None,
    gpus: o.Gpus = 1,
    device: o.DeviceName = None,
    efficiency: o.Efficiency = None,
    measure: o.MeasureSteps = False,
    paper: o.PaperSetting = False,
    json_file: o.JsonFile = None,
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
        flags=o.given(ctx.params),
        blocks=blocks,
        block=block,
        gpus=gpus,
        device=device,
        efficiency=efficiency,
        measured=measure,
        paper=paper,
        json_file=json_file,
    )
