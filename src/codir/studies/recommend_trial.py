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

from codir.config.config import DistillConfig
from codir.config.data_config import DataConfig
from codir.errors import ConfigError, RunError
from codir.outputs import writes
from codir.printing import Console, Table, table, terminal
from codir.runs.data import load_data
from codir.storage import read_json, write_json
from codir.studies.check import check_settings, unfit
from codir.studies.halving import Arm, Rung, Standing, halve, rung_study, rungs
from codir.studies.loading import load_study
from codir.studies.recommend_command import command_of, data_flags
from codir.studies.recommend_cost import StepCost, hours, show_hours
from codir.studies.recommend_folder import TRIAL, begun
from codir.studies.recommend_result import Recommendation, concluded
from codir.studies.recommend_verdict import verdict
from codir.studies.resolved import resolve_recipes
from codir.studies.store import require_optuna

LAST_EPOCHS = 4
"""Most epochs of the last rung: a trial is to be short."""
VALIDATION = 2_000  # most held-out examples that a rung is judged on
_TASK = "data"


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
        examples: labelled examples that each training has.
        unlabeled: texts that the teacher labels beside them.
        held_out: examples that each is judged on.
    """

    arms: list[Arm]
    plan: list[Rung]
    configs: dict[str, DistillConfig]
    costs: dict[str, StepCost]
    data: dict[str, Any]
    recommendation: dict[str, Any]
    examples: int
    unlabeled: int
    held_out: int

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return {
            "arms": [asdict(each) for each in self.arms],
            "plan": [asdict(each) for each in self.plan],
            "configs": {name: each.model_dump(mode="json") for name, each in self.configs.items()},
            "costs": {name: asdict(each) for name, each in self.costs.items()},
            "data": self.data,
            "recommendation": self.recommendation,
            "examples": self.examples,
            "unlabeled": self.unlabeled,
            "held_out": self.held_out,
        }

    @classmethod
    def read(cls, folder: Path) -> Trial:
        """Reads what was begun in a folder; raises `RunError` where there is nothing or it is damaged."""
        path = folder / TRIAL
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
                content["examples"],
                content["unlabeled"],
                content["held_out"],
            )
        except (KeyError, TypeError, AttributeError, ValidationError) as error:
            raise RunError(
                f"{path} is damaged, or of another version ({type(error).__name__}). Remove {path.parent} and start "
                "anew."
            ) from error

    @property
    def hours(self) -> float:
        """About what it takes, the teacher's outputs once."""
        examples = self.examples + self.unlabeled
        mean = {name: replace(cost, teacher=0.0) for name, cost in self.costs.items()}
        total = max(cost.teacher for cost in self.costs.values()) * examples / 3600
        for rung in self.plan:
            # who goes on is not known: as if all of them cost the same
            each = sum(
                hours(mean[arm.recipe], examples, rung.epochs, self.held_out).student for arm in self.arms
            )
            total += each / len(self.arms) * rung.arms * rung.seeds
        return total


def check_trial(learning_rates: Sequence[float] | None, epochs: float, holdout: float) -> None:
    """Refuses what a trial cannot be run with, before anything is timed; arguments as for `plan_trial`.

    Raises:
        ConfigError: a value is out of range; Optuna is not installed.
    """
    if not 0 < holdout < 1:
        raise ConfigError(f"--holdout {holdout:g}: give a share between 0 and 1, for example 0.1.")
    if not (math.isfinite(epochs) and epochs >= 1):
        raise ConfigError(
            f"--trial-epochs {epochs:g}: give a number of at least 1, for example {LAST_EPOCHS}."
        )
    for rate in learning_rates or ():
        if not (math.isfinite(rate) and rate > 0):
            raise ConfigError(f"--learning-rates {rate:g}: give numbers above 0, for example 2e-5,5e-5.")
    require_optuna()


def plan_trial(
    found: Recommendation,
    *,
    learning_rates: Sequence[float] | None = None,
    examples: int = 10_000,
    epochs: float = LAST_EPOCHS,
    holdout: float = 0.1,
    console: Console | None = None,
) -> Trial:
    """Plans the competition of a recommendation's candidates; those that cannot be trained on its data are left out.

    Args:
        found: the recommendation.
        learning_rates: tried with each; by default the proposed one and another (`other_rate`).
        examples: most labelled training examples; of unlabelled texts the same share is taken.
        epochs: most epochs of the last rung; never more than the shortest of the long runs has.
        holdout: share of the training data that it is judged on.
        console: where to print who is left out; the terminal by default.

    Raises:
        ConfigError: see `check_trial`; leaving out leaves fewer than two candidates.
        DataError: the trial's data cannot be had.
    """
    check_trial(learning_rates, epochs, holdout)
    arms = [
        Arm(each.recipe, rate)
        for each in found.candidates
        for rate in dict.fromkeys(learning_rates or each.rates)
    ]
    epochs = min(epochs, *(each.config.training.epochs for each in found.candidates))
    data = found.config.data.model_dump(mode="json", exclude_none=True)
    data.pop("validation", None)
    data["holdout"] = holdout
    for key, most in (("limit_train", examples), ("limit_validation", VALIDATION)):
        data[key] = min(most, data.get(key) or most)
    data["limit_train"] = min(data["limit_train"], found.examples)
    if found.unlabeled:
        data["limit_unlabeled"] = math.ceil(found.unlabeled * data["limit_train"] / found.examples)
    loaded = load_data(DataConfig.model_validate(data))
    assert loaded.train is not None, "load_data gives a training split unless asked not to"
    trial = Trial(
        arms,
        rungs(len(arms), epochs),
        {each.recipe: each.config for each in found.candidates},
        {each.recipe: each.cost for each in found.candidates},
        data,
        found.to_json(),
        examples=len(loaded.train),
        unlabeled=len(loaded.unlabeled or ()),
        held_out=len(loaded.validation[loaded.main_split]),
    )
    left_out = _unfit(trial)
    if not left_out:
        return trial
    left = [arm for arm in arms if arm.recipe not in left_out]
    if len(left) < 2:
        reasons = "\n".join(f"  {recipe}: {why}" for recipe, why in left_out.items())
        raise ConfigError(
            f"There is nothing to compare: on the trial's {trial.examples:,} training examples these cannot be "
            f"trained:\n{reasons}\nGive more --trial-examples, other --recipes, or leave out --trial."
        )
    for recipe, why in left_out.items():
        terminal(console).print(
            f"`{recipe}` is left out of the trial: {why}", highlight=False, markup=False, soft_wrap=True
        )
    return replace(
        trial,
        arms=left,
        plan=rungs(len(left), epochs),
        configs={name: each for name, each in trial.configs.items() if name not in left_out},
        costs={name: each for name, each in trial.costs.items() if name not in left_out},
        recommendation={**trial.recommendation, "left_out": {**found.left_out, **left_out}},
    )


