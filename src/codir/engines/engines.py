"""The engines that run a classifier: PyTorch, ONNX Runtime, OpenVINO; each looks like the model it came from."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from codir.engines import extras
from codir.engines.folder import Manifest, is_deployed
from codir.errors import ConfigError, ModelError, nearest
from codir.models.check import behaviour
from codir.models.classes import require_one_answer
from codir.models.config_file import position_limit
from codir.models.loading import load_classifier, load_config, resolve

ONNX_FILE = "model.onnx"
OPENVINO_FILE = "openvino_model.xml"
TORCH = {"torch": "fp32", "torch-bf16": "bf16", "torch-fp16": "fp16", "torch-compiled": "fp32"}
"""The engines that run a model folder, with what they compute in."""
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}
_ENGINES = (*TORCH, "onnxruntime", "openvino")


def load_engine(path: str | Path, engine: str | None = None) -> Classifier:
    """Loads a classifier for inference, whatever it lies there as.

    Args:
        path: an exported folder, a model folder, or a Hub id.
        engine: an exported folder has its own and takes no other; a model folder or a Hub id runs in one of `TORCH`
            (by default fp32).

    Returns:
        In eval mode, with `config`, `device` and `dtype`; called with token ids it gives an output with `logits`
        (in 16 bits where the engine is; `predict_logits` returns fp32 of every engine).

    Raises:
        ConfigError: an unknown engine, one that cannot run this folder, or one whose package is not installed.
        ModelError: no model there, or a damaged one.
    """
    if engine not in (None, *_ENGINES):
        raise ConfigError(f"Unknown engine {engine!r}{nearest(engine, _ENGINES)}. Known are {', '.join(_ENGINES)}.")
    if is_deployed(path):
        folder = Path(path).expanduser()
        manifest = Manifest.read(folder)
        if engine not in (None, manifest.engine):
            raise ConfigError(
                f"{folder} is exported for {manifest.engine}; {engine} cannot run it. "
                f"Leave the engine out, or use the model it was made from ({manifest.source})."
            )
        if manifest.engine not in TORCH:
            extras.load(manifest.engine)
        manifest.check_files(folder)
        return open_engine(folder, manifest)
    source = resolve(path)
    if engine in ("onnxruntime", "openvino"):
        form = "onnx" if engine == "onnxruntime" else "openvino"
        raise ConfigError(
            f"{path} is a model folder, which {engine} cannot run. Export it first: "
            f"codir export {shlex.quote(str(path))} --format {form} --output FOLDER"
        )
    if isinstance(source, Path) and not any(source.glob("*.safetensors*")):
        for graph in (ONNX_FILE, OPENVINO_FILE):
            if (source / graph).is_file():
                raise ModelError(
                    f"{path} holds an exported model ({graph}) without its deployment.json, so nothing says that it is "
                    "whole. Copy the whole folder again, or export the model again: `codir export`."
                )
    model = load_classifier(path, dtype=_DTYPES[TORCH[engine or "torch"]])
    return _compiled(model) if engine == "torch-compiled" else model


def open_engine(folder: Path, manifest: Manifest) -> Classifier:
    """Loads an exported model as its manifest says, without asking whether the files are whole."""
    if manifest.engine == "torch-bf16":
        return load_classifier(folder, dtype=torch.bfloat16, exported=True)
    return DeployedClassifier(folder, manifest)


def _compiled(model: PreTrainedModel) -> PreTrainedModel:
    """Has torch.compile compile the model's forward; it does so in the first call of each shape."""
    try:
        from torch._inductor import cpp_builder

        cpp_builder.get_cpp_compiler()
    except (ImportError, AttributeError):
        pass  # a private name of torch; without it the first call says what is missing
    except Exception as error:
        raise ConfigError(
            "The engine torch-compiled needs a C++ compiler (g++ or clang), and there is none. Install one, or use "
            "torch, torch-bf16, or an exported folder."
        ) from error
    behaviour(model)  # once it is compiled, every shape of a probe would be compiled, too
    model.compile()
    return model


class DeployedClassifier(nn.Module):
    """A classifier that ONNX Runtime or OpenVINO runs on the CPU; called and asked like the one it was made from."""

    def __init__(self, folder: Path, manifest: Manifest):
        """Reads the folder's config and loads the graph, on as many threads as PyTorch has.

        Raises:
            ModelError: the graph cannot be read.
        """
        super().__init__()
        self.folder = folder
        self.config: PretrainedConfig = load_config(folder)
        require_one_answer(self.config, str(folder))
        self.device, self.dtype = torch.device("cpu"), _DTYPES[manifest.precision]
        self.limit = position_limit(self.config)
        open_graph = _open_onnx if manifest.engine == "onnxruntime" else _open_openvino
        path = folder / (ONNX_FILE if manifest.engine == "onnxruntime" else OPENVINO_FILE)
        package = extras.load(manifest.engine)
        try:
            # what the engine made of the graph, the names of its inputs, and what runs it
            self.program, self.inputs, self._run = open_graph(package, path, manifest.settings)
        except Exception as error:
            last = (str(error).strip() or repr(error)).splitlines()[-1].strip()
            raise ModelError(f"{manifest.engine} {package.__version__} cannot load {path}: {last}") from error
        self.eval()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Runs the graph.

        Args:
            input_ids: [B, L], on any device.
            attention_mask: [B, L], all ones by default.
            token_type_ids: [B, L], zeros by default; left out where the model has none.
            **_: switches of transformers (`return_dict`, `output_hidden_states`, ...): a graph has one output.

        Returns:
            `logits` [B, C] fp32, on the CPU.

        Raises:
            ModelError: the input is longer than the model's positions.
        """
        if self.limit is not None and input_ids.shape[1] > self.limit:
            raise ModelError(
                f"{self.folder} has positions for {self.limit} tokens; the input has {input_ids.shape[1]}. Cut it."
            )
        given = {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids) if attention_mask is None else attention_mask,
            "token_type_ids": torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids,
        }
        feed = {name: np.ascontiguousarray(given[name].detach().cpu().numpy(), dtype=np.int64) for name in self.inputs}
        logits = torch.from_numpy(np.asarray(self._run(feed), dtype=np.float32))
        return SequenceClassifierOutput(logits=cast(torch.FloatTensor, logits))


Classifier = PreTrainedModel | DeployedClassifier
"""What the workflows that only run a model take."""

_Opened = tuple[Any, tuple[str, ...], Callable[[dict[str, np.ndarray]], np.ndarray]]


def _open_onnx(ort: Any, path: Path, settings: dict[str, str]) -> _Opened:
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = tuple(each.name for each in session.get_inputs())
    return session, inputs, lambda feed: session.run(["logits"], feed)[0]


def _open_openvino(openvino: Any, path: Path, settings: dict[str, str]) -> _Opened:
    core = extras.openvino_core()
    told = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        **settings,
    }
    compiled = core.compile_model(core.read_model(str(path)), "CPU", told)
    request, logits = compiled.create_infer_request(), compiled.output("logits")
    inputs = tuple(each.get_any_name() for each in compiled.inputs)
    return (
        compiled,
        inputs,
        lambda feed: request.infer(feed, share_inputs=True, share_outputs=False)[logits],
    )
