"""What `codir latency` measures: models and engines as a user names them, checked, exported where need be, loaded.

The peak memory of each is that of a process of its own (`python -m codir.deploy.timed`): load it, run a batch, look.
What is counted: the largest resident set of that process (weights, whatever the engine makes of them, activations; also
the pages of a weight file that it has mapped) minus its resident set before the model was loaded, when Python, torch,
transformers and the engine's package had been imported. On a GPU: the most bytes that torch had allocated there,
weights and activations. Not counted: the tokenizer, and what torch.compile's compiler takes in processes of its own.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from codir.deploy.writing import export_files, manifest_of, require_packages
from codir.engines import extras
from codir.engines.engines import TORCH, load_engine
from codir.engines.folder import Manifest, Target, is_deployed
from codir.errors import CodirError, ConfigError, ModelError, RunError, nearest
from codir.files import read_json, require_disk, sweep, temporary_folder
from codir.measure.timing import Model, Text, encode_batch
from codir.models.check import check_model
from codir.models.loading import count_parameters, load_classifier, load_config, load_tokenizer, resolve
from codir.printing import progress_bar

TARGETS = {
    "onnxruntime": Target.of("onnx"),
    "onnxruntime-int8": Target.of("onnx", "int8"),
    "openvino": Target.of("openvino"),
    "openvino-fp32": Target.of("openvino", precision="fp32"),
    "openvino-int8": Target.of("openvino", "int8"),
}
"""Engines that need another format: a model folder is exported for them, for the time of the measurement."""
ENGINES = (*TORCH, *TARGETS)
_CALIBRATION_BATCH = 8
_STATUS = Path("/proc/self/status")


@dataclass
class Line:
    """One line of the table: a model in an engine."""

    name: str  # short and of this model alone
    path: str  # the model as the user named it
    engine: str  # one of `ENGINES`; of an exported folder the one it is for
    precision: str
    target: Target | None = None  # what the model has to be exported to first
    manifest: Manifest | None = None  # of an exported folder; after `load_lines` of a temporary export, too
    folder: str = ""  # where it is loaded from
    model: Model = field(default=None, repr=False)  # there after `load_lines`
    tokenizer: PreTrainedTokenizerBase = field(default=None, repr=False)  # type: ignore[assignment]

    @property
    def key(self) -> str:
        """The line's own name."""
        return f"{self.name} [{self.engine}]"


def choose(models: Sequence[str | Path], engines: Sequence[str] | None = None, device: str = "cpu") -> list[Line]:
    """Returns the lines of the table: every model folder in every engine (`torch` by default), exports in their own.

    Raises:
        ConfigError: no models, an unknown engine, one whose package is missing, one that does not fit the device or
            the folder; no GPU.
        ModelError: a folder that is no model.
    """
    if not models:
        raise ConfigError("There is no model to measure: name one, for example `codir latency runs/student`.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no GPU here. Use --device cpu.")
    asked: list[str] = ["torch"] if engines is None else [*engines]
    for engine in asked or [""]:
        if engine not in ENGINES:
            known = ", ".join(ENGINES)
            raise ConfigError(f"--engines {engine}: unknown{nearest(engine, ENGINES)}. There are {known}.")
        if engine in TARGETS and device == "cpu":
            require_packages(TARGETS[engine])
        if (device == "cuda" and engine in TARGETS) or (device == "cpu" and engine == "torch-fp16"):
            other = "cpu" if device == "cuda" else "cuda"
            raise ConfigError(f"--engines {engine} does not run on --device {device}, but on {other}.")
    lines: list[Line] = []
    paths = list(dict.fromkeys(map(str, models)))
    for name, model in zip(short_names(paths), paths, strict=True):
        if not is_deployed(model):
            resolve(model)
            for each in asked:
                target = TARGETS.get(each)
                lines.append(Line(name, model, each, target.kind if target else TORCH[each], target))
            continue
        manifest = Manifest.read(Path(model).expanduser())
        if manifest.engine not in TORCH:
            extras.load(manifest.engine)
            if device != "cpu":
                raise ConfigError(f"{model} is exported for {manifest.engine}, which runs on the CPU only here.")
        kind = Target(manifest.format, manifest.quantize, manifest.precision)
        engine = next((name for name, each in TARGETS.items() if str(each) == str(kind)), manifest.engine)
        lines.append(Line(name, model, engine, manifest.precision, manifest=manifest, folder=model))
    own = {line.engine for line in lines}
    if engines is not None and all(line.manifest for line in lines) and not own.issuperset(asked):
        raise ConfigError(
            f"--engines {', '.join(asked)}: an exported folder runs in its own engine ({', '.join(sorted(own))}), and "
            "no model folder is named. Leave --engines out, or name the model it was made from."
        )
    return lines


