"""What the evidence says for a case: which of it is taken, how it is pooled, what cannot be told apart."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
from scipy import stats

from codir.config.evidence import Entry, PairedGain
from codir.studies.recommend_gains import show_gain, verdict
from codir.studies.recommend_ranking import rank
from codir.studies.recommend_standing import Case
from codir.studies.recommend_tried import Budget, budgets, other_rate
from codir.studies.recommend_words import in_a_sentence

CASE = Case("classification", 5000, 6, 384, 3)


def entry(
    recipe: str, task: str = "mrpc", gain: float | None = None, half: float = 1.0, **more: Any
) -> Entry:
    values: dict[str, Any] = {
        "study": "s",
        "recipe": recipe,
        "settings": {},
        "task": task,
        "kind": "classification",
        "metric": "f1",
        "examples": 4000,
        "teacher_blocks": 6,
        "teacher_width": 384,
        "teacher_score": 0.8,
        "layers": 3,
        "width": 384,
        "parameters": 17_000_000,
        "epochs": 3.0,
        "steps": 300,
        "seeds": 5,
        "mean": 0.76,
        "deviation": 0.01,
        "kept": 95.0 + (gain or 0.0),
        "over_kd": None if gain is None else PairedGain(gain, gain - half, gain + half),
        "seconds": 100.0,
        "learning_rate": 5e-5,
    }
    return Entry(**{**values, **more})


def both(recipe: str, gain: float | None, half: float = 1.0, **more: Any) -> list[Entry]:
    return [entry(recipe, task, gain, half, **more) for task in ("mrpc", "cola")]


def test_recipes_stand_by_their_mean_gain_over_kd() -> None:
    found = rank([*both("kd", None), *both("pkd", 2.0), *both("sid", -3.0), *both("minilm", 0.5)], CASE)
    assert [each.recipe for each in found.standings] == ["pkd", "minilm", "kd", "sid"]
    assert found.best.recipe == "pkd"


def test_gains_of_tasks_are_pooled_as_independent() -> None:
    entries = [*both("kd", None), entry("pkd", "mrpc", 1.0, 0.6), entry("pkd", "cola", 3.0, 0.8)]
    gain = rank(entries, CASE).best.gain
    assert gain is not None
    # naive: mean (1 + 3) / 2, half sqrt(0.36 + 0.64) / 2
    assert math.isclose(gain.mean, 2.0)
    assert math.isclose(gain.high - gain.mean, 0.5)
    assert verdict(gain) == "beyond noise"


def test_tasks_of_one_study_are_averaged_seed_by_seed() -> None:
    def gained(task: str, gains: list[float], **more: Any) -> Entry:
        mean = statistics.mean(gains)
        over = PairedGain(mean, mean - 9.0, mean + 9.0, dict(enumerate(gains, 1)))
        return entry("pkd", task, over_kd=over, **more)

    one, other = [1.0, 2.0, 6.0], [3.0, 1.0, 2.0]
    gain = rank([*both("kd", None), gained("mrpc", one), gained("cola", other)], CASE).best.gain
    assert gain is not None
    means = [(1.0 + 3.0) / 2, (2.0 + 1.0) / 2, (6.0 + 2.0) / 2]
    reach = stats.t.ppf(0.975, 2) * statistics.stdev(means) / math.sqrt(3)
    assert math.isclose(gain.mean, sum(means) / 3)
    assert math.isclose(gain.high - gain.mean, reach)
    # a second study, of other seeds on its tasks: of mrpc two gains that share its weight, 1/4 each, of cola 1/4 each
    more = [gained("mrpc", [4.0, 4.5], study="t"), gained("cola", [1.0, 1.0, 1.0], study="t")]
    gain = rank([*both("kd", None), gained("mrpc", one), gained("cola", other), *more], CASE).best.gain
    assert gain is not None
    assert math.isclose(gain.mean, sum(means) / 3 / 2 + 4.25 / 4 + 1.0 / 4)
    assert math.isclose(gain.high - gain.mean, math.sqrt((reach / 2) ** 2 + 2 * (9.0 / 4) ** 2))


def test_the_best_of_several_is_corrected_for_their_number() -> None:
    def gained(recipe: str, mean: float, half: float) -> list[Entry]:
        over = PairedGain(mean, mean - half, mean + half, dict.fromkeys(range(5), mean))
        return [entry(recipe, "mrpc", over_kd=over), entry(recipe, "cola", over_kd=over, study="t")]

    # two independent tasks of five seeds: half 1 / sqrt(2), t with 8 degrees of freedom
    p = 2 * stats.t.sf(0.8 * math.sqrt(2) * stats.t.ppf(0.975, 8), 8)
    one = rank([*both("kd", None), *gained("pkd", 0.8, 1.0)], CASE).best
    assert one.gain is not None
    assert math.isclose(one.gain.p_value, p)
    assert "beyond noise" in in_a_sentence(one)
    several = [each for name in ("sid", "minilm", "tinybert") for each in gained(name, 0.0, 1.0)]
    found = rank([*both("kd", None), *gained("pkd", 0.8, 1.0), *several], CASE)
    gain = found.best.gain
    assert gain is not None
    assert gain.low > 0
    assert gain.adjusted is not None
    assert math.isclose(gain.adjusted, 4 * p)
    assert verdict(gain) == "within noise"
    assert f"within noise (p = {p:.2g}; {4 * p:.2g} after Holm's correction for 4 recipes)" in in_a_sentence(
        found.best
    )
    # `kd` is below by its own interval, and one of four that the best is compared with
    assert "kd" in [each.recipe for each in found.equals()]


def test_among_equals_the_one_that_kept_most_with_its_best_budget_comes_first() -> None:
    entries = [
        *both("kd", None, kept=78.0),
        *both("kd", None, kept=87.0, epochs=10.0),
        *both("distilbert", 0.9, 2.0, kept=79.0),
        *both("pkd", 0.8, 2.0, kept=79.5),
        *both("pkd", 0.8, 2.0, kept=88.0, epochs=10.0),
        entry("pkd", "sst2", 0.8, 2.0, kept=50.0, epochs=10.0),  # not on what both were tried on
    ]
    found = rank(entries, CASE)
    assert found.standings[0].recipe == "distilbert"
    assert [each.recipe for each in found.equals()] == ["pkd", "kd", "distilbert"]
    assert [(each.budgets.best.epochs, each.recipe) for each in found.equals()] == [
        (10.0, "pkd"),
        (10.0, "kd"),
        (3.0, "distilbert"),
    ]
    assert [task for task, *_ in found.common] == ["mrpc", "cola"]


def test_what_cannot_be_told_from_the_best() -> None:
    entries = [*both("kd", None), *both("pkd", 2.0, 1.0), *both("minilm", 1.2, 1.0), *both("sid", -2.0, 1.0)]
    # two tasks: halves of 0.71; pkd - kd = 2 > 0.71, pkd - minilm = 0.8 < hypot(0.71, 0.71)
    found = rank(entries, CASE)
    assert [each.recipe for each in found.equals()] == ["pkd", "minilm"]
    assert [each.recipe for each in found.candidates()] == ["pkd", "minilm"]
    assert [each.recipe for each in found.candidates(["sid", "kd", "pkd"])] == ["pkd", "minilm", "kd", "sid"]


def test_plain_fine_tuning_is_shown_and_never_chosen() -> None:
    found = rank([*both("kd", None), *both("finetune", 0.5)], CASE)
    assert found.standings[0].recipe == "finetune"
    assert found.best.recipe == "kd"
    assert [each.recipe for each in found.equals()] == ["kd"]
    assert found.undistilled_as_good(found.best)
    found = rank([*both("kd", None), *both("finetune", -5.0)], CASE)
    assert not found.undistilled_as_good(found.best)


@pytest.mark.parametrize(("half", "as_good"), [(1.6, True), (1.2, False)])
def test_labels_alone_from_the_same_start_say_what_distilling_is_worth(half: float, as_good: bool) -> None:
    """`finetune`, far below, starts elsewhere: it does not count beside an undistilled student of the same start."""
    over = PairedGain(1.0, 1.0 - half, 1.0 + half)
    found = rank([*both("kd", None), *both("finetune", -5.0), *both("pkd", 2.0, over_undistilled=over)], CASE)
    gain = found.best.over_undistilled
    assert found.best.recipe == "pkd"
    assert gain is not None
    # naive, two independent tasks: mean 1, half sqrt(2 half^2) / 2, which is above 1 or below
    assert math.isclose(gain.mean, 1.0)
    assert math.isclose(gain.high - gain.mean, half / math.sqrt(2))
    assert found.undistilled_as_good(found.best) is as_good
    assert f"over the same student without distillation {show_gain(gain)}" in in_a_sentence(found.best)


def test_a_recipe_of_few_tasks_is_not_trusted() -> None:
    tasks = ("a", "b", "c")
    entries = [entry(name, task, gain) for task in tasks for name, gain in (("kd", None), ("pkd", 1.0))]
    found = rank([*entries, entry("sid", "a", 9.0)], CASE)
    assert found.best.recipe == "pkd"
    assert found.trusted == {"kd", "pkd"}
    assert "sid" not in [each.recipe for each in found.equals()]


def test_one_task_of_the_kind_counts_beside_those_of_the_other_kind() -> None:
    scores = [
        entry(name, "stsb", gain, kind="regression", seeds=2) for name, gain in (("kd", None), ("sid", 4.0))
    ]
    entries = [
        *both("kd", None),
        *both("pkd", 2.0),
        *both("sid", 1.0),
        entry("pkd", "rte", 9.0, seeds=1),
        *scores,
    ]
    found = rank(entries, Case("regression", 5000, 6, 384, 3))
    sid = found.of("sid")
    assert sid is not None
    assert sid.tasks == ("mrpc", "cola", "stsb")  # few seeds, and no others of its kind
    assert sid.gain is not None
    assert math.isclose(sid.gain.mean, 2.0)
    assert found.caveats[0] == (
        "Of regression there is one task (stsb) alone: the rest was measured on classification."
    )
    pkd = rank(entries, CASE).of("pkd")
    assert pkd is not None
    assert pkd.tasks == ("mrpc", "cola")  # one seed, where others of the kind have more


def test_near_evidence_wins_over_far_evidence() -> None:
    near = [*both("kd", None), *both("pkd", 1.0)]
    far = [
        *both("kd", None, layers=1),
        *both("sid", 9.0, layers=1),
        *both("minilm", 9.0, examples=400_000),
        *both("tinybert", 9.0, kind="regression"),
        *both("mobilebert", 9.0, width=128),
    ]
    assert [each.recipe for each in rank([*near, *far], CASE).standings] == ["pkd", "kd"]
    assert rank([*near, *far], CASE).caveats == ()


@pytest.mark.parametrize(
    ("case", "word"),
    [
        (Case("regression", 5000, 6, 384, 3), "no evidence on regression"),
        (Case("classification", 400_000, 6, 384, 3), "400,000 training examples"),
        (Case("classification", 5000, 6, 384, 1), "No student of 1 of 6 blocks"),
        (
            Case("classification", 5000, 6, 384, 3, 128),
            "128 wide, was measured with 3 seeds, only 3 of 6 blocks, 384 wide:",
        ),
        (Case("classification", 5000, 12, 768, 6), "12 blocks x 768"),
    ],
)
def test_what_the_evidence_does_not_cover_is_said(case: Case, word: str) -> None:
    found = rank([*both("kd", None), *both("pkd", 1.0)], case)
    assert found.best.recipe == "pkd"
    assert any(word in line for line in found.caveats)


def test_few_seeds_and_one_task_are_said() -> None:
    found = rank([entry("kd", seeds=1), entry("pkd", gain=1.0, seeds=1)], CASE)
    assert any("1 seed:" in line for line in found.caveats)
    assert any("one task, mrpc" in line for line in found.caveats)


def test_what_few_seeds_kept_with_a_student_like_the_wanted_one_is_said() -> None:
    enough = [*both("kd", None), *both("pkd", 1.0)]
    thin = [
        *both("kd", None, seeds=1, layers=2, kept=70.0),
        entry("pkd", "mrpc", seeds=1, layers=2, kept=80.0),
        entry("pkd", "cola", seeds=1, layers=2, kept=60.0),
        entry("pkd", "mrpc", seeds=1, layers=3, width=192, kept=10.0),
    ]
    third = Case("classification", 5000, 6, 384, 2)
    (caveat,) = rank([*enough, *thin], third).caveats
    assert caveat.startswith("No student of 2 of 6 blocks was measured with 3 seeds, only 3 of 6 blocks:")
    assert caveat.endswith(
        " With 1 seed on 2 tasks (mrpc, cola), 2 of 6 blocks kept: `kd` 70.0 %, `pkd` 70.0 % of the teacher."
    )
    assert "With 1 seed" not in rank(enough, third).caveats[0]
    narrow = Case("classification", 5000, 6, 384, 3, 192)
    (caveat,) = rank([*enough, *thin], narrow).caveats
    assert caveat.endswith(
        " With 1 seed on one task (mrpc), 3 of 6 blocks, 192 wide kept: `pkd` 10.0 % of the teacher."
    )
    assert not rank([*enough, *thin], CASE).caveats  # half of the blocks: there is better


def test_arms_with_settings_and_other_recipes_are_left_out() -> None:
    entries = [*both("kd", None), *both("crd", 5.0, settings={"objectives.crd.k": 100}), *both("pkd", 1.0)]
    assert [each.recipe for each in rank(entries, CASE).standings] == ["pkd", "kd"]
    assert [each.recipe for each in rank(entries, CASE, ["kd"]).standings] == ["kd"]
    with pytest.raises(ValueError, match="no evidence"):
        rank(entries, CASE, ["sid"])


def test_without_pairs_the_share_kept_decides() -> None:
    entries = [entry("pkd", kept=90.0), entry("sid", kept=95.0)]
    found = rank(entries, CASE)
    assert found.best.recipe == "sid"
    assert "was not paired" in in_a_sentence(found.best)


def test_cost_is_a_step_against_a_step_of_kd() -> None:
    entries = [*both("kd", None, seconds=50.0, steps=100), *both("pkd", 1.0, seconds=150.0, steps=200)]
    standing = rank(entries, CASE).of("pkd")
    assert standing is not None
    assert standing.cost is not None
    assert math.isclose(standing.cost, 1.5)


def test_the_sentence_names_what_it_rests_on() -> None:
    entries = [
        *both("kd", None),
        entry("pkd", "mrpc", 1.0, 0.6),
        entry("pkd", "cola", 3.0, 0.8, examples=8551),
    ]
    text = in_a_sentence(rank(entries, CASE).best)
    for part in ("2 tasks (mrpc, cola)", "4,000 to 8,551 examples", "3 of 6 blocks", "`pkd` kept 97.0 %"):
        assert part in text
    assert "(5 seeds, 3 epochs)" in text
    assert "+2.0 [+1.5, +2.5]: beyond noise" in text


def test_budgets_are_compared_on_the_tasks_they_share() -> None:
    entries = [
        *both("kd", None, kept=90.0),
        entry("kd", "mrpc", kept=96.0, epochs=10.0),
        entry("kd", "mrpc", kept=93.0, learning_rate=1e-4),
        entry("kd", "sst2", kept=99.0),
    ]
    found = budgets(entries, "classification")
    assert found.kept == {Budget(3.0, 5e-5): 90.0, Budget(3.0, 1e-4): 93.0, Budget(10.0, 5e-5): 96.0}
    assert (found.best, found.apart) == (Budget(10.0, 5e-5), {})
    assert [each.kept for each in found.entries] == [96.0]
    # two budgets that share no task: the one with more tasks, and the other is named
    apart = budgets(
        [*both("kd", None, kept=90.0), entry("kd", "sst2", kept=99.0, epochs=10.0)], "classification"
    )
    assert apart.kept == {Budget(3.0, 5e-5): 90.0}
    assert apart.apart == {Budget(10.0, 5e-5): ("sst2",)}


def test_budgets_on_the_wanted_kind_of_labels_go_first() -> None:
    entries = [*both("kd", None, epochs=10.0), entry("kd", "stsb", kind="regression", epochs=7.0)]
    found = budgets(entries, "regression")
    assert (found.best, found.apart) == (Budget(7.0, 5e-5), {Budget(10.0, 5e-5): ("mrpc", "cola")})
    assert budgets(entries, "classification").best == Budget(10.0, 5e-5)
    assert budgets(entries[:2], "regression").best == Budget(10.0, 5e-5)  # there is nothing else


def test_the_other_rate_of_a_trial_is_one_that_compares() -> None:
    entries = [
        *both("kd", None, kept=90.0, epochs=10.0, learning_rate=2e-4),
        entry("kd", "mrpc", kept=95.0, learning_rate=5e-5),  # other epochs
        entry("kd", "mrpc", kept=99.0, epochs=10.0, learning_rate=4e-4, settings={"student.init": "first"}),
        entry("kd", "mrpc", kept=99.0, epochs=10.0, learning_rate=8e-4, split="holdout"),
        entry("kd", "stsb", kept=99.0, epochs=10.0, learning_rate=9e-4, kind="regression"),
    ]

    def other(entries: list[Entry], first: float) -> tuple[float, str]:
        return other_rate(entries, budgets(entries[:2], "classification"), first)

    rate, how = other(entries, 2e-4)
    assert (rate, how[:4]) == (1e-4, "half")  # a lower one was tried, at another budget
    rate, how = other([*entries[:2], *entries[2:][1:]], 2e-4)
    assert (rate, how[:13]) == (4e-4, "twice as much")
    # by what was kept on the shared tasks: 1e-4 90 against 90, 3e-4 93 against 90 on cola, though 1e-4 has the highest
    more = [
        entry("kd", "mrpc", kept=94.0, epochs=10.0, learning_rate=1e-4, tuned=True),
        entry("kd", "cola", kept=86.0, epochs=10.0, learning_rate=1e-4, tuned=True),
        entry("kd", "cola", kept=93.0, epochs=10.0, learning_rate=3e-4, tuned=True),
    ]
    assert other([*entries, *more], 2e-4) == (3e-4, "the best other one of the evidence (+3.0 points kept)")


def test_chosen_by_scores_and_few_seeds_count_only_where_there_is_nothing_better() -> None:
    weak = [*both("sid", 9.0, seeds=1), *both("minilm", 9.0, split="holdout"), *both("pkd", 9.0, tuned=True)]
    found = rank([*both("kd", None), *both("tinybert", 1.0), *weak], CASE)
    assert [each.recipe for each in found.standings] == ["tinybert", "kd"]
    assert rank(both("sid", 9.0, seeds=1), CASE).best.recipe == "sid"
    assert rank(both("minilm", 9.0, split="holdout"), CASE).best.recipe == "minilm"
