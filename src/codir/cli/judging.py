"""The commands that run a model on data: `codir evaluate`, `codir predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codir.cli import flags as o
from codir.cli.flags import Given, section, with_settings
from codir.cli.reporting import reports_errors
from codir.config.config import DataConfig
from codir.errors import ConfigError


@reports_errors
@with_settings(DataConfig, without=("unlabeled", "limit_train", "limit_unlabeled"), help=o.LENGTH_OF_RUN, panel="Data")
def evaluate(
    given: Given,
    model: Annotated[str, typer.Argument(help="fine-tuned model or run folder", metavar="MODEL")],
    batch_size: o.EvaluationBatch = 32,
) -> None:
    """Measure a model on the validation data of a task.

    What is not given (length, columns, encoding) is as in the run that made the model.

    Example: codir evaluate runs/student --task sst2
    """
    if not given.keys() & {"task", "train", "validation"}:
        raise ConfigError(
            "There is nothing to evaluate on: add --task sst2, or --validation dev.csv --text review --label stars."
        )
    data = section(DataConfig, given)
    from codir.runs import evaluate as workflow
    from codir.runs.progress import quiet_libraries

    quiet_libraries()
    workflow.evaluate(model, data, batch_size)


@reports_errors
@with_settings(DataConfig, only=("text", "text_pair", "encoding", "delimiter"), panel="Data")
def predict(
    given: Given,
    model: Annotated[str, typer.Argument(help="fine-tuned model or run folder", metavar="MODEL")],
    input: Annotated[  # the flag's name
        Path,
        typer.Option("--input", help="texts: one a line (.txt), or .csv, .tsv, .jsonl, .parquet", metavar="FILE"),
    ],
    output: Annotated[Path, typer.Option("--output", help="predictions to write, .jsonl", metavar="FILE")],
    max_length: Annotated[
        int | None,
        typer.Option(
            help="texts are cut to this many tokens (default: as in training, else what the model has positions for)",
            min=4,
            metavar="TOKENS",
        ),
    ] = None,
    batch_size: o.EvaluationBatch = 32,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an output file that exists")] = False,
) -> None:
    """Predict labels for a file of texts.

    What is not given (length, columns, encoding) is as in the run that made the model.

    Example: codir predict runs/student --input texts.txt --output predictions.jsonl
    """
    from codir.runs import predict as workflow
    from codir.runs.progress import quiet_libraries

    quiet_libraries()
    columns = {name: value for name, (_, value) in given.items()}
    workflow.predict(
        model,
        input,
        output,
        batch_size=batch_size,
        max_length=max_length,
        overwrite=overwrite,
        **columns,
    )
