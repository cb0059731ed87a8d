"""Every engine gives what PyTorch gives, for any batch and length; what cannot be loaded is said plainly."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from small_world import World

from codir.engines.engines import DeployedClassifier, load_engine
from codir.engines.folder import MANIFEST, Manifest
from codir.errors import ConfigError, ModelError
from codir.models.inference import Padding, TokenColumns, predict_logits
from codir.models.loading import load_classifier

# Largest difference of a logit: fp32 is exact up to rounding, the others are not.
BOUNDS = {"onnx": 1e-4, "onnx-int8": 0.5, "openvino-bf16": 0.3, "openvino-int8": 1.5, "torch-bf16": 0.3}
# every size from 1 on, an odd one, the longest: nothing of the traced batch may have stayed in the graph
SHAPES = ((1, 3), (2, 64), (33, 13), (1, 64), (7, 1), (32, 32))


def batch(size: int, length: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Returns random tokens [size, length]; the later a row, the more of it is padding."""
    ids = torch.randint(5, 30, (size, length), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(length) < (length - torch.arange(size)).clamp(min=1).unsqueeze(1)).long()
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


@pytest.fixture(scope="module")
def source(world: World) -> Any:
    """The teacher in fp32."""
    return load_engine(world.teacher)


@pytest.mark.parametrize("name", list(BOUNDS))
def test_any_batch_and_length(exports: dict[str, Path], source: Any, name: str) -> None:
    engine = load_engine(exports[name])
    for size, length in SHAPES:
        inputs = batch(size, length, seed=size)
        with torch.no_grad():
            expected, given = source(**inputs).logits, engine(**inputs, return_dict=True).logits
        assert given.shape == expected.shape
        assert (given.float() - expected).abs().max() < BOUNDS[name]
        if not name.startswith("torch"):
            assert given.dtype == torch.float32


@pytest.mark.parametrize(("name", "hint"), [("regression", "f32"), ("openvino-bf16", "bf16")])
def test_openvino_computes_as_the_manifest_says(exports: dict[str, Path], name: str, hint: str) -> None:
    engine: Any = load_engine(exports[name])
    used = engine.program.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    assert used in {hint, "f32"}  # a processor without bf16 refuses it and says f32
    assert engine.dtype == {"f32": torch.float32, "bf16": torch.bfloat16}[hint]
    assert f'value="{hint}"' in (exports[name] / "openvino_model.xml").read_text(encoding="utf-8")
    weights = [(exports[each] / "openvino_model.bin").stat().st_size for each in ("openvino-int8", "regression")]
    assert weights[0] < 0.5 * weights[1]


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


def test_ctrl_c_is_survived_after_openvino_engines_have_come_and_gone(exports: dict[str, Path]) -> None:
    both = [str(exports[name]) for name in ("regression", "openvino-bf16")]
    # a process of its own: where this fails, it ends by a segmentation fault
    ended = subprocess.run([sys.executable, "-c", _CTRL_C, *both], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.split()) == (0, ["Ctrl-C"]), ended.stderr[-500:]


def test_a_deployed_model_acts_like_the_one_it_was(exports: dict[str, Path], source: Any) -> None:
    engine = load_engine(exports["onnx"])
    assert isinstance(engine, DeployedClassifier)
    assert engine.device == torch.device("cpu")
    assert engine.config.num_labels == 2
    assert (engine.dtype, engine.training) == (torch.float32, False)
    assert set(engine.inputs) == {"input_ids", "attention_mask", "token_type_ids"}
    ids = batch(2, 6)["input_ids"]
    plain = engine(ids).logits  # no mask: all tokens count; no types: all of the first text
    full = engine(ids, attention_mask=torch.ones_like(ids), token_type_ids=torch.zeros_like(ids)).logits
    assert torch.equal(plain, full)
    assert not torch.equal(plain, engine(**batch(2, 6)).logits)
    rows = [row[row > 0].tolist() for row in batch(20, 30)["input_ids"]]
    data = Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]})
    columns = TokenColumns.read(data)
    expected, given = (
        predict_logits(each, columns, Padding(0), batch_size=6, device="cpu") for each in (source, engine)
    )
    assert np.abs(given - expected).max() < 1e-4


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("onnx", "model.onnx"),
        ("openvino-bf16", "openvino_model.xml"),
        ("torch-bf16", "model.safetensors"),
    ],
)
def test_what_cannot_be_loaded(
    exports: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str
) -> None:
    folder = Path(shutil.copytree(exports[name], tmp_path / name))
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[:-7])
    with pytest.raises(ModelError, match=rf"{file} is truncated"):
        load_engine(folder)
    (folder / file).write_bytes(b"no model at all")
    Manifest.read(folder).write(folder)  # as if it had been exported so
    with pytest.raises(ModelError, match=rf"(cannot load .*{file}|{file}.*damaged)"):
        load_engine(folder)
    if name != "torch-bf16":
        (folder / MANIFEST).unlink()
        with pytest.raises(ModelError, match=r"without its deployment\.json.*codir export"):
            load_engine(folder)
        with pytest.raises(ModelError, match="positions for 64 tokens; the input has 65"):
            load_engine(exports[name])(**batch(1, 65))
        package = "onnxruntime" if name == "onnx" else "openvino"
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ConfigError, match=rf'package {package} .*pip install "codir\[export\]"'):
            load_engine(exports[name])


def test_engines_that_do_not_fit_are_refused(exports: dict[str, Path], world: World) -> None:
    folder = exports["openvino-bf16"]
    with pytest.raises(ConfigError, match=r"Unknown engine 'openvivo' \(did you mean 'openvino'\?\)"):
        load_engine(folder, "openvivo")
    with pytest.raises(ConfigError, match="is exported for openvino; onnxruntime cannot run it"):
        load_engine(folder, "onnxruntime")
    with pytest.raises(ConfigError, match=r"is a model folder, which openvino cannot run\. Export it first"):
        load_engine(world.teacher, "openvino")
    with pytest.raises(ModelError, match=r"exported model.*cannot be trained.*deployment\.json"):
        load_classifier(exports["onnx"])


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
