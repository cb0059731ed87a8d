"""Measured times and exported folders beside a run's own students."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from reading import gather
from small_world import World

from codir.deploy.latency import LatencyResult, LatencyRow
from codir.engines.folder import Manifest
from codir.errors import RunError
from codir.measure.timing import RealLengths, Timing
from codir.reports.times import engine_named
from codir.reports.values import Model, Report


def timing(milliseconds: float, speedup: float) -> Timing:
    rounds = (milliseconds - 0.5, milliseconds, milliseconds + 1.0)
    return Timing(milliseconds, 0.75, *[speedup] * 3, rounds, 64, 16, 32, True, "cpu", "float32", 1)


def row(path: Path, engine: str, precision: str, milliseconds: float, **values: Any) -> LatencyRow:
    settings = {"layers": 2, "parameters": 1, "embedding_parameters": 1, "bytes": 5, **values}
    timed = timing(milliseconds, 8.0 / milliseconds)
    return LatencyRow(path.name, str(path), engine, precision, timing=timed, **settings)


def write(path: Path, *rows: LatencyRow, task: str = "train") -> Path:
    result = LatencyResult(tuple(rows), {"cpu": "A Processor"}, {"batch": 16}, task)
    path.write_text(json.dumps(result.to_json()))
    return path


def requests(texts: int, p50: float, p95: float) -> RealLengths:
    return RealLengths(texts, 10, p50, p95, p50, 100.0, 1.0, 20.0)


def by_name(report: Report) -> dict[str, Model]:
    return {model.name: model for model in report.panels[0].models}


def export(folder: Path, source: Path | str, **values: Any) -> Path:
    """Writes what is an exported folder to those who only read its manifest."""
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"12345")
    settings = {"format": "onnx", "quantize": "int8", "precision": "int8", "engine": "onnxruntime"}
    settings |= {"source": str(source), "parameters": 77}
    settings |= {"metrics_after": {"validation": {"accuracy": 0.75}}}
    Manifest(**{**settings, **values}).write(folder)
    return folder


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    return export(tmp_path / "deploy", tmp_path / "run")


def test_measured_times_take_the_place_of_the_runs_own(copy_of: Path, report_world: World, exported: Path) -> None:
    plain = by_name(gather(copy_of, examples=0))
    assert plain["CoDIR student"].measured != ""
    shape, whole = plain["CoDIR student"].parameters, plain["teacher"].parameters
    real = {"1": requests(1, 5.0, 9.0), "16": requests(16, 50.0, 70.0)}
    score = {"score": 0.8, "metric": "accuracy"}
    write(
        copy_of / "latency.json",
        row(report_world.teacher, "torch", "fp32", 8.0, layers=4, parameters=whole),
        row(copy_of, "torch", "fp32", 4.0, parameters=shape, real=real, peak_memory=1_000),
        row(copy_of, "torch-bf16", "bf16", 2.0, **score),
        row(exported, "onnxruntime-int8", "int8", 1.0, **score, parameters=77, peak_memory=5),
        row(report_world.folder / "encoder", "torch", "fp32", 6.0, score=0.9, metric="f1"),
    )
    report = gather(copy_of, examples=0)
    models = by_name(report)
    assert models["teacher"].milliseconds == 8.0
    # students of one shape take one time
    for name in ("CoDIR student", "KD student", "undistilled student"):
        assert (models[name].milliseconds, models[name].low, models[name].high) == (4.0, 3.5, 5.0)
        assert models[name].speedup == 2.0
        assert models[name].score == plain[name].score
    assert models["CoDIR student"].requests == {1: (5.0, 9.0), 16: (50.0, 70.0)}
    assert models["CoDIR student"].peak_memory == 1_000
    assert "at 2.00 times its speed" in report.words[0]  # the headline says what the table says
    assert len({model.measured for model in models.values()}) == 1
    assert "A Processor" in models["teacher"].measured
    assert "32 tokens" in models["teacher"].measured
    bf16 = models["CoDIR student (torch-bf16)"]
    assert (bf16.role, bf16.engine, bf16.score) == ("codir", "torch-bf16", 0.8)
    line = models["deploy (onnxruntime int8)"]  # with its own score, and the role of what it was made from
    assert (line.score, line.group, line.bytes, line.role) == (0.75, "onnxruntime int8", 5, "codir")
    assert (line.milliseconds, line.peak_memory, line.engine) == (1.0, 5, "onnxruntime")
    assert line.kept == pytest.approx(0.75 / plain["teacher"].score)
    assert "encoder" not in models  # of no model of the run
    assert "encoder" in dict(report.missing)["times"]
    # named once more, by whatever way, its line is there already
    again = gather(copy_of, examples=0, exported=[exported / ".." / exported.name])
    assert list(by_name(again)) == list(models)


def test_an_export_without_a_measurement_has_its_score(copy_of: Path, tmp_path: Path) -> None:
    task = gather(copy_of, examples=0).panels[0].task
    folder = export(tmp_path / "deploy", copy_of, task=task, examples={"validation": 40})
    line = gather(copy_of, examples=0, exported=[folder]).panels[0].models[-1]
    assert (line.name, line.engine, line.score) == ("deploy (onnxruntime int8)", "onnxruntime", 0.75)
    assert (line.parameters, line.bytes, line.milliseconds, line.examples) == (77, 5, None, 40)
    assert line.metrics == {"accuracy": 0.75}


def test_an_export_of_another_model_is_shown_only_if_named(copy_of: Path, tmp_path: Path) -> None:
    folder = export(tmp_path / "int8", tmp_path / "another")
    own = row(copy_of, "torch", "fp32", 4.0)
    file = write(tmp_path / "times.json", own, row(folder, "onnxruntime-int8", "int8", 1.0))
    report = gather(copy_of, examples=0, latency=file)
    assert "int8" not in "".join(model.name for model in report.panels[0].models)
    assert str(folder) in dict(report.missing)["times"]
    line = gather(copy_of, examples=0, latency=file, exported=[folder]).panels[0].models[-1]
    assert (line.name, line.role, line.milliseconds) == ("int8 (onnxruntime int8)", "other", 1.0)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"examples": {"validation": 1000}}, "1,000 validation examples, and this page's scores are of 40"),
        ({"task": "another"}, "checked on another"),
    ],
)
def test_a_score_of_other_examples_is_not_put_beside(
    copy_of: Path, tmp_path: Path, values: dict[str, Any], why: str
) -> None:
    folder = export(tmp_path / "int8", copy_of, **values)
    file = write(tmp_path / "times.json", row(folder, "onnxruntime-int8", "int8", 1.0))
    for latency in (None, file):
        report = gather(copy_of, examples=0, exported=[folder], latency=latency)
        line = report.panels[0].models[-1]
        assert line.name == "int8 (onnxruntime int8)"
        assert (line.score, line.kept, dict(line.metrics)) == (None, None, {})
        assert line.milliseconds == (None if latency is None else 1.0)
        assert why in dict(report.missing)["score of int8"]


def test_a_truncated_export_is_named_and_left_out(copy_of: Path, exported: Path, tmp_path: Path) -> None:
    (exported / "model.onnx").write_bytes(b"123")
    file = write(tmp_path / "times.json", row(exported, "onnxruntime", "int8", 1.0))
    for latency in (None, file):
        report = gather(copy_of, examples=0, exported=[exported], latency=latency)
        assert "deploy (onnxruntime int8)" not in by_name(report)
        assert "truncated" in dict(report.missing)["deploy"]


def test_a_file_of_other_models_is_refused(copy_of: Path, report_world: World, tmp_path: Path) -> None:
    teacher = gather(copy_of, examples=0).panels[0].models[0]
    shape = {"parameters": teacher.parameters, "layers": 4, "score": 0.99, "metric": "accuracy"}
    stranger = row(tmp_path / "another", "torch", "fp32", 4.0, **shape)
    file = write(tmp_path / "times.json", stranger)
    with pytest.raises(RunError) as caught:
        gather(copy_of, examples=0, latency=file)
    command = f"codir latency {report_world.teacher} {copy_of}"
    # its times.json is not written over the other run's measurement
    for part in (str(file), str(tmp_path / "another"), command, "--output times.json"):
        assert part in str(caught.value)
    # only lying there it is named, and the run's own times stand
    report = gather(copy_of, examples=0)
    write(copy_of / "latency.json", stranger)
    again = gather(copy_of, examples=0)
    assert again.panels == report.panels
    assert "not of this run" in dict(again.missing)["times"]


def test_a_score_of_an_engine_is_of_the_task_and_metric(copy_of: Path, tmp_path: Path) -> None:
    task = gather(copy_of, examples=0).panels[0].task
    for named, metric, expected in (
        (task, "accuracy", 0.9),
        ("another", "accuracy", None),
        (task, "f1", None),
    ):
        line = row(copy_of, "torch-compiled", "fp32", 4.0, score=0.9, metric=metric)
        report = gather(copy_of, examples=0, latency=write(tmp_path / "times.json", line, task=named))
        assert report.panels[0].models[-1].score == expected


def test_a_run_that_was_moved_knows_its_own_measurement(copy_of: Path, tmp_path: Path) -> None:
    plain = by_name(gather(copy_of, examples=0))["CoDIR student"]
    values = {"parameters": plain.parameters, "score": plain.score, "metric": "accuracy"}
    rows = [row(tmp_path / "before", "torch", "fp32", 4.25, **values)]
    rows.append(row(tmp_path / "before", "onnxruntime", "fp32", 2.0, parameters=plain.parameters))
    write(copy_of / "latency.json", *rows)
    models = by_name(gather(copy_of, examples=0))
    assert models["CoDIR student"].milliseconds == models["undistilled student"].milliseconds == 4.25
    assert models["CoDIR student (onnxruntime fp32)"].milliseconds == 2.0


def test_a_named_file_must_be_one(copy_of: Path, tmp_path: Path, exported: Path) -> None:
    with pytest.raises(RunError, match="is no file"):
        gather(copy_of, examples=0, latency=tmp_path / "none.json")
    other = tmp_path / "other.json"
    for text in ('{"kind": ', json.dumps(asdict(timing(1.0, 1.0)))):
        other.write_text(text)
        with pytest.raises(RunError) as caught:
            gather(copy_of, examples=0, latency=other)
        assert f"Measure again: codir latency MODEL ... --output {other} --overwrite" in str(caught.value)
        assert str(caught.value).count("Measure again") == 1
    (copy_of / "latency.json").write_text("{}")  # one that only lies there is named
    report = gather(copy_of, examples=0)
    assert "latency.json" in dict(report.missing)["times"]
    assert report.panels[0].models[0].milliseconds is not None  # the run's own
    with pytest.raises(RunError, match="is no exported model"):
        gather(copy_of, examples=0, exported=[copy_of])
    (exported / "deployment.json").write_text("{")
    with pytest.raises(RunError, match="damaged"):
        gather(copy_of, examples=0, exported=[exported])


def test_an_engine_is_not_named_twice() -> None:
    assert engine_named("openvino-int8", "openvino int8") == "openvino-int8"
    assert engine_named("torch-bf16", "torch-bf16") == "torch-bf16"
    assert engine_named("onnx-int8", "onnxruntime int8") == "onnx-int8 (onnxruntime int8)"
