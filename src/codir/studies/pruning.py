"""Stops a trial of a search whose dev score falls behind that of the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from codir.errors import InterruptedRunError
from codir.storage import write_json
from codir.studies.config import PruningName
from codir.studies.survey import PRUNED, Outcome

# Trials that a search lets run to their end before it compares.
STARTUP = 4


class PrunedTrialError(InterruptedRunError):
    """The trial was stopped because it is behind the others."""


class Pruning(TrainerCallback):
    """Compares the dev scores so far with those of the other trials after each evaluation.

    Args:
        folder: the trial's run folder, which is told that it was pruned.
        others: gives what came of the other trials of the search.
        how: `median` or `halving`.
    """

    def __init__(self, folder: Path, others: Callable[[], Sequence[Outcome]], how: PruningName):
        self.folder, self.others = folder, others
        self.how: PruningName = how

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ends the trial if it is behind; one at its last evaluation may as well finish."""
        metric = str(args.metric_for_best_model)
        values = [entry[metric] for entry in state.log_history if metric in entry]
        if not values or state.global_step >= state.max_steps:
            return
        if behind(values, self.others(), self.how):
            write_json(
                self.folder / PRUNED, {"score": values[-1], "values": values, "step": state.global_step}
            )
            raise PrunedTrialError(
                f"Pruned after step {state.global_step}: {metric.removeprefix('eval_')} {values[-1]:.4f} is behind "
                "that of the other trials."
            )


def behind(values: Sequence[float], others: Sequence[Outcome], how: PruningName) -> bool:
    """Whether a trial should be stopped.

    Args:
        values: its dev score after each evaluation so far.
        others: trials of the same search that have ended.
        how: `median`: its best score so far is below the median of what the finished ones had reached at the same
            evaluation (Optuna's MedianPruner). `halving`: after 1, 2, 4, ... evaluations only the better half goes on
            (Li et al., 2020: asynchronous successive halving; Optuna's SuccessiveHalvingPruner).
    """
    import optuna
    from optuna.trial import TrialState

    finished = [each for each in others if each.state == "finished" and each.values]
    if how == "none" or len(finished) < STARTUP:
        return False
    pruner: optuna.pruners.BasePruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP)
    if how == "halving":
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize", pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=0)
    )
    for other in others:
        if other.state == "failed" or not other.values:
            continue
        trial = study.ask()
        _report(trial, other.values)
        if other.state == "finished":
            study.tell(trial, max(other.values))
        else:
            study.tell(trial, state=TrialState.PRUNED)
    return _report(study.ask(), values)


def _report(trial: Any, values: Sequence[float]) -> bool:
    """Tells the pruner of all evaluations in their order, as it keeps count of them; returns its last verdict."""
    verdict = False
    for number, value in enumerate(values, start=1):
        trial.report(value, number)
        verdict = trial.should_prune()
    return verdict
