"""A finished distillation as a report: every number against the models, the data and the files it comes from."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reading import counts, gather, outputs_of, points
from safetensors.torch import load_file
from small_world import TRAINING, World, quiet

from codir.measure.comparison import Comparison
from codir.reports.outputs import linear_cka
from codir.reports.values import Report


@pytest.fixture(scope="module")
def report(distilled: Path) -> Report:
    return gather(distilled)


def metrics(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text())


def test_the_table_words_costs_and_facts_are_the_runs_own(report: Report, distilled: Path) -> None:
    (panel,) = report.panels
    content = metrics(distilled)
    assert [model.role for model in panel.models] == ["teacher", "finetune", "kd", "codir"]
    assert (panel.metric, panel.constant) == ("accuracy", 0.5)
    for model, row in zip(panel.models, content["comparison"]["rows"], strict=True):
        assert (model.name, model.score) == (row["name"], row["metrics"]["accuracy"])
        assert (model.kept, model.agreement) == (row["share_kept"], row["agreement"])
        assert (model.parameters, model.bytes) == (row["parameters"], row["bytes"])
        assert model.milliseconds == row["timing"]["ms_per_sequence"]
        assert (model.low, model.high) == (min(row["timing"]["rounds"]), max(row["timing"]["rounds"]))
    assert [model.layers for model in panel.models] == [4, 2, 2, 2]
    assert len({model.measured for model in panel.models}) == 1
    assert "batches of 32" in panel.models[0].measured
    assert report.words == Comparison.from_json(content["comparison"]).plain_words()
    assert (report.finished, report.missing) == (True, [])
    assert (report.title, report.place) == ("Neg or pos: distilled student with 2 of 4 layers", "student")
    assert "codir-fine" in report.subtitle
    costs, facts = dict(report.costs), dict(report.facts)
    assert f"{content['costs']['codir']['steps']} steps" in costs["training of the CoDIR student"]
    assert "training of the KD student" in costs
    assert (facts["seed"], facts["state"], facts["training examples"]) == ("3", "finished", "64")
    assert "python" in facts["versions"]
    assert report.config == (distilled / "codir.yaml").read_text()


def test_the_curves_are_in_the_logs(report: Report, distilled: Path) -> None:
    entries = [json.loads(line) for line in (distilled / "log.jsonl").read_text().splitlines()]
    by_name = {(curve.model, curve.kind, curve.name): curve for curve in report.curves}
    for name, kind, key in (
        ("crd loss", "loss", "loss_crd"),
        ("all terms, weighted", "loss", "loss"),
        ("crd accuracy", "accuracy", "crd_accuracy"),
        ("crd positives", "cosine", "crd_positive"),
        ("on training batches", "agreement", "kd_agreement"),
        ("on validation data", "agreement", "eval_agreement"),
        ("accuracy", "score", "eval_accuracy"),
    ):
        curve, logged = by_name["CoDIR student", kind, name], [entry for entry in entries if key in entry]
        assert list(curve.values) == [entry[key] for entry in logged]
        assert list(curve.steps) == [entry["step"] for entry in logged]
    assert {curve.model for curve in report.curves} == {"CoDIR student", "KD student", "undistilled student"}
    assert ("undistilled student", "loss", "all terms, weighted") not in by_name  # it has one term


def test_similarity_and_answers_are_those_of_the_models(report: Report, distilled: Path, report_world: World) -> None:
    folders = (report_world.teacher, distilled, distilled / "comparison" / "finetune")
    logits, layers = zip(*(outputs_of(path, report_world) for path in folders), strict=True)
    assert report.similarities[0].title == "CoDIR student and teacher"
    for figure, student in zip(report.similarities, layers[1:], strict=True):
        assert figure.data[0]["z"] == pytest.approx(linear_cka(student, layers[0]).numpy(), abs=1e-5)
        assert "40 examples" in figure.takeaway
    labels = (np.arange(40) % 2 == 0).astype(int)  # `pos` comes first
    titles = [figure.title for figure in report.confusions]
    assert titles == ["Teacher", "CoDIR student", "Undistilled student"]
    for figure, each in zip(report.confusions, logits, strict=True):
        expected = np.zeros((2, 2), int)
        np.add.at(expected, (labels, each.argmax(axis=1)), 1)
        assert counts(figure) == expected.tolist()
    differ = np.flatnonzero(logits[0].argmax(axis=1) != logits[1].argmax(axis=1))
    assert len(differ) > 0, "the tiny models agree on everything: the test shows nothing"
    assert report.disagreements_total == len(differ)
    assert {each.number for each in report.disagreements} == set(differ.tolist())
    theirs, ours = (np.exp(each) / np.exp(each).sum(axis=1, keepdims=True) for each in logits[:2])
    for each in report.disagreements:
        n, truth = each.number, labels[each.number]
        assert each.badness == pytest.approx(theirs[n, truth] - ours[n, truth], abs=1e-5)
        assert each.label == ("neg", "pos")[truth]
        assert each.kind == ("lost" if each.teacher == each.label else "won")
        assert each.teacher_confidence == pytest.approx(theirs[n].max(), abs=1e-5)
    order = [each.badness for each in report.disagreements]
    assert order == sorted(order, reverse=True)


def test_clouds_are_the_contrasts_space(report: Report, distilled: Path, report_world: World) -> None:
    (figure,) = report.clouds
    assert "crd" in figure.title
    assert [name for name, _ in figure.switches[0]] == ["teacher", "student", "bank"]
    assert [name for name, _ in figure.switches[1]] == ["neg", "pos"]
    kept, every = load_file(distilled / "contrast.safetensors"), []
    with open(report_world.dev, newline="", encoding="utf-8") as file:
        order = np.argsort([row["stars"] for row in csv.DictReader(file)], kind="stable")
    for side, path in (("teacher", report_world.teacher), ("student", distilled)):
        flat = outputs_of(path, report_world)[1].flatten(1)
        mapped = flat @ kept[f"crd/{side}.weight"].T + kept[f"crd/{side}.bias"]
        every.append(torch.nn.functional.normalize(mapped, dim=1).numpy()[order])
    every.append(kept["crd/rows"].numpy()[np.argsort(kept["crd/labels"].numpy(), kind="stable")])
    centred = np.concatenate(every).astype(np.float64)
    centred -= centred.mean(axis=0)
    # the plane of the two largest components: distances within it are those of the best rank-2 approximation
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    expected, drawn = u[:, :2] * s[:2], np.concatenate([points(figure, cloud) for cloud in range(3)])
    assert drawn @ drawn.T == pytest.approx(expected @ expected.T, abs=1e-3)
    assert f"{100 * s[0] ** 2 / (s**2).sum():.1f}" in figure.takeaway
    assert any("&lt;script&gt;alert" in text for trace in figure.data for text in trace["text"])


def test_only_so_many_examples_are_run_and_nothing_is_written(copy_of: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from codir.files import exclusive
    from codir.reports import outputs

    seen, forward = [], outputs.forward_dataset

    def counted(model: Any, data: Any, *args: Any, **settings: Any) -> Any:
        seen.append(len(data))
        return forward(model, data, *args, **settings)

    def state() -> dict[str, tuple[int, int]]:
        files = [path for path in copy_of.rglob("*") if path.name != ".lock"]
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}

    before = state()
    monkeypatch.setattr(outputs, "forward_dataset", counted)
    with exclusive(copy_of):  # as a training that is under way holds it
        report = gather(copy_of, examples=10)
    assert state() == before
    assert seen == [10, 10, 10]  # one pass each: teacher, student, undistilled student
    assert np.sum(counts(report.confusions[0])) == 10
    assert "10 of the 40" in dict(report.facts)["examples that the models were run over"]
    monkeypatch.setattr(outputs, "load_classifier", lambda *args: pytest.fail("a model was loaded"))
    report = gather(copy_of, examples=0)
    assert report.panels
    assert [report.similarities, report.clouds, report.confusions, report.disagreements] == [[]] * 4
    parts = {part for part, reason in report.missing if "--no-models" in reason}
    assert parts == {"similarity", "representations", "confusions", "disagreements"}


def test_scores_instead_of_classes(report_world: World, tmp_path: Path) -> None:
    from codir import distill, finetune

    data, teacher = report_world.data(label="score"), tmp_path / "teacher"
    training = {**TRAINING, "learning_rate": 1e-3}
    encoder = str(report_world.folder / "encoder")
    finetune(model=encoder, data=data, training=training, output=teacher, console=quiet())
    objectives = {"task": {}, "crd": {"k": 10, "dim": 4}}
    more = {"data": data, "objectives": objectives, "training": training, "cache": False, "baseline": False}
    settings = report_world.settings(tmp_path / "run", teacher=str(teacher), **more)
    run = distill(**settings, console=quiet()).output
    report = gather(run)
    assert report.confusions == []
    assert dict(report.missing)["confusions"] == "the task has scores, not classes"
    assert report.clouds[0].switches[1] == []
    theirs, ours = (outputs_of(path, report_world)[0][:, 0] for path in (teacher, run))
    with open(report_world.dev, newline="") as file:
        truth = np.array([float(row["score"]) for row in csv.DictReader(file)])
    apart = np.flatnonzero(np.abs(theirs - ours) > 0.5 * truth.std())
    assert {each.number for each in report.disagreements} == set(apart.tolist())
    for each in report.disagreements:
        n = each.number
        assert each.badness == pytest.approx(abs(ours[n] - truth[n]) - abs(theirs[n] - truth[n]), abs=1e-4)
        assert (each.kind, each.teacher_confidence) == ("far apart", None)


def test_a_fine_tuning_has_a_report(report_world: World) -> None:
    report = gather(report_world.teacher)
    score = metrics(report_world.teacher)["metrics"]["accuracy"]
    assert report.words == [f"The fine-tuned model scores {score:.4f} in accuracy."]
    assert (report.panels[0].models[0].score, report.panels[0].constant) == (score, 0.5)
    assert {curve.kind for curve in report.curves} == {"loss", "score"}
    assert dict(report.costs)["training of the model"]
    assert [figure.title for figure in report.confusions] == ["Fine-tuned model"]
    assert "last layer of the fine-tuned model" in report.clouds[0].title
    assert {"similarity", "disagreements", "times"} == set(dict(report.missing))


def test_a_run_without_contrast(report_world: World, tmp_path: Path) -> None:
    from codir import distill

    settings = report_world.settings(tmp_path / "run", objectives={"task": {}, "kd": {}}, baseline=False)
    run = distill(**settings, recipe="kd", timing=False, console=quiet()).output
    report = gather(run, examples=5)
    assert "no contrastive objective" in dict(report.missing)["the contrast's shared space"]
    assert len(report.clouds) == 2
    # whatever it learned from, the run's own student is the one that is called so
    assert [model.role for model in report.panels[0].models] == ["teacher", "codir"]
    assert report.panels[0].models[1].layers == 2


def test_a_pre_training_shows_what_it_predicts_of_masked_tokens(tmp_path: Path) -> None:
    rows = [
        {"name": name, "accuracy": accuracy, "loss": 3.0, "layers": 2, "parameters": 100}
        for name, accuracy in (("student before", 0.125), ("student", 0.5))
    ]
    cost = {"seconds": 75.0, "steps": 1200, "best_step": None}
    (tmp_path / "codir.yaml").write_text("{command: pretrain, recipe: mlm-pre, corpus: books}")
    (tmp_path / "run.json").write_text(json.dumps({"state": "finished", "attempts": []}))
    (tmp_path / "metrics.json").write_text(json.dumps({"scores": {"rows": rows}, "cost": cost}))
    report = gather(tmp_path)
    assert report.words == ["The student predicts 50.0% of the held-out masked tokens, 12.5% before its pre-training."]
    assert (report.title, report.subtitle) == ("Pre-trained student", "pre-trained with mlm-pre, on books")
    assert [(model.role, model.score, model.layers) for model in report.panels[0].models] == [
        ("other", 0.125, 2),
        ("codir", 0.5, 2),
    ]
    assert report.costs == [("training of the student", "1 min 15 s, 1,200 steps")]
    assert {"curves", "similarity", "confusions"} <= set(dict(report.missing))
