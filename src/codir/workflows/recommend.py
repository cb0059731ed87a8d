"""Recommends how to distil a teacher: recipe, depth, budget and the command, each with the evidence behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from codir.errors import CodirError, ConfigError, nearest
from codir.models.loading import encoder_shape, load_classifier, load_tokenizer
from codir.recipes.config import DistillConfig
from codir.recipes.data_config import DataConfig
from codir.recipes.evidence import Evidence, load_evidence
from codir.recipes.library import load_recipe, recipe_names
from codir.recipes.loading import complete_objectives, load_distill
from codir.storage import write_json
from codir.tasks.task import limit
from codir.workflows.data import load_data
from codir.workflows.progress import default_console
from codir.workflows.recommend_budget import RunBudget, busy
from codir.workflows.recommend_command import command_of
from codir.workflows.recommend_cost import StepCost, hours, measure_step
from codir.workflows.recommend_gains import show_gain
from codir.workflows.recommend_ranking import (
    REFERENCE,
    UNDISTILLED,
    Case,
    Ranking,
    Standing,
    budgets,
    in_a_sentence,
    rank,
)
from codir.workflows.recommend_result import Candidate, Recommendation
from codir.workflows.recommend_student import Wish, choose_student
from codir.workflows.recommend_table import show
from codir.workflows.timing import texts_of

TIMED_TEXTS = 48
CANDIDATES = 3
"""Most recipes whose steps are timed and that a trial starts with."""


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
        data: the task; only training examples are read, but for counting those of the validation. Unlabelled texts
            count as examples in what the run takes, and not in how much labelled data there is.
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
        texts_of(limit(loaded.train, math.ceil(TIMED_TEXTS / request) * request)),
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
            update={
                "objectives": {"task": complete_objectives({"task": {}}, {})["task"]},
                "recipe": UNDISTILLED,
                "data": data.model_copy(update={"unlabeled": None, "limit_unlabeled": None}),
            }
        )
    )
    validation = len(loaded.validation[loaded.main_split])
    unlabeled = len(loaded.unlabeled or ())
    examples = len(loaded.train) + unlabeled
    epochs, _, why_epochs = _budget(ranking, chosen)
    budget = RunBudget(costs[chosen], plain, examples, validation, epochs)
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
                hours(costs[name], examples, epochs, validation, plain if with_baseline else None),
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
            *busy(costs[chosen], candidates[0].hours),
        ],
        examples=len(loaded.train),
        unlabeled=unlabeled,
        evidence=known.path,
        left_out=left_out,
    )
    show(result, console)
    if json_file is not None:
        write_json(json_file, result.to_json())
    return result


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
    if ranking.undistilled_as_good(chosen):
        found.append(
            f"`{chosen.recipe}` gained nothing beyond noise over labels alone in this evidence: look at the "
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
