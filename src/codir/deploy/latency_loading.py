"""Loads what `codir latency` measures: exports what an engine needs in another format, and tries every line once."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from codir.deploy.exporting import engine_settings, export_files
from codir.deploy.latency_models import Wanted, load
from codir.deploy.scratch import scratch_folder
from codir.engines.folder import Manifest
from codir.errors import CodirError, ModelError
from codir.models.check import check_model
from codir.models.loading import count_parameters, load_classifier, load_tokenizer
from codir.printing import progress_bar
from codir.runs.timing import Model, Text, encode_batch
from codir.storage import require_disk

_CALIBRATION_BATCH = 8


@dataclass
class Loaded:
    """A line of the table, ready to run."""

    wanted: Wanted
    folder: str
    model: Model
    tokenizer: PreTrainedTokenizerBase
    manifest: Manifest | None


def prepare(
    stack: contextlib.ExitStack,
    wanted: Sequence[Wanted],
    texts: Sequence[Text],
    batch: int,
    max_length: int,
    device: str,
) -> tuple[list[Loaded], list[tuple[str, str, str]]]:
    """Loads everything, exporting what has to be; what cannot be exported or compiled is left out, and why is said.

    Every line runs a batch here, so that an engine that cannot run the model is found before the measurement.
    """
    lines: list[Loaded] = []
    left_out: list[tuple[str, str, str]] = []
    with progress_bar("loading, exporting, compiling", len(wanted)) as progress:
        for number, line in enumerate(wanted):
            tokenizer = load_tokenizer(line.path)
            try:
                folder = (
                    line.path if line.target is None else _export(stack, line, tokenizer, texts, max_length)
                )
                model = load(folder, line.engine)
                check_model(model, tokenizer, line.path)
                inputs = encode_batch(model, tokenizer, texts[:batch], max_length, True)
                with torch.inference_mode():
                    model.to(device).eval()(**{name: each.to(device) for name, each in inputs.items()})
            except Exception as error:
                # a model that torch cannot load or run is the user's mistake; an engine's limits are a result
                if line.engine == "torch" or (line.target is None and line.engine != "torch-compiled"):
                    if isinstance(error, CodirError):
                        raise
                    raise ModelError(f"{line.path} does not run in {line.engine}: {error}") from error
                left_out.append((line.name, line.engine, _why(error)))
            else:
                manifest = Manifest.read(folder) if line.target is not None else line.manifest
                lines.append(Loaded(line, str(folder), model, tokenizer, manifest))
            progress(number + 1, len(wanted))
    return lines, left_out


def _export(
    stack: contextlib.ExitStack,
    line: Wanted,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Text],
    max_length: int,
) -> str:
    """Exports a model folder into a temporary one, which lives as long as `stack`, and returns that."""
    assert line.target is not None
    model = load_classifier(line.path)
    check_model(model, tokenizer, line.path)
    folder = str(stack.enter_context(scratch_folder("codir-latency-")))
    total, embedding = count_parameters(model)
    require_disk(folder, 6 * total, f"Exporting {line.name} for the measurement")
    chunks = [texts[start : start + _CALIBRATION_BATCH] for start in range(0, len(texts), _CALIBRATION_BATCH)]
    batches = [encode_batch(model, tokenizer, chunk, max_length, False) for chunk in chunks]
    sample = encode_batch(model, tokenizer, [*texts, *texts][:3], max_length, False)
    export_files(model, line.target, folder, sample, batches, line.path)
    Manifest(
        format=line.target.format,
        quantize=line.target.quantize,
        precision=line.target.kind,
        engine=line.target.engine,
        source=line.path,
        source_digest="",
        settings=engine_settings(line.target),
        parameters=total,
        embedding_parameters=embedding,
    ).write(folder)
    return folder


def _why(error: Exception) -> str:
    text = str(error).strip().splitlines()
    first = text[0] if text else ""
    return first if isinstance(error, CodirError) else f"{type(error).__name__}: {first}"
