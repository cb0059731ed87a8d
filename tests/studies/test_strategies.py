"""What a strategy runs next, without training anything: outcomes are made up."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from codir.studies.config import StudyConfig
from codir.studies.loading import load_study
from codir.studies.resolved import resolve_recipes
from codir.studies.strategies import strategy_of
from codir.studies.strategies.base import Strategy
from codir.studies.survey import Outcome
from codir.studies.trial import Trial

Score = Callable[[Trial], float | None]
BASE: dict[str, Any] = {
    "recipes": ["finetune", "kd"],
    "tasks": "mrpc,cola",
    "model": "enc",
    "seeds": [1, 2],
    "output": "s",
}


def load(**changes: Any) -> tuple[StudyConfig, Strategy]:
    config = load_study(flags={key: (key, value) for key, value in {**BASE, **changes}.items()})
    return config, strategy_of(config, resolve_recipes(config))


def play(strategy: Strategy, score: Score, at_once: int = 1) -> tuple[list[Trial], dict[str, Outcome]]:
    """Ends the first open trials again and again; returns all trials in the order they ended. None fails."""
    done: dict[str, Outcome] = {}
    order: list[Trial] = []
    while left := [trial for trial in strategy.next_trials(done) if trial.key not in done]:
        for trial in left[:at_once]:
            value = score(trial)
            done[trial.key] = Outcome("failed") if value is None else Outcome("finished", value, (value,))
            order.append(trial)
    return order, done


def finals(strategy: Strategy, done: Mapping[str, Outcome]) -> list[Trial]:
    return [trial for trial in strategy.next_trials(done) if trial.phase == "final"]


def test_without_a_grid_every_recipe_runs_with_every_seed_one_seed_after_the_other() -> None:
    _, strategy = load()
    trials = strategy.next_trials({})
    assert [trial.key for trial in trials] == [
        f"{task}/{recipe}/seed-{seed}"
        for seed in (1, 2)
        for task in ("mrpc", "cola")
        for recipe in ("finetune", "kd")
    ]
    assert {trial.phase for trial in trials} == {"final"}
    assert strategy.next_trials({trials[0].key: Outcome("failed")}) == trials


def test_students_are_a_second_dimension_but_for_a_recipe_with_its_own(tmp_path: Any) -> None:
    own = tmp_path / "other.yaml"
    own.write_text("recipe: kd\nstudent:\n  model: some/model\n")
    students = {"three": {"layers": 3}, "two": {"layers": 2}}
    _, strategy = load(recipes=["kd", str(own)], students=students, tasks="mrpc", seeds=[1])
    assert [trial.key for trial in strategy.next_trials({})] == [
        "mrpc/three/kd/seed-1",
        "mrpc/other/seed-1",
        "mrpc/two/kd/seed-1",
    ]


def rate(trial: Trial) -> float:
    return float(trial.settings.get("training.learning_rate", 0.0))


def test_a_grid_is_searched_with_the_search_seed_and_the_best_runs_with_all_seeds() -> None:
    _, strategy = load(
        grid={"training.learning_rate": [1e-5, 3e-5, 2e-5], "objectives.kd.weight": [0.5, 0.9]}, search_seed=9
    )
    order, done = play(
        strategy, lambda trial: rate(trial) - 1e-6 * trial.settings.get("objectives.kd.weight", 0)
    )
    searched = [trial for trial in order if trial.phase == "search"]
    assert {trial.seed for trial in searched} == {9}
    # the weight of KD means nothing to the undistilled student
    assert len([trial for trial in searched if trial.recipe == "finetune" and trial.task == "cola"]) == 3
    assert len([trial for trial in searched if trial.recipe == "kd" and trial.task == "cola"]) == 6
    chosen = {trial.group: dict(trial.settings) for trial in finals(strategy, done)}
    assert chosen["mrpc", None, "kd"] == {"training.learning_rate": 3e-5, "objectives.kd.weight": 0.5}
    assert chosen["cola", None, "finetune"] == {"training.learning_rate": 3e-5}
    assert len(finals(strategy, done)) == 8


def test_a_search_seed_that_is_compared_too_is_trained_once() -> None:
    _, strategy = load(
        recipes=["kd"], tasks="mrpc", grid={"training.learning_rate": [1e-5, 2e-5]}, search_seed=2
    )
    order, done = play(strategy, rate)
    assert len(order) == len({trial.key for trial in order}) == 3
    assert sorted(trial.seed for trial in finals(strategy, done)) == [1, 2]


def test_failed_ones_are_not_chosen_and_a_search_without_a_winner_ends() -> None:
    _, strategy = load(recipes=["kd"], tasks="mrpc", grid={"training.learning_rate": [1e-5, 2e-5]})
    _, done = play(strategy, lambda trial: None if rate(trial) == 2e-5 else 0.5)
    assert {rate(trial) for trial in finals(strategy, done)} == {1e-5}
    order, done = play(strategy, lambda trial: None)
    assert len(order) == 2
    assert finals(strategy, done) == []
    order, done = play(strategy, lambda trial: float("nan"))
    assert finals(strategy, done) == []


def test_equal_scores_choose_the_first_of_the_grid() -> None:
    _, strategy = load(recipes=["kd"], tasks="mrpc", grid={"training.learning_rate": [3e-5, 1e-5]})
    _, done = play(strategy, lambda trial: 0.5)
    assert {rate(trial) for trial in finals(strategy, done)} == {3e-5}


SPACE = {
    "training.learning_rate": {"low": 1e-6, "high": 1e-3, "log": True},
    "kd": {"objectives.kd.weight": {"low": 0.0, "high": 1.0}, "objectives.kd.temperature": [1, 2, 4]},
}


@pytest.mark.parametrize("name", ["random", "tpe"])
def test_a_search_of_a_space_is_the_same_for_any_number_of_workers(name: str) -> None:
    def score(trial: Trial) -> float:
        return -abs(rate(trial) - 1e-4) - trial.settings.get("objectives.kd.weight", 0)

    _, first = load(strategy=name, space=SPACE, trials=9, parallel=4)
    _, second = load(strategy=name, space=SPACE, trials=9, parallel=4)
    one, done = play(first, score)
    many, done_too = play(second, score, at_once=5)
    assert set(one) == set(many)
    assert done == done_too
    assert finals(first, done) == finals(second, done)
    # another worker, which knows nothing but the results
    _, third = load(strategy=name, space=SPACE, trials=9, parallel=4)
    assert third.next_trials(done) == first.next_trials(done)
    searched = [trial for trial in one if trial.group == ("mrpc", None, "kd") and trial.phase == "search"]
    assert len(searched) == 9
    for trial in searched:
        assert 1e-6 <= rate(trial) <= 1e-3
        assert trial.settings["objectives.kd.temperature"] in (1, 2, 4)
    best = max(searched, key=score)
    assert {trial.key for trial in finals(first, done) if trial.group == best.group} == {
        f"{best.key.rpartition('/')[0]}/seed-{seed}" for seed in (1, 2)
    }
    assert len(finals(first, done)) == 8


def test_more_trials_begin_with_the_same_ones() -> None:
    for name in ("random", "tpe"):
        few, many = (
            play(
                load(recipes=["kd"], tasks="mrpc", strategy=name, space=SPACE, trials=n, parallel=2)[1], rate
            )[0]
            for n in (4, 8)
        )
        first = {trial.key for trial in few if trial.phase == "search"}
        if name == "random":
            assert first <= {trial.key for trial in many}


def test_a_small_space_is_searched_once() -> None:
    for name in ("random", "tpe"):
        space = {"training.learning_rate": [1e-5, 2e-5], "training.batch_size": [16]}
        _, strategy = load(recipes=["kd"], tasks="mrpc", strategy=name, space=space, trials=12)
        order, done = play(strategy, rate)
        assert len([trial for trial in order if trial.phase == "search"]) == 2
        assert {rate(trial) for trial in finals(strategy, done)} == {2e-5}


def test_tpe_learns_and_takes_pruned_and_failed_trials_along() -> None:
    space = {"training.learning_rate": {"low": 1e-6, "high": 1e-1, "log": True}}
    _, strategy = load(recipes=["kd"], tasks="mrpc", strategy="tpe", space=space, trials=40, seeds=[1])
    done: dict[str, Outcome] = {}
    rates = []
    while left := [trial for trial in strategy.next_trials(done) if trial.key not in done]:
        value = rate(left[0])
        if left[0].phase == "search":
            rates.append(value)
        score = -abs(math.log10(value / 1e-3))
        state = "failed" if 3e-4 < value < 4e-4 else "pruned" if value < 1e-5 else "finished"
        done[left[0].key] = Outcome(
            state, None if state == "failed" else score, () if state == "failed" else (score,)
        )
    late = rates[20:]
    assert sum(1e-4 < value < 1e-2 for value in late) > len(late) / 2
    assert all(done[trial.key].state == "finished" for trial in finals(strategy, done))


# ---- the paper's protocol --------------------------------------------------------------------------------------------


def test_greedy_keeps_the_best_of_each_stage() -> None:
    _, strategy = load(
        recipes=["finetune", "kd", "codir-fine"], tasks="mrpc", strategy="greedy", search_seed=0
    )

    def score(trial: Trial) -> float:
        settings = trial.settings
        value = 0.5
        value += 0.1 * (settings["training.learning_rate"] == 1e-5) + 0.05 * (
            settings["training.batch_size"] == 16
        )
        value += (
            0.01 * settings.get("objectives.crd.weight", 0) * (settings.get("objectives.crd.k", 0) == 500)
        )
        return value

    order, done = play(strategy, score)
    stage_one = [trial for trial in order if trial.phase == "search" and trial.recipe == "finetune"]
    stage_three = [trial for trial in order if trial.phase == "search" and trial.recipe == "codir-fine"]
    assert len(stage_one) == 4  # {1e-5, 2e-5} x {16, 32}
    assert len(stage_three) == 9  # {0.1, 0.5, 1} x {100, 500, 1000}
    assert not [
        trial for trial in order if trial.phase == "search" and trial.recipe == "kd"
    ]  # the paper fixes it
    assert order.index(stage_three[0]) > order.index(stage_one[-1])
    kept = {"training.learning_rate": 1e-5, "training.batch_size": 16}
    for trial in stage_three:
        assert kept.items() <= trial.settings.items()
    chosen = {trial.recipe: dict(trial.settings) for trial in finals(strategy, done)}
    assert chosen == {
        "finetune": kept,
        "kd": kept,
        "codir-fine": {**kept, "objectives.crd.weight": 1, "objectives.crd.k": 500},
    }
    assert len(finals(strategy, done)) == 6
    assert strategy.next_trials(done) == strategy.next_trials(dict(reversed(done.items())))


def test_greedy_with_grids_of_the_study_and_for_one_recipe_alone() -> None:
    grid = {
        "finetune": {"training.learning_rate": [1e-5, 2e-5]},
        "kd": {"objectives.kd.weight": [0.3, 0.7]},
        "codir-fine": {"objectives.crd.weight": [0.1, 1]},
    }
    _, strategy = load(recipes=["codir-fine"], tasks="mrpc", strategy="greedy", grid=grid)
    order, done = play(strategy, lambda trial: sum(map(float, trial.settings.values())))
    assert [trial.recipe for trial in order] == ["finetune"] * 2 + ["kd"] * 2 + ["codir-fine"] * 4
    (settings,) = {tuple(trial.settings.items()) for trial in finals(strategy, done)}
    # the best of KD's stage goes on into CoDIR's own KD term
    assert dict(settings) == {
        "training.learning_rate": 2e-5,
        "objectives.kd.weight": 0.7,
        "objectives.crd.weight": 1,
    }
    assert {trial.recipe for trial in finals(strategy, done)} == {"codir-fine"}


def test_greedy_stops_where_a_stage_has_no_winner() -> None:
    _, strategy = load(recipes=["finetune", "kd"], strategy="greedy")
    order, done = play(strategy, lambda trial: None if trial.task == "cola" else 0.5)
    assert {trial.task for trial in finals(strategy, done)} == {"mrpc"}
    assert len([trial for trial in order if trial.task == "cola"]) == 4
