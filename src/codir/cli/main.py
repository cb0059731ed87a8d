"""`codir`: builds the configuration from the flags and hands it to a workflow.

Nothing heavy is imported until a command runs, so that `codir --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from codir import __version__
from codir.cli import options as o
from codir.cli.augmentation import augment
from codir.cli.deployment import export, latency
from codir.cli.pages import report
from codir.cli.publishing import publish
from codir.cli.recommending import recommend
from codir.cli.reporting import reports_errors
from codir.cli.reproductions import reproduce
from codir.cli.studies import study
from codir.errors import ConfigError

app = typer.Typer(
    name="codir",
    help="Make a transformer encoder several times smaller and faster and keep its accuracy.",
    epilog="First steps: `codir demo`, then `codir finetune --help` and `codir distill --help`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def run() -> None:
    """Runs the command line; the entry point of `codir` and `python -m codir`."""
    # PyTorch's C++ side warns of costs that are meant; it reads this when it is imported.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        app(prog_name="codir")
    except SystemExit as end:
        if int(os.environ.get("WORLD_SIZE") or 1) > 1:
            # gloo's threads now and then abort an orderly end, and torchrun would call a finished run failed
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"codir {__version__}")
        raise typer.Exit


@app.callback()
def _codir(
    version: Annotated[
        bool, typer.Option("--version", help="print the version", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
@reports_errors
def finetune(
    ctx: typer.Context,
    model: o.Model = None,
    task: o.Task = None,
    data_dir: o.DataDir = None,
    train: o.Train = None,
    validation: o.Validation = None,
    text: o.TextColumn = None,
    text_pair: o.TextPairColumn = None,
    label: o.LabelColumn = None,
    kind: o.KindOfLabels = None,
    max_length: o.MaxLength = None,
    limit_train: o.LimitTrain = None,
    limit_validation: o.LimitValidation = None,
    holdout: o.Holdout = None,
    epochs: o.Epochs = None,
    batch_size: o.BatchSize = None,
    learning_rate: o.LearningRate = None,
    precision: o.PrecisionName = None,
    seed: o.Seed = None,
    config: o.ConfigFile = None,
    overrides: o.Overrides = None,
    output: o.Output = None,
    resume: o.Resume = None,
) -> None:
    """Fine-tune an encoder on a task; the result can serve as a teacher.

    Example: codir finetune --model roberta-base --task sst2 --output runs/teacher
    """
    from codir.recipes.loading import load_finetune

    settings = load_finetune(config=config, overrides=overrides or (), flags=o.given(ctx.params))
    from codir.workflows import finetune as workflow
    from codir.workflows.progress import quiet_libraries

    quiet_libraries()
    workflow.finetune(settings)


@app.command()
@reports_errors
def distill(
    ctx: typer.Context,
    teacher: o.Teacher = None,
    task: o.Task = None,
    data_dir: o.DataDir = None,
    train: o.Train = None,
    validation: o.Validation = None,
    text: o.TextColumn = None,
    text_pair: o.TextPairColumn = None,
    label: o.LabelColumn = None,
    kind: o.KindOfLabels = None,
    max_length: o.MaxLength = None,
    limit_train: o.LimitTrain = None,
    limit_validation: o.LimitValidation = None,
    holdout: o.Holdout = None,
    unlabeled: o.Unlabeled = None,
    limit_unlabeled: o.LimitUnlabeled = None,
    student_layers: o.StudentLayers = None,
    student_init: o.StudentInit = None,
    student: o.StudentModel = None,
    student_config: o.StudentConfigFile = None,
    student_origin: o.StudentOrigin = None,
    student_width: o.StudentWidth = None,
    student_intermediate: o.StudentIntermediate = None,
    student_freeze: o.StudentFreeze = None,
    epochs: o.Epochs = None,
    batch_size: o.BatchSize = None,
    learning_rate: o.LearningRate = None,
    precision: o.PrecisionName = None,
    seed: o.Seed = None,
    recipe: o.RecipeName = None,
    config: o.ConfigFile = None,
    overrides: o.Overrides = None,
    cache: o.Cache = None,
    cache_dir: o.CacheDir = None,
    baseline: o.Baseline = None,
    kd: o.Kd = None,
    output: o.Output = None,
    resume: o.Resume = None,
) -> None:
    """Distil a fine-tuned teacher into a smaller student, and print the table that compares them.

    Example: codir distill --teacher runs/teacher --task sst2 --student-layers 6 --output runs/student
    """
    from codir.recipes.loading import load_distill

    settings = load_distill(
        recipe=recipe, config=config, overrides=overrides or (), flags=o.given(ctx.params)
    )
    from codir.workflows import distill as workflow
    from codir.workflows.progress import quiet_libraries

    quiet_libraries()
    workflow.distill(settings)


@app.command()
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
    from codir.workflows import corpus as workflow
    from codir.workflows.progress import quiet_libraries

    quiet_libraries()
    workflow.corpus(
        inputs,
        tokenizer,
        output,
        block=block,
        text=text,
        documents=documents,
        validation=validation,
        workers=workers,
        seed=seed,
        allow_skipped=allow_skipped,
        resume=resume,
    )


@app.command()
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
    from codir.recipes.loading import load_pretrain

    settings = load_pretrain(
        recipe=recipe, config=config, overrides=overrides or (), flags=o.given(ctx.params)
    )
    from codir.workflows import pretrain as workflow
    from codir.workflows.progress import quiet_libraries

    quiet_libraries()
    workflow.pretrain(settings)


@app.command()
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
    peak_tflops: o.PeakTflops = None,
    efficiency: o.Efficiency = None,
    measure: o.MeasureSteps = False,
    paper: o.PaperSetting = False,
    json_file: o.JsonFile = None,
    config: o.ConfigFile = None,
    overrides: o.Overrides = None,
) -> None:
    """Say what a pre-training will cost before it starts: operations, memory, disk, hours.

    Example: codir plan --recipe codir-pre --teacher roberta-base --corpus corpora/wiki --gpus 8 --device h100
    """
    from codir.workflows import plan as workflow
    from codir.workflows.progress import quiet_libraries

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
        peak_tflops=peak_tflops,
        efficiency=efficiency,
        measured=measure,
        paper=paper,
        json_file=json_file,
    )


@app.command()
@reports_errors
def evaluate(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="fine-tuned model or run folder", metavar="MODEL")],
    task: o.Task = None,
    data_dir: o.DataDir = None,
    train: o.Train = None,
    validation: o.Validation = None,
    text: o.TextColumn = None,
    text_pair: o.TextPairColumn = None,
    label: o.LabelColumn = None,
    kind: o.KindOfLabels = None,
    max_length: o.MaxLength = None,
    limit_validation: o.LimitValidation = None,
    holdout: o.Holdout = None,
    batch_size: o.EvaluationBatch = 32,
) -> None:
    """Measure a model on the validation data of a task.

    Example: codir evaluate runs/student --task sst2
    """
    from codir.recipes.config import DataConfig
    from codir.recipes.loading import Settings, build

    settings = Settings()
    for path, (flag, value) in o.given(ctx.params).items():
        section, _, key = path.partition(".")
        if section == "data":
            settings.set((key,), value, flag)
    if not settings.values.keys() & {"task", "train", "validation"}:
        raise ConfigError(
            "There is nothing to evaluate on: add --task sst2, or --validation dev.csv --text review --label stars."
        )
    data = build(DataConfig, settings)
    from codir.workflows import evaluate as workflow
    from codir.workflows.progress import quiet_libraries

    quiet_libraries()
    workflow.evaluate(model, data, batch_size)


@app.command()
@reports_errors
def predict(
    model: Annotated[str, typer.Argument(help="fine-tuned model or run folder", metavar="MODEL")],
    input: Annotated[  # the flag's name
        Path,
        typer.Option(
            "--input", help="texts: one a line (.txt), or .csv, .tsv, .jsonl, .parquet", metavar="FILE"
        ),
    ],
    output: Annotated[Path, typer.Option("--output", help="predictions to write, .jsonl", metavar="FILE")],
    text: Annotated[str | None, typer.Option(help="column with the text", metavar="COLUMN")] = None,
    text_pair: Annotated[
        str | None, typer.Option(help="column with the second text", metavar="COLUMN")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="texts are cut to this many tokens", min=4, metavar="TOKENS")
    ] = None,
    batch_size: o.EvaluationBatch = 32,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace an output file that exists")
    ] = False,
) -> None:
    """Predict labels for a file of texts.

    Example: codir predict runs/student --input texts.txt --output predictions.jsonl
    """
    from codir.workflows import predict as workflow
    from codir.workflows.progress import quiet_libraries

    quiet_libraries()
    workflow.predict(
        model,
        input,
        output,
        batch_size=batch_size,
        text=text,
        text_pair=text_pair,
        max_length=max_length,
        overwrite=overwrite,
    )


@app.command()
@reports_errors
def submit(
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--models",
            help="mrpc=runs/a,cola=runs/b, a run folder, or a folder of runs (a study's output); may be repeated",
            metavar="TASK=MODEL",
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help="GLUE in its own format: holds CoLA/, ...", metavar="FOLDER"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="archive to write", metavar="FILE.zip")
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option("--check", help="only check this archive, made here or elsewhere", metavar="ARCHIVE"),
    ] = None,
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
    """Write the archive GLUE's test server takes, or check one.

    Example: codir submit --models mrpc=runs/mrpc,cola=runs/cola --data-dir GLUE --output submission.zip
    """
    needed = {"--models": models, "--data-dir": data_dir, "--output": output}
    if check is not None and any(needed.values()):
        raise ConfigError("--check only looks at an archive: give it alone.")
    if check is None and (missing := [flag for flag, value in needed.items() if not value]):
        raise ConfigError(f"{' and '.join(missing)} must be given, or --check ARCHIVE to check an archive.")
    from codir.workflows import submit as workflow
    from codir.workflows.progress import quiet_libraries

    quiet_libraries()
    if check is not None:
        if workflow.check(check):
            raise typer.Exit(1)
    elif data_dir is not None and output is not None:
        workflow.submit(
            models or (),
            data_dir,
            output,
            fill=fill,
            max_length=max_length,
            batch_size=batch_size,
            overwrite=overwrite,
        )


app.command(name="augment")(augment)
app.command(name="latency")(latency)
app.command(name="report")(report)
app.command(name="export")(export)
app.command(name="study")(study)
app.command(name="reproduce")(reproduce)
app.command(name="publish")(publish)
app.command(name="recommend")(recommend)


@app.command()
@reports_errors
def demo(
    output: Annotated[
        Path, typer.Option("--output", help="folder for the demo's runs", metavar="FOLDER")
    ] = Path("runs/demo"),
) -> None:
    """Fine-tune a small teacher on built-in data, distil it, print the table: offline, a few minutes."""
    from codir.workflows import demo as workflow
    from codir.workflows.progress import quiet_libraries

    quiet_libraries()
    workflow.demo(output)


@app.command()
@reports_errors
def recipes(
    name: Annotated[
        str | None, typer.Argument(help="print this recipe's settings as YAML", metavar="[NAME]")
    ] = None,
) -> None:
    """List the recipes: what each is, where its numbers come from, what it needs."""
    from codir.recipes.library import load_recipe, recipe_names

    if name is not None:
        typer.echo(load_recipe(name).text, nl=False)
        return
    for each in map(load_recipe, recipe_names()):
        typer.echo(f"{each.name}  (codir {each.command})")
        typer.echo(f"    {each.description}\n    from:  {each.source}\n    needs: {each.needs}\n")
    typer.echo(
        "`codir recipes NAME` prints a recipe; start your own with `recipe: NAME` in a YAML file (--config)."
    )


if __name__ == "__main__":
    run()
