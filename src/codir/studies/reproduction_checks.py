"""What would end a reproduction after its pre-trainings, found before them."""

from __future__ import annotations

from codir.errors import ConfigError
from codir.losses.contrastive import rows_drawn
from codir.losses.registry import settings_for
from codir.runs.data import load_data
from codir.studies.recipes import FINETUNE, distill_config, resolve_recipes
from codir.studies.reproduction import Reproduction, all_trials


def require_enough_examples(made: Reproduction) -> None:
    """Raises `ConfigError` if a trial, searches included, draws more negatives than its task has examples.

    Reads the tasks' training data.
    """
    examples: dict[str, int] = {}
    for study in made.studies.values():
        recipes = resolve_recipes(study)
        for trial in all_trials(study):
            recipe = recipes.get(trial.recipe)
            if recipe is None or recipe.recipe == FINETUNE:
                continue
            objectives = distill_config(study, recipe, trial).objectives
            drawn = {name: rows_drawn(settings_for(name, each)) for name, each in objectives.items()}
            name = max(drawn, key=lambda each: drawn[each])
            if not drawn[name]:
                continue
            if trial.task not in examples:
                train = load_data(study.tasks[trial.task]).train
                assert train is not None, "load_data gives a training split unless asked not to"
                examples[trial.task] = len(train)
            there = examples[trial.task]
            if drawn[name] > there:
                key = f"objectives.{name}.k"
                searched = key in trial.settings
                way = (
                    f"grid={{{recipe.name}: {{{key}: [{there}]}}}}"
                    if searched
                    else f"settings={{{recipe.name}: {{{key}: {there}}}}}"
                )
                raise ConfigError(
                    f"{made.table.source}, {recipe.name} on {trial.task}: K={drawn[name]} negatives do not fit its "
                    f'{there} training examples. Leave the task out (--tasks), or take fewer: --set "study.{way}".'
                )
