"""The commands that run a model on data: `codir evaluate`, `codir predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codir.cli import options as o
from codir.cli.reporting import reports_errors
from codir.errors import ConfigError


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
    encoding: o.Encoding = None,
    delimiter: o.Delimiter = None,
    max_length: o.LengthOfRun = None,
    limit_validation: o.LimitValidation = None,
    holdout: o.Holdout = None,
    batch_size: o.EvaluationBatch = 32,
) -> None:
    """Measure a model on the validation data of a task.

    What is not given (length, columns, encoding) is as in the run that made the model.

    Example: codir evaluate runs/student --task sst2
    """
    from codir.config.data_config import DataConfig
    from codir.config.loading import Settings, build

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
    from codir.runs import evaluate as workflow
    from codir.runs.progress import quiet_libraries

    quiet_libraries()
    workflow.evaluate(model, data, batch_size)


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
    encoding: Annotated[str | None, typer.Option(help=o.description("data.encoding"), metavar="NAME")] = None,
    delimiter: Annotated[
        str | None, typer.Option(help=o.description("data.delimiter"), metavar="CHARACTER")
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            help="texts are cut to this many tokens (default: as in training, else what the model has positions for)",
            min=4,
            metavar="TOKENS",
        ),
    ] = None,
    batch_size: o.EvaluationBatch = 32,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace an output file that exists")
    ] = False,
) -> None:
    """Predict labels for a file of texts.

    What is not given (length, columns, encoding) is as in the run that made the model.

    Example: codir predict runs/student --input texts.txt --output predictions.jsonl
    """
    from codir.runs import predict as workflow
    from codir.runs.progress import quiet_libraries

    quiet_libraries()
    workflow.predict(
        model,
        input,
        output,
        batch_size=batch_size,
        text=text,
        text_pair=text_pair,
        encoding=encoding,
        delimiter=delimiter,
        max_length=max_length,
        overwrite=overwrite,
    )
