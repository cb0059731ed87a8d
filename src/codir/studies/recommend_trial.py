"""`codir recommend --trial`: the candidates compete on a part of the user's own training data before the long run.

`trial/trial.json` has all that the competition needs, so that a resume computes what was begun, whatever a clock says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich import box
from rich.console import Console
from rich.table import Table

from codir.errors import ConfigError, RunError
from codir.recipes.config import DistillConfig
from codir.storage import read_json, write_json
from codir.studies.halving import Arm, Rung, Standing, halve, rungs
from codir.studies.store import require_optuna
from codir.workflows.evaluate import evaluate
from codir.workflows.paired import PairedTest, paired_test
from codir.workflows.progress import default_console
from codir.workflows.recommend_command import command_of
from codir.workflows.recommend_cost import StepCost, hours, show_hours
from codir.workflows.recommend_result import Recommendation, concluded
from codir.workflows.runfolder import RunFolder

LAST_EPOCHS = 4
"""Most epochs of the last rung: a trial is to be short."""
VALIDATION = 2_000  # most held-out examples that a rung is judged on
_TASK = "data"
_FILE = "trial.json"


@dataclass
class Trial:
    """A competition that is to be run.

    Attributes:
        arms: recipes with learning rates, those that the evidence speaks for first.
        plan: rungs.
        configs: of the long run by recipe.
        costs: seconds of a step by recipe, measured.
        data: settings of the trial's data: a share of the training examples is held out, the validation unopened.
        recommendation: as `Recommendation.to_json` gave it.
    """

    arms: list[Arm]
    plan: list[Rung]
    configs: dict[str, DistillConfig]
    costs: dict[str, StepCost]
    data: dict[str, Any]
    recommendation: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return {
            "arms": [asdict(each) for each in self.arms],
            "plan": [asdict(each) for each in self.plan],
            "configs": {name: each.model_dump(mode="json") for name, each in self.configs.items()},
            "costs": {name: asdict(each) for name, each in self.costs.items()},
            "data": self.data,
            "recommendation": self.recommendation,
        }

    @classmethod
    def read(cls, folder: Path) -> Trial:
        """Reads what was begun in a folder; raises `RunError` where there is nothing or it is damaged."""
        path = folder / "trial" / _FILE
        if not path.is_file():
            raise RunError(f"Nothing to resume: {path} does not exist. Leave out --resume to start anew.")
        content = read_json(path)
        try:
            return cls(
                [Arm(**each) for each in content["arms"]],
                [Rung(**each) for each in content["plan"]],
                {name: DistillConfig.model_validate(each) for name, each in content["configs"].items()},
                {name: StepCost(**each) for name, each in content["costs"].items()},
                content["data"],
                content["recommendation"],
            )
        except (KeyError, TypeError, AttributeError, ValidationError) as error:
            raise RunError(
                f"{path} is damaged ({type(error).__name__}). Remove {folder} and start anew."
            ) from error

    @property
    def hours(self) -> float:
        """About what it takes, the teacher's outputs once."""
        examples = int(self.data.get("limit_train") or self.recommendation["examples"])
        examples += int(self.data.get("limit_unlabeled") or 0)
        validation = int(self.data.get("limit_validation") or VALIDATION)
        mean = {name: replace(cost, teacher=0.0) for name, cost in self.costs.items()}
        total = max(cost.teacher for cost in self.costs.values()) * examples / 3600
        for rung in self.plan:
            # who goes on is not known: as if all of them cost the same
            each = sum(
                hours(mean[arm.recipe], examples, rung.epochs, validation).student for arm in self.arms
            )
            total += each / len(self.arms) * rung.arms * rung.seeds
        return total


def check_folder(folder: Path) -> None:
    """Raises `RunError` if the folder holds a trial or a run already."""
    if (folder / "trial" / _FILE).is_file() or RunFolder(folder / "student").is_run:
        raise RunError(
            f"{folder} already holds a recommendation's trial or run. Add --resume to go on with it, or choose another "
            "--output."
        )


