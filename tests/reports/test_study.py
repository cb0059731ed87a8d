"""A study as a report: tables with spread, differences, costs; unfinished, damaged and measured ones."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reading import gather
from small_world import TRAINING, World, quiet
from test_times import export, row, write

from codir.errors import RunError
from codir.reports.summary import tiles
from codir.reports.values import Report
from codir.studies.findings import find
from codir.studies.results import read_results


@pytest.fixture(scope="module")
def finished(report_world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real study of two recipes, two tasks (the second of half the data) and two seeds, worked on in this process."""
    from codir.studies import run

    output = tmp_path_factory.mktemp("report-study") / "study"
    training = {key: value for key, value in TRAINING.items() if key != "seed"}
    run.study(
        recipes=["finetune", "kd"],
        tasks={"good": report_world.data(), "half": report_world.data(limit_validation=20)},
        teachers={"good": str(report_world.teacher), "half": str(report_world.teacher)},
        student={"layers": 2},
        seeds=[1, 2],
        training=training,
        cache_dir=str(report_world.cache),
        workers=0,
        output=str(output),
        report=False,
        console=quiet(),
    )
    return output


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "study"
    shutil.copytree(finished, copy)
    return copy


@pytest.fixture(scope="module")
def report(finished: Path) -> Report:
    return gather(finished)


def trial(study: Path, key: str) -> dict[str, Any]:
    return json.loads((study / "trials" / key / "metrics.json").read_text())


def test_each_task_and_the_average_have_a_table(report: Report, finished: Path) -> None:
    assert (report.kind, report.finished, report.title) == ("study", True, "study")
    assert [panel.task for panel in report.panels] == ["good", "half", "average"]
    good, _, average = report.panels
    assert [model.name for model in good.models] == ["teacher", "finetune", "kd"]
    assert good.metric == "accuracy"
    assert good.constant == 0.5
    scores = {}
    for task in ("good", "half"):
        for recipe in ("finetune", "kd"):
            rows = [trial(finished, f"{task}/{recipe}/seed-{seed}")["comparison"]["rows"] for seed in (1, 2)]
            scores[task, recipe] = [row[1]["metrics"]["accuracy"] for row in rows]
            teacher = rows[0][0]["metrics"]["accuracy"]
            panel = next(panel for panel in report.panels if panel.task == task)
            model = next(model for model in panel.models if model.name == recipe)
            assert model.scores == tuple(scores[task, recipe])
            assert model.score == pytest.approx(statistics.fmean(model.scores))
            assert model.kept == pytest.approx(model.score / teacher)
            assert model.agreement == pytest.approx(statistics.fmean(row[1]["agreement"] for row in rows))
            assert (model.parameters, model.bytes) == (rows[0][1]["parameters"], rows[0][1]["bytes"])
            assert (model.layers, panel.models[0].layers) == (2, 4)
            assert panel.models[0].score == teacher
    for model in average.models[1:]:
        expected = [
            (a + b) / 2 for a, b in zip(scores["good", model.role], scores["half", model.role], strict=True)
        ]
        assert model.scores == pytest.approx(tuple(expected))
        assert model.score == pytest.approx(statistics.fmean(expected))


def test_differences_and_words_are_the_studys(report: Report, finished: Path) -> None:
    findings = find(read_results(finished), recipes=["finetune", "kd"], tasks=["good", "half"])
    assert {(each.task, each.name) for each in report.differences} == {
        (task, "finetune - kd") for task in ("good", "half", "average")
    }
    for each in report.differences:
        (theirs,) = (d for (_, task), d in findings.differences.items() if (task or "average") == each.task)
        assert (each.mean, each.low, each.high) == (theirs.difference, theirs.low, theirs.high)
        assert each.shown == theirs.shown
    (average,) = (each.difference for (_, task), each in findings.differences.items() if task is None)
    led = "highest mean" if average else "No recipe is ahead"
    assert led in report.words[0]
    assert "on the average of 2 tasks" in report.words[0]
    assert len(report.words) > 2


def test_curves_are_means_over_the_seeds(report: Report, finished: Path) -> None:
    curves = {(curve.name, curve.model): curve for curve in report.curves}
    assert set(curves) == {
        (f"{task} accuracy", recipe) for task in ("good", "half") for recipe in ("finetune", "kd")
    }
    values = []
    for seed in (1, 2):
        log = (finished / "trials" / "good" / "kd" / f"seed-{seed}" / "log.jsonl").read_text()
        entries = [json.loads(line) for line in log.splitlines()]
        values.append([entry["eval_accuracy"] for entry in entries if "eval_accuracy" in entry])
    expected = [statistics.fmean(column) for column in zip(*values, strict=True)]
    assert list(curves["good accuracy", "kd"].values) == pytest.approx(expected)


def test_costs_facts_and_what_is_missing(report: Report, finished: Path) -> None:
    costs, facts = dict(report.costs), dict(report.facts)
    assert "4 trials" in costs["training kd"]
    assert facts["trials finished"] == "8"
    assert facts["seeds"] == "1, 2"
    assert "versions" in facts
    assert report.config.startswith("command: study")
    missing = dict(report.missing)
    assert set(missing) == {"times"}
    assert "codir latency" in missing["times"]
    assert str(finished / "trials" / "good") in missing["times"]


