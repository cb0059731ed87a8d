"""How each format is written: ONNX and OpenVINO by `transformers.exporters`, bf16 by `save_pretrained`."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging as hf_logging

from codir.engines import extras
from codir.engines.folder import Manifest, Target
from codir.errors import ModelError
from codir.files import write_bytes
from codir.manifest import EXPORT_MARK
from codir.models.loading import count_parameters

Batch = Mapping[str, Tensor]
_NAMES = {"onnx": "ONNX", "openvino": "OpenVINO"}


def require_packages(target: Target) -> None:
    """Raises `ConfigError` unless all packages the export needs are installed."""
    for name in target.packages:
        extras.load(name)
    if target.packages:
        extras.exporters()


def model_inputs(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Returns those of a batch's tensors that the model's forward names."""
    names = inspect.signature(model.forward).parameters
    return {name: tensor for name, tensor in batch.items() if name in names}


def manifest_of(model: PreTrainedModel, target: Target, source: str, **more: Any) -> Manifest:
    """Returns the manifest of a model that is exported: what it is exported to, how large it is, and `more`."""
    total, embedding = count_parameters(model)
    return Manifest.model_validate(
        {
            "format": target.format,
            "quantize": target.quantize,
            "precision": target.kind,
            "engine": target.engine,
            "source": source,
            "settings": _engine_settings(target),
            "parameters": total,
            "embedding_parameters": embedding,
            **more,
        }
    )


def _engine_settings(target: Target) -> dict[str, str]:
    # OpenVINO would compute in whatever is fastest on the machine at hand, bf16 on a CPU with AMX
    hint = {"fp32": "f32", "bf16": "bf16"}[target.precision]
    return {"INFERENCE_PRECISION_HINT": hint} if target.format == "openvino" else {}


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
        sample: a padded batch [B, L] that the model is traced with, B and L at least 2.
        calibration: batches of real inputs, for OpenVINO's int8: they fix the ranges of the activations.

    Raises:
        ModelError: the model cannot be exported; names the operator or the reason.
    """
    folder = Path(folder)
    if target.format == "torch-bf16":
        _save_bf16(model, folder)
        return
    if getattr(model.config, "model_type", None) == "codir-bilstm":
        raise ModelError(
            f"{name} is a BiLSTM, which cannot be exported to {_NAMES[target.format]}: a graph with free lengths "
            "cannot pack texts. Run it with PyTorch: --format torch-bf16, or the model folder as it is."
        )
    if target.format == "openvino":
        extras.openvino_core()
    try:
        with _silenced(), torch.no_grad():
            _export(model, target, model_inputs(model, sample), calibration).save_pretrained(folder)
            for graph in folder.glob("*.onnx"):
                write_bytes(graph, without_stack_traces(graph))
    except (KeyboardInterrupt, OSError):
        raise
    except Exception as error:
        raise ModelError(
            f"{name} ({type(model).__name__}) cannot be exported to {_NAMES[target.format]}: {explain_export(error)}. "
            "--format torch-bf16 and the model folder itself run whatever PyTorch runs."
        ) from error


def _save_bf16(model: PreTrainedModel, folder: Path) -> None:
    # What from_pretrained(dtype=bfloat16) does: parameters only; buffers (rotary frequencies) stay as they are.
    halved = copy.deepcopy(model)
    for parameter in halved.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    halved.config.dtype = torch.bfloat16
    with _silenced():
        halved.save_pretrained(folder)
    # So that a copy without its manifest is not taken for a plain model; transformers drops it when it saves.
    for path in folder.glob("*.safetensors"):
        save_file(load_file(path), path, metadata={"format": "pt", EXPORT_MARK: "torch-bf16"})


def _export(model: PreTrainedModel, target: Target, inputs: Batch, calibration: Sequence[Batch]) -> Any:
    exporters, quantizer = extras.exporters(), None
    if target.format == "onnx":
        if target.quantize == "int8":
            # Weights per output channel; activations by their range in each call. On real students that differs about
            # half as much as one scale for a whole matrix does; the static form is of no use (3 in the logits).
            quantizer = exporters.OnnxRuntimeQuantizer(exporters.OnnxRuntimeDynamicConfig(per_channel=True))
        settings = exporters.OnnxConfig(dynamic=True, quantizer=quantizer)
        return exporters.OnnxExporter().export(model, dict(inputs), settings)
    if target.quantize == "int8":
        batches = [model_inputs(model, batch) for batch in calibration]
        settings = exporters.NNCFQuantizationConfig(subset_size=len(batches))
        quantizer = exporters.NNCFOpenVINOQuantizer(settings, calibration_dataset=batches)
    # What is computed in bf16 is stored in 16 bits: half the size, the same speed, and fp16 keeps three bits more.
    settings = exporters.OpenVINOConfig(dynamic=True, quantizer=quantizer, compress_to_fp16=target.kind == "bf16")
    exported = exporters.OpenVINOExporter().export(model, dict(inputs), settings)
    # Also in the file, so that whoever loads it without these settings gets the precision that was checked.
    for key, value in _engine_settings(target).items():
        exported.program.set_rt_info(value, ["runtime_options", key])
    return exported


_OPERATOR = re.compile(r"(?:torch\.ops\.|op='|operations: |function )((?:aten|prims|torchvision|\w+)(?:\.|::)\w+)")
_MISSING = re.compile("No ONNX function|No conversion rule|ConversionError|DispatchError|OpConversionFailure")


def explain_export(error: BaseException) -> str:
    """Says why an export failed: the operator, or the first error's own words, without a full stop."""
    chain: list[BaseException] = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain:
        chain.append(inner)
    text = "\n".join(f"{type(each).__name__} {each}" for each in chain)
    if "data-dependent" in text or "DataDependent" in text:
        return "its forward decides by the values of a tensor (an if, a loop or a shape that depends on data)"
    operator = _OPERATOR.search(text)
    if operator is not None and _MISSING.search(text):
        return f"the operator {operator[1].replace('::', '.')} has no counterpart there"
    said = (str(chain[-1]).strip() or "no reason given").splitlines()[0]
    return f"{type(chain[-1]).__name__}: {said[:300].rstrip('.')}"


def without_stack_traces(path: Path) -> bytes:
    """Returns an ONNX graph without the exporter's notes on source files; the weights beside it are not touched.

    torch notes for every operator the file and line it came from, with the path of the virtual environment: most of
    the graph's size, and it tells of the machine.
    """
    model = extras.load("onnx").load_model(str(path), load_external_data=False)
    for graph in [model.graph, *model.functions]:
        _strip(graph)
    return model.SerializeToString()


def _strip(graph: Any) -> None:
    for node in graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _strip(attribute.g)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Swallows what the exporters print, log below errors, or warn of; errors pass."""
    level, disabled = hf_logging.get_verbosity(), logging.root.manager.disable
    handlers, root_level = list(logging.root.handlers), logging.root.level
    hf_logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        hf_logging.set_verbosity(level)
        # ONNX Runtime's quantiser logs to the root, which gives that a handler of its own (on the swallowed output)
        logging.root.handlers[:] = handlers
        # OpenVINO's conversion, when it fails, leaves the root at ERROR: no warning of anybody's would be heard again
        logging.root.setLevel(root_level)