@writes("folder", folder=True)
@writes("json_file", option="--json")
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
        CodirError: all candidates of a rung failed, interrupted.
    """
    console = terminal(console)
    folder = Path(folder)
    place = (folder / TRIAL).parent.absolute()
    first = next(iter(trial.configs.values()))
    if (folder / TRIAL).is_file():
        _go_on("trial", first, folder, console)
    else:
        write_json(folder / TRIAL, trial.to_json())
    console.print(
        f"\nTrial: {len(trial.arms)} candidates ({', '.join(arm.name for arm in trial.arms)}) on "
        f"{trial.examples:,} training examples{_and_unlabeled(trial)}, judged on {trial.held_out:,} that are held out "
        f"of the training data; about {show_hours(trial.hours)}.",
        highlight=False,
    )
    console.print(_unopened(first), highlight=False)

    def settings(rung: Rung) -> dict[str, Any]:
        return _settings(trial, rung, place, workers)

    standings = halve(trial.arms, trial.plan, place, settings, console)
    winner = standings[0]
    console.print()
    console.print(_table(standings))
    sentence = verdict(standings)
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
    from codir.runs.distill import distill

    there = begun(config.output)
    if there is not None:
        _go_on("run", there, config.output, terminal(console))
        config = there
    distill(config.model_copy(update={"resume": there is not None}), console=console)


def _settings(trial: Trial, rung: Rung, place: Path, workers: int = 1) -> dict[str, Any]:
    """Returns what the study of a rung is given besides its arms."""
    first = next(iter(trial.configs.values()))
    training = first.training
    return {
        "tasks": {_TASK: trial.data},
        "teachers": {_TASK: _absolute(first.teacher)},
        # depth and width are what was recommended; where the weights come from is each recipe's own
        "student": {
            key: value for key in ("layers", "width") if (value := getattr(first.student, key)) is not None
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


def _unfit(trial: Trial) -> dict[str, str]:
    """Returns the recipes that cannot be trained on the trial's data, with the reason; nothing is written."""
    rung = trial.plan[0]
    # the folder is only named: this checks and writes nothing
    place = Path(next(iter(trial.configs.values())).output).parent / TRIAL.parent
    values = rung_study(trial.arms, rung, place, _settings(trial, rung, place))
    config = load_study(flags={key: (key, value) for key, value in values.items()})
    problems = unfit(config, check_settings(config, resolve_recipes(config)))
    return {
        arm.recipe: problems[f"{_TASK}/{arm.name}"] for arm in trial.arms if f"{_TASK}/{arm.name}" in problems
    }


def _go_on(what: str, config: DistillConfig, folder: Path, console: Console) -> None:
    """Says which run or trial goes on."""
    of = " ".join([f"teacher {config.teacher},", *data_flags(config.data)])
    console.print(
        f"Going on with the {what} in {folder}: {of}", highlight=False, markup=False, soft_wrap=True
    )


def _and_unlabeled(trial: Trial) -> str:
    return f" and {trial.unlabeled:,} unlabelled texts" if trial.unlabeled else ""


def _unopened(config: DistillConfig) -> str:
    """Says whether the scores of the long run are free of the choice that is made here."""
    if config.data.task is None and config.data.validation is None:
        return (
            "There is no validation file: the run afterwards holds out a part of the training data itself, which the "
            "trial has seen in part. Add --validation FILE for scores that no choice was made by."
        )
    return "The validation data are not opened."


def _table(standings: Sequence[Standing]) -> Table:
    shown = table("The trial")
    shown.add_column("recipe")
    for name in ("learning rate", "rung", "epochs", "seeds", "held-out score"):
        shown.add_column(name, justify="right")
    for number, each in enumerate(standings):
        shown.add_row(
            each.arm.recipe,
            f"{each.arm.learning_rate:g}",
            str(each.rung),
            str(each.epochs),
            str(each.seeds),
            "failed" if each.score is None else f"{each.score:.4f}",
            style="bold" if number == 0 else None,
        )
    return shown


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
