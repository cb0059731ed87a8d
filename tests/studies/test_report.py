"""Findings, tables, pictures and words of made-up trials, finished and unfinished, with names that mean harm."""

import csv
import io
import json
import math
import re
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from codir.errors import ConfigError, RunError
from codir.studies import report, run
from codir.studies.findings import Row, find
from codir.studies.plots import draw_differences, draw_ranks
from codir.studies.results import TrialResult
from codir.studies.study_table import Column, StudyTable, escape_latex
from codir.studies.tables import (
    cost_table,
    differences_table,
    results_table,
    scores_table,
    spread_table,
    trials_table,
)
from codir.studies.words import plain_words

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
    values["folder"] = Path(
        f"{task}/{values['student']}/{recipe}/{values['settings']}/{seed}/{values['phase']}"
    )
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
        assert difference.difference == pytest.approx(
            sum(a - b for a, b in zip(scores, base, strict=True)) / 5
        )
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
    found = find(results)
    difference = found.differences[Row("sid"), "mrpc"]
    assert difference.n == 2
    assert difference.difference == pytest.approx(0.025)
    assert found.cells[Row("sid"), "mrpc"].spread.n == 3
    assert set(found.missing) == {
        "kd on mrpc: not finished for seed 4",
        "sid on mrpc: not finished for seed 1",
    }
    assert found.blocks_left_out == 2


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
    assert found.ranks.blocks == 3
    assert set(found.ranks.names) == {"bilstm", "kd", "pkd"}


def test_failed_trials_are_named_with_their_error():
    found = find(study(["kd"]), failed={"mrpc/kd/seed-9": "the loss is not finite"})
    assert "mrpc/kd/seed-9: failed: the loss is not finite" in found.missing


def test_the_only_student_is_not_named_in_every_line():
    results = [result(recipe, "mrpc", s, 0.7, student="half") for recipe in ("kd", "pkd") for s in (1, 2)]
    planned = [(recipe, "mrpc", "half", s) for recipe in ("kd", "pkd") for s in (1, 2, 3)]
    found = find(results, planned=planned)
    assert [str(row) for row in found.rows] == ["kd", "pkd"]
    assert found.missing == ("kd on mrpc: not finished for seed 3", "pkd on mrpc: not finished for seed 3")


def test_settings_tell_recipes_of_one_name_apart():
    results = [
        result("codir-fine", "mrpc", s, 0.7, settings={"objectives.crd.k": k})
        for k in (100, 500)
        for s in (1, 2)
    ]
    found = find([*results, result("kd", "mrpc", 1, 0.7)])
    assert {row.recipe for row in found.rows} == {"kd", "codir-fine [k=100]", "codir-fine [k=500]"}
    # settings chosen for each task by a search are not several
    chosen = [result("pkd", task, 1, 0.7, settings={"w": w}) for task, w in (("a", 1), ("b", 2))]
    assert find(chosen).rows == (Row("pkd"),)


def test_a_search_counts_as_cost_only():
    found = find([*study(["kd"]), result("kd", "mrpc", 0, 0.99, phase="search", seconds=7.0)])
    assert (found.trials, found.search_trials, found.search_seconds) == (10, 1, 7.0)
    assert 0 not in found.cells[Row("kd"), "mrpc"].scores


def test_undefined_scores_are_left_out_and_said():
    found = find(
        [result("kd", "cola", 1, math.nan), result("kd", "cola", 2, 0.5), result("sid", "cola", 1, 0.4)]
    )
    assert found.cells[Row("kd"), "cola"].spread.n == 1
    assert any("seed 1 is undefined" in line for line in found.missing)
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
    assert "cannot fall below p = 0.0625" in words


def test_words_claim_what_is_shown_with_its_interval_and_test():
    found = find(study(["kd", "a", "b"], effects={"a": 0.2, "b": -0.2}))
    words = words_of(found)
    d = found.differences[Row("a"), "mrpc"]
    assert f"a is above kd beyond noise on mrpc: {100 * d.difference:+.1f} points" in words
    assert "b is below kd beyond noise" in words
    assert "Holm" in words
    assert "paired t test" in words


def test_an_interval_without_zero_is_not_enough_after_correction():
    base = [0.70, 0.71, 0.69, 0.70]
    results = [result("kd", "mrpc", s, value) for s, value in enumerate(base)]
    differences = [0.010, 0.020, 0.030, 0.012]  # p about 0.03, which Holm multiplies by four
    results += [
        result("near", "mrpc", s, v + d) for s, (v, d) in enumerate(zip(base, differences, strict=True))
    ]
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