def plan_trial(
    found: Recommendation,
    *,
    learning_rates: Sequence[float] | None = None,
    examples: int = 10_000,
    epochs: float = LAST_EPOCHS,
    holdout: float = 0.1,
) -> Trial:
    """Plans the competition of a recommendation's candidates.

    Args:
        found: the recommendation.
        learning_rates: tried with each; by default the proposed one and another (`other_rate`).
        examples: most labelled training examples; of unlabelled texts the same share is taken.
        epochs: most epochs of the last rung; never more than the long run has.
        holdout: share of the training data that it is judged on.

    Raises:
        ConfigError: a share that is none.
    """
    if not 0 < holdout < 1:
        raise ConfigError(f"--holdout {holdout:g}: give a share between 0 and 1, for example 0.1.")
    arms = [
        Arm(each.recipe, rate)
        for each in found.candidates
        for rate in dict.fromkeys(learning_rates or each.rates)
    ]
    epochs = min(epochs, found.config.training.epochs)
    data = found.config.data.model_dump(mode="json", exclude_none=True)
    data.pop("validation", None)
    data["holdout"] = holdout
    for key, most in (("limit_train", examples), ("limit_validation", VALIDATION)):
        data[key] = min(most, data.get(key) or most)
    data["limit_train"] = min(data["limit_train"], found.examples)
    if found.unlabeled:
        data["limit_unlabeled"] = math.ceil(found.unlabeled * data["limit_train"] / found.examples)
    return Trial(
        arms,
        rungs(len(arms), epochs),
        {each.recipe: each.config for each in found.candidates},
        {each.recipe: each.cost for each in found.candidates},
        data,
        found.to_json(),
    )


def compete(
    trial: Trial,
    folder: str | Path,
    *,
    workers: int = 1,
    json_file: str | Path | None = None,
    console: Console | None = None,
) -> DistillConfig:
    """Runs the competition, or goes on with it, and returns the configuration of the long run with the winner.

    Args:
        trial: what to run; written to the folder first.
        folder: gets `trial/` with a study for each rung, and `recommendation.json`.
        workers: processes.
        json_file: where the recommendation goes as well.
        console: where to print; the terminal by default.

    Raises:
        CodirError: optuna is missing, all candidates of a rung failed, interrupted.
    """
    require_optuna()
    console = console or default_console()
    folder = Path(folder)
    place = (folder / "trial").absolute()
    write_json(place / _FILE, trial.to_json())
    console.print(
        f"\nTrial: {len(trial.arms)} candidates ({', '.join(arm.name for arm in trial.arms)}) on "
        f"{trial.data['limit_train']:,} training examples{_and_unlabeled(trial.data)}, judged on "
        f"{trial.data['holdout']:.0%} of the training data that are held out; about {show_hours(trial.hours)}.",
        highlight=False,
    )
    console.print(_unopened(next(iter(trial.configs.values()))), highlight=False)
    first = next(iter(trial.configs.values()))

    def settings(rung: Rung) -> dict[str, Any]:
        training = first.training
        return {
            "tasks": {_TASK: trial.data},
            "teachers": {_TASK: _absolute(first.teacher)},
            # depth and width are what was recommended; where the weights come from is each recipe's own
            "student": {
                key: value
                for key in ("layers", "width")
                if (value := getattr(first.student, key)) is not None
            },
            "training": {
                "epochs": rung.epochs,
                "batch_size": training.batch_size,
                "gradient_accumulation": training.gradient_accumulation,
                "precision": training.precision,
                "group_by_length": training.group_by_length,
            },
            "workers": min(workers, rung.arms * rung.seeds),
            "cache_dir": str(place / "cache"),
        }

    standings = halve(trial.arms, trial.plan, place, settings, console)
    winner = standings[0]
    console.print()
    console.print(_table(standings))
    sentence = _verdict(standings)
    console.print(sentence, highlight=False)
    config = trial.configs[winner.arm.recipe]
    training = config.training.model_copy(update={"learning_rate": winner.arm.learning_rate})
    config = config.model_copy(update={"training": training})
    content = {
        **concluded(trial.recommendation, config, sentence),
        "trial": {"standings": [_plain(each) for each in standings], "verdict": sentence},
    }
    for path in filter(None, (folder / "recommendation.json", json_file)):
        write_json(path, content)
    console.print("\nThe command, with the winner of the trial:", highlight=False)
    console.print(command_of(config), highlight=False, markup=False, soft_wrap=True, style="bold")
    return config


