"""Latency: what is measured, what is refused before anything runs, and what the file and the tables say."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from killing import begin, die, end, needs_fork
from small_world import World, quiet
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from codir.config.config import DataConfig
from codir.deploy import latency as latency_module
from codir.deploy import timed
from codir.deploy.latency import LatencyResult, LatencyRow, busy_words, latency
from codir.deploy.timed import choose, peak_memory, score_of, short_names
from codir.engines.folder import Manifest
from codir.errors import ConfigError, DataError, ModelError, RunError
from codir.files import write_json
from codir.measure.timing import RealLengths, Timing

FAST: dict[str, Any] = {"batch": 4, "max_length": 16, "rounds": 2, "sequences": 8, "memory": False}


@pytest.fixture
def two(tiny_model_dir) -> list[Path]:
    """Returns a teacher of four layers and a student of two."""
    return [tiny_model_dir(), tiny_model_dir(layers=2)]


def timing(milliseconds: float = 10.0, spread: float = 0.1, speedup: float = 1.0) -> Timing:
    rounds = (milliseconds,) * 3
    place = (64, 32, 128, True, "cpu", "float32", 2)
    return Timing(milliseconds, spread, speedup, speedup, speedup, rounds, *place)


def row(name: str = "teacher", **settings: Any) -> LatencyRow:
    real = RealLengths(1, 30, 5.0, 9.0, 6.0, 160.0, 1.0, 20.0)
    values: dict[str, Any] = {"path": f"runs/{name}", "engine": "torch", "precision": "fp32", "layers": 12}
    values |= {"parameters": 124_600_000, "embedding_parameters": 39_000_000, "bytes": 498_000_000}
    values |= {"timing": timing(), "real": {"1": real, "32": dataclasses.replace(real, batch_size=32)}}
    values |= {"peak_memory": 700_000_000, "score": 0.8765, "metric": "accuracy"}
    return LatencyRow(name, **{**values, **settings})


def result(*rows: LatencyRow, **settings: Any) -> LatencyResult:
    conditions = {"batch": 32, "max_length": 128, "rounds": 3, "sequences": 64, "threads": 2, "device": "cpu"}
    conditions |= {"texts": "mnli, validation", "tokens": 20.0}
    return LatencyResult(tuple(rows), {"cpu": "A CPU", "gpus": []}, conditions, "mnli", **settings)


# --- measuring ------------------------------------------------------------------------------------------------------


def test_two_models_from_flags_to_file(two, tmp_path) -> None:
    console, output, before = quiet(), tmp_path / "out" / "latency.json", torch.get_num_threads()
    found = latency(two, **FAST, threads=before + 1, output=output, console=console)
    assert torch.get_num_threads() == before  # they are the measurement's alone
    teacher, student = found.rows
    assert (teacher.layers, student.layers) == (4, 2)
    assert (teacher.parameters or 0) > (student.parameters or 0) > (student.embedding_parameters or 0) > 0
    assert teacher.bytes == (two[0] / "model.safetensors").stat().st_size
    assert (teacher.engine, teacher.precision, teacher.path) == ("torch", "fp32", str(two[0]))
    times = teacher.timing
    assert (times.padded, times.sequences, len(times.rounds), times.batch_size) == (True, 8, 2, 4)
    assert (times.max_length, times.threads, times.speedup) == (16, before + 1, 1)
    assert student.timing.speedup_low <= student.timing.speedup <= student.timing.speedup_high
    assert [(size, each.requests) for size, each in student.real.items()] == [("1", 16), ("4", 4)]
    assert 0 < student.real["1"].p50 <= student.real["1"].p95
    assert (found.task, found.conditions["sequences"]) == ("acceptability", 8)
    assert found.machine["versions"]["torch"]
    assert LatencyResult.from_json(json.loads(output.read_text())) == found
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Padded: batches of 4 sequences of 16 tokens" in shown
    assert "made-up sentences of the built-in task acceptability" in shown
    assert f"Written to {output}" in shown


def test_sequences_are_padded_then_as_long_as_they_are(two, monkeypatch) -> None:
    shapes: list[tuple[int, ...]] = []
    real = timed.load_engine

    def load(*arguments: Any) -> Any:
        model = real(*arguments)
        model.register_forward_pre_hook(
            lambda _, __, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
        )
        return model

    monkeypatch.setattr(timed, "load_engine", load)
    latency(two[:1], **{**FAST, "rounds": 1}, quiet=True)
    # a batch to see that it runs, one to warm up, two timed; then requests, never padded to 16 on principle
    assert shapes[:4] == [(4, 16)] * 4
    assert len({length for size, length in shapes[4:] if size == 1}) > 1


def test_models_with_different_inputs_and_positions(tiny_model_dir, tiny_tokenizer, tmp_path) -> None:
    sizes = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 12}
    folder, texts = tmp_path / "distilled", tmp_path / "texts.txt"
    config = DistilBertConfig(vocab_size=len(tiny_tokenizer), **sizes)
    DistilBertForSequenceClassification(config).save_pretrained(folder)
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(folder)
    texts.write_text("the film was good\n" + "a dog and " * 10 + "a cat\n")
    found = latency([tiny_model_dir(), folder], DataConfig(validation=str(texts)), **FAST, quiet=True)
    assert [each.layers for each in found.rows] == [4, 2]
    assert (found.task, found.conditions["texts"]) == ("texts", str(texts))
    notes = "\n".join(found.notes)
    assert "distilled has positions for 12 tokens: its inputs were cut there" in notes
    assert "For distilled 2 of 4 texts were cut at 12 tokens" in notes
    assert "There are only 2 texts: they were repeated to fill a batch of 4" in notes


def test_a_file_with_columns_needs_no_labels(two, tmp_path) -> None:
    file = tmp_path / "dev.csv"
    file.write_text("review,reply\n" + "a good film,yes\n" * 9)
    data = DataConfig(validation=str(file), text="review", text_pair="reply")
    found = latency(two[:1], data, **FAST, quiet=True)
    assert found.conditions["tokens"] == 7  # [CLS] a good film [SEP] yes [SEP]
    with pytest.raises(DataError, match="stars"):
        latency(two[:1], DataConfig(validation=str(file), text="stars"), **FAST, quiet=True)
    file.write_text("review,reply\n")
    with pytest.raises(DataError, match=r"empty|no rows|no texts"):
        latency(two, data, **FAST)


def test_what_an_engine_cannot_do_is_left_out_and_said(two, monkeypatch) -> None:
    real, why = timed.load_engine, "The engine torch-compiled needs a C++ compiler, and there is none."

    def load(path: str, engine: str) -> Any:
        if engine == "torch-compiled":
            raise ConfigError(f"{why}\nMore.")
        return real(path, engine)

    def refuse(*_: Any) -> None:
        raise ModelError("m cannot be exported to ONNX.")

    monkeypatch.setattr(timed, "load_engine", load)
    monkeypatch.setattr(timed, "export_files", refuse)
    engines, name = "torch-compiled, torch,onnxruntime", two[0].name
    found = latency(two[:1], engines=engines, **FAST, quiet=True)
    assert [each.engine for each in found.rows] == ["torch"]
    left = ((name, "torch-compiled", why), (name, "onnxruntime", "m cannot be exported to ONNX."))
    assert found.left_out == left
    assert f"Left out: {name} in torch-compiled: {why}" in found.words()
    with pytest.raises(RunError, match="Nothing could be measured"):
        latency(two[:1], engines=["torch-compiled"], **FAST, quiet=True)


def test_a_model_that_torch_cannot_run_is_an_error(two, monkeypatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(timed, "load_engine", broken)
    with pytest.raises(ModelError, match="does not run in torch: mat1"):
        latency(two[:1], **FAST, quiet=True)


def test_exported_for_the_measurement_and_beside_an_exported_folder(
    world: World, exports: dict[str, Path], monkeypatch
) -> None:
    made: list[Path] = []
    loaded: list[Any] = []
    export_files, load_engine = timed.export_files, timed.load_engine

    def export(model: Any, target: Any, folder: Path, *rest: Any) -> None:
        made.append(folder)
        export_files(model, target, folder, *rest)

    def load(*arguments: Any) -> Any:
        loaded.append(load_engine(*arguments))
        return loaded[-1]

    monkeypatch.setattr(timed, "export_files", export)
    monkeypatch.setattr(timed, "load_engine", load)
    engines = ["torch", "openvino-fp32"]
    found = latency([world.teacher, exports["onnx"]], engines=engines, **FAST, threads=2, quiet=True)
    # the same threads for all
    assert [each.timing.threads for each in found.rows] == [2, 2, 2]
    assert loaded[1].program.get_property("INFERENCE_NUM_THREADS") == 2
    assert loaded[2].program.get_session_options().intra_op_num_threads == 2
    assert [(each.name, each.engine, each.precision) for each in found.rows] == [
        ("teacher", "torch", "fp32"),
        ("teacher", "openvino-fp32", "fp32"),
        ("onnx", "onnxruntime", "fp32"),
    ]
    assert found.left_out == ()
    assert {each.parameters for each in found.rows} == {found.rows[0].parameters}
    assert all(each.bytes and each.layers == 4 for each in found.rows)
    assert [each.examples for each in found.rows] == [40, None, 40]
    assert found.rows[0].score == found.rows[2].score  # in fp32, on the same examples
    assert len(made) == 1
    assert not made[0].exists()


def test_memory_of_a_model_in_its_own_process(tiny_model_dir, tiny_classifier) -> None:
    folder = tiny_model_dir(width=512, layers=4)
    weights = 4 * sum(each.numel() for each in tiny_classifier(width=512, layers=4).parameters())
    batch = {name: torch.ones(2, 16, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    # 25 MB of weights; the interpreter and torch (300 MB) are not in it
    assert 0.8 * weights < peak_memory(folder, "torch", batch) < weights + 60e6
    with pytest.raises(RunError, match=r"failed: .*ModelError.*does not exist"):
        peak_memory(folder / "missing", "torch", batch)


def test_unknown_memory_is_a_note(two, monkeypatch) -> None:
    def fail(*_: Any, **__: Any) -> int:
        raise RunError("The process was killed.")

    monkeypatch.setattr(latency_module, "peak_memory", fail)
    found = latency(two[:1], **{**FAST, "memory": True}, quiet=True)
    assert found.rows[0].peak_memory is None
    assert any("memory of" in note and "was killed" in note for note in found.notes)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"models": []}, "no model to measure"),
        ({"models": ["missing"]}, "missing"),
        ({"engines": ["torch", "openvinos"]}, r"--engines openvinos: unknown.*did you mean 'openvino'"),
        ({"engines": [""]}, "unknown"),
        ({"engines": ["torch-fp16"]}, "torch-fp16 does not run on --device cpu"),
        ({"batch": 0}, "--batch.*equal to 1"),
        ({"threads": 0}, "--threads.*equal to 1"),
        ({"max_length": 2}, "equal to 4"),
        ({"device": "cude"}, "--device.*cude.*cuda"),
        ({"device": "cuda"}, "no GPU"),
        ({"rouds": 3}, "did you mean 'rounds'"),
    ],
)
def test_settings_that_are_refused(two, monkeypatch, settings: dict[str, Any], message: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises((ConfigError, ModelError), match=message):
        latency(**{"models": two, **FAST, **settings})


def test_missing_package_names_the_extra(two, monkeypatch) -> None:
    for engine, package in (("onnxruntime", "onnxruntime"), ("openvino-int8", "nncf")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ConfigError, match=r"codir\[export\]"):
            latency(two, engines=["torch", engine])


def test_output_is_checked_before_anything_runs(two, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(timed, "load_engine", None)  # nothing is loaded
    there = tmp_path / "latency.json"
    there.write_text("{}")
    with pytest.raises(RunError, match=r"exists already.*--overwrite"):
        latency(two, **FAST, output=there)
    assert there.read_text() == "{}"


def test_devices_and_exported_folders(two, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [line.precision for line in choose(two[:1], ["torch", "torch-fp16"], "cuda")] == ["fp32", "fp16"]
    with pytest.raises(ConfigError, match="openvino does not run on --device cuda"):
        choose(two, ["torch", "openvino"], "cuda")
    folders = []
    for name, quantize, precision in (("int8", "int8", "int8"), ("fp32", "none", "fp32")):
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        (folders[-1] / "openvino_model.xml").write_text("graph")
        kind: dict[str, Any] = {"format": "openvino", "quantize": quantize, "precision": precision}
        Manifest(**kind, engine="openvino", source="runs/s").write(folders[-1])
    lines = choose([two[0], *folders], ["torch", "torch-bf16"])
    assert [(line.engine, line.precision) for line in lines] == [
        ("torch", "fp32"),
        ("torch-bf16", "bf16"),
        ("openvino-int8", "int8"),
        ("openvino-fp32", "fp32"),
    ]
    assert [line.engine for line in choose(folders[:1], ["openvino-int8"])] == ["openvino-int8"]
    with pytest.raises(ConfigError, match="--engines torch: an exported folder runs in its own"):
        choose(folders[:1], ["torch"])
    with pytest.raises(ConfigError, match="runs on the CPU only"):
        choose(folders[:1], None, "cuda")


# --- names and scores -----------------------------------------------------------------------------------------------


def test_short_names() -> None:
    assert short_names(["runs/teacher", "roberta-base"]) == ["teacher", "roberta-base"]
    assert short_names(["a/run", "b/run", "c/other"]) == ["a/run", "b/run", "other"]


def test_scores_of_run_folders(tiny_model_dir) -> None:
    folder = tiny_model_dir()
    (line,) = choose([folder])
    assert score_of(line) is None
    write_json(folder / "metrics.json", {"main_metric": "f1", "metrics": {"f1": 0.8, "accuracy": 0.7}})
    assert score_of(line) == ("f1", 0.8, None)
    # it was computed in fp32: nobody knows what 16 bits make of it
    bf16 = choose([folder], ["torch-compiled", "torch-bf16"])
    assert [score_of(each) for each in bf16] == [("f1", 0.8, None), None]
    scores = {"teacher": 0.9, "finetune": 0.5, "kd": 0.6, "codir": 0.7}
    rows = [{"role": role, "metrics": {"f1": value}} for role, value in scores.items()]
    counts = {"validation_examples": {"validation": 408, "other": 3}}
    write_json(folder / "metrics.json", {"main_metric": "f1", "comparison": {"rows": rows}, **counts})
    assert score_of(line) == ("f1", 0.7, 408)
    for foreign in ({"accuracy": 1}, [], {"main_metric": "f1", "metrics": {"f1": None}}):
        write_json(folder / "metrics.json", foreign)
        assert score_of(line) is None


def test_scores_that_cannot_be_compared_are_left_out() -> None:
    run = row("student", score=0.8150, metric="f1", examples=408)
    same = row("same", score=0.8169, metric="f1", examples=408)
    notes: list[str] = []
    assert latency_module._same_examples([row("plain", score=None), run, same], notes)[1:] == [run, same]
    assert notes == []
    fewer = row("fewer", score=0.9, metric="f1", examples=50)
    other = row("other", score=0.7, metric="accuracy", examples=408)
    rows = latency_module._same_examples([run, same, fewer, other], notes)
    assert [each.score for each in rows] == [0.8150, 0.8169, None, None]
    (note,) = notes
    for part in (
        "(student in torch: f1 on 408 examples)",
        "fewer in torch: f1 on 50",
        "other in torch: accuracy on 408",
    ):
        assert part in note


def test_the_run_s_own_texts_and_score(world: World, tmp_path: Path) -> None:
    found = latency([world.teacher], **FAST, quiet=True)
    assert found.conditions["texts"] == f"{world.dev}, as in {world.teacher}/codir.yaml"
    own = json.loads((world.teacher / "metrics.json").read_text())["metrics"]["accuracy"]
    assert (found.rows[0].score, found.rows[0].metric, found.rows[0].examples) == (own, "accuracy", 40)
    found = latency([world.teacher], use_run_data=False, **FAST, quiet=True)
    assert "made-up" in found.conditions["texts"]
    run = Path(shutil.copytree(world.teacher, tmp_path / "run"))
    text = (run / "codir.yaml").read_text()
    (run / "codir.yaml").write_text(text.replace(str(world.dev), "gone.csv"))
    with pytest.raises(DataError, match=r"cannot be read.*gone\.csv.*--no-data"):
        latency([run], **FAST, quiet=True)


@needs_fork
def test_folders_of_a_killed_process_are_swept(two, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    class Died(BaseException):
        pass

    def die_writing(model: Any, target: Any, folder: Path, *_: Any) -> None:
        (folder / "model.onnx").write_text("weights")
        die()

    def refuse(model: Any, target: Any, folder: Path, *_: Any) -> None:
        assert [path for path in tmp_path.iterdir() if path.is_dir()] == [folder]  # what was left is gone
        raise Died

    monkeypatch.setattr(timed, "export_files", die_writing)
    work = functools.partial(latency, two[:1], engines=["onnxruntime"], **FAST, quiet=True)
    assert end(begin(work)) == -signal.SIGKILL
    (left,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert (left / "model.onnx").is_file()
    monkeypatch.setattr(timed, "export_files", refuse)
    with pytest.raises(Died):
        work()
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


# --- the file and the tables ----------------------------------------------------------------------------------------


def test_json_round_trip_and_foreign_files() -> None:
    made = result(row(), row("student", score=None, metric=None), notes=("busy",), left_out=(("a", "b", "c"),))
    values = json.loads(json.dumps(made.to_json()))
    assert LatencyResult.from_json(values) == made
    for foreign in ({}, [], {"rows": []}, "text", None):
        with pytest.raises(RunError, match="not the JSON that `codir latency"):
            LatencyResult.from_json(foreign)
    del values["rows"][0]["timing"]["speedup"]
    with pytest.raises(RunError, match=r"damaged \(rows.0.timing.speedup"):
        LatencyResult.from_json(values)


def test_tables_fit_and_say_what_was_measured() -> None:
    long = row(
        "a-model-with-a-very-long-name/weights",
        engine="onnxruntime-int8",
        precision="int8",
        timing=timing(1234.5, 123.4, 123.45),
        real={size: RealLengths(int(size), 9, 12345.6, 23456.7, 1.0, 12345.6, 1.0, 20.0) for size in ("1", "32")},
    )
    made = result(row(), long)
    console = quiet()
    console.width = 100
    for table in made.tables():
        console.print(table.to_rich())
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(len(line) for line in shown.splitlines()) <= 100
    assert "…" not in shown
    cells = "124.6M|39.0M|498.0 MB|10.00 ±0.10|1234 ±123.4|123x|0.8765|700.0 MB|23457|accuracy|of 128 tokens"
    for cell in cells.split("|"):
        assert cell in shown
    assert "Texts: mnli, validation. Measured on A CPU, 2 threads" in made.words()[0]


def test_a_busy_machine_is_named() -> None:
    calm = [row()]
    # with one thread there is a core for the other process
    for load, threads in (
        (0.2, 2),
        (None, 2),
        (1.4, 1),
    ):
        assert not busy_words(calm, load, threads, cores=2)
    (words,) = busy_words([row(), row("s", timing=timing(10, 2.0))], 1.4, threads=2, cores=2)
    assert "load average 1.4 at the start; the rounds of s in torch differ by ±20%" in words