def short_names(models: Sequence[str]) -> list[str]:
    """Returns the last part of each path, or all of it where two have the same."""
    names = [Path(each).name or each for each in models]
    return [name if names.count(name) == 1 else each for name, each in zip(names, models, strict=True)]


def load_lines(
    stack: contextlib.ExitStack,
    lines: Sequence[Line],
    texts: Sequence[Text],
    batch: int,
    max_length: int,
    device: str,
) -> tuple[list[Line], list[tuple[str, str, str]]]:
    """Loads everything, exporting what has to be; what cannot be exported or compiled is left out, and why is said.

    Every line runs a batch here, so that an engine that cannot run the model is found before the measurement.
    """
    loaded: list[Line] = []
    left_out: list[tuple[str, str, str]] = []
    with progress_bar("loading, exporting, compiling", len(lines)) as progress:
        for number, line in enumerate(lines):
            line.tokenizer = load_tokenizer(line.path)
            try:
                line.folder = line.path
                if line.target is not None:
                    line.folder = _export(stack, line, line.target, texts, max_length)
                line.model = load_engine(line.folder, None if line.manifest else line.engine)
                check_model(line.model, line.tokenizer, line.path)
                inputs = encode_batch(line.model, line.tokenizer, texts[:batch], max_length, True)
                with torch.inference_mode():
                    line.model.to(device).eval()(**{name: each.to(device) for name, each in inputs.items()})
                loaded.append(line)
            except Exception as error:
                # a model that torch cannot load or run is the user's mistake; an engine's limits are a result
                ours = isinstance(error, CodirError)
                if line.engine == "torch" or (line.target is None and line.engine != "torch-compiled"):
                    if ours:
                        raise
                    raise ModelError(f"{line.path} does not run in {line.engine}: {error}") from error
                first = next(iter(str(error).strip().splitlines()), "")
                why = first if ours else f"{type(error).__name__}: {first}"
                left_out.append((line.name, line.engine, why))
            progress(number + 1, len(lines))
    return loaded, left_out


def _export(stack: contextlib.ExitStack, line: Line, target: Target, texts: Sequence[Text], max_length: int) -> str:
    """Exports a model folder into a temporary one, which lives as long as `stack`, and returns that."""
    model = load_classifier(line.path)
    check_model(model, line.tokenizer, line.path)
    place = Path(tempfile.gettempdir())
    sweep(place)  # what killed processes left
    folder = stack.enter_context(temporary_folder(place))
    require_disk(folder, 6 * count_parameters(model)[0], f"Exporting {line.name} for the measurement")

    def encoded(chosen: Sequence[Text]) -> Any:
        return encode_batch(model, line.tokenizer, chosen, max_length, False)

    starts = range(0, len(texts), _CALIBRATION_BATCH) if target.needs_data else ()
    batches = [encoded(texts[start : start + _CALIBRATION_BATCH]) for start in starts]
    export_files(model, target, folder, encoded([*texts, *texts][:3]), batches, line.path)
    line.manifest = manifest_of(model, target, line.path).write(folder)
    return str(folder)


