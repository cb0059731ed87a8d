"""Findings, tables and words of made-up trials, finished and unfinished, with names that mean harm."""

import csv
import json
import math
import re
import shutil
import statistics
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from small_world import quiet

from codir.errors import ConfigError
from codir.studies import report
from codir.studies.findings import Row, Spread, find, paired_difference
from codir.studies.report import plain_words, scores_table
from codir.studies.run import study as run_study
from codir.studies.trial import TrialResult

HOSTILE = r"a|b_[red]$x^2$ & 50% \input{x} <b>#~`"


def result(recipe, task, seed, score, **changes):
    values = {
        "recipe": recipe,
        "task": task,
        "student": None,
        "seed": seed,
        "settings": {},
        "phase": "final",
        "metric": "accuracy",
        "score": score,
        "metrics": {"accuracy": score},
        "teacher_score": 0.8,
        "agreement": 0.9,
        "parameters": 1_000_000,
        "embedding_parameters": 400_000,
        "teacher_parameters": 2_000_000,
        "size": 4_000_000,
        "steps": 100,
        "seconds": 10.0,
        "epochs": 3.0,
        "best_epoch": 2.0,
        "folder": Path("x"),
    }
    values.update(changes)
    # a folder of its own, as in a study
    values["folder"] = Path(f"{task}/{values['student']}/{recipe}/{values['settings']}/{seed}/{values['phase']}")
    return TrialResult(**values)


def study(recipes, tasks=("mrpc", "cola"), seeds=(1, 2, 3, 4, 5), effects=None, noise=0.01, seed=0):
    generator = np.random.default_rng(seed)
    return [
        result(recipe, task, s, 0.7 + (effects or {}).get(recipe, 0) + float(generator.normal(0, noise)))
        for task in tasks
        for s in seeds
        for recipe in recipes
    ]


def words_of(findings):
    return "\n".join(plain_words(findings))


def test_cells_against_plain_loops():
    results = study(["kd", "codir-fine"])
    found = find(results)
    for task in ("mrpc", "cola"):
        scores = [r.score for r in results if r.recipe == "codir-fine" and r.task == task]
        base = [r.score for r in results if r.recipe == "kd" and r.task == task]
        cell = found.cells[Row("codir-fine"), task]
        assert cell.spread.mean == pytest.approx(sum(scores) / 5)
        assert cell.spread.std == pytest.approx(statistics.stdev(scores))
        assert cell.kept == pytest.approx(sum(score / 0.8 for score in scores) / 5)
        difference = found.differences[Row("codir-fine"), task]
        assert difference.difference == pytest.approx(sum(a - b for a, b in zip(scores, base, strict=True)) / 5)
    by_seed = []
    for s in (1, 2, 3, 4, 5):
        ours = [r.score for r in results if r.recipe == "codir-fine" and r.seed == s]
        theirs = [r.score for r in results if r.recipe == "kd" and r.seed == s]
        by_seed.append(sum(ours) / 2 - sum(theirs) / 2)
    average = found.differences[Row("codir-fine"), None]
    assert average.n == 5
    assert average.difference == pytest.approx(sum(by_seed) / 5)
    half = 2.7764451 * statistics.stdev(by_seed) / math.sqrt(5)
    assert (average.low, average.high) == pytest.approx(
        (average.difference - half, average.difference + half), abs=1e-8
    )


def test_pairs_are_the_seeds_in_common():
    results = [result("kd", "mrpc", s, 0.7 + s / 100) for s in (1, 2, 3)]
    results += [result("sid", "mrpc", s, 0.7 + s / 50) for s in (2, 3, 4)]
    planned = [(recipe, "mrpc", None, s) for recipe in ("kd", "sid") for s in (1, 2, 3, 4)]
    found = find(results, planned=planned)
    difference = found.differences[Row("sid"), "mrpc"]
    assert difference.n == 2
    assert difference.difference == pytest.approx(0.025)
    assert found.cells[Row("sid"), "mrpc"].spread.n == 3
    assert set(found.missing) == {"kd on mrpc: not finished for seed 4", "sid on mrpc: not finished for seed 1"}


def test_holm_is_over_the_recipes_of_one_task():
    found = find(study(["kd", "a", "b", "c"], effects={"a": 0.05}))
    for panel in ("mrpc", "cola", None):
        family = [found.differences[Row(name), panel] for name in "abc"]
        smallest = min(family, key=lambda d: d.p_value)
        assert smallest.adjusted == pytest.approx(min(1, 3 * smallest.p_value))


def test_students_are_compared_with_the_baseline_of_their_own_kind():
    results = [
        result(recipe, "mrpc", s, score + s / 1000, student=student)
        for student, shift in (("half", 0.0), ("third", -0.2))
        for recipe, score in (("kd", 0.7 + shift), ("pkd", 0.71 + shift))
        for s in (1, 2, 3)
    ]
    found = find(results)
    for student in ("half", "third"):
        assert found.differences[Row("pkd", student), "mrpc"].difference == pytest.approx(0.01)
    assert (Row("kd", "half"), "mrpc") not in found.differences


