"""`codir study`: many recipes, tasks, seeds and settings, by any number of workers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from codir.cli import options as o
from codir.cli.reporting import reports_errors
from codir.config.config import DistillConfig
from codir.errors import ConfigError
from codir.studies.config import StudyConfig

# For each parameter, the setting it stands for.
_SETTINGS = {
    "recipes": "recipes",
    "tasks": "tasks",
    "data_dir": "data_dir",
    "model": "model",
    "seeds": "seeds",
    "student_layers": "student.layers",
    "student_init": "student.init",
    "epochs": "training.num_train_epochs",
    "batch_size": "training.per_device_train_batch_size",
    "learning_rate": "training.learning_rate",
    "precision": "training.precision",
    "max_length": "data.max_length",
    "limit_train": "data.limit_train",
    "limit_validation": "data.limit_validation",
    "holdout": "data.holdout",
    "unlabeled": "data.unlabeled",
    "strategy": "strategy",
    "trials": "trials",
    "baseline": "baseline",
    "workers": "workers",
    "engine": "engine",
    "address": "address",
    "cache_dir": "cache_dir",
    "output": "output",
    "resume": "resume",
}


def _option(parameter: str, metavar: str | None = None, help: str | None = None) -> Any:
    path = _SETTINGS[parameter]
    if help is None:
        section = path.partition(".")[0]
        model = DistillConfig if section in ("training", "data") and "." in path else StudyConfig
        help = o.description(path, model)
    return typer.Option(f"--{parameter.replace('_', '-')}", help=help, metavar=metavar, show_default=False)


@reports_errors
def study(
    study: Annotated[
        Path | None, typer.Argument(help="YAML file of the study; flags win over it", metavar="[STUDY.yaml]")
    ] = None,
    output: Annotated[Path | None, _option("output", "FOLDER")] = None,
    recipes: Annotated[str | None, _option("recipes", "NAMES")] = None,
    tasks: Annotated[str | None, _option("tasks", "NAMES")] = None,
    data_dir: Annotated[Path | None, _option("data_dir", "FOLDER")] = None,
    model: Annotated[str | None, _option("model", "MODEL")] = None,
    teachers: Annotated[
        str | None,
        typer.Option(
            "--teachers",
            help="teachers that are there already: mrpc=FOLDER,cola=FOLDER",
            metavar="TASK=MODEL",
        ),
    ] = None,
    student_layers: Annotated[int | None, _option("student_layers", "N")] = None,
    student_init: Annotated[str | None, _option("student_init", "HOW")] = None,
    seeds: Annotated[str | None, _option("seeds", "SEEDS")] = None,
    epochs: Annotated[float | None, _option("epochs", "N")] = None,
    batch_size: Annotated[int | None, _option("batch_size", "N")] = None,
    learning_rate: Annotated[
        float | None,
        _option("learning_rate", "X", "peak learning rate of all recipes (default: what each says)"),
    ] = None,
    precision: Annotated[str | None, _option("precision", "NAME")] = None,
    max_length: Annotated[int | None, _option("max_length", "TOKENS")] = None,
    limit_train: Annotated[int | None, _option("limit_train", "N")] = None,
    limit_validation: Annotated[int | None, _option("limit_validation", "N")] = None,
    holdout: Annotated[float | None, _option("holdout", "SHARE")] = None,
    unlabeled: Annotated[list[Path] | None, _option("unlabeled", "FILE")] = None,
    strategy: Annotated[str | None, _option("strategy", "NAME")] = None,
    trials: Annotated[int | None, _option("trials", "N")] = None,
    baseline: Annotated[str | None, _option("baseline", "RECIPE")] = None,
    workers: Annotated[int | None, _option("workers", "N")] = None,
    engine: Annotated[str | None, _option("engine", "NAME")] = None,
    address: Annotated[str | None, _option("address", "ADDRESS")] = None,
    cache_dir: Annotated[Path | None, _option("cache_dir", "FOLDER")] = None,
    overrides: o.Overrides = None,
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume", help="go on with the study in the output folder, where it stopped or with more to do"
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="run trials that failed again, from their start")
    ] = False,
    status: Annotated[bool, typer.Option("--status", help="say how far the study in --output is")] = False,
    report: Annotated[
        bool, typer.Option("--report", help="write the report of the study in --output, of what is finished")
    ] = False,
) -> None:
    """Compare recipes: tasks x seeds x settings, every trial a run, with spread, intervals and costs.

    Example: codir study --recipes finetune,kd,codir-fine --tasks mrpc --model roberta-base --seeds 1-5 --output runs/s
    """
    given = dict(locals())
    if status or report:
        if output is None:
            raise ConfigError("Which study? Add --output FOLDER.")
        _look_at(output, status, report)
        return
    flags = {
        path: (f"--{name.replace('_', '-')}", given[name])
        for name, path in _SETTINGS.items()
        if given[name] not in (None, [])
    }
    for task, teacher in _pairs(teachers):
        flags[f"teachers.{task}"] = ("--teachers", teacher)
    if study is None and resume and output is not None and (output / "study.yaml").is_file():
        study = output / "study.yaml"
    if study is None and recipes is None:
        raise ConfigError(
            "Nothing to study: give a YAML file, or --recipes finetune,kd,codir-fine --tasks mrpc --model roberta-base "
            "--output studies/mrpc."
        )
    from codir.studies.loading import load_study

    config = load_study(study, overrides=overrides or (), flags=flags)
    from codir.runs.progress import quiet_libraries
    from codir.studies.run import study as workflow

    quiet_libraries()
    if workflow(config, retry_failed=retry_failed).failed:
        raise typer.Exit(1)


def _look_at(output: Path, status: bool, report: bool) -> None:
    from codir.runs.progress import quiet_libraries
    from codir.studies.report import write_report
    from codir.studies.run import show_status

    quiet_libraries()
    if status:
        show_status(output)
    if report:
        write_report(output)


def _pairs(text: str | None) -> list[tuple[str, str]]:
    found = []
    for part in (text or "").split(","):
        task, separator, teacher = part.strip().partition("=")
        if part.strip() and (not separator or not task or not teacher):
            raise ConfigError(
                f"--teachers {part.strip()}: expected TASK=FOLDER, for example mrpc=runs/teacher"
            )
        if part.strip():
            found.append((task, teacher))
    return found
