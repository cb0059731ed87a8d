"""Writes a classifier in another format, by way of `transformers.exporters`."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from codir.deploy.graphs import strip_stack_traces
from codir.deploy.quiet import silenced
from codir.engines import extras
from codir.engines.formats import Target
from codir.engines.openvino_core import openvino_core
from codir.errors import ModelError
from codir.manifest import EXPORT_MARK

Batch = Mapping[str, Tensor]
_HINT = {"fp32": "f32", "bf16": "bf16"}
_ENGINE_NAMES = {"onnx": "ONNX", "openvino": "OpenVINO"}


def engine_settings(target: Target) -> dict[str, str]:
    """Returns what the engine has to be told whenever it loads the model.

    OpenVINO would compute in whatever is fastest on the machine at hand, bf16 on a CPU with AMX.
    """
    return {"INFERENCE_PRECISION_HINT": _HINT[target.precision]} if target.format == "openvino" else {}


def require_packages(target: Target) -> None:
    """Raises `ConfigError` unless all packages the export needs are installed."""
    extras.require(
        "openvino int8" if target.format == "openvino" and target.quantize == "int8" else target.format
    )
    if target.format != "torch-bf16":
        extras.exporters()


def model_inputs(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Returns those of a batch's tensors that the model's forward names."""
    names = inspect.signature(model.forward).parameters
    return {name: tensor for name, tensor in batch.items() if name in names}


def export_files(
    model: PreTrainedModel,
    target: Target,
    folder: str | Path,
    sample: Batch,
    calibration: Sequence[Batch] = (),
    name: str = "the model",
) -> None:
    """Writes graph, weights and `config.json` into a folder; batch and length stay free.

    Args:
        model: the classifier in fp32, which is not changed.
        target: format, quantisation and precision.
        folder: existing and empty.
        sample: a padded batch [B, L] that the model is traced with, B and L at least 2.
        calibration: batches of real inputs, for OpenVINO's int8: they fix the ranges of the activations.
        name: of the model, for messages.

    Raises:
        ModelError: the model cannot be exported; names the operator or the reason.
    """
    folder = Path(folder)
    if target.format == "torch-bf16":
        _save_bf16(model, folder)
        return
    refuse_family(model, target, name)
    if target.format == "openvino":
        openvino_core()
    try:
        with silenced(), torch.no_grad():
            exported = _export(model, target, model_inputs(model, sample), calibration)
            exported.save_pretrained(folder)
            for graph in folder.glob("*.onnx"):
                strip_stack_traces(graph)
    except (KeyboardInterrupt, OSError):
        raise
    except Exception as error:
        reason, elsewhere = explain_export(error)
        other = "openvino" if target.format == "onnx" else "onnx"
        ways = f"Try --format {other}; --format" if elsewhere else "--format"
        raise ModelError(
            f"{name} ({type(model).__name__}) cannot be exported to {_ENGINE_NAMES[target.format]}: {reason}. {ways} "
            "torch-bf16 and the model folder itself run whatever PyTorch runs."
        ) from error


def refuse_family(model: PreTrainedModel, target: Target, name: str) -> None:
    """Raises `ModelError` for the one family of codir's own that has no graph."""
    if target.format != "torch-bf16" and getattr(model.config, "model_type", None) == "codir-bilstm":
        raise ModelError(
            f"{name} is a BiLSTM, which cannot be exported to {_ENGINE_NAMES[target.format]}: it packs each text by "
            "its own length, and a graph with free lengths has no such operator. Run it with PyTorch "
            "(--format torch-bf16, or the model folder as it is), or distil into a transformer."
        )


def _save_bf16(model: PreTrainedModel, folder: Path) -> None:
    # What from_pretrained(dtype=bfloat16) does: parameters only; buffers (rotary frequencies) stay as they are.
    halved = copy.deepcopy(model)
    for parameter in halved.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    halved.config.dtype = torch.bfloat16
    with silenced():
        halved.save_pretrained(folder)
    # So that a copy without its manifest is not taken for a plain model; transformers drops it when it saves.
    for path in folder.glob("*.safetensors"):
        save_file(load_file(path), path, metadata={"format": "pt", EXPORT_MARK: "torch-bf16"})


def _export(model: PreTrainedModel, target: Target, sample: Batch, calibration: Sequence[Batch]) -> Any:
    exporters = extras.exporters()
    inputs = dict(sample)
    if target.format == "onnx":
        quantizer = None
        if target.quantize == "int8":
            # Weights per output channel; activations by their range in each call. On real students that differs about
            # half as much as one scale for a whole matrix does; the static form is of no use (3 in the logits).
            quantizer = exporters.OnnxRuntimeQuantizer(exporters.OnnxRuntimeDynamicConfig(per_channel=True))
        return exporters.OnnxExporter().export(
            model, inputs, exporters.OnnxConfig(dynamic=True, quantizer=quantizer)
        )
    quantizer = None
    if target.quantize == "int8":
        batches = [model_inputs(model, batch) for batch in calibration]
        quantizer = exporters.NNCFOpenVINOQuantizer(
            exporters.NNCFQuantizationConfig(subset_size=len(batches)), calibration_dataset=batches
        )
    # What is computed in bf16 is stored in 16 bits: half the size, the same speed, and fp16 keeps three bits more.
    halved = target.kind == "bf16"
    exported = exporters.OpenVINOExporter().export(
        model, inputs, exporters.OpenVINOConfig(dynamic=True, quantizer=quantizer, compress_to_fp16=halved)
    )
    # Also in the file, so that whoever loads it without these settings gets the precision that was checked.
    for key, value in engine_settings(target).items():
        exported.program.set_rt_info(value, ["runtime_options", key])
    return exported


_OPERATOR = re.compile(
    r"(?:torch\.ops\.|op='|operations: |function )((?:aten|prims|torchvision|\w+)(?:\.|::)\w+)"
)
_MISSING = (
    "No ONNX function",
    "No conversion rule",
    "ConversionError",
    "DispatchError",
    "OpConversionFailure",
)


def explain_export(error: BaseException) -> tuple[str, bool]:
    """Says why an export failed.

    Returns:
        reason: one sentence without its full stop: the operator, or the exporter's own words.
        elsewhere: whether the other graph format may still take the model.
    """
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    text = "\n".join(f"{type(each).__name__} {each}" for each in chain)
    place = _place(text)
    if "data-dependent" in text or "DataDependent" in text:
        what = "its forward decides by the values of a tensor (an if, a loop or a shape that depends on data)"
        return f"{what}{place}", False
    operator = _OPERATOR.search(text)
    if operator is not None and any(word in text for word in _MISSING):
        return f"the operator {operator[1].replace('::', '.')} has no counterpart there{place}", True
    last = chain[-1]
    lines = [line.strip() for line in str(last).splitlines() if line.strip()]
    return f"{type(last).__name__}: {lines[0][:300].rstrip('.') if lines else 'no reason given'}{place}", True


def _place(text: str) -> str:
    """Returns the last line of model code that the exporter's message mentions, if it mentions one."""
    found = re.findall(r'File "([^"]+)", line (\d+), in (\w+)', text)
    if not found:
        return ""
    path, line, function = found[-1]
    return f" ({Path(path).name}, line {line}, in {function})"