def test_a_recipe_with_a_student_of_its_own_kind_is_compared_with_the_first_students_baseline():
    results = [result("bilstm", "mrpc", s, 0.6 + s / 1000) for s in (1, 2, 3)]
    results += [
        result(recipe, "mrpc", s, score + s / 100, student="half")
        for recipe, score in (("kd", 0.7), ("pkd", 0.71))
        for s in (1, 2, 3)
    ]
    found = find(results)
    assert found.differences[Row("bilstm"), "mrpc"].n == 3


def test_a_search_counts_as_cost_only():
    found = find([*study(["kd"]), result("kd", "mrpc", 0, 0.99, phase="search", seconds=7.0)])
    assert (found.trials, found.search_trials, found.search_seconds) == (10, 1, 7.0)
    assert 0 not in found.cells[Row("kd"), "mrpc"].scores


def test_undefined_scores_are_left_out_and_said():
    found = find([result("kd", "cola", 1, math.nan), result("kd", "cola", 2, 0.5), result("sid", "cola", 1, 0.4)])
    assert found.cells[Row("kd"), "cola"].spread.n == 1
    assert any("is undefined and left out of seed 1" in line for line in found.missing)
    assert found.differences[Row("sid"), "cola"].n == 0


def test_unequal_steps_are_said():
    results = study(["kd", "pkd"], tasks=("mrpc",))
    assert not find(results).budget
    results.append(result("bilstm", "mrpc", 1, 0.5, steps=1200))
    (line,) = find(results).budget
    assert "1,200: bilstm" in line
    assert "100: kd, pkd" in line
    assert "Unequal budget" in words_of(find(results))


def test_unknown_baseline_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'tinybert'"):
        find(study(["kd", "tinybert"]), baseline="tinybrt")


def test_words_do_not_claim_what_is_not_shown():
    words = words_of(find(study(["kd", "a", "b"], noise=0.02, seed=3)))
    assert "No recipe is shown to differ from kd beyond noise on mrpc (a, b)." in words
    assert "is above" not in words
    assert "does not mean" in words
    found = find(study(["kd", "a", "b"], effects={"a": 0.2, "b": -0.2}), failed={"mrpc/x/seed-9": "not finite"})
    d, words = found.differences[Row("a"), "mrpc"], words_of(found)
    assert f"a is above kd beyond noise on mrpc: {100 * d.difference:+.1f} points" in words
    assert "b is below kd beyond noise" in words
    assert "mrpc/x/seed-9: failed: not finite" in found.missing


def test_an_interval_without_zero_is_not_enough_after_correction():
    base = [0.70, 0.71, 0.69, 0.70]
    results = [result("kd", "mrpc", s, value) for s, value in enumerate(base)]
    differences = [0.010, 0.020, 0.030, 0.012]  # p about 0.03, which Holm multiplies by four
    results += [result("near", "mrpc", s, v + d) for s, (v, d) in enumerate(zip(base, differences, strict=True))]
    flat = [0.004, -0.004, 0.003, -0.002]
    for name in ("x", "y", "z"):
        results += [result(name, "mrpc", s, v + d) for s, (v, d) in enumerate(zip(base, flat, strict=True))]
    found = find(results)
    near = found.differences[Row("near"), "mrpc"]
    assert not near.includes_zero
    assert near.p_value < 0.05 < near.adjusted
    assert not near.shown
    assert re.search(r"near on mrpc: .* excludes zero, but .* no difference from kd shown", words_of(found))
    assert "No recipe is shown" not in words_of(found)


def test_one_seed_says_nothing_of_the_difference():
    found = find([result("kd", "mrpc", 1, 0.7), result("a", "mrpc", 1, 0.9)])
    words = words_of(found)
    assert "one pair has no interval" in words
    assert "Nothing is said of the difference from kd on mrpc of a: one pair" in words
    assert "beyond noise" not in words


def test_scores_that_one_answer_for_everything_has_too_are_named():
    results = [
        result(recipe, "mrpc", seed, score + seed / 1000, constant_score=0.812)
        for recipe, score in (("kd", 0.79), ("sid", 0.83))
        for seed in (1, 2, 3)
    ]
    findings = find(results)
    line = next(line for line in plain_words(findings) if "same class to everything" in line)
    assert "On mrpc" in line
    assert "81.2 points: no more than that, on average, has kd." in line
    assert scores_table(findings).rows[1][:2] == ("one answer for all", "81.2")
    assert not any("same class" in line for line in plain_words(find([result("kd", "mrpc", 1, 0.5)])))


# ---- tables ------------------------------------------------------------------------------------------------------


def test_one_seed_has_no_spread_in_the_table():
    table = scores_table(find([result("kd", "mrpc", 1, 0.7)]))
    assert table.cells()[1] == ["kd", "70.0"]
    assert "no spread" in table.note


# ---- the report ------------------------------------------------------------------------------------------------------


