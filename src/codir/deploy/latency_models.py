"""What `codir latency` measures: models and engines as a user names them, checked before anything runs."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from codir.data.glue import glue_task
from codir.engines import extras
from codir.engines.engines import load_engine
from codir.engines.folder import Manifest, is_deployed
from codir.engines.formats import Target
from codir.errors import ConfigError, RunError, nearest
from codir.models.loading import load_classifier, load_config, resolve
from codir.storage import read_json

TORCH = ("torch", "torch-bf16", "torch-fp16", "torch-compiled")
TARGETS = {
    "onnxruntime": Target.of("onnx"),
    "onnxruntime-int8": Target.of("onnx", "int8"),
    "openvino": Target.of("openvino"),
    "openvino-fp32": Target.of("openvino", precision="fp32"),
    "openvino-int8": Target.of("openvino", "int8"),
}
"""Engines that need another format: a model folder is exported for them, for the time of the measurement."""
ENGINES = (*TORCH, *TARGETS)
_PRECISIONS = {"torch": "fp32", "torch-bf16": "bf16", "torch-fp16": "fp16", "torch-compiled": "fp32"}


@dataclass(frozen=True)
class Wanted:
    """One line of the table: a model in an engine.

    Attributes:
        name: short and of this model alone.
        path: as the user named the model.
        engine: one of `ENGINES`; of an exported folder the one it is for.
        precision: `fp32`, `bf16`, `fp16` or `int8`.
        target: what the model has to be exported to first; None if it lies there ready.
        manifest: of an exported folder.
    """

    name: str
    path: str
    engine: str
    precision: str
    target: Target | None = None
    manifest: Manifest | None = None

    @property
    def key(self) -> str:
        """The line's name."""
        return f"{self.name} [{self.engine}]"


def choose(
    models: Sequence[str | Path], engines: Sequence[str] | None = None, device: str = "cpu"
) -> list[Wanted]:
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
    asked = _engines(engines)
    _check_device(device, asked)
    wanted: list[Wanted] = []
    names = short_names([str(model) for model in models])
    for name, model in zip(names, map(str, models), strict=True):
        if is_deployed(model):
            manifest = Manifest.read(Path(model).expanduser())
            extras.require(manifest.engine)
            engine = f"{manifest.engine}-int8" if manifest.precision == "int8" else manifest.engine
            if manifest.engine == "openvino" and manifest.precision == "fp32":
                engine = "openvino-fp32"
            if device != "cpu" and manifest.engine not in TORCH:
                raise ConfigError(
                    f"{model} is exported for {manifest.engine}, which runs on the CPU only here."
                )
            wanted.append(Wanted(name, model, engine, manifest.precision, manifest=manifest))
            continue
        resolve(model)
        wanted += [
            Wanted(name, model, each, _PRECISIONS.get(each) or TARGETS[each].kind, TARGETS.get(each))
            for each in asked
        ]
    _check_fit(wanted, engines)
    return wanted


def _engines(engines: Sequence[str] | None) -> list[str]:
    """Returns the engines asked for, each once, after a look at their packages."""
    asked = list(dict.fromkeys(each.strip() for each in engines or ("torch",) if each.strip()))
    if not asked:
        raise ConfigError(f"--engines names none. There are {', '.join(ENGINES)}.")
    for engine in asked:
        if engine not in ENGINES:
            raise ConfigError(
                f"--engines {engine}: unknown{nearest(engine, ENGINES)}. There are {', '.join(ENGINES)}."
            )
        if engine in TARGETS:
            target = TARGETS[engine]
            extras.require("openvino int8" if engine == "openvino-int8" else target.format)
    return asked


def _check_device(device: str, engines: Iterable[str]) -> None:
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


def _check_fit(wanted: Sequence[Wanted], engines: Sequence[str] | None) -> None:
    """Refuses engines that none of the models can run in: only exported folders were named, each for another one."""
    if engines is None or any(line.manifest is None for line in wanted):
        return
    own = {line.engine for line in wanted}
    for engine in engines:
        if engine.strip() not in own:
            raise ConfigError(
                f"--engines {engine.strip()}: an exported folder runs in its own engine ({', '.join(sorted(own))}), "
                "and no model folder is named. Leave --engines out, or name the model it was made from."
            )


def short_names(models: Sequence[str]) -> list[str]:
    """Returns the last part of each path, with as many parts before it as it takes to tell them apart.

    The same model named twice is numbered.
    """
    parts = [
        [part for part in Path(model).parts if part not in ("/", "..", "~")] or [model] for model in models
    ]
    names = [each[-1] for each in parts]
    for length in range(2, max(map(len, parts), default=1) + 1):
        double = {name for name in names if names.count(name) > 1}
        names = [
            "/".join(each[-length:]) if name in double else name
            for each, name in zip(parts, names, strict=True)
        ]
    seen: dict[str, int] = {}
    for number, name in enumerate(names):
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            names[number] = f"{name} ({seen[name]})"
    return names


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


@dataclass(frozen=True)
class Score:
    """What a run folder or an export says of its quality.

    Attributes:
        metric: the main metric.
        value: on the main validation split.
        examples: how many that split has; None where the folder does not say.
    """

    metric: str
    value: float
    examples: int | None


def score_of(line: Wanted) -> Score | None:
    """Returns the score of an exported folder, or of a run folder in fp32; None where it is not known.

    A run folder's scores were computed in fp32: what 16 bits or int8 make of them nobody has measured.
    """
    if line.manifest is not None:
        found = _exported_score(line.manifest)
    else:
        found = _run_score(Path(line.path)) if line.precision == "fp32" else None
    return found if found is not None and math.isfinite(found.value) else None


def _run_score(folder: Path) -> Score | None:
    """Reads `metrics.json`: of a distillation the row of its main student, which is what lies in the folder."""
    path = folder.expanduser() / "metrics.json"
    if not path.is_file():
        return None
    try:
        content = read_json(path)
        metric = content["main_metric"]
        if "comparison" in content:
            rows = {row["role"]: row["metrics"] for row in content["comparison"]["rows"]}
            metrics = next(rows[role] for role in ("codir", "kd", "finetune") if role in rows)
        else:
            metrics = content["metrics"]
        return Score(str(metric), float(metrics[metric]), _first_count(content.get("validation_examples")))
    except (RunError, KeyError, TypeError, ValueError, AttributeError, StopIteration):
        return None  # written by another tool, or by an older version: the score is an extra here


def _exported_score(manifest: Manifest) -> Score | None:
    splits = manifest.metrics_after
    if not splits:
        return None
    metrics = next(iter(splits.values()))
    task = glue_task(manifest.task or "")
    name = manifest.main_metric or (task.main_metric if task is not None else next(iter(metrics), ""))
    return Score(name, float(metrics[name]), _first_count(manifest.examples)) if name in metrics else None


def _first_count(examples: Any) -> int | None:
    """Returns the number of the main split's examples, which comes first."""
    count = next(iter(examples.values()), None) if isinstance(examples, dict) else None
    return count if isinstance(count, int) else None
