"""What a strategy runs next, without training anything: outcomes are made up."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from codir.studies.config import StudyConfig, load_study
from codir.studies.recipes import resolve_recipes
from codir.studies.search import PRUNING_STARTUP, Search, behind
from codir.studies.trial import Outcome, Trial

Score = Callable[[Trial], float | None]
BASE: dict[str, Any] = {
    "recipes": ["finetune", "kd"],
    "tasks": "mrpc,cola",
    "model": "enc",
    "seeds": [1, 2],
    "output": "s",
}


def load(**changes: Any) -> tuple[StudyConfig, Search]:
    config = load_study(flags={key: (key, value) for key, value in {**BASE, **changes}.items()})
    return config, Search(config, resolve_recipes(config))


def play(search: Search, score: Score, at_once: int = 1) -> tuple[list[Trial], dict[str, Outcome]]:
    """Begins and ends trials, so many side by side; returns them in the order they were begun. None fails."""
    done: dict[str, Outcome] = {}
    begun: list[Trial] = []
    while True:
        running = [trial for trial in begun if trial.key not in done]
        known = {trial.key for trial in begun}
        new = [trial for trial in search.trials(done, begun) if trial.key not in known]
        if new and len(running) < at_once:
            begun.append(new[0])
        elif running:
            value = score(running[0])
            done[running[0].key] = Outcome("failed") if value is None else Outcome("finished", value, (value,))
        else:
            return begun, done


def finals(search: Search, done: Mapping[str, Outcome], begun: Sequence[Trial] = ()) -> list[Trial]:
    return [trial for trial in search.trials(done, begun, ask=False) if trial.phase == "final"]


def test_without_a_grid_every_recipe_runs_with_every_seed_one_seed_after_the_other() -> None:
    _, strategy = load()
    trials = strategy.trials({})
    assert [trial.key for trial in trials] == [
        f"{task}/{recipe}/seed-{seed}" for seed in (1, 2) for task in ("mrpc", "cola") for recipe in ("finetune", "kd")
    ]
    assert {trial.phase for trial in trials} == {"final"}
    assert strategy.trials({trials[0].key: Outcome("failed")}) == trials


def test_students_are_a_second_dimension_but_for_a_recipe_with_its_own(tmp_path: Any) -> None:
    own = tmp_path / "other.yaml"
    own.write_text("recipe: kd\nstudent:\n  model: some/model\n")
    students = {"three": {"layers": 3}, "two": {"layers": 2}}
    _, strategy = load(recipes=["kd", str(own)], students=students, tasks="mrpc", seeds=[1])
    assert [trial.key for trial in strategy.trials({})] == [
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
    order, done = play(strategy, lambda trial: rate(trial) - 1e-6 * trial.settings.get("objectives.kd.weight", 0))
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
    _, strategy = load(recipes=["kd"], tasks="mrpc", grid={"training.learning_rate": [1e-5, 2e-5]}, search_seed=2)
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
def test_a_space_is_searched_by_optuna_and_the_best_is_compared(name: str) -> None:
    def score(trial: Trial) -> float:
        return -abs(rate(trial) - 1e-4) - trial.settings.get("objectives.kd.weight", 0)

    _, search = load(strategy=name, space=SPACE, trials=9)
    begun, done = play(search, score)
    searched = [trial for trial in begun if trial.group == ("mrpc", None, "kd") and trial.phase == "search"]
    assert len({trial.key for trial in searched}) == 9
    for trial in searched:
        assert 1e-6 <= rate(trial) <= 1e-3
        assert trial.settings["objectives.kd.temperature"] in (1, 2, 4)
    best = max(searched, key=score)
    chosen = {trial.key for trial in finals(search, done, begun) if trial.group == best.group}
    assert chosen == {f"{best.key.rpartition('/')[0]}/seed-{seed}" for seed in (1, 2)}
    assert len(finals(search, done, begun)) == 8
    assert len(search.all_trials()) == 4 * (9 + 2)
    # what a process that was killed had begun is known by its folder and gone on with; another proposes the same
    _, other = load(strategy=name, space=SPACE, trials=9)
    half = [trial for trial in begun if trial.phase == "search"][:20]
    known = {trial.key: done[trial.key] for trial in half[:-1]}
    again = [trial for trial in other.trials(known, half[::-1]) if trial.key not in known]
    assert half[-1] in again
    others = {trial.key for trial in again if trial.group != half[-1].group}
    assert others <= {trial.key for trial in begun}


@pytest.mark.parametrize("name", ["random", "tpe"])
def test_several_workers_get_different_settings_and_no_more_than_asked_for(name: str) -> None:
    _, search = load(recipes=["kd"], tasks="mrpc", strategy=name, space=SPACE, trials=8)
    begun, done = play(search, rate, at_once=5)
    searched = [trial for trial in begun if trial.phase == "search"]
    assert len({trial.key for trial in searched}) == len(searched) == 8
    assert [trial.number for trial in searched] == list(range(8))
    # more of them may be asked for later
    _, more = load(recipes=["kd"], tasks="mrpc", strategy=name, space=SPACE, trials=12)
    assert {trial.key for trial in more.trials(done, begun, ask=False)} == {trial.key for trial in searched}


@pytest.mark.parametrize("name", ["random", "tpe"])
def test_a_small_space_is_searched_once(name: str) -> None:
    space = {"training.learning_rate": [1e-5, 2e-5], "training.per_device_train_batch_size": {"low": 16, "high": 18}}
    _, search = load(recipes=["kd"], tasks="mrpc", strategy=name, space=space, trials=12)
    begun, done = play(search, rate)
    assert len([trial for trial in begun if trial.phase == "search"]) == 6
    assert {rate(trial) for trial in finals(search, done, begun)} == {2e-5}


def test_trials_of_another_space_are_none_of_this_one() -> None:
    _, search = load(recipes=["kd"], tasks="mrpc", strategy="tpe", space=SPACE, trials=4)
    begun, done = play(search, rate)
    narrow = {"training.learning_rate": {"low": 1e-9, "high": 1e-8}}
    _, other = load(recipes=["kd"], tasks="mrpc", strategy="tpe", space=narrow, trials=4)
    assert other.trials(done, begun, ask=False) == []


def test_tpe_learns_and_takes_pruned_and_failed_trials_along() -> None:
    space = {"training.learning_rate": {"low": 1e-6, "high": 1e-1, "log": True}}
    _, search = load(recipes=["kd"], tasks="mrpc", strategy="tpe", space=space, trials=40, seeds=[1])
    done: dict[str, Outcome] = {}
    begun: list[Trial] = []
    while left := [trial for trial in search.trials(done, begun) if trial.key not in done]:
        value = rate(left[0])
        begun.append(left[0])
        score = -abs(math.log10(value / 1e-3))
        state = "failed" if 3e-4 < value < 4e-4 else "pruned" if value < 1e-5 else "finished"
        done[left[0].key] = Outcome(state, None if state == "failed" else score, () if state == "failed" else (score,))
    late = [rate(trial) for trial in begun if trial.phase == "search"][20:]
    assert sum(1e-4 < value < 1e-2 for value in late) > len(late) / 2
    assert all(done[trial.key].state == "finished" for trial in finals(search, done, begun))


# ---- pruning ---------------------------------------------------------------------------------------------------------

GOOD = [Outcome("finished", 0.8 + n / 100, (0.6 + n / 100, 0.7, 0.8 + n / 100)) for n in range(5)]


def test_median() -> None:
    # the median of the five after the first evaluation is 0.62
    assert behind([0.61], GOOD, "median")
    assert not behind([0.63], GOOD, "median")
    # the best so far counts: one bad evaluation is no reason
    assert not behind([0.75, 0.1], GOOD, "median")
    assert behind([0.61, 0.65], GOOD, "median")
    assert not behind([0.61], GOOD, "none")


def test_nobody_is_stopped_before_enough_have_finished() -> None:
    few = GOOD[: PRUNING_STARTUP - 1]
    for how in ("median", "halving"):
        assert not behind([0.0], few, how)
        assert not behind([0.0], [*few, Outcome("failed"), Outcome("pruned", 0.1, (0.1,))], how)


def test_halving_lets_the_better_half_go_on() -> None:
    assert behind([0.1], GOOD, "halving")
    assert not behind([0.99], GOOD, "halving")
    assert not behind([0.99, 0.99], GOOD, "halving")


# ---- the paper's protocol --------------------------------------------------------------------------------------------


def test_greedy_keeps_the_best_of_each_stage() -> None:
    _, strategy = load(recipes=["finetune", "kd", "codir-fine"], tasks="mrpc", strategy="greedy", search_seed=0)

    def score(trial: Trial) -> float:
        settings = trial.settings
        value = 0.5
        value += 0.1 * (settings["training.learning_rate"] == 1e-5) + 0.05 * (
            settings["training.per_device_train_batch_size"] == 16
        )
        value += 0.01 * settings.get("objectives.crd.weight", 0) * (settings.get("objectives.crd.k", 0) == 500)
        return value

    order, done = play(strategy, score)
    stage_one = [trial for trial in order if trial.phase == "search" and trial.recipe == "finetune"]
    stage_three = [trial for trial in order if trial.phase == "search" and trial.recipe == "codir-fine"]
    assert len(stage_one) == 4  # {1e-5, 2e-5} x {16, 32}
    assert len(stage_three) == 9  # {0.1, 0.5, 1} x {100, 500, 1000}
    assert not [trial for trial in order if trial.phase == "search" and trial.recipe == "kd"]  # the paper fixes it
    assert order.index(stage_three[0]) > order.index(stage_one[-1])
    kept = {"training.learning_rate": 1e-5, "training.per_device_train_batch_size": 16}
    for trial in stage_three:
        assert kept.items() <= trial.settings.items()
    chosen = {trial.recipe: dict(trial.settings) for trial in finals(strategy, done)}
    assert chosen == {
        "finetune": kept,
        "kd": kept,
        "codir-fine": {**kept, "objectives.crd.weight": 1, "objectives.crd.k": 500},
    }
    assert len(finals(strategy, done)) == 6
    assert strategy.trials(done) == strategy.trials(dict(reversed(done.items())))


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
    assert dict(settings) == {"training.learning_rate": 2e-5, "objectives.kd.weight": 0.7, "objectives.crd.weight": 1}
    assert {trial.recipe for trial in finals(strategy, done)} == {"codir-fine"}


def test_greedy_stops_where_a_stage_has_no_winner() -> None:
    _, strategy = load(recipes=["finetune", "kd"], strategy="greedy")
    order, done = play(strategy, lambda trial: None if trial.task == "cola" else 0.5)
    assert {trial.task for trial in finals(strategy, done)} == {"mrpc"}
    assert len([trial for trial in order if trial.task == "cola"]) == 4
