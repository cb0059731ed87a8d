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
from codir.cli import flags as o
from codir.cli.augmentation import augment
from codir.cli.deployment import export, latency
from codir.cli.flags import PASSES_ON, Given, with_settings
from codir.cli.judging import evaluate, predict
from codir.cli.pages import report
from codir.cli.pretraining import corpus, plan, pretrain
from codir.cli.publishing import publish, submit
from codir.cli.reporting import reports_errors
from codir.cli.studies import reproduce, study
from codir.config.config import DistillConfig, FinetuneConfig
from codir.printing import say, write_plainer

# The groups of `codir --help`, in the order in which a newcomer needs them.
_START = "First steps"
_TRAIN = "From a task to a small model"
_LOOK = "What a model can do"
_SHIP = "Hand it over"
_PRETRAIN = "From text alone to a small encoder"
_COMPARE = "Many runs"

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
    write_plainer(sys.stdout, sys.stderr)
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
        say(f"codir {__version__}")
        raise typer.Exit


@app.callback()
def _codir(
    version: Annotated[
        bool, typer.Option("--version", help="print the version", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command(rich_help_panel=_START)
@reports_errors
def demo(
    output: Annotated[Path, typer.Option("--output", help="folder for the demo's runs", metavar="FOLDER")] = Path(
        "runs/demo"
    ),
) -> None:
    """Fine-tune a small teacher on built-in data, distil it, print the table: offline, a few minutes."""
    from codir.runs import demo as workflow
    from codir.runs.progress import quiet_libraries

    quiet_libraries()
    workflow.demo(output)


@app.command(rich_help_panel=_START)
@reports_errors
def recipes(
    name: Annotated[
        str | None,
        typer.Argument(help="print this recipe: its card, then its settings as YAML", metavar="[NAME]"),
    ] = None,
) -> None:
    """List the recipes: what each is, where its numbers come from, what it needs."""
    from codir.config.library import load_recipe, recipe_names

    if name is not None:
        say(load_recipe(name).show(), end="")
        return
    for each in map(load_recipe, recipe_names()):
        say(f"{each.name}  (codir {each.command})")
        say(f"    {each.description}\n    from:  {each.source}\n    needs: {each.needs}\n")
    say("`codir recipes NAME` prints a recipe; start your own with `recipe: NAME` in a YAML file (--config).")


@app.command(context_settings=PASSES_ON, rich_help_panel=_TRAIN)
@reports_errors
@with_settings(FinetuneConfig, without=("data.unlabeled", "data.limit_unlabeled"))
def finetune(given: Given, config: o.ConfigFile = None, overrides: o.Overrides = None) -> None:
    """Fine-tune an encoder on a task; the result can serve as a teacher.

    Example: codir finetune --model roberta-base --task sst2 --output runs/teacher
    """
    from codir.config.loading import load

    settings = load(FinetuneConfig, config=config, overrides=overrides or (), flags=given)
    from codir.runs import finetune as workflow
    from codir.runs.progress import quiet_libraries

    quiet_libraries()
    workflow.finetune(settings)


@app.command(context_settings=PASSES_ON, rich_help_panel=_TRAIN)
@reports_errors
@with_settings(DistillConfig, without=("recipe",))
def distill(
    given: Given,
    recipe: o.RecipeName = None,
    config: o.ConfigFile = None,
    overrides: o.Overrides = None,
) -> None:
    """Distil a fine-tuned teacher into a smaller student, and print the table that compares them.

    Example: codir distill --teacher runs/teacher --task sst2 --student-layers 6 --output runs/student
    """
    from codir.config.loading import load

    settings = load(DistillConfig, recipe=recipe, config=config, overrides=overrides or (), flags=given)
    from codir.runs import distill as workflow
    from codir.runs.progress import quiet_libraries

    quiet_libraries()
    workflow.distill(settings)


for panel, commands in (
    (_TRAIN, (augment,)),
    (_LOOK, (evaluate, predict, report, latency)),
    (_SHIP, (export, publish, submit)),
    (_PRETRAIN, (corpus, plan)),
    (_COMPARE, (study, reproduce)),
):
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.command(context_settings=PASSES_ON, rich_help_panel=_PRETRAIN)(pretrain)


if __name__ == "__main__":
    run()