def score_of(line: Line) -> tuple[str, float, int | None] | None:
    """Returns the main metric, its value and the number of examples, of an export or of a run folder in fp32.

    None where the folder does not say it, or is of another tool: the score is an extra here. A run folder's scores
    were computed in fp32: what 16 bits or int8 make of them nobody has measured.
    """
    try:
        if line.manifest is not None:
            metric, examples = line.manifest.main_metric, line.manifest.examples
            metrics = next(iter((line.manifest.metrics_after or {}).values()))
        elif line.precision == "fp32":
            found: Any = read_json(Path(line.path).expanduser() / "metrics.json")
            metric, examples = found["main_metric"], found.get("validation_examples", {})
            metrics = found.get("metrics")
            if "comparison" in found:  # of a distillation: its main student's, which lies in the folder
                rows = {row["role"]: row["metrics"] for row in found["comparison"]["rows"]}
                metrics = next(rows[role] for role in ("codir", "kd", "finetune") if role in rows)
        else:
            return None
        value = float(metrics[str(metric)])
        return (str(metric), value, next(iter(examples.values()), None)) if math.isfinite(value) else None
    except (OSError, RunError, KeyError, TypeError, ValueError, AttributeError, StopIteration):
        return None


# --- memory -----------------------------------------------------------------------------------------------------------


def peak_memory(path: str | Path, engine: str | None, batch: Mapping[str, torch.Tensor], device: str = "cpu") -> int:
    """Returns the bytes that loading a model and running one batch takes (see the module's text for what is counted).

    Raises:
        RunError: the process failed, with the last line it wrote.
    """
    order = {
        "path": str(path),
        "engine": engine,
        "inputs": {name: tensor.cpu().tolist() for name, tensor in batch.items()},
        "threads": torch.get_num_threads(),
        "device": device,
    }
    pipes: dict[str, Any] = {"input": json.dumps(order), "capture_output": True, "text": True, "errors": "replace"}
    try:
        done = subprocess.run([sys.executable, "-m", __name__], timeout=900, **pipes)
    except subprocess.TimeoutExpired as error:
        raise RunError(f"{path} did not load and run in 15 minutes.") from error
    if done.returncode:
        said = done.stderr.strip() or f"exit code {done.returncode}"
        raise RunError(f"The process that measures the memory of {path} failed: {said.splitlines()[-1]}")
    return int(done.stdout.splitlines()[-1])


def _measure(order: Mapping[str, Any]) -> int:
    """Loads and runs in this process, which must be fresh, and returns the bytes."""
    torch.set_num_threads(order["threads"])
    batch = {name: torch.tensor(values) for name, values in order["inputs"].items()}
    # packages do not count: all that loading this model will import
    if is_deployed(order["path"]) and (engine := Manifest.read(order["path"]).engine) not in TORCH:
        extras.load(engine)
    if order["engine"] == "torch-compiled":
        importlib.import_module("torch._inductor.compile_fx")
    # transformers imports a family's code when its class is looked up
    family = type(load_config(resolve(order["path"])))
    AutoModelForSequenceClassification._model_mapping.get(family, None)  # type: ignore[attr-defined]
    nn.functional.linear(torch.ones(8, 8), torch.ones(8, 8))
    cuda = order["device"] == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # Linux forgets the peak of the imports
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status("VmRSS")
    model = load_engine(order["path"], order["engine"]).to(order["device"]).eval()
    with torch.inference_mode():
        model(**{name: tensor.to(order["device"]) for name, tensor in batch.items()})
    if cuda:
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated())
    return max(0, _status("VmHWM") - before)


def _status(field: str) -> int:
    """Returns bytes out of Linux' own account of this process; elsewhere the largest resident set so far."""
    if _STATUS.is_file():
        (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
        return int(line.split()[1]) * 1024
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


if __name__ == "__main__":
    # what engines print comes before it
    os.write(1, f"\n{_measure(json.loads(sys.stdin.read()))}\n".encode())
    os._exit(0)  # engines end their threads slowly, and some not at all
