"""Every engine gives what PyTorch gives, for any batch and length; what cannot be loaded is said plainly."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from exporting_world import CALIBRATION, SHAPES, batch, classifier
from transformers import PreTrainedTokenizerFast

from codir.deploy.exporting import engine_settings, export_files
from codir.engines.engines import DeployedClassifier, load_engine
from codir.engines.folder import MANIFEST, Manifest
from codir.engines.formats import Target
from codir.errors import ConfigError, ModelError
from codir.models.inference import predict_logits
from codir.models.padding import Padding
from codir.models.tokens import TokenColumns

TARGETS = {
    "onnx": Target.of("onnx"),
    "onnx-int8": Target.of("onnx", "int8"),
    "openvino": Target.of("openvino", precision="fp32"),
    "openvino-bf16": Target.of("openvino"),
    "openvino-int8": Target.of("openvino", "int8"),
    "torch-bf16": Target.of("torch-bf16"),
}
# Largest difference of a logit on random weights: fp32 is exact up to rounding, the others are not.
BOUNDS = {"onnx": 1e-5, "openvino": 1e-5, "onnx-int8": 0.4, "openvino-bf16": 0.1, "torch-bf16": 0.1}


@pytest.fixture(scope="module")
def folders(
    tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: PreTrainedTokenizerFast
) -> dict[str, Path]:
    """A tiny BERT in every format."""
    model, made = classifier("bert"), {}
    for name, target in TARGETS.items():
        folder = made[name] = tmp_path_factory.mktemp(name)
        export_files(model, target, folder, batch(3, 9), CALIBRATION)
        tiny_tokenizer.save_pretrained(folder)
        Manifest(
            target.format,
            target.quantize,
            target.kind,
            target.engine,
            "runs/student",
            "digest",
            settings=engine_settings(target),
        ).write(folder)
    return made


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Returns a factory of copies that a test may damage."""
    import shutil

    return lambda name: Path(shutil.copytree(folders[name], tmp_path / name))


@pytest.mark.parametrize("name", list(TARGETS))
def test_any_batch_and_length(folders: dict[str, Path], name: str) -> None:
    source, engine = classifier("bert"), load_engine(folders[name])
    for size, length in SHAPES:
        inputs = batch(size, length, seed=size)
        with torch.no_grad():
            expected, given = source(**inputs).logits, engine(**inputs, return_dict=True).logits
        assert given.shape == expected.shape
        assert torch.isfinite(given).all()
        if name in BOUNDS:
            assert (given.float() - expected).abs().max() < BOUNDS[name]
        if not name.startswith("torch"):
            assert given.dtype == torch.float32


def test_int8_by_openvino_is_int8(folders: dict[str, Path]) -> None:
    sizes = {name: Manifest.read(folders[name]).bytes for name in TARGETS}
    weights = {
        name: (folders[name] / "openvino_model.bin").stat().st_size for name in sizes if "openvino" in name
    }
    assert weights["openvino-int8"] < 0.5 * weights["openvino"]
    # and still close to the source, on what it was calibrated for
    source, engine = classifier("bert"), load_engine(folders["openvino-int8"])
    inputs = CALIBRATION[1]
    with torch.no_grad():
        expected, given = source(**inputs).logits, engine(**inputs).logits
    assert torch.corrcoef(torch.stack([expected.flatten(), given.flatten()]))[0, 1] > 0.95


def test_openvino_computes_as_the_manifest_says_not_as_the_machine_likes(folders: dict[str, Path]) -> None:
    for name, hint in (("openvino", "f32"), ("openvino-bf16", "bf16")):
        engine = load_engine(folders[name])
        used = engine.compiled.get_property("INFERENCE_PRECISION_HINT")
        # a processor without bf16 refuses it and says f32
        assert used.get_type_name() in ({"f32"} if hint == "f32" else {"bf16", "f32"})
        assert engine.dtype == {"f32": torch.float32, "bf16": torch.bfloat16}[hint]
        assert f'value="{hint}"' in (folders[name] / "openvino_model.xml").read_text(encoding="utf-8")


_CTRL_C = """
import gc, signal, sys
from codir.engines.engines import load_engine
engines = [load_engine(folder) for folder in sys.argv[1:]]
while engines:
    engines.pop(0)
    gc.collect()
seen = []
signal.signal(signal.SIGINT, lambda *_: seen.append("Ctrl-C"))
signal.raise_signal(signal.SIGINT)
print(*seen)
"""


def test_ctrl_c_is_survived_after_openvino_engines_have_come_and_gone(folders: dict[str, Path]) -> None:
    both = [str(folders[name]) for name in ("openvino", "openvino-bf16")]
    # a process of its own: where this fails, it ends by a segmentation fault
    ended = subprocess.run(
        [sys.executable, "-c", _CTRL_C, *both], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout.split()) == (0, ["Ctrl-C"]), ended.stderr[-500:]


