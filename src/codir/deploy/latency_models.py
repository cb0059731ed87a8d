"""The lines of a latency table: models and engines as a user names them, checked, exported where need be, loaded."""

from __future__ import annotations

import contextlib
import importlib
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from codir.data.glue import glue_task
from codir.deploy.writing import engine_settings, export_files
from codir.engines import extras
from codir.engines.engines import load_engine
from codir.engines.folder import Manifest, is_deployed
from codir.engines.formats import Target
from codir.errors import CodirError, ConfigError, ModelError, RunError, nearest
from codir.files import read_json, require_disk, sweep, temporary_folder
from codir.measure.timing import Model, Text, encode_batch
from codir.models.check import check_model
from codir.models.loading import count_parameters, load_classifier, load_config, load_tokenizer, resolve
from codir.printing import progress_bar

TORCH = {"torch": "fp32", "torch-bf16": "bf16", "torch-fp16": "fp16", "torch-compiled": "fp32"}
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


@dataclass
class Line:
    """One line of the table: a model in an engine.

    Attributes:
        name: short and of this model alone.
        path: the model as the user named it.
        engine: one of `ENGINES`; of an exported folder the one it is for.
        precision: `fp32`, `bf16`, `fp16` or `int8`.
        target: what the model has to be exported to first; None if it lies there ready.
        manifest: an exported folder's; after `load_lines` that of a temporary export, too.
        folder: where it is loaded from.
        model, tokenizer: there after `load_lines`.
    """

    name: str
    path: str
    engine: str
    precision: str
    target: Target | None = None
    manifest: Manifest | None = None
    folder: str = ""
    model: Model = field(default=None, repr=False, compare=False)
    tokenizer: PreTrainedTokenizerBase = field(default=None, repr=False, compare=False)  # type: ignore[assignment]

    @property
    def key(self) -> str:
        """The line's own name."""
        return f"{self.name} [{self.engine}]"


def choose(
    models: Sequence[str | Path], engines: Sequence[str] | None = None, device: str = "cpu"
) -> list[Line]:
    """Returns the lines of the table: every model folder in every engine, exported folders in their own.

    Args:
        models: model folders, Hub ids, exported folders; the first is what the others are compared with.
        engines: some of `ENGINES`, for model folders; `torch` by default.
        device: `cpu` or `cuda`.

    Raises:
        ConfigError: no models, an unknown engine, one whose package is missing, one that does not fit the device or
            the folder; no GPU.
        ModelError: a folder that is no model.
    """
    if not models:
        raise ConfigError("There is no model to measure: name one, for example `codir latency runs/student`.")
    asked = list(dict.fromkeys(each.strip() for each in engines or ("torch",) if each.strip()))
    _check_engines(asked, device)
    lines: list[Line] = []
    for name, model in zip(short_names([str(model) for model in models]), map(str, models), strict=True):
        if not is_deployed(model):
            resolve(model)
            for each in asked:
                target = TARGETS.get(each)
                lines.append(Line(name, model, each, target.kind if target else TORCH[each], target))
            continue
        manifest = Manifest.read(Path(model).expanduser())
        extras.require(manifest.engine)
        if device != "cpu" and manifest.engine not in TORCH:
            raise ConfigError(f"{model} is exported for {manifest.engine}, which runs on the CPU only here.")
        kind = Target(manifest.format, manifest.quantize, manifest.precision)
        engine = next((name for name, each in TARGETS.items() if str(each) == str(kind)), manifest.engine)
        lines.append(Line(name, model, engine, manifest.precision, manifest=manifest))
    own = {line.engine for line in lines}
    if engines is not None and all(line.manifest for line in lines) and (unfit := set(asked) - own):
        raise ConfigError(
            f"--engines {min(unfit)}: an exported folder runs in its own engine ({', '.join(sorted(own))}), and no "
            "model folder is named. Leave --engines out, or name the model it was made from."
        )
    return lines


