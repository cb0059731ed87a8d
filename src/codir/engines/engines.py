"""The engines that run a classifier: PyTorch, ONNX Runtime, OpenVINO; each looks like the model it came from."""

from __future__ import annotations

import shlex
from abc import abstractmethod
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from codir.engines import extras
from codir.engines.folder import Manifest, is_deployed
from codir.engines.formats import ENGINES
from codir.errors import ConfigError, ModelError, nearest
from codir.models.check import behaviour
from codir.models.config_file import position_limit
from codir.models.labels import require_one_answer
from codir.models.loading import load_classifier, load_config, resolve

ONNX_FILE = "model.onnx"
OPENVINO_FILE = "openvino_model.xml"
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}


def load_engine(path: str | Path, engine: str | None = None) -> Classifier:
    """Loads a classifier for inference, whatever it lies there as.

    Args:
        path: an exported folder, a model folder, or a Hub id.
        engine: one of `ENGINES`; an exported folder has its own and takes no other; a model folder or a Hub id runs in
            `torch` (the default, fp32), `torch-bf16` or `torch-compiled`.

    Returns:
        In eval mode, with `config`, `device` and `dtype`; called with token ids it gives an output with `logits`
        (`torch-bf16`: those are bf16; `predict_logits` returns fp32 of every engine).

    Raises:
        ConfigError: an unknown engine, one that cannot run this folder, or one whose package is not installed.
        ModelError: no model there, or a damaged one.
    """
    if engine is not None and engine not in ENGINES:
        raise ConfigError(
            f"Unknown engine {engine!r}{nearest(engine, ENGINES)}. Known are {', '.join(ENGINES)}."
        )
    if is_deployed(path):
        return _load_exported(Path(path).expanduser(), engine)
    source = resolve(path)
    if engine in ("onnxruntime", "openvino"):
        form = "onnx" if engine == "onnxruntime" else "openvino"
        raise ConfigError(
            f"{path} is a model folder, which {engine} cannot run. Export it first: "
            f"codir export {shlex.quote(str(path))} --format {form} --output FOLDER"
        )
    if isinstance(source, Path) and (form := _unfinished(source)) is not None:
        raise ModelError(
            f"{path} holds an exported model ({form}) without its deployment.json, so nothing says that it is whole. "
            "Copy the whole folder again, or export the model again: `codir export`."
        )
    model = load_classifier(path, dtype=torch.bfloat16 if engine == "torch-bf16" else torch.float32)
    return _compiled(model) if engine == "torch-compiled" else model


def _load_exported(folder: Path, engine: str | None) -> Classifier:
    manifest = Manifest.read(folder)
    if manifest.engine not in ENGINES:
        raise ModelError(f"{folder} is for the engine {manifest.engine!r}, which this codir does not know.")
    if engine not in (None, manifest.engine):
        raise ConfigError(
            f"{folder} is exported for {manifest.engine}; {engine} cannot run it. "
            f"Leave the engine out, or use the model it was made from ({manifest.source})."
        )
    extras.require(manifest.engine)
    manifest.check_files(folder)
    return open_engine(folder, manifest)


def open_engine(folder: Path, manifest: Manifest) -> Classifier:
    """Loads an exported model as its manifest says, without asking whether the files are whole."""
    if manifest.engine == "torch-bf16":
        return load_classifier(folder, dtype=torch.bfloat16, exported=True)
    kind = OnnxClassifier if manifest.engine == "onnxruntime" else OpenVinoClassifier
    return kind(folder, manifest)


def _unfinished(folder: Path) -> str | None:
    """Returns the name of an exported graph in a folder that has no weights of transformers."""
    if any(folder.glob("*.safetensors*")):
        return None
    return next((name for name in (ONNX_FILE, OPENVINO_FILE) if (folder / name).is_file()), None)


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
    """A classifier that another engine than PyTorch runs; called and asked like the one it was made from.

    Attributes:
        engine: `onnxruntime` or `openvino`.
        precision: `fp32`, `bf16` or `int8`.
        config: the config of the model it was made from.
        manifest: what its folder says.
        inputs: names of the graph's inputs.
    """

    engine: str
    inputs: tuple[str, ...]

    def __init__(self, folder: Path, manifest: Manifest):
        """Reads the folder's config; subclasses then load the graph."""
        super().__init__()
        self.folder = folder
        self.manifest = manifest
        self.precision = manifest.precision
        self.config: PretrainedConfig = load_config(folder)
        require_one_answer(self.config, str(folder))
        self.limit = position_limit(self.config)
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where inputs and logits lie: the CPU."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """What the engine computes in: fp32, bf16 or int8."""
        return _DTYPES[self.precision]

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
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        given = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": types}
        feed = {
            name: np.ascontiguousarray(given[name].detach().cpu().numpy(), dtype=np.int64)
            for name in self.inputs
        }
        logits = torch.from_numpy(np.asarray(self._run(feed), dtype=np.float32))
        return SequenceClassifierOutput(logits=cast(torch.FloatTensor, logits))

    @abstractmethod
    def _run(self, feed: dict[str, np.ndarray]) -> np.ndarray:
        """Returns the logits [B, C] for int64 inputs [B, L]."""


class OnnxClassifier(DeployedClassifier):
    """Runs `model.onnx` with ONNX Runtime on the CPU, on as many threads as PyTorch has."""

    engine = "onnxruntime"

    def __init__(self, folder: Path, manifest: Manifest):
        """Opens a session; raises `ModelError` if the graph cannot be read."""
        super().__init__(folder, manifest)
        ort = extras.load("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        path = folder / ONNX_FILE
        try:
            self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ModelError(
                f"ONNX Runtime {ort.__version__} cannot load {path}: {_first_line(error)}"
            ) from error
        self.inputs = tuple(each.name for each in self.session.get_inputs())

    def _run(self, feed: dict[str, np.ndarray]) -> np.ndarray:
        return self.session.run(["logits"], feed)[0]


class OpenVinoClassifier(DeployedClassifier):
    """Runs `openvino_model.xml` with OpenVINO on the CPU, in the precision of the manifest, on PyTorch's threads."""

    engine = "openvino"

    def __init__(self, folder: Path, manifest: Manifest):
        """Compiles the model; raises `ModelError` if it cannot be read."""
        super().__init__(folder, manifest)
        openvino = extras.load("openvino")
        path = folder / OPENVINO_FILE
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            **manifest.settings,
        }
        try:
            core = extras.openvino_core()
            self.compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)
        except Exception as error:
            raise ModelError(
                f"OpenVINO {openvino.__version__} cannot load {path}: {_first_line(error)}"
            ) from error
        self.request = self.compiled.create_infer_request()
        self.inputs = tuple(each.get_any_name() for each in self.compiled.inputs)
        self._logits = self.compiled.output("logits")

    def _run(self, feed: dict[str, np.ndarray]) -> np.ndarray:
        return self.request.infer(feed, share_inputs=True, share_outputs=False)[self._logits]


Classifier = PreTrainedModel | DeployedClassifier
"""What the workflows that only run a model take."""


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else repr(error)