def test_a_deployed_model_acts_like_the_one_it_was(folders: dict[str, Path]) -> None:
    engine = load_engine(folders["onnx"])
    assert isinstance(engine, DeployedClassifier)
    assert (engine.engine, engine.precision, engine.device) == ("onnxruntime", "fp32", torch.device("cpu"))
    assert engine.config.num_labels == 3
    assert engine.dtype == torch.float32
    assert not engine.training
    assert set(engine.inputs) == {"input_ids", "attention_mask", "token_type_ids"}
    ids = batch(2, 6)["input_ids"]
    plain = engine(ids).logits  # no mask: all tokens count; no types: all of the first text
    full = engine(ids, attention_mask=torch.ones_like(ids), token_type_ids=torch.zeros_like(ids)).logits
    assert torch.equal(plain, full)
    assert not torch.equal(plain, engine(**batch(2, 6)).logits)


def test_whole_data_sets_run_as_with_pytorch(folders: dict[str, Path]) -> None:
    rows = [row[row > 1].tolist() for row in batch(20, 30)["input_ids"]]
    import numpy as np
    from datasets import Dataset

    data = Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]})
    columns = TokenColumns.read(data)
    expected = predict_logits(classifier("bert"), columns, Padding(1), batch_size=6)
    given = predict_logits(load_engine(folders["openvino"]), columns, Padding(1), batch_size=6, device="cpu")
    assert np.abs(given - expected).max() < 1e-5


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_inputs_longer_than_the_positions_are_refused(folders: dict[str, Path], name: str) -> None:
    with pytest.raises(ModelError, match="positions for 66 tokens; the input has 67"):
        load_engine(folders[name])(**batch(1, 67))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("onnx", "model.onnx.data"),
        ("onnx", "model.onnx"),
        ("openvino", "openvino_model.bin"),
        ("torch-bf16", "model.safetensors"),
        ("openvino-int8", "tokenizer.json"),
    ],
)
def test_truncated_files_are_found(copy: Callable[[str], Path], name: str, file: str) -> None:
    path = copy(name) / file
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ModelError, match=rf"{file} is truncated"):
        load_engine(path.parent)


@pytest.mark.parametrize(
    ("name", "file"),
    [("onnx", "model.onnx"), ("openvino", "openvino_model.xml"), ("torch-bf16", "model.safetensors")],
)
def test_a_file_the_engine_cannot_read_is_an_error_of_ours(
    copy: Callable[[str], Path], name: str, file: str
) -> None:
    folder = copy(name)
    (folder / file).write_bytes(b"no model at all")
    Manifest.read(folder).write(folder)  # as if it had been exported so
    with pytest.raises(ModelError, match=rf"(cannot load .*{file}|{file}.*damaged)"):
        load_engine(folder)


def test_an_export_without_its_manifest_is_refused(copy: Callable[[str], Path]) -> None:
    for name in ("onnx", "openvino"):
        folder = copy(name)
        (folder / MANIFEST).unlink()
        with pytest.raises(ModelError, match=r"without its deployment\.json.*codir export"):
            load_engine(folder)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ModelError, match=r"no model folder: config\.json is missing; it holds notes\.txt"):
        load_engine(tmp_path)


@pytest.mark.parametrize(("name", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_an_engine_that_is_not_installed_names_the_extra(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf'package {package} .*pip install "codir\[export\]"'):
        load_engine(folders[name])


def test_engines_that_do_not_fit_are_refused(
    folders: dict[str, Path], tiny_model_dir: Callable[..., Path]
) -> None:
    with pytest.raises(ConfigError, match=r"Unknown engine 'openvivo' \(did you mean 'openvino'\?\)"):
        load_engine(folders["openvino"], "openvivo")
    with pytest.raises(ConfigError, match="is exported for openvino; onnxruntime cannot run it"):
        load_engine(folders["openvino"], "onnxruntime")
    with pytest.raises(ConfigError, match=r"is a model folder, which openvino cannot run\. Export it first"):
        load_engine(tiny_model_dir(), "openvino")


def test_an_export_is_no_model_to_train(folders: dict[str, Path]) -> None:
    from codir.models.loading import load_classifier

    with pytest.raises(ModelError, match=r"exported model.*cannot be trained.*runs/student"):
        load_classifier(folders["onnx"])


def test_model_folders_run_in_bf16_too(tiny_model_dir: Callable[..., Path]) -> None:
    folder, inputs = tiny_model_dir(), batch(4, 12)
    source, halved = load_engine(folder), load_engine(folder, "torch-bf16")
    assert (source.dtype, halved.dtype) == (torch.float32, torch.bfloat16)
    with torch.no_grad():
        difference = (source(**inputs).logits - halved(**inputs).logits.float()).abs().max()
    assert 0 < difference < 0.1


@pytest.mark.slow
def test_compiled_models_give_the_same(tiny_model_dir: Callable[..., Path]) -> None:
    folder = tiny_model_dir(layers=1)
    source, compiled = load_engine(folder), load_engine(folder, "torch-compiled")
    for size, length in ((2, 8), (3, 11)):
        inputs = batch(size, length)
        with torch.no_grad():
            assert torch.allclose(source(**inputs).logits, compiled(**inputs).logits, atol=1e-5)


def test_without_a_compiler_the_compiled_engine_says_so(
    tiny_model_dir: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import cpp_builder

    def none() -> str:
        raise RuntimeError("InvalidCxxCompiler")

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler"):
        load_engine(tiny_model_dir(), "torch-compiled")
