"""`codir reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from codir.cli.reporting import reports_errors
from codir.errors import ConfigError


@reports_errors
def reproduce(
    table: Annotated[
        Literal["table1", "table2", "table3", "table4", "table5"],
        typer.Argument(help="which of the paper's tables"),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="encoder that becomes the teacher: of each task, and of the pre-training (the paper: roberta-base)",
            metavar="MODEL",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", help="folder for everything", metavar="FOLDER")],
    scale: Annotated[
        Literal["paper", "small"],
        typer.Option(
            "--scale", help="the paper's setting, or one that a small machine runs; `--plan` shows both"
        ),
    ] = "paper",
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir", help="folder with GLUE in its own format, instead of the Hub", metavar="FOLDER"
        ),
    ] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option(
            "--corpus",
            help="what to pre-train on: a folder of `codir corpus`, or text (may be repeated); without it "
            "students are cut out of the teachers and rows that need pre-training are left out",
            metavar="TEXT",
        ),
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            "--teacher",
            help="a task's teacher that is fine-tuned already (may be repeated)",
            metavar="TASK=MODEL",
        ),
    ] = None,
    pretrained: Annotated[
        list[str] | None,
        typer.Option(
            "--pretrained",
            help="a student that is pre-trained already: mlm-pre, kd-pre or codir-pre (may be repeated)",
            metavar="NAME=MODEL",
        ),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option("--tasks", help="only these, with commas between", metavar="NAMES")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", help="instead of the scale's: 1-5, or 1,3", metavar="SEEDS")
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", help="processes for the studies; 0: this one", min=0, metavar="N")
    ] = 1,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="one setting of the scale, may be repeated: --set study.training.num_train_epochs=1 "
            "--set data.limit_train=500 --set pretraining.stage1.training.max_steps=10",
            metavar="KEY=VALUE",
        ),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="say what would run, and run nothing")] = False,
) -> None:
    """Make one of the paper's tables, with the paper's own figures beside; the same command goes on where it stopped.

    Example: codir reproduce table4 --scale small --model MODEL --data-dir glue --output runs/table4
    """
    from codir.runs.progress import quiet_libraries
    from codir.studies.paper import reproduce as workflow
    from codir.studies.paper.plan import Wanted

    quiet_libraries()
    wanted = Wanted(
        table=table,
        scale=scale,
        model=model,
        output=output,
        data_dir=data_dir,
        corpus=tuple(corpus or ()),
        teachers=_pairs("--teacher", teacher),
        pretrained=_pairs("--pretrained", pretrained),
        tasks=[name.strip() for name in (tasks or "").split(",") if name.strip()],
        seeds=seeds,
        workers=workers,
        overrides=tuple(overrides or ()),
    )
    if plan:
        workflow.show_plan(wanted)
    else:
        workflow.reproduce(wanted)


def _pairs(flag: str, values: list[str] | None) -> dict[str, str]:
    found = {}
    for value in values or ():
        name, equals, model = value.partition("=")
        if not (name and equals and model):
            example = "mrpc" if flag == "--teacher" else "mlm-pre"
            raise ConfigError(f"{flag} {value}: expected NAME=MODEL, for example {flag} {example}=runs/model")
        found[name] = model
    return found
