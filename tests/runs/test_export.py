"""`codir export` as a whole: the folder, the checks, the README's own Python, and what predicts from it afterwards."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from small_world import World, quiet
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from codir.config.config import DataConfig
from codir.deploy import check
from codir.deploy.export import export
from codir.deploy.submit import choose_models
from codir.engines.folder import MANIFEST, Manifest
from codir.errors import ConfigError, DataError, ModelError, RunError
from codir.kinds import kind_named
from codir.record.run_data import choose_data
from codir.runs.evaluate import evaluate
from codir.runs.predict import predict

# the format and what it computes in
FORMATS = {
    "onnx": ("onnx", "fp32"),
    "onnx-int8": ("onnx", "int8"),
    "openvino-bf16": ("openvino", "bf16"),
    "openvino-int8": ("openvino", "int8"),
    "torch-bf16": ("torch-bf16", "bf16"),
}
TEXTS = ["the cat is good", "an awful film and a bad song", "good", " ".join(["great dog"] * 60), "hated it"]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", list(FORMATS))
def test_the_folder_its_manifest_and_what_it_predicts(
    exports: dict[str, Path], world: World, name: str, tmp_path: Path
) -> None:
    folder = exports[name]
    manifest = Manifest.read(folder)
    manifest.check_files(folder)
    assert (manifest.format, manifest.precision) == FORMATS[name]
    assert (manifest.source, manifest.task, manifest.max_length) == (str(world.teacher), "train", 32)
    source = AutoModelForSequenceClassification.from_pretrained(world.teacher)
    assert manifest.parameters == sum(parameter.numel() for parameter in source.parameters())
    assert json.loads((folder / "config.json").read_text())["id2label"] == {"0": "neg", "1": "pos"}
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}
    assert not [path.name for path in folder.parent.iterdir() if path.name.startswith(".")]
    figures = manifest.checks
    assert figures["inputs"] == 40 + sum(size for size, _ in check.probe_shapes(64))
    assert [figures[key] for key in ("shortest", "longest", "smallest_batch", "largest_batch")] == [3, 64, 1, 33]
    assert figures["agreement"] >= 0.97
    # or it computes in something else
    assert (figures["largest_difference"] < 1e-4) == (manifest.precision == "fp32")
    if manifest.precision == "bf16":
        weights = [folder / each for each in manifest.files if each.endswith((".bin", "tensors"))]
        # 16 bits for each
        assert sum(path.stat().st_size for path in weights) < 0.6 * 4 * (manifest.parameters or 0)
    calibrated = "64 training examples of train" if name == "openvino-int8" else None
    assert figures.get("calibration") == calibrated
    assert (manifest.examples, manifest.main_metric) == ({"validation": 40}, "accuracy")
    assert (manifest.metrics_before or {})["validation"]["accuracy"] > 0.8
    if name.startswith("onnx"):  # the graph names nothing of the machine
        assert sys.prefix.encode() not in (folder / "model.onnx").read_bytes()
    # and everything that takes a model takes it
    assert evaluate(folder, DataConfig(**world.data()), quiet=True).metrics == manifest.metrics_after
    (tmp_path / "in.txt").write_text("\n".join(TEXTS) + "\n")
    rows = []
    for number, model in enumerate((world.teacher, folder)):
        output = tmp_path / f"{number}.jsonl"
        done = predict(model, tmp_path / "in.txt", output, max_length=500, quiet=True)
        # one text is longer than the positions: cut and counted the same way in every engine
        assert (done.truncated, done.max_length) == (1, 64)
        rows.append(read(output))
    bound = {"fp32": 1e-4, "bf16": 0.05, "int8": 0.2}[manifest.precision]
    for before, after in zip(*rows, strict=True):
        assert after["label"] == before["label"]
        assert after["scores"]["pos"] == pytest.approx(before["scores"]["pos"], abs=bound)


BLOCKED = "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'codir', 'datasets')))\n"


def run_snippet(folder: Path, texts: str, block: bool = True) -> tuple[str, str]:
    """Runs the README's Python in the folder, where neither torch nor transformers nor codir can be had."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    code, count = re.subn(r"(?m)^texts = .*$", lambda _: f"texts = {texts}", code)
    assert count == 1
    program = (BLOCKED if block else "") + code
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, code


