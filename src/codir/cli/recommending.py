"""`codir recommend`: which recipe, how deep, how long; with the evidence behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic_core import to_jsonable_python

from codir.cli import options as o
from codir.cli.reporting import reports_errors
from codir.config.data_config import DataConfig
from codir.config.loading import Settings, build
from codir.errors import ConfigError, InterruptedRunError


def _wish(flag: str, help: str, metavar: str = "X", **more: Any) -> Any:
    return typer.Option(
        flag, help=help, metavar=metavar, show_default=False, rich_help_panel="Wishes", **more
    )


def _trial(flag: str, help: str, metavar: str | None = None, **more: Any) -> Any:
    return typer.Option(flag, help=help, metavar=metavar, rich_help_panel="Trial", **more)


@reports_errors
def recommend(
    ctx: typer.Context,
    teacher: Annotated[str, typer.Argument(help="fine-tuned model, folder or Hub id", metavar="TEACHER")],
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
    unlabeled: o.Unlabeled = None,
    limit_unlabeled: o.LimitUnlabeled = None,
    max_length: o.MaxLength = None,
    limit_train: o.LimitTrain = None,
    limit_validation: o.LimitValidation = None,
    speedup: Annotated[float | None, _wish("--speedup", "times as fast as the teacher")] = None,
    max_ms: Annotated[
        float | None, _wish("--max-ms", "milliseconds that half of the requests stay within, on this machine")
    ] = None,
    max_mb: Annotated[float | None, _wish("--max-mb", "megabytes of the student's weights in fp32")] = None,
    hours: Annotated[float | None, _wish("--hours", "hours that the run may take on this machine")] = None,
    student_layers: Annotated[
        int | None, _wish("--student-layers", "blocks of the student, instead of a wish", "N", min=1)
    ] = None,
    student_width: Annotated[
        int | None, _wish("--student-width", "width of a narrower student (a multiple of the head size)", "N")
    ] = None,
    request: Annotated[
        int, _wish("--request", "texts in a request, for the times (default: 1)", "N", min=1)
    ] = 1,
    recipes: Annotated[
        str | None,
        _wish("--recipes", "only these, each of them a candidate, with commas between them", "NAMES"),
    ] = None,
    batch_size: o.BatchSize = None,
    precision: o.PrecisionName = None,
    trial: Annotated[
        bool, _trial("--trial", "let the best candidates compete on your training data first")
    ] = False,
    learning_rates: Annotated[
        str | None,
        _trial("--learning-rates", "of the trial, with commas (default: the evidence's and another)", "X,X"),
    ] = None,
    trial_examples: Annotated[
        int, _trial("--trial-examples", "most training examples of the trial", "N", min=20)
    ] = 10_000,
    trial_epochs: Annotated[
        float, _trial("--trial-epochs", "most epochs of its last round", "N", min=1)
    ] = 4.0,
    share: Annotated[
        float, _trial("--holdout", "share of the training data that the trial is judged on", "SHARE")
    ] = 0.1,
    workers: Annotated[int, _trial("--workers", "processes that run the trial", "N", min=1)] = 1,
    run: Annotated[bool, _trial("--run", "go straight on with what is recommended")] = False,
    resume: Annotated[
        bool, _trial("--resume", "go on with the trial and the run in the output folder")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", help="folder of the trial and the run (default: runs/recommended)", metavar="FOLDER"
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="write the recommendation to this file", metavar="FILE")
    ] = None,
    evidence: Annotated[
        Path | None, typer.Option("--evidence", help="other evidence than codir's own", metavar="FILE")
    ] = None,
) -> None:
    """Propose recipe, depth and budget for a teacher and a task, with the evidence behind it.

    Example: codir recommend runs/teacher --task mrpc --speedup 2
    """
    settings = Settings()
    for path, (flag, value) in o.given(ctx.params).items():
        section, _, key = path.partition(".")
        if section == "data":
            settings.set((key,), value, flag)
    if not settings.values.keys() & {"task", "train"}:
        raise ConfigError(
            "For which data? Add --task sst2, or --train train.csv --text review --label stars."
        )
    rates = _numbers(learning_rates)
    if resume and not (trial or run):
        raise ConfigError("--resume goes on with a trial or a run: add --trial, --run or both.")
    data = build(DataConfig, settings)
    from codir.runs.progress import quiet_libraries
    from codir.studies import recommend_choice as workflow
    from codir.studies import recommend_folder, recommend_trial
    from codir.studies.recommend_student import Wish

    quiet_libraries()
    folder = output or Path("runs/recommended")
    command = _asked(ctx)
    if trial:
        recommend_trial.check_trial(rates, trial_epochs, share)
    if resume:
        recommend_folder.check_command(folder, command)
        begun = recommend_folder.begun(folder / recommend_folder.STUDENT)
        if run and begun is not None:
            recommend_trial.run(begun)
            return
        competition = recommend_trial.Trial.read(folder)
    else:
        if trial or run:
            recommend_folder.check_folder(folder)
        try:
            found = workflow.recommend(
                teacher,
                data,
                wish=Wish(speedup, max_ms, max_mb),
                layers=student_layers,
                width=student_width,
                most_hours=hours,
                recipes=[each.strip() for each in recipes.split(",") if each.strip()] if recipes else None,
                request=request,
                batch_size=batch_size,
                precision=precision,
                evidence=evidence,
                output=folder / recommend_folder.STUDENT,
                json_file=json_file,
            )
            competition = (
                recommend_trial.plan_trial(
                    found, learning_rates=rates, examples=trial_examples, epochs=trial_epochs, holdout=share
                )
                if trial
                else None
            )
        except KeyboardInterrupt:
            raise InterruptedRunError(
                "Stopped before any trial or run began: there is nothing to resume, the same command starts anew."
            ) from None
        if trial or run:
            recommend_folder.note_command(folder, command)
        if competition is None:
            if run:
                recommend_trial.run(found.config)
            return
    config = recommend_trial.compete(competition, folder, workers=workers, json_file=json_file)
    if run:
        recommend_trial.run(config)


# how the command works, not what it computes
_FREE = {"trial", "run", "resume", "workers", "output", "json_file"}


def _asked(ctx: typer.Context) -> dict[str, Any]:
    """Returns the values of all flags that decide on what is computed, as JSON has them."""
    return {
        (each.opts[0] if each.opts[0].startswith("-") else each.opts[0].upper()): to_jsonable_python(
            ctx.params[each.name]
        )
        for each in ctx.command.params
        if each.name in ctx.params and each.name not in _FREE
    }


def _numbers(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if not found:
        raise ConfigError(f"--learning-rates {text}: give numbers above 0, for example 2e-5,5e-5.")
    return found
