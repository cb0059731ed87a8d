"""`codir study`: many recipes, tasks, seeds and settings; `codir reproduce`: the paper's tables, of such studies."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import create_model

from codir.cli import flags as o
from codir.cli.flags import Given, with_settings
from codir.cli.reporting import reports_errors
from codir.config.config import DataConfig
from codir.errors import ConfigError
from codir.studies.config import StudyConfig

# The study's settings with those of `data` as flags of their own.
_FLAGS = create_model("StudyFlags", __base__=StudyConfig, data=(DataConfig, None))
_SETTINGS = (
    *("output", "data_dir", "model", "student.layers", "student.init", "seeds", "training.num_train_epochs"),
    *("training.per_device_train_batch_size", "training.learning_rate", "training.precision"),
    *("data.max_length", "data.limit_train", "data.limit_validation", "data.holdout", "data.unlabeled"),
    *("strategy", "trials", "baseline", "workers", "engine", "address", "cache_dir", "resume"),
)


def _option(flag: str, help: str, metavar: str | None = None, **more: Any) -> Any:
    return typer.Option(flag, help=help, metavar=metavar, show_default=False, **more)


def _names(field: str) -> Any:
    return _option(f"--{field}", StudyConfig.model_fields[field].description or "", "NAMES")


@reports_errors
@with_settings(_FLAGS, only=_SETTINGS)
def study(
    given: Given,
    study: Annotated[
        Path | None, typer.Argument(help="YAML file of the study; flags win over it", metavar="[STUDY.yaml]")
    ] = None,
    recipes: Annotated[str | None, _names("recipes")] = None,
    tasks: Annotated[str | None, _names("tasks")] = None,
    teachers: Annotated[
        str | None, _option("--teachers", "teachers that are there already: mrpc=FOLDER,cola=FOLDER", "TASK=MODEL")
    ] = None,
    overrides: o.Overrides = None,
    retry_failed: Annotated[bool, _option("--retry-failed", "run trials that failed again, from their start")] = False,
    status: Annotated[bool, _option("--status", "say how far the study in --output is")] = False,
    report: Annotated[
        bool, _option("--report", "write the report of the study in --output, of what is finished")
    ] = False,
) -> None:
    """Compare recipes: tasks x seeds x settings, every trial a run, with spread, intervals and costs.

    Example: codir study --recipes finetune,kd,codir-fine --tasks mrpc --model roberta-base --seeds 1-5 --output runs/s
    """
    from codir.runs.progress import quiet_libraries

    output = given["output"][1] if "output" in given else None
    if status or report:
        if output is None:
            raise ConfigError("Which study? Add --output FOLDER.")
        from codir.studies.report import write_report
        from codir.studies.run import show_status

        quiet_libraries()
        if status:
            show_status(output)
        if report:
            write_report(output)
        return
    flags = dict(given)
    flags |= {key: (f"--{key}", names) for key, names in (("recipes", recipes), ("tasks", tasks)) if names}
    for task, teacher in _pairs("--teachers", (teachers or "").split(",")).items():
        flags[f"teachers.{task}"] = ("--teachers", teacher)
    if study is None and "resume" in given and output is not None and (output / "study.yaml").is_file():
        study = output / "study.yaml"
    if study is None and recipes is None:
        raise ConfigError(
            "Nothing to study: give a YAML file, or --recipes finetune,kd,codir-fine --tasks mrpc --model roberta-base "
            "--output studies/mrpc."
        )
    from codir.studies.config import load_study

    config = load_study(study, overrides=overrides or (), flags=flags)
    from codir.studies.run import study as workflow

    quiet_libraries()
    if workflow(config, retry_failed=retry_failed).failed:
        raise typer.Exit(1)


@reports_errors
def reproduce(
    table: Annotated[
        Literal["table1", "table2", "table3", "table4", "table5"], typer.Argument(help="which of the paper's tables")
    ],
    model: Annotated[
        str,
        _option(
            "--model",
            "encoder that becomes the teacher: of each task, and of the pre-training (the paper: roberta-base)",
            "MODEL",
        ),
    ],
    output: Annotated[Path, _option("--output", "folder for everything", "FOLDER")],
    scale: Annotated[
        Literal["paper", "small"],
        _option("--scale", "the paper's setting, or one that a small machine runs; `--plan` shows both"),
    ] = "paper",
    data_dir: Annotated[
        Path | None, _option("--data-dir", "folder with GLUE in its own format, instead of the Hub", "FOLDER")
    ] = None,
    corpus: Annotated[
        list[str] | None,
        _option(
            "--corpus",
            "what to pre-train on: a folder of `codir corpus`, or text (may be repeated); without it students are cut "
            "out of the teachers and rows that need pre-training are left out",
            "TEXT",
        ),
    ] = None,
    teacher: Annotated[
        list[str] | None,
        _option("--teacher", "a task's teacher that is fine-tuned already (may be repeated)", "TASK=MODEL"),
    ] = None,
    pretrained: Annotated[
        list[str] | None,
        _option(
            "--pretrained",
            "a student that is pre-trained already: mlm-pre, kd-pre or codir-pre (may be repeated)",
            "NAME=MODEL",
        ),
    ] = None,
    tasks: Annotated[str, _option("--tasks", "only these, with commas between", "NAMES")] = "",
    seeds: Annotated[str | None, _option("--seeds", "instead of the scale's: 1-5, or 1,3", "SEEDS")] = None,
    workers: Annotated[int, _option("--workers", "processes for the studies; 0: this one", "N", min=0)] = 1,
    overrides: Annotated[
        list[str] | None,
        _option(
            "--set",
            "one setting of the scale, may be repeated: --set study.training.num_train_epochs=1 "
            "--set data.limit_train=500 --set pretraining.stage1.training.max_steps=10",
            "KEY=VALUE",
        ),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="say what would run, and run nothing")] = False,
) -> None:
    """Make one of the paper's tables, with the paper's own figures beside; the same command goes on where it stopped.

    Example: codir reproduce table4 --scale small --model MODEL --data-dir glue --output runs/table4
    """
    from codir.runs.progress import quiet_libraries
    from codir.studies.paper import reproduce as workflow

    quiet_libraries()
    wanted = workflow.Wanted(
        table=table,
        scale=scale,
        model=model,
        output=output,
        data_dir=data_dir,
        corpus=tuple(corpus or ()),
        teachers=_pairs("--teacher", teacher or ()),
        pretrained=_pairs("--pretrained", pretrained or ()),
        tasks=[name.strip() for name in tasks.split(",") if name.strip()],
        seeds=seeds,
        workers=workers,
        overrides=tuple(overrides or ()),
    )
    (workflow.show_plan if plan else workflow.reproduce)(wanted)


def _pairs(flag: str, texts: Iterable[str]) -> dict[str, str]:
    found = {}
    for text in filter(None, map(str.strip, texts)):
        name, equals, model = text.partition("=")
        if not (name and equals and model):
            raise ConfigError(f"{flag} {text}: expected NAME=MODEL, for example {flag} NAME=runs/model")
        found[name] = model
    return found
