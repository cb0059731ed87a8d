"""A study as a report: tables with spread, differences, costs; unfinished, damaged and measured ones."""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
from reading import gather
from small_world import TRAINING, World, quiet
from test_times import export, row, write

from codir.errors import RunError
from codir.reports.page import tiles
from codir.reports.values import Report
from codir.studies.findings import find
from codir.studies.results import read_results


@pytest.fixture(scope="module")
def finished(report_world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real study of two recipes, two tasks (the second of half the data) and two seeds, worked on in this process."""
    from codir.studies import run

    output = tmp_path_factory.mktemp("report-study") / "study"
    run.study(
        recipes=["finetune", "kd"],
        tasks={"good": report_world.data(), "half": report_world.data(limit_validation=20)},
        teachers={"good": str(report_world.teacher), "half": str(report_world.teacher)},
        student={"layers": 2},
        seeds=[1, 2],
        training={key: value for key, value in TRAINING.items() if key != "seed"},
        cache_dir=str(report_world.cache),
        workers=0,
        output=str(output),
        report=False,
        console=quiet(),
    )
    return output


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "study"))


@pytest.fixture(scope="module")
def report(finished: Path) -> Report:
    with pytest.MonkeyPatch.context() as patch:
        refuse = lambda *args, **settings: pytest.fail("a model was loaded")  # noqa: E731
        patch.setattr("codir.reports.outputs.load_classifier", refuse)
        return gather(finished)


def rows_of(study: Path, key: str) -> list[dict[str, Any]]:
    return json.loads((study / "trials" / key / "metrics.json").read_text())["comparison"]["rows"]


def test_each_task_and_the_average_have_a_table(report: Report, finished: Path) -> None:
    assert (report.kind, report.finished, report.title) == ("study", True, "study")
    good, _, average = report.panels
    assert [panel.task for panel in report.panels] == ["good", "half", "average"]
    assert [model.name for model in good.models] == ["teacher", "finetune", "kd"]
    assert (good.metric, good.constant) == ("accuracy", 0.5)
    scores = {}
    for panel in report.panels[:2]:
        for model in panel.models[1:]:
            rows = [rows_of(finished, f"{panel.task}/{model.name}/seed-{seed}") for seed in (1, 2)]
            scores[panel.task, model.name] = [row[1]["metrics"]["accuracy"] for row in rows]
            teacher = rows[0][0]["metrics"]["accuracy"]
            assert model.scores == tuple(scores[panel.task, model.name])
            assert model.score == pytest.approx(statistics.fmean(model.scores))
            assert model.kept == pytest.approx(model.score / teacher)
            assert model.agreement == pytest.approx(statistics.fmean(row[1]["agreement"] for row in rows))
            assert (model.parameters, model.bytes) == (rows[0][1]["parameters"], rows[0][1]["bytes"])
            assert (model.layers, panel.models[0].layers) == (2, 4)
            assert panel.models[0].score == teacher
    for model in average.models[1:]:
        pairs = zip(scores["good", model.role], scores["half", model.role], strict=True)
        assert model.scores == pytest.approx(tuple((a + b) / 2 for a, b in pairs))
        assert model.score == pytest.approx(statistics.fmean(model.scores))


def test_differences_and_words_are_the_studys(report: Report, finished: Path) -> None:
    findings = find(read_results(finished), recipes=["finetune", "kd"], tasks=["good", "half"])
    named = {(each.task, each.name) for each in report.differences}
    assert named == {(task, "finetune - kd") for task in ("good", "half", "average")}
    for each in report.differences:
        (theirs,) = (d for (_, task), d in findings.differences.items() if (task or "average") == each.task)
        assert (each.mean, each.low, each.high) == (theirs.difference, theirs.low, theirs.high)
        assert each.shown == theirs.shown
    (average,) = (each.difference for (_, task), each in findings.differences.items() if task is None)
    assert ("highest mean" if average else "No recipe is ahead") in report.words[0]
    assert "on the average of 2 tasks" in report.words[0]
    assert len(report.words) > 2


def test_curves_are_means_over_the_seeds(report: Report, finished: Path) -> None:
    curves = {(curve.name, curve.model): curve for curve in report.curves}
    names = [(f"{task} accuracy", recipe) for task in ("good", "half") for recipe in ("finetune", "kd")]
    assert sorted(curves) == names
    values = []
    for seed in (1, 2):
        log = (finished / "trials" / "good" / "kd" / f"seed-{seed}" / "log.jsonl").read_text()
        entries = [json.loads(line) for line in log.splitlines()]
        values.append([entry["eval_accuracy"] for entry in entries if "eval_accuracy" in entry])
    expected = [statistics.fmean(column) for column in zip(*values, strict=True)]
    assert list(curves["good accuracy", "kd"].values) == pytest.approx(expected)


def test_costs_facts_and_what_is_missing(report: Report, finished: Path) -> None:
    costs, facts, missing = dict(report.costs), dict(report.facts), dict(report.missing)
    assert "4 trials" in costs["training kd"]
    assert (facts["trials finished"], facts["seeds"]) == ("8", "1, 2")
    assert "versions" in facts
    assert report.config.startswith("command: study")
    assert set(missing) == {"times"}
    assert "codir latency" in missing["times"]
    assert str(finished / "trials" / "good") in missing["times"]


def test_an_unfinished_or_damaged_study_shows_what_there_is(copied: Path) -> None:
    shutil.rmtree(copied / "trials" / "half" / "kd" / "seed-2")
    trial = copied / "trials" / "good" / "kd" / "seed-1"
    content = json.loads((trial / "run.json").read_text())
    (trial / "run.json").write_text(json.dumps({**content, "state": "running"}))
    damaged = copied / "trials" / "half" / "finetune" / "seed-1" / "metrics.json"
    damaged.write_text("{")
    report = gather(copied)
    assert not report.finished
    lines = [why for part, why in report.missing if part == "trials"]
    assert {"kd on half: not finished for seed 2", "kd on good: not finished for seed 1"} <= set(lines)
    assert any(str(damaged.parent) in why and damaged.name in why for why in lines)
    assert len(report.panels[0].models[-1].scores) == 1
    assert [model.name for model in report.panels[1].models] == ["teacher", "finetune", "kd"]
    shutil.rmtree(copied / "trials")
    report = gather(copied)
    assert (report.finished, report.panels) == (False, [])
    assert report.words == ["No trial is finished, so there is nothing to compare."]
    assert report.config


def test_one_measured_student_stands_for_its_shape(
    report: Report, finished: Path, report_world: World, tmp_path: Path
) -> None:
    teacher, student = report.panels[0].models[:2]
    trial = finished / "trials" / "good" / "kd" / "seed-1"
    file = write(
        tmp_path / "times.json",
        row(report_world.teacher, "torch", "fp32", 8.0, layers=4, parameters=teacher.parameters),
        row(trial, "torch", "fp32", 4.0, parameters=student.parameters),
        row(export(tmp_path / "deploy", trial), "onnxruntime-int8", "int8", 1.0, parameters=77),
        task="good",
    )
    timed = gather(finished, latency=file)
    for panel in timed.panels:
        models = {model.name: model for model in panel.models}
        assert models["teacher"].milliseconds == 8.0
        assert models["finetune"].milliseconds == models["kd"].milliseconds == 4.0
        # an export was made of one task's student
        assert ("deploy (onnxruntime int8)" in models) == (panel.task == "good")
    assert "times" not in dict(timed.missing)
    # an engine of a student is no trained student, and no candidate for the best
    assert tiles(timed) == tiles(report)


def test_times_of_another_runs_models_stay_out(report: Report, finished: Path, tmp_path: Path) -> None:
    teacher, student = report.panels[0].models[:2]
    other, score = tmp_path / "elsewhere", {"score": 0.99, "metric": "accuracy"}
    strangers = [
        row(other / "teacher", "torch", "fp32", 8.0, layers=4, parameters=teacher.parameters),
        row(other / "student", "torch", "fp32", 4.0, parameters=student.parameters, **score),
    ]
    file = write(tmp_path / "times.json", *strangers, task="good")
    with pytest.raises(RunError) as caught:
        gather(finished, latency=file)
    for part in (str(file), str(other / "student"), str(finished), "codir latency"):
        assert part in str(caught.value)
    trial = finished / "trials" / "good" / "kd" / "seed-1"
    mixed = row(trial, "torch", "fp32", 3.0, parameters=student.parameters)
    file = write(tmp_path / "mixed.json", *strangers, mixed, task="good")
    timed = gather(finished, latency=file)
    for panel, before in zip(timed.panels, report.panels, strict=True):
        assert [(m.name, m.score) for m in panel.models] == [(m.name, m.score) for m in before.models]
        assert panel.models[0].milliseconds is None
        assert {model.milliseconds for model in panel.models[1:]} == {3.0}
        assert {model.speedup for model in panel.models[1:]} == {1.0}  # not against a stranger
    why = dict(timed.missing)["times"]
    assert f"{file} measured models that are not of this study" in why
    assert str(other / "teacher") in why
