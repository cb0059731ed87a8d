"""Which words go together, and what is said of those that do not."""

from __future__ import annotations

import pytest

from codir.engines.formats import Target
from codir.errors import ConfigError


@pytest.mark.parametrize(
    ("words", "name", "engine", "kind", "precision"),
    [
        (("onnx",), "onnx fp32", "onnxruntime", "fp32", "fp32"),
        (("onnx", "int8"), "onnx int8", "onnxruntime", "int8", "fp32"),
        (("openvino",), "openvino bf16", "openvino", "bf16", "bf16"),
        (("openvino", "none", "fp32"), "openvino fp32", "openvino", "fp32", "fp32"),
        (("openvino", "int8"), "openvino int8", "openvino", "int8", "bf16"),
        (("openvino", "int8", "fp32"), "openvino int8", "openvino", "int8", "fp32"),
        (("torch-bf16",), "torch-bf16", "torch-bf16", "bf16", "bf16"),
    ],
)
def test_defaults(words: tuple[str, ...], name: str, engine: str, kind: str, precision: str) -> None:
    target = Target.of(*words)
    assert (str(target), target.engine, target.kind, target.precision) == (name, engine, kind, precision)
    assert target.needs_data == (name == "openvino int8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("onxx",),
            r"--format onxx: unknown \(did you mean 'onnx'\?\)\. Known are onnx, openvino, torch-bf16",
        ),
        (("onnx", "in8"), r"--quantize in8: unknown \(did you mean 'int8'\?\)"),
        (("onnx", None, "fp23"), r"--precision fp23: unknown \(did you mean 'fp32'\?\)"),
        (("torch-bf16", "int8"), r"torch-bf16 has no int8.*--format openvino --quantize int8"),
        (("torch-bf16", None, "fp32"), r"torch-bf16 is bf16.*--format onnx"),
        (("onnx", None, "bf16"), r"onnx has no bf16.*--format openvino --precision bf16"),
        (("onnx", "int8", "bf16"), r"onnx has no bf16"),
    ],
)
def test_what_makes_no_sense_is_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Target.of(*words)
