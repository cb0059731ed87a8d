"""Measured times and exported folders beside a run's own students."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from reading import gather
from small_world import World

from codir.deploy.latency_table import LatencyResult, LatencyRow
from codir.engines.folder import Manifest
from codir.errors import RunError
from codir.measure.timing import RealLengths, Timing
from codir.reports.times import engine_named
from codir.reports.values import Model


def timing(milliseconds: float, speedup: float) -> Timing:
    rounds = (milliseconds - 0.5, milliseconds, milliseconds + 1.0)
    return Timing(
        milliseconds, 0.75, speedup, speedup, speedup, rounds, 64, 16, 32, True, "cpu", "float32", 1
    )


def row(path: Path, engine: str, precision: str, milliseconds: float, **values: Any) -> LatencyRow:
    settings = {"layers": 2, "parameters": 1, "embedding_parameters": 1, "bytes": 5, **values}
    return LatencyRow(
        name=path.name,
        path=str(path),
        engine=engine,
        precision=precision,
        timing=timing(milliseconds, 8.0 / milliseconds),
        **settings,
    )


def write(path: Path, *rows: LatencyRow, task: str = "train") -> Path:
    result = LatencyResult(tuple(rows), {"cpu": "A Processor"}, {"batch": 16}, task)
    path.write_text(json.dumps(result.to_json()))
    return path


def requests(texts: int, p50: float, p95: float) -> RealLengths:
    return RealLengths(texts, 10, p50, p95, p50, 100.0, 1.0, 20.0)


def by_name(models: Any) -> dict[str, Model]:
    return {model.name: model for model in models}


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    return export(tmp_path / "deploy", str(tmp_path / "run"))


def export(folder: Path, source: str, **values: Any) -> Path:
    """Writes what is an exported folder to those who only read its manifest."""
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"12345")
    settings = {
        "format": "onnx",
        "quantize": "int8",
        "precision": "int8",
        "engine": "onnxruntime",
        "source": source,
        "source_digest": "",
        "parameters": 77,
        "metrics_after": {"validation": {"accuracy": 0.75}},
    }
    Manifest(**{**settings, **values}).write(folder)
    return folder


def test_measured_times_take_the_place_of_the_runs_own(
    copy_of: Path, report_world: World, exported: Path
) -> None:
    plain = by_name(gather(copy_of, models=False).panels[0].models)
    assert plain["CoDIR student"].measured != ""
    shape = plain["CoDIR student"].parameters
    write(
        copy_of / "latency.json",
        row(report_world.teacher, "torch", "fp32", 8.0, layers=4, parameters=plain["teacher"].parameters),
        row(
            *(copy_of, "torch", "fp32", 4.0),
            parameters=shape,
            real={"1": requests(1, 5.0, 9.0), "16": requests(16, 50.0, 70.0)},
            peak_memory=1_000,
        ),
        row(copy_of, "torch-bf16", "bf16", 2.0, score=0.8, metric="accuracy"),
        row(exported, "onnxruntime", "int8", 1.0, score=0.75, metric="accuracy", parameters=77),
        row(report_world.folder / "encoder", "torch", "fp32", 6.0, score=0.9, metric="f1"),
    )
    report = gather(copy_of, models=False)
    models = by_name(report.panels[0].models)
    assert models["teacher"].milliseconds == 8.0
    # students of one shape take one time
    for name in ("CoDIR student", "KD student", "undistilled student"):
        assert models[name].milliseconds == 4.0
        assert (models[name].low, models[name].high) == (3.5, 5.0)
        assert models[name].speedup == 2.0
        assert models[name].score == plain[name].score
    assert models["CoDIR student"].requests == {1: (5.0, 9.0), 16: (50.0, 70.0)}
    assert models["CoDIR student"].peak_memory == 1_000
    # the headline says what the table says
    assert "at 2.00 times its speed" in report.words[0]
    assert len({model.measured for model in models.values()}) == 1
    assert "A Processor" in models["teacher"].measured
    assert "32 tokens" in models["teacher"].measured
    assert models["CoDIR student (torch-bf16)"].role == "codir"
    assert models["CoDIR student (torch-bf16)"].engine == "torch-bf16"
    assert models["CoDIR student (torch-bf16)"].score == 0.8
    export = models["deploy (onnxruntime int8)"]
    assert (export.score, export.group, export.bytes) == (0.75, "onnxruntime int8", 5)
    assert export.kept == pytest.approx(0.75 / plain["teacher"].score)
    assert export.role == "codir"  # what it was made from
    assert "encoder" not in models  # of no model of the run
    assert "encoder" in dict(report.missing)["times"]
    assert report.panels[0].models[0].name == "teacher"
    # named once more, its line is there already
    again = gather(copy_of, models=False, exported=[exported])
    assert [model.name for model in again.panels[0].models] == list(models)


def test_an_export_without_a_measurement_has_its_score(copy_of: Path, exported: Path) -> None:
    report = gather(copy_of, models=False, exported=[exported])
    line = report.panels[0].models[-1]
    assert (line.name, line.engine, line.score) == ("deploy (onnxruntime int8)", "onnxruntime", 0.75)
    assert (line.parameters, line.bytes, line.milliseconds) == (77, 5, None)
    assert line.metrics == {"accuracy": 0.75}


def test_an_export_measured_without_a_score_gets_it(copy_of: Path, exported: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "times.json", row(exported, "onnxruntime", "int8", 1.0))
    report = gather(copy_of, models=False, latency=file, exported=[exported])
    line = by_name(report.panels[0].models)["deploy (onnxruntime int8)"]
    assert (line.milliseconds, line.score) == (1.0, 0.75)


def test_an_export_is_one_line_whatever_its_engine_is_called(copy_of: Path, tmp_path: Path) -> None:
    folder = export(tmp_path / "int8", str(copy_of), format="openvino", engine="openvino")
    # `codir latency` calls it openvino-int8
    file = write(tmp_path / "times.json", row(folder, "openvino-int8", "int8", 1.0, peak_memory=5))
    (tmp_path / "x").mkdir()
    report = gather(copy_of, models=False, latency=file, exported=[tmp_path / "x" / ".." / "int8"])
    lines = [model for model in report.panels[0].models if "int8" in model.name]
    assert [line.name for line in lines] == ["int8 (openvino int8)"]
    line = lines[0]
    assert (line.milliseconds, line.peak_memory, line.score, line.engine) == (1.0, 5, 0.75, "openvino")


def test_an_export_of_another_model_is_shown_only_if_named(copy_of: Path, tmp_path: Path) -> None:
    folder = export(tmp_path / "int8", str(tmp_path / "another"))
    own = row(copy_of, "torch", "fp32", 4.0)
    file = write(tmp_path / "times.json", own, row(folder, "onnxruntime-int8", "int8", 1.0))
    report = gather(copy_of, models=False, latency=file)
    assert "int8" not in "".join(model.name for model in report.panels[0].models)
    assert str(folder) in dict(report.missing)["times"]
    report = gather(copy_of, models=False, latency=file, exported=[folder])
    line = report.panels[0].models[-1]
    assert (line.name, line.role, line.milliseconds) == ("int8 (onnxruntime int8)", "other", 1.0)


def test_an_export_is_known_by_the_weights_it_was_made_from(copy_of: Path, tmp_path: Path) -> None:
    from codir.deploy.export import weights_digest
    from codir.models.loading import load_classifier

    folder = export(
        tmp_path / "int8", "/moved/student", source_digest=weights_digest(load_classifier(copy_of))
    )
    file = write(tmp_path / "times.json", row(folder, "onnxruntime-int8", "int8", 1.0))
    report = gather(copy_of, models=False, latency=file)
    assert report.panels[0].models[-1].role == "codir"


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"examples": {"validation": 1000}}, "1,000 validation examples, and this page's scores are of 40"),
        ({"task": "another"}, "checked on another"),
        ({"max_length": 7}, "cut at 7 tokens"),
    ],
)
def test_a_score_of_other_examples_is_not_put_beside(
    copy_of: Path, tmp_path: Path, values: dict[str, Any], why: str
) -> None:
    folder = export(tmp_path / "int8", str(copy_of), **values)
    file = write(tmp_path / "times.json", row(folder, "onnxruntime-int8", "int8", 1.0))
    for report in (
        gather(copy_of, models=False, exported=[folder]),
        gather(copy_of, models=False, exported=[folder], latency=file),
    ):
        line = report.panels[0].models[-1]
        assert line.name == "int8 (onnxruntime int8)"
        assert (line.score, line.kept, dict(line.metrics)) == (None, None, {})
        assert why in dict(report.missing)["score of int8"]
    assert line.milliseconds == 1.0


def test_a_score_of_the_runs_examples_is(copy_of: Path, tmp_path: Path) -> None:
    task = gather(copy_of, models=False).panels[0].task
    folder = export(tmp_path / "int8", str(copy_of), task=task, examples={"validation": 40})
    line = gather(copy_of, models=False, exported=[folder]).panels[0].models[-1]
    assert (line.score, line.examples) == (0.75, 40)


def test_a_truncated_export_is_named_and_left_out(copy_of: Path, exported: Path, tmp_path: Path) -> None:
    (exported / "model.onnx").write_bytes(b"123")
    plain = gather(copy_of, models=False)
    file = write(tmp_path / "times.json", row(exported, "onnxruntime", "int8", 1.0))
    for latency in (None, file):
        report = gather(copy_of, models=False, exported=[exported], latency=latency)
        assert len(report.panels[0].models) == len(plain.panels[0].models)
        assert "truncated" in dict(report.missing)["deploy"]


def test_a_file_of_other_models_is_refused(copy_of: Path, report_world: World, tmp_path: Path) -> None:
    plain = by_name(gather(copy_of, models=False).panels[0].models)
    stranger = row(
        *(tmp_path / "another", "torch", "fp32", 4.0),
        parameters=plain["teacher"].parameters,
        layers=4,
        score=0.99,
        metric="accuracy",
    )
    file = write(tmp_path / "times.json", stranger)
    with pytest.raises(RunError) as caught:
        gather(copy_of, models=False, latency=file)
    for part in (str(file), str(tmp_path / "another"), str(report_world.teacher), str(copy_of)):
        assert part in str(caught.value)
    assert f"codir latency {report_world.teacher} {copy_of}" in str(caught.value)
    assert "--output times.json" in str(caught.value)  # not over the other run's measurement
    # only lying there it is named, and the run's own times stand
    report = gather(copy_of, models=False)
    write(copy_of / "latency.json", stranger)
    again = gather(copy_of, models=False)
    assert again.panels == report.panels
    assert "not of this run" in dict(again.missing)["times"]


def test_a_score_of_an_engine_is_of_the_task_and_metric(copy_of: Path, tmp_path: Path) -> None:
    task = gather(copy_of, models=False).panels[0].task
    for named, metric, expected in (
        (task, "accuracy", 0.9),
        ("another", "accuracy", None),
        (task, "f1", None),
    ):
        line = row(copy_of, "torch-compiled", "fp32", 4.0, score=0.9, metric=metric)
        file = write(tmp_path / "times.json", line, task=named)
        report = gather(copy_of, models=False, latency=file)
        assert report.panels[0].models[-1].score == expected


def test_a_run_that_was_moved_knows_its_own_measurement(
    copy_of: Path, report_world: World, tmp_path: Path
) -> None:
    plain = by_name(gather(copy_of, models=False).panels[0].models)["CoDIR student"]
    values = {"parameters": plain.parameters, "score": plain.score, "metric": "accuracy"}
    rows = [row(tmp_path / "before", "torch", "fp32", 4.25, **values)]
    rows.append(row(tmp_path / "before", "onnxruntime", "fp32", 2.0, parameters=plain.parameters))
    write(copy_of / "latency.json", *rows)
    models = by_name(gather(copy_of, models=False).panels[0].models)
    assert models["CoDIR student"].milliseconds == models["undistilled student"].milliseconds == 4.25
    assert models["CoDIR student (onnxruntime fp32)"].milliseconds == 2.0


def test_a_named_file_must_be_one(copy_of: Path, tmp_path: Path, exported: Path) -> None:
    with pytest.raises(RunError, match="is no file"):
        gather(copy_of, models=False, latency=tmp_path / "none.json")
    other = tmp_path / "other.json"
    other.write_text(json.dumps(asdict(timing(1.0, 1.0))))
    other_sizes = ('{"kind": ', json.dumps(asdict(timing(1.0, 1.0))))
    for text in other_sizes:
        other.write_text(text)
        with pytest.raises(RunError) as caught:
            gather(copy_of, models=False, latency=other)
        assert f"Measure again: codir latency MODEL ... --output {other} --overwrite" in str(caught.value)
        assert str(caught.value).count("Measure again") == 1
        assert str(caught.value).count(str(other)) == 2  # the file and the way out
    with pytest.raises(RunError, match="is no exported model"):
        gather(copy_of, models=False, exported=[copy_of])
    (exported / "deployment.json").write_text("{")
    with pytest.raises(RunError, match="damaged"):
        gather(copy_of, models=False, exported=[exported])


def test_a_damaged_file_that_only_lies_there_is_named(copy_of: Path) -> None:
    (copy_of / "latency.json").write_text("{}")
    report = gather(copy_of, models=False)
    assert "latency.json" in dict(report.missing)["times"]
    assert report.panels[0].models[0].milliseconds is not None  # the run's own


def test_an_engine_is_not_named_twice() -> None:
    assert engine_named("openvino-int8", "openvino-int8", "int8") == "openvino-int8"
    assert engine_named("torch-bf16", "torch-bf16", "bf16") == "torch-bf16"
    assert engine_named("deploy", "openvino", "int8") == "deploy (openvino int8)"
    assert engine_named("onnx-int8", "onnxruntime", "int8") == "onnx-int8 (onnxruntime int8)"