def run(config: DistillConfig, console: Console | None = None) -> None:
    """Distils as recommended; a run that is there already is gone on with, as it was begun."""
    from codir.recipes.loading import load_distill
    from codir.workflows.distill import distill

    folder = RunFolder(config.output)
    if folder.is_run:
        config = load_distill(config=folder.config, flags={"output": ("--output", str(config.output))})
    distill(config.model_copy(update={"resume": folder.is_run}), console=console)


def begun(folder: str | Path) -> DistillConfig | None:
    """Returns the configuration of the long run in a folder, None if it has not begun."""
    from codir.recipes.loading import load_distill

    student = RunFolder(Path(folder) / "student")
    if not student.is_run:
        return None
    return load_distill(config=student.config, flags={"output": ("--output", str(student.path))})


def _and_unlabeled(data: dict[str, Any]) -> str:
    return f" and {data['limit_unlabeled']:,} unlabelled texts" if data.get("limit_unlabeled") else ""


def _unopened(config: DistillConfig) -> str:
    """Says whether the scores of the long run are free of the choice that is made here."""
    if config.data.task is None and config.data.validation is None:
        return (
            "There is no validation file: the run afterwards holds out a part of the training data itself, which the "
            "trial has seen in part. Add --validation FILE for scores that no choice was made by."
        )
    return "The validation data are not opened."


def _verdict(standings: Sequence[Standing]) -> str:
    """Says what the last rung allows to say: a paired test on the examples held out, seed by seed of the first."""
    winner = standings[0]
    text = f"`{winner.arm.recipe}` at {winner.arm.learning_rate:g} wins"
    constant = max((each.constant_score or 0.0 for each in winner.results), default=0.0)
    if winner.score is not None and winner.score <= constant + 0.005:
        return (
            f"{text} with {100 * winner.score:.1f} points, and answering the same class to everything scores "
            f"{100 * constant:.1f}: the trial was too short to tell anything. Give it more --trial-examples or "
            "--trial-epochs."
        )
    if len(standings) == 1:
        return f"{text}: it was the only candidate."
    second = next((each for each in standings[1:] if each.rung == winner.rung and each.results), None)
    if second is None or winner.score is None or second.score is None:
        return f"{text}: the others failed."
    text += (
        f" by {100 * (winner.score - second.score):.1f} points over `{second.arm.recipe}` at "
        f"{second.arm.learning_rate:g} ({winner.seeds} seeds)"
    )
    test = _paired(winner, second)
    word = "beyond what the held-out examples explain by chance" if test.significant else "within noise"
    more = "" if test.significant else " Either will do; take the cheaper one if they differ in cost."
    return f"{text}: {word} ({test.in_words()}).{more}"


def _paired(first: Standing, second: Standing) -> PairedTest:
    """Tests the first seed's models of two arms against each other."""
    found = []
    for each in (first, second):
        folder = min(each.results, key=lambda result: result.seed).folder
        config = DistillConfig.model_validate(_run_config(folder))
        found.append(evaluate(folder, config.data, quiet=True))
    one, other = found
    labels = one.labels[one.main_split]
    return paired_test(labels, other.predictions(), one.predictions(), one.task.main_metric)


def _run_config(folder: Path) -> dict[str, Any]:
    from codir.recipes.loading import load_distill

    return load_distill(config=RunFolder(folder).config).model_dump(mode="json")


def _table(standings: Sequence[Standing]) -> Table:
    table = Table(title="The trial", title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("recipe")
    for name in ("learning rate", "rung", "epochs", "seeds", "held-out score"):
        table.add_column(name, justify="right")
    for number, each in enumerate(standings):
        table.add_row(
            each.arm.recipe,
            f"{each.arm.learning_rate:g}",
            str(each.rung),
            str(each.epochs),
            str(each.seeds),
            "failed" if each.score is None else f"{each.score:.4f}",
            style="bold" if number == 0 else None,
        )
    return table


def _plain(each: Standing) -> dict[str, Any]:
    return {
        "recipe": each.arm.recipe,
        "learning_rate": each.arm.learning_rate,
        "rung": each.rung,
        "epochs": each.epochs,
        "seeds": each.seeds,
        "score": each.score,
        "scores": [result.score for result in each.results],
    }


def _absolute(model: str) -> str:
    path = Path(model).expanduser()
    return str(path.absolute()) if path.exists() else model
