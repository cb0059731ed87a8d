"""What `codir recommend` found: plain values for the terminal, for JSON and for a trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from codir.config.config import DistillConfig
from codir.config.evidence import Interval
from codir.studies.recommend_command import command_of
from codir.studies.recommend_cost import Hours, StepCost
from codir.studies.recommend_gains import show_gain
from codir.studies.recommend_ranking import Ranking
from codir.studies.recommend_standing import REFERENCE, Standing
from codir.studies.recommend_student import Choice


@dataclass(frozen=True)
class Candidate:
    """A recipe that could be taken.

    Attributes:
        config: of the proposed run with it; `output` is where it would go.
        standing: what the evidence says of it.
        cost: of a step, measured here.
        hours: of that run.
        rates: learning rates that a trial should try, the proposed one first.
        why: sentences by `recipe`, `budget`, `cost`.
        caveats: sentences on what the evidence does not cover.
    """

    config: DistillConfig
    standing: Standing
    cost: StepCost
    hours: Hours
    rates: tuple[float, ...] = ()
    why: Mapping[str, str] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()

    @property
    def recipe(self) -> str:
        """Its name."""
        return self.standing.recipe

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return {
            "recipe": self.recipe,
            "command": command_of(self.config),
            "epochs": self.config.training.epochs,
            "learning_rate": self.config.training.learning_rate,
            "batch_size": self.config.training.batch_size,
            "hours": self.hours.to_dict(),
            "seconds_per_step": self.cost.step,
            "why": dict(self.why),
            "caveats": list(self.caveats),
        }


@dataclass
class Recommendation:
    """What is proposed, and why.

    Attributes:
        choice: the student, with what was timed.
        ranking: of the recipes.
        candidates: the proposed one first, then those that the evidence cannot tell from it.
        examples: N, labelled training examples.
        evidence: file that it rests on.
        left_out: recipes that the evidence speaks for and that cannot be used here, with the reason.
        unlabeled: texts that the teacher labels beside them.
    """

    choice: Choice
    ranking: Ranking
    candidates: list[Candidate]
    examples: int
    evidence: str
    left_out: dict[str, str] = field(default_factory=dict)
    unlabeled: int = 0

    @property
    def best(self) -> Candidate:
        """The proposed one."""
        return self.candidates[0]

    @property
    def config(self) -> DistillConfig:
        """Of the run that is proposed."""
        return self.best.config

    @property
    def command(self) -> str:
        """The same as a command line."""
        return command_of(self.config)

    @property
    def why(self) -> dict[str, str]:
        """Sentences by `student`, `recipe`, `budget`, `cost`."""
        why = {"student": self.choice.why, **self.best.why}
        equals = self.ranking.equals()
        others = [each.standing for each in self.candidates[1:]]
        alike = [each for each in others if each in equals]
        behind = [each for each in others if each not in equals]
        if alike:
            why["recipe"] += (
                f" The evidence cannot tell it from {_with_gains(alike)}: --trial lets your own data say."
            )
        if behind:
            why["recipe"] += (
                f" It speaks less for {_with_gains(behind)}; --trial tries what was named all the same."
            )
        return why

    @property
    def caveats(self) -> tuple[str, ...]:
        """Sentences on what the evidence does not cover."""
        return self.best.caveats

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return {
            **self.best.to_json(),
            "why": self.why,
            "settings": self.config.model_dump(mode="json"),
            "student": {
                **self.choice.chosen.to_dict(),
                "fits": self.choice.fits,
                "otherwise": list(self.choice.otherwise),
            },
            "teacher": self.choice.teacher.to_dict(),
            "options": [each.to_dict() for each in self.choice.options],
            "candidates": [each.to_json() for each in self.candidates],
            "left_out": self.left_out,
            "ranking": [
                {
                    "recipe": each.recipe,
                    "tasks": list(each.tasks),
                    "seeds": each.seeds,
                    "kept": each.kept,
                    "epochs": each.budgets.best.epochs,
                    "over_kd": _interval(each.gain),
                    "over_undistilled": _interval(each.over_undistilled),
                    "cost_of_kd": each.cost,
                }
                for each in self.ranking.standings
            ],
            "examples": self.examples,
            "unlabeled": self.unlabeled,
            "evidence": self.evidence,
        }


def concluded(recommendation: Mapping[str, Any], config: DistillConfig, verdict: str) -> dict[str, Any]:
    """Returns a recommendation's plain values with the candidate that won its trial in the first one's place.

    Args:
        recommendation: as `Recommendation.to_json` gave it.
        config: of the long run with the winner, at the learning rate that won.
        verdict: what the trial allows to say.
    """
    winner = next(each for each in recommendation["candidates"] if each["recipe"] == config.recipe)
    why = {**recommendation["why"], **winner["why"]}
    why["recipe"] = f"{verdict} What the evidence says: {why['recipe']}"
    rate = config.training.learning_rate
    if rate != winner["learning_rate"]:
        why["budget"] += f" The trial chose {rate:g} instead of {winner['learning_rate']:g}."
    return {
        **recommendation,
        **winner,
        "learning_rate": rate,
        "command": command_of(config),
        "settings": config.model_dump(mode="json"),
        "why": why,
    }


def _with_gains(standings: Sequence[Standing]) -> str:
    return ", ".join(
        f"`{each.recipe}`" + (f" ({show_gain(each.gain)})" if each.recipe != REFERENCE else "")
        for each in standings
    )


def _interval(gain: Interval | None) -> dict[str, float] | None:
    return None if gain is None else {"mean": gain.mean, "low": gain.low, "high": gain.high}