def test_no_trial_no_words():
    found = find([])
    assert plain_words(found) == ["No trial is finished, so there is nothing to compare."]
    assert scores_table(found).rows[0][0] == "teacher"


def test_ranks_are_said_with_their_blocks():
    words = words_of(find(study(["kd", "a", "b"], effects={"a": 0.3, "b": -0.3})))
    assert "Ranks over 10 blocks (task, seed)" in words
    assert "best is a (1.00)" in words


# ---- tables ------------------------------------------------------------------------------------------------------


def markdown_cells(text):
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [
        [re.sub(r"\\(.)", r"\1", cell.strip()) for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows
    ]


def test_markdown_parses_back():
    found = find(study(["kd", HOSTILE, "pkd"]))
    for table in (scores_table(found), spread_table(found), differences_table(found), cost_table(found)):
        heading, _, *rows = markdown_cells(table.to_markdown())
        assert heading == [column.heading for column in table.columns]
        assert rows == [[" ".join(cell.split()) for cell in row] for row in table.cells()]
    assert HOSTILE in [row[0] for row in markdown_cells(scores_table(found).to_markdown())]


def test_csv_parses_back_to_full_numbers():
    results = study(["kd", HOSTILE])
    found = find(results)
    rows = list(csv.DictReader(io.StringIO(results_table(found).to_csv())))
    row = next(r for r in rows if r["recipe"] == HOSTILE and r["task"] == "cola")
    d = found.differences[Row(HOSTILE), "cola"]
    assert float(row["mean"]) == found.cells[Row(HOSTILE), "cola"].spread.mean
    assert float(row["difference"]) == d.difference
    assert (float(row["low"]), float(row["high"])) == (d.low, d.high)
    assert next(r for r in rows if r["recipe"] == "kd")["difference"] == ""
    assert {r["task"] for r in rows} == {"mrpc", "cola", "average"}


def test_every_trial_has_a_line():
    results = [
        *study(["kd"]),
        result("kd", "cola", 9, math.nan, settings={"a": 1}, metrics={"mcc": math.nan}),
    ]
    rows = list(csv.DictReader(io.StringIO(trials_table(results).to_csv())))
    assert len(rows) == len(results)
    assert json.loads(rows[-1]["settings"]) == {"a": 1}
    assert rows[-1]["score"] == rows[-1]["mcc"] == ""
    assert float(rows[0]["accuracy"]) == results[0].score


def test_latex_is_escaped_and_ruled():
    text = scores_table(find(study(["kd", HOSTILE]))).to_latex()
    for rule in ("\\toprule", "\\midrule", "\\bottomrule"):
        assert rule in text
    line = next(line for line in text.splitlines() if "50" in line)
    assert r"\input" not in line
    assert r"a\textbar{}b\_{[}red{]}\$x\textasciicircum{}2\$ \& 50\% \textbackslash{}input\{x\}" in line
    # what is left of special characters belongs to commands: the columns, and nothing else
    assert len(re.findall(r"(?<!\\)&", line)) == 3
    assert not re.search(r"(?<!\\)[%#_]", line)
    assert escape_latex("a\nb") == "a b"


def test_latex_numbers_have_minus_signs():
    table = StudyTable("t", (Column("n", left=True), Column("x")), (("codir-fine-2", "-0.3 to -0.1"),))
    assert r"codir-fine-2 & $-$0.3 to $-$0.1 \\" in table.to_latex()


def test_rich_shows_names_as_they_are():
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(scores_table(find(study(["kd", HOSTILE]))).to_rich())
    assert "[red]" in console.export_text()


def test_one_seed_has_no_spread_in_the_table():
    table = scores_table(find([result("kd", "mrpc", 1, 0.7)]))
    assert table.cells()[1] == ["kd", "70.0"]
    assert "no spread" in table.note


def test_numbers_of_seeds_stand_in_brackets_where_they_differ():
    results = [*study(["kd"], tasks=("mrpc",)), result("pkd", "mrpc", 1, 0.7)]
    cells = scores_table(find(results)).cells()
    assert cells[1][1].endswith("(5)")
    assert cells[2][1] == "70.0 (1)"


# ---- pictures ----------------------------------------------------------------------------------------------------

matplotlib = pytest.importorskip("matplotlib")


def ink(png):
    from matplotlib.image import imread

    pixels = imread(io.BytesIO(png))[..., :3]
    return float((pixels.min(axis=-1) < 0.9).mean())


def test_pictures_of_fifteen_recipes():
    names = ["kd", HOSTILE, *(f"recipe-{i}" for i in range(13))]
    found = find(study(names, effects={"recipe-3": 0.05}))
    for draw in (draw_differences, draw_ranks):
        formats = draw(found)
        assert set(formats) == {"png", "svg"}
        assert ink(formats["png"]) > 0.005
        assert formats["svg"].rstrip().endswith(b"</svg>")


def test_pictures_of_one_pair_and_of_wide_ranks():
    found = find([result(name, "mrpc", s, 0.7 + s / 100) for name in ("kd", "a", "b") for s in (1, 2)])
    assert found.ranks.critical_difference > 2
    assert ink(draw_ranks(found)["png"]) > 0.005
    one = find([result("kd", "mrpc", 1, 0.7), result("a", "mrpc", 1, 0.8)])
    assert ink(draw_differences(one)["png"]) > 0.002
    assert draw_ranks(one) == {}


def test_nothing_to_draw():
    found = find(study(["pkd"]))
    assert draw_differences(found) == {}
    assert draw_ranks(found) == {}


# ---- the report --------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path, monkeypatch):
    def write(results, **options):
        monkeypatch.setattr(report, "read_results", lambda output, damaged=None: list(results))
        console = Console(width=140, file=io.StringIO())
        findings = report.write_report(tmp_path, console, **options)
        return findings, console.file.getvalue()

    return write


def test_report_writes_every_file(written, tmp_path):
    _, shown = written(study(["kd", "pkd", "sid"]))
    assert {path.name for path in tmp_path.iterdir()} == set(report.FILES)
    assert all(path.stat().st_size > 200 for path in tmp_path.iterdir())
    text = (tmp_path / "report.md").read_text()
    assert "30 trials finished." in text
    assert "forest.png" in text
    assert "beyond noise" in shown
    assert "pkd" in shown


def test_report_of_an_unfinished_study(written, tmp_path):
    written(study(["kd", "pkd", "sid"]))
    _, shown = written(study(["kd", "pkd"])[:3])
    assert "not finished for seed 2" in shown
    assert "the study is not complete" in (tmp_path / "report.md").read_text()
    # the pictures of the earlier report do not stay behind
    assert not (tmp_path / "ranks.png").exists()


def test_report_is_whole_or_not_at_all(written, tmp_path, monkeypatch):
    written(study(["kd", "pkd", "sid"]))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report.os, "fsync", full)
    with pytest.raises(RunError, match="No space left"):
        written(study(["kd", "pkd"]))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_report_without_a_study(tmp_path):
    with pytest.raises(RunError, match="no study in"):
        report.write_report(tmp_path, Console(file=io.StringIO()))