def test_an_unfinished_study_counts_what_is_open(copied: Path) -> None:
    shutil.rmtree(copied / "trials" / "half" / "kd" / "seed-2")
    status = copied / "trials" / "good" / "kd" / "seed-1" / "run.json"
    content = json.loads(status.read_text())
    content["state"] = "running"
    status.write_text(json.dumps(content))
    report = gather(copied)
    assert not report.finished
    lines = [why for part, why in report.missing if part == "trials"]
    assert "kd on half: not finished for seed 2" in lines
    assert "kd on good: not finished for seed 1" in lines
    good = report.panels[0].models[-1]
    assert len(good.scores) == 1


def test_a_study_that_has_nothing_yet(copied: Path) -> None:
    shutil.rmtree(copied / "trials")
    report = gather(copied)
    assert not report.finished
    assert report.panels == []
    assert report.words == ["No trial is finished, so there is nothing to compare."]
    assert report.config


def test_a_damaged_trial_is_named_and_the_others_are_shown(copied: Path) -> None:
    path = copied / "trials" / "good" / "kd" / "seed-1" / "metrics.json"
    path.write_text("{")
    report = gather(copied)
    assert any(str(path.parent) in why and path.name in why for _, why in report.missing)
    assert not report.finished
    assert [model.name for model in report.panels[0].models] == ["teacher", "finetune", "kd"]


def test_trials_alone_are_a_study(copied: Path) -> None:
    for name in ("study.yaml", "recipes.json"):
        (copied / name).unlink()
    report = gather(copied)
    assert [panel.task for panel in report.panels] == ["good", "half", "average"]
    assert report.config == ""


def test_one_measured_student_stands_for_its_shape(copied: Path, report_world: World, tmp_path: Path) -> None:
    plain = gather(copied)
    teacher, student = plain.panels[0].models[:2]
    trial = copied / "trials" / "good" / "kd" / "seed-1"
    file = write(
        tmp_path / "times.json",
        row(report_world.teacher, "torch", "fp32", 8.0, layers=4, parameters=teacher.parameters),
        row(trial, "torch", "fp32", 4.0, parameters=student.parameters),
        row(export(tmp_path / "deploy", str(trial)), "onnxruntime-int8", "int8", 1.0, parameters=77),
        task="good",
    )
    report = gather(copied, latency=file)
    for panel in report.panels:
        models = {model.name: model for model in panel.models}
        assert models["teacher"].milliseconds == 8.0
        assert models["finetune"].milliseconds == models["kd"].milliseconds == 4.0
        # an export was made of one task's student
        assert ("deploy (onnxruntime int8)" in models) == (panel.task == "good")
    assert "times" not in dict(report.missing)
    # an engine of a student is no trained student, and no candidate for the best
    assert [(tile.value, tile.note) for tile in tiles(report)] == [(t.value, t.note) for t in tiles(plain)]


def test_times_of_another_runs_models_stay_out(copied: Path, tmp_path: Path) -> None:
    plain = gather(copied)
    teacher, student = plain.panels[0].models[:2]
    elsewhere = tmp_path / "elsewhere"
    strangers = [
        row(elsewhere / "teacher", "torch", "fp32", 8.0, layers=4, parameters=teacher.parameters),
        row(
            *(elsewhere / "student", "torch", "fp32", 4.0),
            parameters=student.parameters,
            score=0.99,
            metric="accuracy",
        ),
    ]
    file = write(tmp_path / "times.json", *strangers, task="good")
    with pytest.raises(RunError) as caught:
        gather(copied, latency=file)
    for part in (str(file), str(elsewhere / "student"), str(copied), "codir latency"):
        assert part in str(caught.value)
    trial = copied / "trials" / "good" / "kd" / "seed-1"
    mixed = row(trial, "torch", "fp32", 3.0, parameters=student.parameters)
    file = write(tmp_path / "mixed.json", *strangers, mixed, task="good")
    report = gather(copied, latency=file)
    for panel, before in zip(report.panels, plain.panels, strict=True):
        assert [model.name for model in panel.models] == [model.name for model in before.models]
        assert [model.score for model in panel.models] == [model.score for model in before.models]
        assert panel.models[0].milliseconds is None
        assert {model.milliseconds for model in panel.models[1:]} == {3.0}
        assert {model.speedup for model in panel.models[1:]} == {1.0}  # not against a stranger
    why = dict(report.missing)["times"]
    assert f"{file} measured models that are not of this study" in why
    assert str(elsewhere / "teacher") in why


def test_no_model_is_run(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from codir.reports import outputs

    refuse: Callable[..., Any] = lambda *args, **settings: pytest.fail("a model was loaded")  # noqa: E731
    monkeypatch.setattr(outputs, "load_classifier", refuse)
    assert gather(finished).panels