@pytest.mark.parametrize("name", ["onnx-int8", "torch-bf16"])
def test_the_readmes_python_predicts_from_the_folder_alone(exports: dict[str, Path], name: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exports[name], tmp_path / "elsewhere"))
    printed, code = run_snippet(folder, repr(TEXTS), block=name != "torch-bf16")
    (tmp_path / "in.txt").write_text("\n".join(TEXTS) + "\n")
    predict(folder, tmp_path / "in.txt", tmp_path / "o.jsonl", quiet=True)
    assert printed.strip() == str([row["label"] for row in read(tmp_path / "o.jsonl")])
    assert len(code.splitlines()) <= 18
    # it cuts where codir cut when it measured, not at the model's 64 positions
    assert "max_length=32" in code
    text = (folder / "README.md").read_text(encoding="utf-8")
    for part in ("| validation | accuracy |", "--max-length 32", "Both cut texts at 32 tokens"):
        assert part in text
    assert "```console\n" in text.partition("## How it was made")[2]  # the commands


def test_the_readmes_python_of_a_regression_on_pairs(exports: dict[str, Path]) -> None:
    folder = exports["regression"]
    pairs = [("good film", "a cat"), ("bad", "the dog is not good " * 20)]
    model = AutoModelForSequenceClassification.from_pretrained(folder.parents[1] / "regression").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = []
    for pair in pairs:
        with torch.no_grad():
            inputs = tokenizer(*pair, truncation=True, max_length=32, return_tensors="pt")
            expected.append(float(model(**inputs).logits))
    assert json.loads(run_snippet(folder, repr(pairs))[0]) == pytest.approx(expected, abs=1e-4)
    checks = Manifest.read(folder).checks
    assert (checks["answers"], checks["agreement"]) == ("scores", pytest.approx(1.0))  # their correlation


def test_the_command_stays_off_the_network_and_prints_no_chatter(exports: dict[str, Path], world: World) -> None:
    folder = exports["openvino-int8"]
    lines = (world.folder / "int8.txt").read_text().splitlines()
    assert "NETWORK" not in "".join(lines)
    assert "exported to openvino int8" in lines[0]
    assert lines[-1].startswith(f"Written to {folder}.")
    assert len([line for line in lines if line.strip()]) < 12


def test_without_data_built_in_texts_do(world: World, tmp_path: Path) -> None:
    length = {"max_length": 20}
    settings: dict[str, Any] = {"use_run_data": False, "min_agreement": 0.5, "quiet": True}
    result = export(world.teacher, tmp_path / "plain", "torch-bf16", data=length, **settings)
    manifest = result.manifest
    assert (manifest.task, manifest.metrics_before, manifest.max_length) == (None, None, 20)
    assert manifest.checks["longest"] == 20
    assert manifest.bytes < 0.55 * result.source_bytes
    assert "no metric was measured" in (tmp_path / "plain" / "README.md").read_text()


# --- what is refused, and leaves nothing ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_difference": 1e-9}, r"largest difference of a logit is .*the limit is 1e-09 \(--max-difference\)"),
        ({"max_drop": -1.0}, r"on validation falls by -?0\.00 points, the limit is -1 \(--max-drop\)"),
    ],
)
def test_over_a_limit_nothing_is_left(world: World, tmp_path: Path, limits: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=rf"{message}\. Try --format openvino --precision fp32"):
        export(world.teacher, tmp_path / "d" / "o", "torch-bf16", data=DataConfig(**world.data()), **limits)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_leaves_nothing(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        assert list(tmp_path.rglob("model.safetensors"))  # the weights were there already
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "compare", stop)
    with pytest.raises(KeyboardInterrupt):
        export(world.teacher, tmp_path / "o", "torch-bf16", quiet=True)
    assert not list(tmp_path.iterdir())


def test_refusals(world: World, exports: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, onnx, output = world.teacher, exports["onnx"], tmp_path / "o"
    with pytest.raises(RunError, match=r"already holds an exported model.*never overwrites"):
        export("no/such/model", onnx, "onnx")
    with pytest.raises(ConfigError, match=r"int8 is calibrated on real inputs, so it needs data.*--format onnx"):
        export(teacher, output, "openvino", quantize="int8", use_run_data=False)
    with pytest.raises(ConfigError, match=r"is an exported model already.*Export the model it was made from"):
        export(onnx, output, "openvino")
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        export(tmp_path, output, "onnx")
    with pytest.raises(DataError, match=r"none\.csv"):
        export(teacher, output, "torch-bf16", data=DataConfig(validation="none.csv"))
    with pytest.raises(ConfigError, match=r"--calibration.*equal to 1"):
        export(teacher, output, "onnx", calibration=0)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match=r'pip install "codir\[export\]"'):
        export(teacher, output, "openvino")
    assert not list(tmp_path.iterdir())


