"""Families that can be exported, and plain words for what cannot."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from codir.deploy.writing import (
    explain_export,
    export_files,
    manifest_of,
    model_inputs,
    require_packages,
)
from codir.engines import extras
from codir.engines.engines import open_engine
from codir.engines.folder import Target
from codir.errors import ConfigError, ModelError
from codir.models.bilstm import BiLstmConfig, BiLstmForSequenceClassification

VOCABULARY, POSITIONS, CLASSES = 60, 66, 3
_SIZES = {"vocab_size": VOCABULARY, "max_position_embeddings": POSITIONS, "num_labels": CLASSES}
_LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_COMMON = {**_SIZES, **_LAYERS, "pad_token_id": 1}
_TOKENS = {"bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
_RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": _COMMON,
    "roberta": _COMMON,
    "distilbert": {**_SIZES, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "electra": {**_COMMON, "embedding_size": 32},
    "mpnet": _COMMON,
    "deberta-v2": {**_COMMON, **_RELATIVE, "type_vocab_size": 0},
    "modernbert": {**_COMMON, **_TOKENS, "global_attn_every_n_layers": 2, "local_attention": 8},
    "albert": {**_COMMON, "embedding_size": 16},
}


def classifier(family: str) -> PreTrainedModel:
    """Returns a random classifier whose logits differ from text to text."""
    config = AutoConfig.for_model(family, **FAMILIES[family])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(0.0, 0.2)
    return model


def batch(size: int, length: int, seed: int = 0) -> dict[str, Tensor]:
    """Returns random tokens [size, length]; the later a row, the more of it is padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, VOCABULARY, (size, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(size):
        real = max(1, length - row)
        mask[row, real:], ids[row, real:] = 0, 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


CALIBRATION = [batch(8, length, seed=length) for length in (5, 17, 33)]
# every size from 1 on, an odd one, the longest: nothing of the traced [3, 9] may have stayed in the graph
SHAPES = ((1, 3), (2, 64), (33, 13), (1, 64), (7, 1), (32, 32))


def exported(model: Any, target: Target, folder: Path) -> Any:
    export_files(model, target, folder, batch(3, 9), CALIBRATION, name="toy")
    return open_engine(folder, manifest_of(model, target, "s"))


def check(family: str, target: Target, folder: Path, bound: float) -> None:
    model = classifier(family)
    engine = exported(model, target, folder)
    for size, length in SHAPES:
        inputs = model_inputs(model, batch(size, length, seed=size))
        with torch.no_grad():
            difference = (engine(**inputs).logits.float() - model(**inputs).logits).abs().max()
        assert difference < bound, (family, target, size, length)


def test_roberta(tmp_path: Path) -> None:
    # its positions depend on where the padding is
    check("roberta", Target.of("openvino", precision="fp32"), tmp_path, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("family", list(FAMILIES))
def test_families(tmp_path: Path, family: str) -> None:
    for number, (words, bound) in enumerate(
        [
            (("onnx",), 1e-4),
            (("openvino", "none", "fp32"), 1e-4),
            (("openvino",), 0.2),
            (("torch-bf16",), 0.2),
            (("onnx", "int8"), 0.6),
            (("openvino", "int8"), 2.0),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        check(family, Target.of(*words), folder, bound)


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner


class DecidesByValue(Wrapped):
    def forward(self, states: Tensor) -> Tensor:
        return self.inner(states) if states.sum() > 0 else -self.inner(states)


class Eigenvalues(Wrapped):
    def forward(self, states: Tensor) -> Tensor:
        return self.inner(states) + torch.linalg.eigvalsh(states.T @ states)[:1]


@pytest.mark.parametrize(
    ("head", "format", "message"),
    [
        (
            DecidesByValue,
            "openvino",
            r"toy \(BertForSequenceClassification\) cannot be exported to OpenVINO: its forward decides by the values "
            r"of a tensor .*\. --format torch-bf16 and the model folder",
        ),
        pytest.param(
            Eigenvalues,
            "onnx",
            r"to ONNX: the operator aten\._linalg_eigh has no counterpart there\. --format torch-bf16",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_an_operator_that_cannot_be_exported_is_named(
    tmp_path: Path, head: type[Wrapped], format: str, message: str
) -> None:
    model: Any = classifier("bert")
    model.classifier = head(model.classifier)
    with pytest.raises(ModelError, match=message):
        export_files(model, Target.of(format), tmp_path, batch(3, 9), name="toy")
    assert not list(tmp_path.iterdir())
    # the conversion sets the root logger's level, and does not put it back when it fails
    assert logging.getLogger("codir.data.metrics").isEnabledFor(logging.WARNING)


def test_unknown_failures_keep_the_exporters_words() -> None:
    assert explain_export(RuntimeError("odd thing.\nmore")) == "RuntimeError: odd thing"


def bilstm() -> BiLstmForSequenceClassification:
    return BiLstmForSequenceClassification(
        BiLstmConfig(vocab_size=60, embedding_size=16, hidden_size=32, num_labels=3)
    ).eval()


def test_a_bilstm_has_no_graph_but_bf16(tmp_path: Path) -> None:
    model = bilstm()
    for format in ("onnx", "openvino"):
        with pytest.raises(ModelError, match=r"is a BiLSTM, which cannot be exported.*--format torch-bf16"):
            export_files(model, Target.of(format), tmp_path, batch(3, 9), name="runs/lstm")
    engine = exported(model, Target.of("torch-bf16"), tmp_path)
    with torch.no_grad():
        difference = (engine(**batch(5, 12)).logits.float() - model(**batch(5, 12)).logits).abs().max()
    assert difference < 0.05
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}  # the source is as it was


def test_bf16_weights_are_bf16_and_say_so(tmp_path: Path) -> None:
    model = classifier("bert")
    export_files(model, Target.of("torch-bf16"), tmp_path, batch(3, 9))
    assert {each.dtype for each in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}
    assert '"dtype": "bfloat16"' in (tmp_path / "config.json").read_text()
    assert model.config.dtype != torch.bfloat16


@pytest.mark.slow
def test_the_exporters_are_silent(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    handlers, level = list(logging.root.handlers), logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_files(classifier("bert"), Target.of("onnx", "int8"), tmp_path, batch(3, 9))
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert logging.root.handlers == handlers
    assert logging.root.manager.disable == level


@pytest.mark.parametrize(
    ("words", "package"),
    [
        (("onnx",), "onnxscript"),
        (("openvino",), "openvino"),
        (("openvino", "int8"), "nncf"),
    ],
)
def test_a_package_that_is_not_installed_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], package: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ConfigError, match=rf'package {package} .*pip install "codir\[export\]"'):
        require_packages(Target.of(*words))


def test_an_old_transformers_has_no_exporters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers.exporters", None)
    with pytest.raises(ConfigError, match=r"must be 5\.23 or newer"):
        extras.exporters()