def test_report_writes_every_file_with_full_numbers(tmp_path, monkeypatch):
    results = [
        *study(["kd", HOSTILE, "sid"]),
        result("kd", "cola", 9, math.nan, settings={"a": 1}, metrics={"mcc": math.nan}),
    ]
    names = {"recipes": ["kd"], "tasks": ["mrpc"], "seeds": [1]}
    monkeypatch.setattr(
        report, "read_findings", lambda output, baseline: (find(results), results, SimpleNamespace(**names))
    )
    console = quiet()
    found, shown = report.write_report(tmp_path, console), console.file.getvalue()
    assert {path.name for path in tmp_path.iterdir()} == set(report.FILES)
    text = (tmp_path / "report.md").read_text()
    assert "31 trials finished" in text
    assert "beyond noise" in shown
    assert "[red]" in shown
    assert r"\input" not in (tmp_path / "table.tex").read_text()
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    row = next(r for r in rows if r["recipe"] == HOSTILE and r["task"] == "mrpc")
    d = found.differences[Row(HOSTILE), "mrpc"]
    assert float(row["mean"]) == found.cells[Row(HOSTILE), "mrpc"].spread.mean
    assert (float(row["difference"]), float(row["from"]), float(row["to"])) == (d.difference, d.low, d.high)
    assert next(r for r in rows if r["recipe"].startswith("kd"))["difference"] == ""
    assert {r["task"] for r in rows} == {"mrpc", "cola", "average"}
    trials = list(csv.DictReader((tmp_path / "trials.csv").open()))
    assert len(trials) == len(results)
    assert json.loads(trials[-1]["settings"]) == {"a": 1}
    assert trials[-1]["score"] == trials[-1]["mcc"] == ""
    assert float(trials[0]["accuracy"]) == results[0].score


def test_report_of_a_study_that_was_run(study_settings, tmp_path):
    output = tmp_path / "s"
    grid = {"finetune": {"training.learning_rate": [1e-3, 3e-3]}}
    run_study(**study_settings(output, grid=grid, search_seed=7), console=quiet())
    shutil.rmtree(output / "trials" / "good" / "kd" / "seed-2")
    console = quiet()
    found = report.write_report(output, console)
    assert found.baseline == "kd"
    assert (found.trials, found.search_trials) == (3, 2)
    assert found.missing == ("kd on good: not finished for seed 2",)
    assert found.differences[Row("finetune"), "good"].n == 1
    trials = list(csv.DictReader((output / "trials.csv").open()))
    assert sorted(trial["phase"] for trial in trials) == ["final"] * 3 + ["search"] * 2
    assert "the study is not complete" in (output / "report.md").read_text()
    assert "The search took 2 trials" in console.file.getvalue()
    assert report.write_report(output, console, baseline="finetune").baseline == "finetune"
    with pytest.raises(ConfigError, match="did you mean 'finetune'"):
        report.write_report(output, console, baseline="finetun")


# ---- the statistics, against published small examples ----------------------------------------------------------

# Student (1908), additional hours of sleep gained by ten patients under two drugs.
FIRST = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def test_spread_by_hand():
    spread = Spread.of([3.0, 1.0, 2.0, 6.0])
    assert (spread.n, spread.mean, spread.median, spread.high, spread.low) == (4, 3.0, 2.5, 6.0, 1.0)
    assert spread.std == pytest.approx(math.sqrt((0 + 4 + 1 + 9) / 3))
    assert Spread.of([0.5]).std is None


def test_the_sleep_data():
    result = paired_difference(SECOND, FIRST)
    assert result.n == 10
    assert result.difference == pytest.approx(1.58)
    assert (result.low, result.high) == pytest.approx((0.7001142, 2.4598858), abs=1e-6)
    assert result.p_value == pytest.approx(0.002833, abs=1e-6)
    assert not result.includes_zero
    assert result.shown


def test_the_interval_covers_as_often_as_it_says():
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(600):
        seeds = generator.normal(0.8, 0.05, 5)  # what a seed does to both
        a = seeds + generator.normal(0.01, 0.02, 5)
        result = paired_difference(list(a), list(seeds))
        assert result.low is not None
        assert result.high is not None
        covered += result.low <= 0.01 <= result.high
    assert 0.925 < covered / 600 < 0.975


def test_without_pairs_there_is_no_interval():
    nothing, one = paired_difference([], []), paired_difference([0.9], [0.1])
    assert math.isnan(nothing.difference)
    assert one.difference == pytest.approx(0.8)
    for result in (nothing, one):
        assert not result.has_interval
        assert result.p_value is None
        assert result.includes_zero
        assert not result.shown
        assert result.without


@pytest.mark.parametrize("scores", [[0.1 + 0.2, 0.5], [0.4, 0.6]])
def test_differences_without_spread_show_nothing(scores):
    result = paired_difference(scores, [0.3, 0.5])
    assert not result.has_interval
    assert not result.shown
    assert result.without


def test_pairs_must_be_pairs():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="finite"):
        paired_difference([float("nan")], [1.0])
