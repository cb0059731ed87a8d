"""What `codir recommend` found: plain values for the terminal, for JSON and for a trial."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from codir.recipes.config import DistillConfig
from codir.recipes.evidence import Interval
from codir.workflows.recommend_cost import Hours, StepCost
from codir.workflows.recommend_ranking import Ranking, Standing, in_a_sentence
from codir.workflows.recommend_student import Choice


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
        examples: N, labelled training examples.
        evidence: file that it rests on.
        left_out: recipes that the evidence speaks for and that cannot be used here, with the reason.
        unlabeled: texts that the teacher labels beside them.
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
    unlabeled: int = 0

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
                    "over_kd": _interval(each.gain),
                    "over_undistilled": _interval(each.over_undistilled),
                    "cost_of_kd": each.cost,
                }
                for each in self.ranking.standings
            ],
            "examples": self.examples,
            "unlabeled": self.unlabeled,
            "evidence": self.evidence,
            "settings": self.config.model_dump(mode="json"),
        }


def _interval(gain: Interval | None) -> dict[str, float] | None:
    return None if gain is None else {"mean": gain.mean, "low": gain.low, "high": gain.high}