def test_report_without_matplotlib(written, tmp_path, monkeypatch):
    def missing(findings):
        raise ConfigError("The pictures need matplotlib: pip install 'codir[plots]'")

    monkeypatch.setattr(report, "draw_differences", missing)
    _, shown = written(study(["kd", "pkd"]))
    assert "need matplotlib" in shown
    assert (tmp_path / "report.md").is_file()
    assert not (tmp_path / "forest.png").exists()


def test_report_of_a_study_that_was_run(study_settings, here, tmp_path):
    output = tmp_path / "s"
    grid = {"finetune": {"training.learning_rate": [1e-3, 3e-3]}}
    run.study(**study_settings(output, grid=grid, search_seed=7), console=Console(file=io.StringIO()))
    shutil.rmtree(output / "trials" / "good" / "kd" / "seed-2")
    console = Console(file=io.StringIO(), width=140)
    found = report.write_report(output, console)
    assert found.baseline == "kd"
    assert (found.trials, found.search_trials) == (3, 2)
    assert found.missing == ("kd on good: not finished for seed 2",)
    assert found.differences[Row("finetune"), "good"].n == 1
    trials = list(csv.DictReader(io.StringIO((output / "trials.csv").read_text())))
    assert sorted(trial["phase"] for trial in trials) == ["final"] * 3 + ["search"] * 2
    assert "The search took 2 trials" in console.file.getvalue()
    assert report.write_report(output, console, baseline="finetune").baseline == "finetune"
    with pytest.raises(ConfigError, match="did you mean 'finetune'"):
        report.write_report(output, console, baseline="finetun")
