"""Which trials a study runs next: functions of its configuration and of what its trials gave, so far as they began.

`grid` runs all combinations with one seed, then the best with every seed. `random` and `tpe` are Optuna's samplers: the
study they ask is built anew from the run folders each time, so that nothing but those has to outlive a kill.
`greedy` is the paper's protocol (Section 4.2): fine-tuning's grid first (learning rate, batch size), then KD's (the
paper fixes its two settings), then every other recipe's own (weight and K of the contrastive term), each keeping the
best before it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product, zip_longest
from typing import Any

import xxhash

from codir.studies.config import Choices, PruningName, Range, StudyConfig
from codir.studies.recipes import ResolvedRecipe
from codir.studies.trial import Outcome, Trial, settings_digest

Done = Mapping[str, Outcome]
"""How trials ended, by key; what has not ended is not in it."""
Grid = Mapping[str, Sequence[Any]]

STAGES = ("finetune", "kd")
# From the paper, Section 4.2.
FINETUNING_GRID: Grid = {"training.learning_rate": [1e-5, 2e-5], "training.per_device_train_batch_size": [16, 32]}
CRD_GRID: Grid = {"objectives.crd.weight": [0.1, 0.5, 1], "objectives.crd.k": [100, 500, 1000]}
# Trials at random before TPE learns (Optuna's default), and finished ones before any is pruned.
_STARTUP, PRUNING_STARTUP = 10, 4


class Search:
    """Says what a study runs next.

    Args:
        config: the study's configuration.
        recipes: its recipes, resolved, by name.
    """

    def __init__(self, config: StudyConfig, recipes: Mapping[str, ResolvedRecipe]):
        self.config, self.recipes = config, recipes
        self.students: list[str | None] = [*config.students] or [None]

    def trials(self, done: Done, begun: Sequence[Trial] = (), ask: bool = True) -> list[Trial]:
        """Returns every trial that can be named by now, in the order they should run.

        When all of them have ended, the study is complete.

        Args:
            done: how trials ended, by key.
            begun: trials that have a folder.
            ask: let `random` and `tpe` propose one more setting for each recipe, task and student.
        """
        if self.config.strategy == "greedy":
            parts = [self._greedy(task, each, done) for task in self.config.tasks for each in self.students]
        elif self.config.space:
            parts = [self._sampled(group, done, begun, ask) for group in self.groups()]
        else:
            parts = [self._chosen(*self._stage(group, {}, done)) for group in self.groups()]
        named: dict[str, Trial] = {}
        # the first of every part, then the second ones, ...: a study that is stopped early has some of each
        for trial in (each for turn in zip_longest(*parts) for each in turn if each is not None):
            # what a search has trained already is not trained again when it is among the best
            if trial.key not in named or trial.phase == "final":
                named[trial.key] = trial
        return list(named.values())

    def all_trials(self) -> list[Trial]:
        """Returns as many trials as there will be, searches included (which settings they choose is not known yet)."""
        if self.config.space:
            return [
                trial
                for group in self.groups()
                for trial in self._chosen([replace(group, phase="search")] * self._limit(group), group)
            ]
        done: dict[str, Outcome] = {}
        while new := [trial for trial in self.trials(done) if trial.key not in done]:
            done |= {trial.key: Outcome("finished", 0.0) for trial in new}
        return self.trials(done)

    def groups(self, also: bool = False) -> list[Trial]:
        """Returns a trial without settings for each recipe, task and student: settings are chosen for each by itself.

        A recipe with a student of its own has one for each task, whatever the students are.

        Args:
            also: those that the strategy has beside the study's own recipes, too.
        """
        found: dict[tuple[str, str | None, str], Trial] = {}
        for task, student, recipe in product(
            self.config.tasks, self.students, self.recipes if also else self.config.recipes
        ):
            own = self.recipes[recipe].student is not None
            group = Trial(recipe, task, None if own else student, self.config.search_seed)
            found.setdefault(group.group, group)
        return list(found.values())

    def choices(self, group: Trial) -> Choices:
        """Returns what is searched for a group: the study's grid or space, or where it gives none, the paper's grid."""
        recipe = self.recipes[group.recipe]
        own = {k: v for k, v in self.config.choices_of(group.recipe).items() if recipe.has(k)}
        if own or self.config.strategy != "greedy":
            return own
        paper = FINETUNING_GRID if group.recipe == "finetune" else CRD_GRID
        return {key: list(values) for key, values in paper.items() if recipe.has(key)}

    def _stage(self, group: Trial, kept: Mapping[str, Any], done: Done) -> tuple[list[Trial], Trial | None]:
        """Returns the trials that search a grid, and what was chosen once they have ended and one has finished."""
        grid = {key: choice for key, choice in self.choices(group).items() if isinstance(choice, list)}
        tries = [
            replace(group, settings={**kept, **point}, phase="search", number=number)
            for number, point in enumerate(grid_points(grid))
        ]
        if len(tries) == 1:  # nothing to choose
            return [], tries[0]
        return tries, best(tries, done) if ended(tries, done) else None

    def _chosen(self, tries: list[Trial], chosen: Trial | None) -> list[Trial]:
        """Returns the tries, and the trials that are compared: the chosen settings with every seed."""
        if chosen is None:
            return tries
        return tries + [replace(chosen, seed=seed, phase="final") for seed in self.config.seeds]

    def _greedy(self, task: str, student: str | None, done: Done) -> list[Trial]:
        of_task = [group for group in self.groups() if group.task == task]
        # a recipe with a student of its own is searched beside the first of the study's students
        beside = (student, None) if student == self.students[0] else (student,)
        groups = [Trial(recipe, task, student, self.config.search_seed) for recipe in STAGES]
        groups += [group for group in of_task if group.recipe not in STAGES and group.student in beside]
        trials: list[Trial] = []
        kept: Mapping[str, Any] = {}
        chosen: dict[str, Trial] = {}
        waiting = False
        for group in groups:
            has = self.recipes[group.recipe].has
            tries, found = self._stage(group, {key: value for key, value in kept.items() if has(key)}, done)
            trials += tries
            waiting = waiting or not ended(tries, done)
            if found is not None:
                chosen[group.recipe] = found
            if group.recipe in STAGES:
                if found is None:
                    return trials
                kept = found.settings
        for group in of_task if not waiting else ():
            if group.student in (student, None) and group.recipe in chosen:
                trials += self._chosen([], replace(group, settings=chosen[group.recipe].settings))
        return trials

    # ---- Optuna's samplers -------------------------------------------------------------------------------------------

    def _limit(self, group: Trial) -> int:
        """Returns how many settings are tried: a small space has no more than it has."""
        sizes = [_values(choice) for choice in self.choices(group).values()]
        if not sizes:
            return 0
        known = [len(values) for values in sizes if values is not None]
        return min(self.config.trials, math.prod(known)) if len(known) == len(sizes) else self.config.trials

    def _sampled(self, group: Trial, done: Done, begun: Sequence[Trial], ask: bool) -> list[Trial]:
        choices = self.choices(group)
        if not choices:
            return self._chosen([], group)
        mine = [each for each in begun if (each.group, each.seed) == (group.group, group.seed)]
        tries = [replace(each, phase="search") for each in mine if _fits(each.settings, choices)]
        tries.sort(key=lambda each: each.number)
        if len(tries) < self._limit(group):
            return [*tries, self._propose(group, tries, done)] if ask else tries
        return self._chosen(tries, best(tries, done) if ended(tries, done) else None)

    def _propose(self, group: Trial, before: Sequence[Trial], done: Done) -> Trial:
        """Asks the sampler for settings that were not tried yet; those that run count for TPE as bad ones."""
        choices, known = self.choices(group), {settings_digest(trial.settings) for trial in before}
        optuna = _optuna()
        text = "/".join(map(str, (self.config.search_seed, *group.group, len(before))))
        seed = xxhash.xxh3_64(text.encode()).intdigest() & 0x7FFFFFFF  # the same on every machine
        sampler = optuna.samplers.RandomSampler(seed=seed)
        if self.config.strategy == "tpe":
            startup = min(_STARTUP, max(self.config.trials // 2, 1))
            sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        distributions = {key: _distribution(choice) for key, choice in choices.items()}
        for trial in before:
            study.add_trial(_told(trial, choices, distributions, done.get(trial.key)))
        point: dict[str, Any] = {}
        for _ in range(100):
            asked = study.ask(distributions).params
            point = {
                key: choice.tidy(asked[key]) if isinstance(choice, Range) else choice[asked[key]]
                for key, choice in choices.items()
            }
            if settings_digest(point) not in known:
                break
        else:  # the sampler insists on what it knows
            points = grid_points({key: _values(choice) or [] for key, choice in choices.items()})
            point = next((each for each in points if settings_digest(each) not in known), point)
        return replace(group, settings=point, phase="search", number=len(before))


def grid_points(grid: Grid) -> list[dict[str, Any]]:
    """Returns all combinations, the last key moving fastest; one empty one for an empty grid."""
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def ended(trials: Sequence[Trial], done: Done) -> bool:
    """Says whether all of them have ended, in whatever way."""
    return all(trial.key in done for trial in trials)


def best(trials: Sequence[Trial], done: Done) -> Trial | None:
    """Returns the finished trial with the best dev score, the first of equal ones; None if none finished."""
    outcomes = [(trial, done[trial.key]) for trial in trials if trial.key in done]
    finished = [(trial, each.score) for trial, each in outcomes if each.state == "finished" and _is_number(each.score)]
    return max(finished, key=lambda pair: pair[1] or 0.0, default=(None, None))[0]


def _is_number(score: float | None) -> bool:
    return score is not None and not math.isnan(score)


def _values(choice: Range | list[Any]) -> list[Any] | None:
    """Returns all values that a choice has; None for a range of real numbers."""
    return choice.values if isinstance(choice, Range) else choice


def _fits(settings: Mapping[str, Any], choices: Choices) -> bool:
    return settings.keys() == choices.keys() and all(
        choice.low <= settings[key] <= choice.high if isinstance(choice, Range) else settings[key] in choice
        for key, choice in choices.items()
    )


def _optuna() -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _distribution(choice: Range | list[Any]) -> Any:
    distributions = _optuna().distributions
    if isinstance(choice, list):  # by number: Optuna's categories are single words and numbers
        return distributions.CategoricalDistribution(list(range(len(choice))))
    if choice.whole:
        low, high, step = int(choice.low), int(choice.high), int(choice.step or 1)
        return distributions.IntDistribution(low, high - (high - low) % step, log=choice.log, step=step)
    return distributions.FloatDistribution(choice.low, choice.high, log=choice.log, step=choice.step)


def _told(trial: Trial, choices: Choices, distributions: Mapping[str, Any], outcome: Outcome | None) -> Any:
    optuna = _optuna()
    states = optuna.trial.TrialState
    state = states.RUNNING
    if outcome is not None:
        state = {"finished": states.COMPLETE, "pruned": states.PRUNED, "failed": states.FAIL}[outcome.state]
        if state == states.COMPLETE and not _is_number(outcome.score):
            state = states.FAIL
    return optuna.trial.create_trial(
        state=state,
        value=outcome.score if outcome is not None and state == states.COMPLETE else None,
        params={
            key: trial.settings[key] if isinstance(choice, Range) else choice.index(trial.settings[key])
            for key, choice in choices.items()
        },
        distributions=dict(distributions),
        intermediate_values=dict(enumerate(outcome.values if outcome is not None and state != states.FAIL else ())),
    )


def behind(values: Sequence[float], others: Sequence[Outcome], how: PruningName) -> bool:
    """Says whether a trial should be stopped.

    Args:
        values: its dev score after each evaluation so far.
        others: trials of the same search that have ended.
        how: `median`: its best score so far is below the median of what the finished ones had reached at the same
            evaluation (Optuna's MedianPruner). `halving`: after 1, 2, 4, ... evaluations only the better half goes on
            (Li et al., 2020: asynchronous successive halving; Optuna's SuccessiveHalvingPruner).
    """
    if how == "none" or sum(each.state == "finished" and bool(each.values) for each in others) < PRUNING_STARTUP:
        return False
    optuna = _optuna()
    pruner = optuna.pruners.MedianPruner(n_startup_trials=PRUNING_STARTUP)
    if how == "halving":
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    study = optuna.create_study(direction="maximize", pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=0))

    def report(values: Sequence[float]) -> tuple[Any, bool]:
        """Tells the pruner of all evaluations in their order, as it keeps count of them; with its last verdict."""
        trial, verdict = study.ask(), False
        for number, value in enumerate(values, start=1):
            trial.report(value, number)
            verdict = trial.should_prune()
        return trial, verdict

    for other in others:
        if other.state == "finished" and other.values:
            study.tell(report(other.values)[0], max(other.values))
        elif other.state == "pruned" and other.values:
            study.tell(report(other.values)[0], state=optuna.trial.TrialState.PRUNED)
    return report(values)[1]
