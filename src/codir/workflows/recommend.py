"""Recommends how to distil a teacher: recipe, depth, budget and the command, each with the evidence behind it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from codir.errors import CodirError, ConfigError, nearest
from codir.models.loading import encoder_shape, load_classifier, load_tokenizer
from codir.recipes.config import DataConfig, DistillConfig
from codir.recipes.evidence import Evidence, load_evidence
from codir.recipes.library import load_recipe, recipe_names
from codir.recipes.loading import load_distill
from codir.storage import write_json
from codir.tasks.task import limit
from codir.workflows.data import load_data
from codir.workflows.progress import default_console
from codir.workflows.recommend_cost import BUSY, Hours, StepCost, hours, measure_step, show_hours
from codir.workflows.recommend_ranking import (
    REFERENCE,
    UNDISTILLED,
    Case,
    Ranking,
    Standing,
    budgets,
    in_a_sentence,
    rank,
    show_gain,
)
from codir.workflows.recommend_student import Choice, Wish, choose_student
from codir.workflows.timing import texts_of

TIMED_TEXTS = 48
CANDIDATES = 3
"""Most recipes whose steps are timed and that a trial starts with."""


@dataclass(frozen=True)
class Candidate:
    """A recipe that could be taken.

    Attributes:
        config: of the proposed run with it.
        standing: what the evidence says of it.
        cost: of a step, measured here.
        hours: of that run.
        rates: learning rates that a trial should try, the proposed one first.
    """

    config: DistillConfig
    standing: Standing
    cost: StepCost
    hours: Hours
    rates: tuple[float, ...] = ()

    @property
    def recipe(self) -> str:
        """Its name."""
        return self.standing.recipe


@dataclass
class Recommendation:
    """What is proposed, and why.

    Attributes:
        config: of the run that is proposed; `output` is where it would go.
        command: the same as a command line.
        choice: the student, with what was timed.
        ranking: of the recipes.
        candidates: the proposed one first, then those that the evidence cannot tell from it.
        why: sentences by `student`, `recipe`, `budget`, `cost`.
        caveats: sentences on what the evidence does not cover.
        examples: N, training examples.
        evidence: file that it rests on.
    """

    config: DistillConfig
    command: str
    choice: Choice
    ranking: Ranking
    candidates: list[Candidate]
    why: dict[str, str]
    caveats: list[str]
    examples: int
    evidence: str
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def best(self) -> Candidate:
        """The proposed one."""
        return self.candidates[0]

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return {
            "command": self.command,
            "recipe": self.config.recipe,
            "student": {
                **self.choice.chosen.to_dict(),
                "fits": self.choice.fits,
                "otherwise": list(self.choice.otherwise),
            },
            "teacher": self.choice.teacher.to_dict(),
            "options": [each.to_dict() for each in self.choice.options],
            "epochs": self.config.training.epochs,
            "learning_rate": self.config.training.learning_rate,
            "batch_size": self.config.training.batch_size,
            "hours": self.best.hours.to_dict(),
            "why": self.why,
            "caveats": self.caveats,
            "candidates": [
                {
                    "recipe": each.recipe,
                    "hours": each.hours.total,
                    "seconds_per_step": each.cost.step,
                    "evidence": in_a_sentence(each.standing),
                }
                for each in self.candidates
            ],
            "left_out": self.left_out,
            "ranking": [
                {
                    "recipe": each.recipe,
                    "tasks": list(each.tasks),
                    "seeds": each.seeds,
                    "kept": each.kept,
                    "over_kd": None
                    if each.gain is None
                    else {"mean": each.gain.mean, "low": each.gain.low, "high": each.gain.high},
                    "cost_of_kd": each.cost,
                }
                for each in self.ranking.standings
            ],
            "examples": self.examples,
            "evidence": self.evidence,
            "settings": self.config.model_dump(mode="json"),
        }


def recommend(
    teacher: str,
    data: DataConfig,
    *,
    wish: Wish | None = None,
    layers: int | None = None,
    width: int | None = None,
    most_hours: float | None = None,
    recipes: Sequence[str] | None = None,
    request: int = 1,
    batch_size: int | None = None,
    precision: str | None = None,
    evidence: str | Path | None = None,
    output: str | Path = "runs/student",
    json_file: str | Path | None = None,
    console: Console | None = None,
) -> Recommendation:
    """Proposes recipe, depth and budget for a teacher and a task, and says what that rests on.

    Nothing is trained but a few steps, to know what the run will take.

    Args:
        teacher: fine-tuned model, a folder or a Hub id.
        data: the task; only training examples are read, but for counting those of the validation.
        wish: speed or size of the student.
        layers: settles its depth.
        width: asks for a narrower student.
        most_hours: that the run may take.
        recipes: only these.
        request: texts in a request, for the times.
        batch_size: of the training; by default the recipe's.
        precision: of the training; by default what the machine has.
        evidence: another file of evidence.
        output: of the run that is proposed.
        json_file: where the recommendation goes as JSON.
        console: where to print; the terminal by default.

    Raises:
        CodirError: teacher, data or evidence cannot be used; no recipe fits.
    """
    console = console or default_console()
    wish = wish or Wish()
    _check_wish(wish, most_hours)
    known = load_evidence(evidence)
    choosable = _choosable(recipes, known)
    model, tokenizer = load_classifier(teacher), load_tokenizer(teacher)
    loaded = load_data(data)
    assert loaded.train is not None, "load_data gives a training split unless asked not to"
    for note in loaded.notes:
        console.print(note, highlight=False)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    console.print("Timing the teacher and students cut out of it ...", highlight=False)
    choice = choose_student(
        model,
        tokenizer,
        texts_of(limit(loaded.train, TIMED_TEXTS)),
        wish,
        layers=layers,
        width=width,
        batch_size=request,
        max_length=data.max_length,
        device=device,
    )
    shape = encoder_shape(model)
    case = Case(loaded.task.kind, len(loaded.train), shape.blocks, shape.width, choice.chosen.layers, width)
    ranking = rank(known.entries, case, choosable)

    def settings(recipe: str, epochs: float, rate: float) -> DistillConfig:
        flags: dict[str, tuple[str, Any]] = {
            "teacher": ("TEACHER", teacher),
            "data": ("data", data.model_dump(mode="json", exclude_none=True)),
            "student.layers": ("--student-layers", choice.chosen.layers),
            "training.epochs": ("--epochs", epochs),
            "training.learning_rate": ("--learning-rate", rate),
            "output": ("--output", str(output)),
        }
        optional = {
            "student.width": width,
            "training.batch_size": batch_size,
            "training.precision": precision,
        }
        flags |= {key: (key, value) for key, value in optional.items() if value is not None}
        return load_distill(recipe=recipe, flags=flags)

    configs: dict[str, DistillConfig] = {}
    costs: dict[str, StepCost] = {}
    left_out: dict[str, str] = {}
    for standing in ranking.equals():
        if len(configs) == CANDIDATES:
            break
        epochs, rate, _ = _budget(ranking, standing.recipe)
        console.print(f"Timing a few training steps of {standing.recipe} ...", highlight=False)
        try:
            config = settings(standing.recipe, epochs, rate)
            costs[standing.recipe] = measure_step(config)
        except CodirError as error:
            left_out[standing.recipe] = str(error).splitlines()[0]
            continue
        configs[standing.recipe] = config
    if not configs:
        reasons = "\n".join(f"  {name}: {why}" for name, why in left_out.items())
        raise ConfigError(
            f"None of the recipes that the evidence speaks for can be used here:\n{reasons}\n"
            "Name others with --recipes."
        )
    chosen = next(iter(configs))
    plain = measure_step(
        configs[chosen].model_copy(
            update={"objectives": {"task": load_distill_task()}, "recipe": UNDISTILLED}
        )
    )
    validation = len(loaded.validation[loaded.main_split])
    epochs, _, why_epochs = _budget(ranking, chosen)
    budget = _Budget(costs[chosen], plain, len(loaded.train), validation, epochs)
    epochs, with_baseline, why_hours = budget.within(most_hours)
    standings = {each.recipe: each for each in ranking.standings}
    candidates = []
    for name, config in configs.items():
        training = config.training.model_copy(update={"epochs": epochs})
        candidates.append(
            Candidate(
                config.model_copy(update={"training": training, "baseline": with_baseline}),
                standings[name],
                costs[name],
                hours(costs[name], len(loaded.train), epochs, validation, plain if with_baseline else None),
                _rates(known, name, training.learning_rate),
            )
        )
    config = candidates[0].config
    result = Recommendation(
        config=config,
        command=command_of(config),
        choice=choice,
        ranking=ranking,
        candidates=candidates,
        why={
            "student": choice.why,
            "recipe": _why_recipe(ranking, standings[chosen]),
            "budget": why_epochs,
            "cost": why_hours,
        },
        caveats=[
            *ranking.caveats,
            *_more_caveats(ranking, standings[chosen], case),
            *_busy(costs[chosen], candidates[0].hours),
        ],
        examples=len(loaded.train),
        evidence=known.path,
        left_out=left_out,
    )
    from codir.workflows.recommend_table import show

    show(result, console)
    if json_file is not None:
        write_json(json_file, result.to_json())
    return result


def load_distill_task() -> dict[str, Any]:
    """Returns the complete settings of the task's own loss."""
    from codir.recipes.loading import complete_objectives

    return complete_objectives({"task": {}}, {})["task"]