def _check_engines(engines: Sequence[str], device: str) -> None:
    if not engines:
        raise ConfigError(f"--engines names none. There are {', '.join(ENGINES)}.")
    for engine in engines:
        if engine not in ENGINES:
            raise ConfigError(
                f"--engines {engine}: unknown{nearest(engine, ENGINES)}. There are {', '.join(ENGINES)}."
            )
        if engine in TARGETS:
            extras.require("openvino int8" if engine == "openvino-int8" else TARGETS[engine].format)
    if device not in ("cpu", "cuda"):
        raise ConfigError(
            f"--device {device}: unknown{nearest(device, ('cpu', 'cuda'))}. There are cpu and cuda."
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no GPU here. Use --device cpu.")
    for engine in engines:
        if device == "cuda" and engine not in TORCH:
            raise ConfigError(
                f"--device cuda runs {', '.join(TORCH)}; {engine} is for the CPU. Measure it with --device cpu."
            )
        if device == "cpu" and engine == "torch-fp16":
            raise ConfigError("torch-fp16 is for --device cuda; a CPU computes 16 bits as torch-bf16.")


def short_names(models: Sequence[str]) -> list[str]:
    """Returns the last part of each path, with as many parts before it as it takes to tell them apart.

    The same model named twice is numbered.
    """
    parts = [[part for part in Path(each).parts if part not in ("/", "..", "~")] or [each] for each in models]
    names = [each[-1] for each in parts]
    for length in range(2, max(map(len, parts), default=1) + 1):
        names = [
            "/".join(each[-length:]) if names.count(name) > 1 else name
            for each, name in zip(parts, list(names), strict=True)
        ]
    counts = [names[: number + 1].count(name) for number, name in enumerate(names)]
    return [f"{name} ({count})" if count > 1 else name for name, count in zip(names, counts, strict=True)]


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
                line.folder = (
                    line.path if line.target is None else _export(stack, line, line.target, texts, max_length)
                )
                line.model = load(line.folder, line.engine)
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
                left_out.append(
                    (line.name, line.engine, first if ours else f"{type(error).__name__}: {first}")
                )
            progress(number + 1, len(lines))
    return loaded, left_out


def _export(
    stack: contextlib.ExitStack, line: Line, target: Target, texts: Sequence[Text], max_length: int
) -> str:
    """Exports a model folder into a temporary one, which lives as long as `stack`, and returns that."""
    model = load_classifier(line.path)
    check_model(model, line.tokenizer, line.path)
    place = Path(tempfile.gettempdir())
    sweep(place)  # what killed processes left
    folder = stack.enter_context(temporary_folder(place))
    total, embedding = count_parameters(model)
    require_disk(folder, 6 * total, f"Exporting {line.name} for the measurement")

    def encoded(chosen: Sequence[Text]) -> Any:
        return encode_batch(model, line.tokenizer, chosen, max_length, False)

    starts = range(0, len(texts), _CALIBRATION_BATCH) if target.needs_data else ()
    batches = [encoded(texts[start : start + _CALIBRATION_BATCH]) for start in starts]
    export_files(model, target, folder, encoded([*texts, *texts][:3]), batches, line.path)
    line.manifest = Manifest(
        format=target.format,
        quantize=target.quantize,
        precision=target.kind,
        engine=target.engine,
        source=line.path,
        source_digest="",
        settings=engine_settings(target),
        parameters=total,
        embedding_parameters=embedding,
    ).write(folder)
    return str(folder)


def load(path: str | Path, engine: str | None) -> Any:
    """Loads a model in one of `TORCH`, or an exported folder in its own engine."""
    if is_deployed(path):
        return load_engine(path)
    if engine == "torch-fp16":
        return load_classifier(path, dtype=torch.float16)
    return load_engine(path, engine)


def warm_imports(path: str | Path, engine: str | None) -> None:
    """Imports all that loading this model will: packages count neither as its time nor as its memory."""
    if is_deployed(path):
        extras.require(Manifest.read(path).engine)
    if engine == "torch-compiled":
        importlib.import_module("torch._inductor.compile_fx")
    kind = type(load_config(resolve(path)))
    # transformers imports a family's code when its class is looked up
    AutoModelForSequenceClassification._model_mapping.get(kind, None)  # type: ignore[attr-defined]
    nn.functional.linear(torch.ones(8, 8), torch.ones(8, 8))


def score_of(line: Line) -> tuple[str, float, int | None] | None:
    """Returns the main metric, its value and the number of examples, of an export or of a run folder in fp32.

    None where the folder does not say it, or is of another tool: the score is an extra here. A run folder's scores
    were computed in fp32: what 16 bits or int8 make of them nobody has measured.
    """
    found: Any = line.manifest
    try:
        if found is not None and found.metrics_after:
            metrics, examples = next(iter(found.metrics_after.values())), found.examples
            task = glue_task(found.task or "")
            metric = found.main_metric or (
                task.main_metric if task is not None else next(iter(metrics), "")
            )  # an older one
        elif found is None and line.precision == "fp32":
            found = read_json(Path(line.path).expanduser() / "metrics.json")
            metric, examples = str(found["main_metric"]), found.get("validation_examples")
            metrics = found.get("metrics")
            if "comparison" in found:  # of a distillation: its main student's, which lies in the folder
                rows = {row["role"]: row["metrics"] for row in found["comparison"]["rows"]}
                metrics = next(rows[role] for role in ("codir", "kd", "finetune") if role in rows)
        else:
            return None
        value = float(metrics[metric])
    except (OSError, RunError, KeyError, TypeError, ValueError, AttributeError, StopIteration):
        return None
    count = next(iter(examples.values()), None) if isinstance(examples, dict) else None  # the main split's
    return (metric, value, count if isinstance(count, int) else None) if math.isfinite(value) else None