# --- data -------------------------------------------------------------------------------------------------------------


def test_calibration_without_training_data_is_said(world: World) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(world.teacher)
    tokenizer = AutoTokenizer.from_pretrained(world.teacher)
    data = DataConfig(**world.data(train=None))
    task = check.validation_data(model, data)
    batches, words, (note,) = check.calibration_batches(model, tokenizer, data, task, 20)
    assert words == "20 validation examples of dev"
    assert "There are no training data" in note
    assert [len(batch["input_ids"]) for batch in batches] == [8, 8, 4]
    batches, _, notes = check.calibration_batches(model, tokenizer, DataConfig(**world.data()), task, 20)
    assert notes == []
    held = {tuple(tokenizer(text)["input_ids"]) for text in task.validation["validation"]["text"]}
    rows = [
        row[mask == 1] for each in batches for row, mask in zip(each["input_ids"], each["attention_mask"], strict=True)
    ]
    assert not held & {tuple(row.tolist()) for row in rows}  # none of them is a validation example


def test_submit_takes_task_and_length_of_an_export(exports: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exports["onnx"], tmp_path / "mrpc"))
    values = json.loads((folder / MANIFEST).read_text())
    changes = {"task": "mrpc", "max_length": 48, "reads": {**values["reads"], "pairs": True}}
    (folder / MANIFEST).write_text(json.dumps({**values, **changes}))
    for entry in (str(folder), f"mrpc={folder}"):
        assert choose_models([entry])["mrpc"] == ("mrpc", str(folder), 48, ())
    assert "not on rte" in choose_models([f"rte={folder}"])["rte"].notes[0]
    with pytest.raises(ConfigError, match="was trained on pairs of texts"):
        choose_models([f"sst2={folder}"])


def test_a_run_is_measured_on_its_own_data(world: World, tmp_path: Path) -> None:
    console = quiet()
    result = export(world.teacher, tmp_path / "o", "torch-bf16", console=console)
    own = json.loads((world.teacher / "metrics.json").read_text())
    assert result.before is not None
    assert result.before.score == own["metrics"]["accuracy"]
    manifest = Manifest.read(tmp_path / "o")
    assert (manifest.task, manifest.max_length, manifest.examples) == (own["task"], 32, {"validation": 40})
    printed = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    for part in (f"Data: as in {world.teacher}/codir.yaml: ", "torch fp32", "%", f"Written to {tmp_path / 'o'}"):
        assert part in printed
    # single settings win over the run's; cut texts are told of
    data, limits = {"limit_validation": 10, "max_length": 8}, {"max_drop": 100, "min_agreement": 0}
    few = export(world.teacher, tmp_path / "few", "torch-bf16", data=data, quiet=True, **limits)
    assert (few.manifest.examples, few.manifest.max_length) == ({"validation": 10}, 8)
    (note,) = [note for note in few.notes if "longer than" in note]
    assert re.match(r"\d+ of 10 validation examples were longer than 8 tokens and were cut", note)


