"""Recommends how to distil a teacher: recipe, depth, budget and the command, each with the evidence behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from codir.config.config import DistillConfig
from codir.config.data_config import DataConfig
from codir.config.evidence import Evidence, load_evidence
from codir.config.library import load_recipe, recipe_names
from codir.config.loading import complete_objectives, load_distill
from codir.data.task import limit
from codir.errors import CodirError, ConfigError, nearest
from codir.models.check import load_tokenizer_for
from codir.models.loading import encoder_shape, load_classifier
from codir.outputs import writes
from codir.printing import Console, terminal
from codir.runs.data import load_data
from codir.runs.timing import texts_of
from codir.storage import write_json
from codir.studies.recommend_budget import RunBudget, busy
from codir.studies.recommend_cost import StepCost, measure_step
from codir.studies.recommend_ranking import Ranking, rank
from codir.studies.recommend_result import Candidate, Recommendation
from codir.studies.recommend_standing import UNDISTILLED, Case, Standing
from codir.studies.recommend_student import Wish, choose_student
from codir.studies.recommend_table import show
from codir.studies.recommend_tried import other_rate
from codir.studies.recommend_words import budget_in_words, in_a_sentence

TIMED_TEXTS = 48
CANDIDATES = 3
"""Most recipes whose steps are timed and that a trial starts with."""


@writes("json_file", option="--json")
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
        recipes: only these; each of them is a candidate, up to `CANDIDATES`.
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
    console = terminal(console)
    wish = wish or Wish()
    _check_wish(wish, most_hours)
    known = load_evidence(evidence)
    choosable = _choosable(recipes, known)
    model = load_classifier(teacher)
    tokenizer = load_tokenizer_for(model, teacher)
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
    standings = {each.recipe: each for each in ranking.candidates(recipes or ())}
    for name, standing in standings.items():
        if len(configs) == CANDIDATES:
            break
        console.print(f"Timing a few training steps of {name} ...", highlight=False)
        try:
            config = settings(name, *_budget(standing))
            costs[name] = measure_step(config)
        except CodirError as error:
            left_out[name] = str(error).splitlines()[0]
            continue
        configs[name] = config
    if not configs:
        reasons = "\n".join(f"  {name}: {why}" for name, why in left_out.items())
        raise ConfigError(
            f"None of the recipes that the evidence speaks for can be used here:\n{reasons}\n"
            "Name others with --recipes."
        )
    plain = measure_step(
        next(iter(configs.values())).model_copy(
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

    def candidate(name: str) -> Candidate:
        config, standing, cost = configs[name], standings[name], costs[name]
        rate = config.training.learning_rate
        budget = RunBudget(cost, plain, examples, validation, config.training.epochs)
        epochs, with_baseline, why_hours = budget.within(most_hours)
        found = budget.of(epochs, with_baseline)
        training = config.training.model_copy(update={"epochs": epochs})
        tried = [each for each in known.entries if each.recipe == name]
        other, how = other_rate(tried, standing.budgets, rate)
        return Candidate(
            config.model_copy(update={"training": training, "baseline": with_baseline}),
            standing,
            cost,
            found,
            (rate, other),
            {
                "recipe": in_a_sentence(standing),
                "budget": f"{budget_in_words(standing)} --trial also tries {other:g}, {how}.",
                "cost": why_hours,
            },
            (*ranking.caveats, *_more_caveats(ranking, standing, case), *busy(cost, found)),
        )

    result = Recommendation(
        choice=choice,
        ranking=ranking,
        candidates=[candidate(name) for name in configs],
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


def _budget(standing: Standing) -> tuple[float, float]:
    """Returns epochs and learning rate that kept most with a recipe; the recipe's own rate where none is known."""
    best, rate = standing.budgets.best, standing.budgets.best.rate
    if rate is None:
        rate = float(load_recipe(standing.recipe).settings.get("training", {}).get("learning_rate", 2e-5))
    return best.epochs, rate


def _more_caveats(ranking: Ranking, chosen: Standing, case: Case) -> list[str]:
    found = []
    if ranking.undistilled_as_good(chosen):
        found.append(
            f"`{chosen.recipe}` gained nothing beyond noise over labels alone in this evidence: look at the "
            "undistilled student in the table of the run."
        )
    entries = chosen.budgets.entries
    most = max(each.steps for each in entries)
    largest = max(each.examples for each in entries)
    if case.examples > 4 * largest:
        found.append(
            f"The evidence made at most {most:,} steps; so many epochs on {case.examples:,} examples are far more: "
            "fewer epochs, or --set training.early_stopping=2, may do."
        )
    if all(each.learning_rate is None for each in entries):
        found.append("The evidence does not say its learning rate; the recipe's own is proposed.")
    return found