def command_of(config: DistillConfig) -> str:
    """Returns the `codir distill` command line of a configuration: what differs from the recipe's own settings."""
    own = load_recipe(config.recipe).settings.get("training", {})
    parts = ["codir", "distill", "--teacher", str(config.teacher), *data_flags(config.data)]
    parts += ["--student-layers", str(config.student.layers), "--recipe", config.recipe]
    if config.student.width is not None:
        parts += ["--student-width", str(config.student.width)]
    training = config.training
    flags = [("epochs", "--epochs"), ("batch_size", "--batch-size"), ("learning_rate", "--learning-rate")]
    for name, flag in flags:
        value = getattr(training, name)
        if name == "epochs" or value != own.get(name, type(training).model_fields[name].default):
            parts += [flag, f"{value:g}"]
    if training.precision != "auto":
        parts += ["--precision", training.precision]
    if not config.baseline:
        parts.append("--no-baseline")
    return shlex.join([*parts, "--output", str(config.output)])


def data_flags(data: DataConfig) -> list[str]:
    """Returns the flags that name the data of a configuration."""
    parts: list[str] = []
    for name, info in type(data).model_fields.items():
        value = getattr(data, name)
        if value is None or value == info.default or value == []:
            continue
        for each in value if isinstance(value, list) else [value]:
            flag = [f"--{name.replace('_', '-')}", str(each)]
            parts += flag if name in _FLAGS else ["--set", f"data.{name}={each}"]
    return parts