def test_the_run_s_files_are_looked_for_beside_it_and_may_be_gone(world: World, tmp_path: Path) -> None:
    run = Path(shutil.copytree(world.teacher, tmp_path / "runs" / "teacher"))
    content = yaml.safe_load((run / "codir.yaml").read_text())
    content["data"].update(train=None, validation="dev.csv")
    (run / "codir.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(DataError, match=r"cannot be read.*dev\.csv.*--no-data"):
        export(run, tmp_path / "o", "torch-bf16")
    assert not (tmp_path / "o").exists()
    shutil.copy(world.dev, tmp_path / "dev.csv")
    result = export(run, tmp_path / "o", "torch-bf16", quiet=True)
    assert result.manifest.examples == {"validation": 40}


def test_which_data_are_chosen(world: World, exports: dict[str, Path], tmp_path: Path) -> None:
    plain, student = tmp_path / "plain", world.teacher / "comparison" / "kd"
    plain.mkdir()
    for models in ([world.teacher], [plain, world.teacher], [exports["onnx"]], [student]):
        chosen = choose_data(models, {"limit_validation": 7})
        assert chosen.run == world.teacher / "codir.yaml"
        assert chosen.config is not None
        assert (chosen.config.validation, chosen.config.limit_validation) == (str(world.dev), 7)
    assert choose_data([world.teacher], None, use_run=False).config is None
    named = choose_data([world.teacher], {"task": "acceptability"})
    length = world.data()["max_length"]  # that of the run, as in its training
    assert (named.config, named.run) == (DataConfig(task="acceptability", max_length=length), None)
    with pytest.raises(ConfigError, match="--text: of which data"):
        choose_data([plain], {"text": "review"})
    (plain / "codir.yaml").write_text("data: [")
    assert "codir.yaml are not used: the file is damaged" in (choose_data([plain], None).words or "")


# --- the checks alone ------------------------------------------------------------------------------------------------

LIMITS = {"limits": {"difference": None, "agreement": 0.97, "drop": 0.5}, "dropped": {}}


def test_figures_against_plain_arithmetic() -> None:
    kind = kind_named("classification")
    made_up = [
        (np.array([[0.0, 1.0], [2.0, 1.0]]), np.array([[0.0, 1.5], [1.0, 1.25]])),
        (np.array([[3.0, 0.0]]), np.array([[3.0, 0.0]])),
    ]
    figures = check.figures(kind, made_up)
    assert (figures["inputs"], figures["largest_difference"]) == (3, 1.0)
    assert figures["mean_difference"] == pytest.approx((0.5 + 1.0 + 0.25) / 6)
    assert figures["agreement"] == pytest.approx(2 / 3)
    assert (figures["changed"], figures["finite"]) == (1, True)
    broken = check.figures(kind, [(np.ones((2, 2)), np.array([[1.0, np.nan], [1.0, 1.0]]))])
    assert check.over_limits({**broken, **LIMITS}, None) == ["it gives NaN or infinity for some inputs"]


def test_answers_are_compared_on_the_task_s_examples() -> None:
    # made up: both answers change, and one difference is large
    made_up = [(np.array([[0.0, 1.0], [0.0, 1.0]]), np.array([[9.0, 1.0], [2.0, 1.0]]))]
    logits = np.array([[0.0, 0.1], [0.0, 3.0], [2.0, 0.0], [1.0, 0.0]])
    examples = [(logits, np.array([[0.1, 0.0], [3.0, 0.0], [2.0, 0.0], [1.0, 0.0]]))]
    figures = check.figures(kind_named("classification"), made_up, examples)
    assert (figures["inputs"], figures["largest_difference"]) == (6, 9.0)
    assert (figures["answered"], figures["changed"], figures["agreement"]) == (4, 2, 0.5)
    assert figures["undecided"] == 1
    (words,) = check.over_limits({**figures, **LIMITS}, None)
    assert "2 of 4 validation examples change their answer (agreement 50.00%), the limit is 0.97" in words
    before, after = np.array([[1.0], [2.0], [4.0]]), np.array([[1.5], [3.5], [2.9]])
    figures = check.figures(kind_named("regression"), [(before, after)])
    assert figures["agreement"] == pytest.approx(np.corrcoef(before[:, 0], after[:, 0])[0, 1])
    (words,) = check.over_limits({**figures, **LIMITS}, None)
    assert "the scores of 3 inputs correlate by" in words


@pytest.mark.parametrize("longest", [64, 512, 4, 3])
def test_probes_have_all_lengths(tiny_tokenizer: Any, longest: int) -> None:
    texts = check.probe_texts(None)
    assert {isinstance(text, str) for text in texts} == {True, False}
    batches = list(check.probes(texts, tiny_tokenizer, check.probe_shapes(longest)))
    widths = [batch["input_ids"].shape[1] for batch in batches]
    assert (min(widths), max(widths)) == (3, longest)
    for batch in batches:
        assert set(batch) == {"input_ids", "attention_mask", "token_type_ids"}
    if longest >= 34:
        assert {batch["input_ids"].shape[0] for batch in batches} >= {1, 33}
        assert any((batch["attention_mask"] == 0).any() for batch in batches)
