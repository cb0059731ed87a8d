"""A finished distillation as a report: every number against the models, the data and the files it comes from."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from naive_outputs import logits_of, pooled_of
from safetensors.torch import load_file
from small_world import World, quiet

from codir.reports.cka import linear_cka
from codir.reports.contents import Report
from codir.reports.gather import gather
from codir.runs.comparison import Comparison


@pytest.fixture(scope="module")
def report(distilled: Path) -> Report:
    return gather(distilled)


def metrics(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text())


def test_the_table_is_the_runs_own(report: Report, distilled: Path) -> None:
    (panel,) = report.panels
    rows = metrics(distilled)["comparison"]["rows"]
    assert [model.name for model in panel.models] == [row["name"] for row in rows]
    assert [model.role for model in panel.models] == ["teacher", "finetune", "kd", "codir"]
    assert panel.metric == "accuracy"
    assert panel.constant == 0.5
    for model, row in zip(panel.models, rows, strict=True):
        assert model.score == row["metrics"]["accuracy"]
        assert model.kept == row["share_kept"]
        assert model.agreement == row["agreement"]
        assert (model.parameters, model.bytes) == (row["parameters"], row["bytes"])
        assert model.milliseconds == row["timing"]["ms_per_sequence"]
        assert (model.low, model.high) == (min(row["timing"]["rounds"]), max(row["timing"]["rounds"]))
    assert [model.blocks for model in panel.models] == [4, 2, 2, 2]
    assert len({model.measured for model in panel.models}) == 1
    assert "batches of 32" in panel.models[0].measured


def test_the_words_are_the_comparisons(report: Report, distilled: Path) -> None:
    comparison = Comparison.from_json(metrics(distilled)["comparison"])
    assert report.words == comparison.plain_words()
    assert "keeps" in report.words[0]
    assert report.finished
    assert report.title == "Neg or pos: distilled student with 2 of 4 blocks"
    assert report.place == "student"
    assert "codir-fine" in report.subtitle


def test_the_curves_are_in_the_logs(report: Report, distilled: Path) -> None:
    entries = [json.loads(line) for line in (distilled / "log.jsonl").read_text().splitlines()]
    by_name = {(curve.model, curve.kind, curve.name): curve for curve in report.curves}
    for name, kind, key in (
        ("crd loss", "loss", "loss_crd"),
        ("kd loss", "loss", "loss_kd"),
        ("all terms, weighted", "loss", "loss"),
        ("crd accuracy", "accuracy", "crd_accuracy"),
        ("crd positives", "cosine", "crd_positive"),
        ("crd negatives", "cosine", "crd_negative"),
        ("on training batches", "agreement", "kd_agreement"),
        ("on validation data", "agreement", "eval_agreement"),
        ("accuracy", "score", "eval_accuracy"),
    ):
        curve = by_name["CoDIR student", kind, name]
        assert list(curve.values) == [entry[key] for entry in entries if key in entry]
        assert list(curve.steps) == [entry["step"] for entry in entries if key in entry]
    assert {curve.model for curve in report.curves} == {
        "CoDIR student",
        "KD student",
        "undistilled student",
    }
    assert ("undistilled student", "loss", "all terms, weighted") not in by_name  # it has one term


def test_similarity_is_the_cka_of_pooled_blocks(report: Report, distilled: Path, report_world: World) -> None:
    teacher, student = (pooled_of(path, report_world) for path in (report_world.teacher, distilled))
    first, second = report.similarities
    assert (first.student, second.student) == ("CoDIR student", "undistilled student")
    assert first.values.shape == (2, 4)
    assert first.examples == 40
    for a in range(2):
        for b in range(4):
            assert first.values[a, b] == pytest.approx(linear_cka(student[:, a], teacher[:, b]), abs=1e-5)
    plain = pooled_of(distilled / "comparison" / "finetune", report_world)
    assert second.values[1, 3] == pytest.approx(linear_cka(plain[:, 1], teacher[:, 3]), abs=1e-5)


def test_clouds_are_the_contrasts_space(report: Report, distilled: Path, report_world: World) -> None:
    (clouds,) = report.clouds
    assert "crd" in clouds.space
    by_name = {cloud.name: cloud for cloud in clouds.clouds}
    assert {name: cloud.points.shape for name, cloud in by_name.items()} == {
        "teacher": (40, 2),
        "student": (40, 2),
        "bank": (64, 2),
    }
    kept = load_file(distilled / "contrast.safetensors")
    points = []
    for side, path in (("teacher", report_world.teacher), ("student", distilled)):
        flat = pooled_of(path, report_world).flatten(1)
        mapped = flat @ kept[f"crd/{side}.weight"].T + kept[f"crd/{side}.bias"]
        points.append(torch.nn.functional.normalize(mapped, dim=1).numpy())
    points.append(kept["crd/rows"].numpy())
    every = np.concatenate(points).astype(np.float64)
    every -= every.mean(axis=0)
    values = np.linalg.svd(every, compute_uv=False) ** 2
    assert clouds.explained == pytest.approx(tuple(values[:2] / values.sum()), rel=1e-3)
    drawn = np.concatenate([by_name[name].points for name in ("teacher", "student", "bank")])
    # the plane of the two largest components: distances within it are those of the best rank-2 approximation
    u, s, _ = np.linalg.svd(every, full_matrices=False)
    expected = u[:, :2] * s[:2]
    assert drawn @ drawn.T == pytest.approx(expected @ expected.T, abs=1e-3)
    assert set(by_name["bank"].labels) == {"neg", "pos"}
    assert list(by_name["teacher"].labels[:2]) == ["pos", "neg"]
    assert all(len(text) <= 120 for text in by_name["teacher"].texts)


def test_confusions_and_disagreements_are_those_of_the_models(
    report: Report, distilled: Path, report_world: World
) -> None:
    labels = np.arange(40) % 2 == 0  # `pos` comes first
    teacher, student = (logits_of(path, report_world) for path in (report_world.teacher, distilled))
    for confusion, logits in zip(report.confusions, (teacher, student), strict=False):
        expected = np.zeros((2, 2))
        for truth, answer in zip(labels.astype(int), logits.argmax(axis=1), strict=True):
            expected[truth, answer] += 1
        assert confusion.labels == ("neg", "pos")
        assert confusion.counts.tolist() == expected.tolist()
    assert [confusion.name for confusion in report.confusions] == [
        "teacher",
        "CoDIR student",
        "undistilled student",
    ]
    differ = np.flatnonzero(teacher.argmax(axis=1) != student.argmax(axis=1))
    assert report.disagreements_total == len(differ) == len(report.disagreements)
    assert {each.number for each in report.disagreements} == set(differ.tolist())
    assert len(differ) > 0, "the tiny models agree on everything: the test shows nothing"
    probabilities = [np.exp(each) / np.exp(each).sum(axis=1, keepdims=True) for each in (teacher, student)]
    for each in report.disagreements:
        truth = int(labels[each.number])
        lost = probabilities[0][each.number, truth] - probabilities[1][each.number, truth]
        assert each.badness == pytest.approx(lost, abs=1e-5)
        assert each.label == ("neg", "pos")[truth]
        right = each.teacher == each.label, each.student == each.label
        assert each.kind == {(True, False): "lost", (False, True): "won"}[right]
        assert each.teacher_confidence == pytest.approx(probabilities[0][each.number].max(), abs=1e-5)
    order = [each.badness for each in report.disagreements]
    assert order == sorted(order, reverse=True)


def test_costs_facts_and_configuration_are_there(report: Report, distilled: Path) -> None:
    costs, facts = dict(report.costs), dict(report.facts)
    steps = metrics(distilled)["costs"]["codir"]["steps"]
    assert f"{steps} steps" in costs["training of the CoDIR student"]
    assert "training of the KD student" in costs
    assert facts["seed"] == "3"
    assert facts["state"] == "finished"
    assert "python" in facts["versions"]
    assert facts["training examples"] == "64"
    assert report.config == (distilled / "codir.yaml").read_text()
    assert report.missing == []


def test_only_so_many_examples_are_run(distilled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from codir.reports import outputs

    seen: dict[str, list[int]] = {}
    forward = outputs.forward_dataset

    def counting(model: Any, encoded: Any, *args: Any, **settings: Any) -> Any:
        seen.setdefault(str(model.config.num_hidden_layers), []).append(len(encoded))
        return forward(model, encoded, *args, **settings)

    monkeypatch.setattr(outputs, "forward_dataset", counting)
    report = gather(distilled, examples=10)
    assert seen == {"4": [10], "2": [10, 10]}  # one pass each: teacher, student, undistilled student
    assert report.confusions[0].counts.sum() == 10
    assert "10 of the 40" in dict(report.facts)["examples that the models were run over"]
    again = gather(distilled, examples=10)
    assert [each.number for each in again.disagreements] == [each.number for each in report.disagreements]
    assert all(0 <= each.number < 40 for each in report.disagreements)


def test_without_models_nothing_is_loaded(distilled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from codir.reports import outputs

    monkeypatch.setattr(outputs, "load_classifier", lambda *args: pytest.fail("a model was loaded"))
    report = gather(distilled, models=False)
    assert report.panels
    assert report.curves
    assert [report.similarities, report.clouds, report.confusions, report.disagreements] == [[]] * 4
    assert {part for part, why in report.missing if "--no-models" in why} == {
        "similarity",
        "representations",
        "confusions",
        "disagreements",
    }


def test_nothing_is_written_and_no_lock_is_needed(copy_of: Path) -> None:
    from codir.locks import exclusive

    def state() -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.stat().st_mtime_ns, path.stat().st_size)
            for path in copy_of.rglob("*")
            if path.name != ".lock"
        }

    before = state()
    with exclusive(copy_of):  # as a training that is under way holds it
        assert gather(copy_of).panels
    assert state() == before


def test_a_texts_own_markup_passes_through(report: Report) -> None:
    texts = [text for cloud in report.clouds[0].clouds for text in cloud.texts]
    assert any("<script>alert('good')</script> &amp; [bold]x[/bold]" in text for text in texts)


def test_scores_instead_of_classes(report_world: World, tmp_path: Path) -> None:
    from codir import distill, finetune

    data = report_world.data(label="score")
    training = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "precision": "fp32", "seed": 1}
    encoder, teacher = report_world.folder / "encoder", tmp_path / "teacher"
    finetune(model=str(encoder), data=data, training=training, output=teacher, console=quiet())
    run = distill(
        teacher=str(teacher),
        data=data,
        student={"layers": 2},
        objectives={"task": {}, "crd": {"k": 10, "dim": 4}},
        training=training,
        cache=False,
        baseline=False,
        output=str(tmp_path / "run"),
        console=quiet(),
    )
    report = gather(run.output)
    assert report.confusions == []
    assert ("confusions", "the task has scores, not classes") in report.missing
    (clouds,) = report.clouds
    assert all(len(cloud.labels) == 0 for cloud in clouds.clouds)
    assert all(each.kind == "far apart" for each in report.disagreements)
    theirs, ours = (logits_of(path, report_world)[:, 0] for path in (teacher, run.output))
    with open(report_world.dev, newline="") as file:
        truth = np.array([float(row["score"]) for row in csv.DictReader(file)])
    apart = np.flatnonzero(np.abs(theirs - ours) > 0.5 * truth.std())
    assert {each.number for each in report.disagreements} == set(apart.tolist())
    for each in report.disagreements:
        n = each.number
        assert each.badness == pytest.approx(abs(ours[n] - truth[n]) - abs(theirs[n] - truth[n]), abs=1e-4)
        assert each.teacher_confidence is None