_FLAGS = {
    "task",
    "data_dir",
    "train",
    "validation",
    "text",
    "text_pair",
    "label",
    "kind",
    "holdout",
    "unlabeled",
    "limit_unlabeled",
    "max_length",
    "limit_train",
    "limit_validation",
}


# ---- what to propose -----------------------------------------------------------------------------------------------


def _check_wish(wish: Wish, most_hours: float | None) -> None:
    wishes = {
        "--speedup": wish.speedup,
        "--max-ms": wish.max_ms,
        "--max-mb": wish.max_mb,
        "--hours": most_hours,
    }
    for flag, value in wishes.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{flag} {value:g}: give a number above 0.")


def _choosable(recipes: Sequence[str] | None, known: Evidence) -> list[str]:
    """Returns the recipes that may be proposed: of codir, for a student cut out of the teacher, with evidence."""
    there = [
        name
        for name in recipe_names("distill")
        if name in known.recipes
        and not {"model", "config"} & (load_recipe(name).settings.get("student") or {}).keys()
    ]
    for name in recipes or ():
        if name not in there:
            raise ConfigError(
                f"--recipes names {name!r}{nearest(name, there)}, of which there is no evidence: it has "
                f"{', '.join(there)}. `codir study` compares any recipes on your data."
            )
    if not there:
        raise ConfigError(f"{known.path} has no evidence on any recipe of `codir distill`.")
    return list(recipes) if recipes else there


def _budget(ranking: Ranking, recipe: str) -> tuple[float, float, str]:
    """Returns epochs and learning rate that did best with a recipe, and why."""
    found = budgets(ranking.entries, recipe)
    best = max(found, key=lambda budget: found[budget])
    rate = best.rate
    if rate is None:
        rate = float(load_recipe(recipe).settings.get("training", {}).get("learning_rate", 2e-5))
    if len(found) == 1:
        return (
            best.epochs,
            rate,
            f"{best}, as in the evidence on `{recipe}`; no other budget was measured with it.",
        )
    others = ", ".join(f"{budget}: {kept:.1f} %" for budget, kept in found.items())
    return best.epochs, rate, f"{best} kept most of the teacher with `{recipe}` ({others})."


