"""Optuna's tree-structured Parzen estimator: settings proposed from how the earlier ones did.

It proposes some settings at a time (`parallel`), from all that came before them and nothing else: so every worker
proposes the same, and the search does not depend on how many there are or how fast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from codir.studies.config import Range, StudyConfig
from codir.studies.resolved import ResolvedRecipe
from codir.studies.strategies.base import Done, Group, Strategy, best, ended, seed_of
from codir.studies.strategies.random import tidy
from codir.studies.trial import Trial

if TYPE_CHECKING:
    import optuna

_STARTUP = 10  # Optuna's own default of trials at random


class TPE(Strategy):
    """TPE for each group; the proposals depend on the search seed."""

    def __init__(self, config: StudyConfig, recipes: Mapping[str, ResolvedRecipe]):
        super().__init__(config, recipes)
        self._known: dict[Group, list[Trial]] = {}

    def for_part(self, part: Group, done: Done) -> list[Trial]:
        """See `Strategy.next_trials`."""
        space = self.applying(part, self.config.space_of(part.recipe))
        if not space:
            return self.final(part, {})
        known = self._known.setdefault(part, [])
        trials: list[Trial] = []
        while len(trials) < self.config.trials:
            count = min(self.config.parallel, self.config.trials - len(trials))
            start = len(trials)
            if start >= len(known):  # what was proposed once stays: all that it depends on had ended
                known += self._propose(part, space, trials, done, count)
            proposed = known[start : start + count]
            if not proposed:  # a small space has no more than it has
                break
            trials += proposed
            if not ended(proposed, done):
                return trials
        chosen = best(trials, done)
        return trials + (self.final(part, chosen.settings) if chosen else [])

    def _propose(
        self,
        group: Group,
        space: Mapping[str, Range | list[Any]],
        before: Sequence[Trial],
        done: Done,
        count: int,
    ) -> list[Trial]:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        distributions = {key: _distribution(values) for key, values in space.items()}
        sampler = optuna.samplers.TPESampler(
            seed=seed_of(self.config.search_seed, group.task, group.student, group.recipe, len(before)),
            n_startup_trials=min(_STARTUP, max(self.config.trials // 2, 1)),
            constant_liar=True,
        )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for trial in before:
            study.add_trial(_frozen(trial, space, distributions, done))
        known = {trial.key for trial in before}
        proposed: list[Trial] = []
        for _ in range(10 * count):
            if len(proposed) == count:
                break
            asked = study.ask(distributions)
            settings = {
                key: values[asked.params[key]]
                if isinstance(values, list)
                else tidy(asked.params[key], values)
                for key, values in space.items()
            }
            trial = self.search(group, [settings])[0]
            if trial.key not in known:
                known.add(trial.key)
                proposed.append(trial)
        return proposed


def _distribution(values: Range | list[Any]) -> optuna.distributions.BaseDistribution:
    import optuna

    if isinstance(values, list):  # by number: Optuna's categories are single words and numbers
        return optuna.distributions.CategoricalDistribution(list(range(len(values))))
    if values.whole:
        low, high, step = int(values.low), int(values.high), int(values.step or 1)
        return optuna.distributions.IntDistribution(
            low, high - (high - low) % step, log=values.log, step=step
        )
    return optuna.distributions.FloatDistribution(values.low, values.high, log=values.log, step=values.step)


def _frozen(
    trial: Trial, space: Mapping[str, Range | list[Any]], distributions: Mapping[str, Any], done: Done
) -> optuna.trial.FrozenTrial:
    import optuna
    from optuna.trial import TrialState

    outcome = done[trial.key]
    states = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    state = states[outcome.state]
    if state == TrialState.COMPLETE and (outcome.score is None or outcome.score != outcome.score):
        state = TrialState.FAIL
    return optuna.trial.create_trial(
        state=state,
        value=outcome.score if state == TrialState.COMPLETE else None,
        params={
            key: values.index(trial.settings[key]) if isinstance(values, list) else trial.settings[key]
            for key, values in space.items()
        },
        distributions=dict(distributions),
        intermediate_values=dict(enumerate(outcome.values)) if state != TrialState.FAIL else {},
    )