def _rates(known: Evidence, recipe: str, first: float) -> tuple[float, float]:
    """Returns the proposed learning rate and the best other one in all evidence on the recipe, else twice as much."""
    others = {
        each.learning_rate: each.kept
        for each in sorted(known.entries, key=lambda each: each.kept)
        if each.recipe == recipe and each.learning_rate not in (None, first)
    }
    return first, next(reversed(others), None) or 2 * first


def _why_recipe(ranking: Ranking, chosen: Standing) -> str:
    text = in_a_sentence(chosen)
    others = [each for each in ranking.equals() if each is not chosen]
    if others:
        names = ", ".join(
            f"`{each.recipe}`" + (f" ({show_gain(each.gain)})" if each.recipe != REFERENCE else "")
            for each in others
        )
        text += f" The evidence cannot tell it from {names}: --trial lets your own data say."
    return text


def _more_caveats(ranking: Ranking, chosen: Standing, case: Case) -> list[str]:
    found = []
    if ranking.undistilled_as_good():
        found.append(
            "Plain fine-tuning of the same student is within noise of the best recipe in this evidence: look at the "
            "undistilled student in the table of the run."
        )
    most = max(each.steps for each in chosen.entries)
    largest = max(each.examples for each in chosen.entries)
    if case.examples > 4 * largest:
        found.append(
            f"The evidence made at most {most:,} steps; so many epochs on {case.examples:,} examples are far more: "
            "fewer epochs, or --set training.early_stopping=2, may do."
        )
    if all(each.learning_rate is None for each in chosen.entries):
        found.append("The evidence does not say its learning rate; the recipe's own is proposed.")
    return found


def _busy(cost: StepCost, found: Hours) -> list[str]:
    """Says where the clock has measured other work, too."""
    if cost.share >= BUSY:
        return []
    return [
        f"Other work ran while the steps were timed: this process got {cost.share:.0%} of its threads. With the "
        f"machine to itself the run takes about {show_hours(found.total * cost.share)}."
    ]


@dataclass
class _Budget:
    """Fits the epochs into the hours that there are."""

    cost: StepCost
    plain: StepCost
    examples: int
    validation: int
    epochs: float

    def of(self, epochs: float, baseline: bool) -> Hours:
        return hours(self.cost, self.examples, epochs, self.validation, self.plain if baseline else None)

    def within(self, most: float | None) -> tuple[float, bool, str]:
        """Returns epochs, whether the undistilled student is trained beside it, and a sentence."""
        whole = self.of(self.epochs, True)
        if most is None or whole.total <= most:
            fits = "" if most is None else f"; there were {show_hours(most)}"
            return self.epochs, True, f"{_parts(whole)}{fits}."
        alone = self.of(self.epochs, False)
        if alone.total <= most:
            return (
                self.epochs,
                False,
                f"{_parts(alone)}; with the undistilled student beside it, {show_hours(whole.total)} would be too "
                f"much for {show_hours(most)}: --no-baseline.",
            )
        fitting = [each for each in range(1, math.ceil(self.epochs)) if self.of(each, False).total <= most]
        if fitting:
            taken = self.of(fitting[-1], False)
            return (
                float(fitting[-1]),
                False,
                f"{_parts(taken)}; only {fitting[-1]} of {self.epochs:g} epochs fit into {show_hours(most)}, without "
                "the undistilled student: expect less than the evidence says.",
            )
        one = self.of(1, False)
        share = most / one.total
        return (
            1.0,
            False,
            f"Not even one epoch fits into {show_hours(most)}: {_parts(one)}. About "
            f"{max(1, int(share * self.examples)):,} of the {self.examples:,} examples would: --limit-train.",
        )


def _parts(found: Hours) -> str:
    parts = [f"teacher's outputs {show_hours(found.teacher)}", f"student {show_hours(found.student)}"]
    if found.baseline:
        parts.append(f"undistilled student beside it {show_hours(found.baseline)}")
    return f"about {show_hours(found.total)} on this machine ({', '.join(parts)}; {found.steps:,} steps)"
