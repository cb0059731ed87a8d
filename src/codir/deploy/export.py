"""Exports a model to a format people deploy, and proves at once that nothing was lost."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import xxhash
from transformers import PreTrainedModel

from codir.config.config import DataConfig
from codir.data.encoding import cuts_unsaid, length_limit
from codir.data.task import TaskData
from codir.deploy import check
from codir.deploy.card import export_card, padding_words
from codir.deploy.export_data import calibration_batches, probe_texts, validation_data
from codir.deploy.export_result import ExportResult, print_result
from codir.deploy.writing import engine_settings, export_files, model_inputs, refuse_family, require_packages
from codir.engines.engines import Classifier, open_engine
from codir.engines.folder import Manifest, is_deployed, new_folder, require_new, weight_files
from codir.engines.formats import Target
from codir.errors import ConfigError, DataError, ModelError
from codir.files import at_home, require_disk, write_text
from codir.kinds import kind_of
from codir.models.check import behaviour, load_tokenizer_for
from codir.models.loading import count_parameters, load_classifier, resolve
from codir.printing import Console, progress_bar, terminal
from codir.record.environment import command_line, versions
from codir.record.run_data import Chosen, choose_data, describe, inputs_of
from codir.runs.evaluate import EvaluationResult, evaluate_model
from codir.training.processes import one_process_only

CALIBRATION = 300  # examples; 1,200 gave the same differences on real students, 64 slightly larger ones
PACKAGES = ("onnx", "onnxruntime", "onnxscript", "openvino", "nncf")


def export(
    model: str | Path,
    output: str | Path,
    format: str,
    *,
    quantize: str | None = None,
    precision: str | None = None,
    data: DataConfig | Mapping[str, Any] | None = None,
    use_run_data: bool = True,
    max_length: int | None = None,
    calibration: int = CALIBRATION,
    max_difference: float | None = None,
    min_agreement: float | None = None,
    max_drop: float | None = None,
    batch_size: int = 32,
    console: Console | None = None,
    quiet: bool = False,
) -> ExportResult:
    """Writes a folder that predicts by itself, whole or not at all, and prints what the checks found.

    The checks run source (PyTorch, fp32) and export on the same inputs: batches of 1 to 33 and lengths of 3 tokens to
    the model's limit, and with a task its whole validation data.

    Args:
        model: run folder, model folder or Hub id of a fine-tuned model.
        output: folder to make; must not exist (an empty one may).
        format: `onnx`, `openvino` or `torch-bf16`.
        quantize: `int8`, or `none` (the default).
        precision: `fp32` or `bf16` for what is not quantised; OpenVINO's default is bf16.
        data: a task or files: for the metric before and after, and for OpenVINO's int8 to calibrate on. By default
            those a run folder was made with, so that the metric is on the same examples as the run's own; single
            settings (a mapping without task and files) win over the run's.
        use_run_data: False: no data but those named.
        max_length: texts are cut to this many tokens in checks and calibration, where `data` does not say it; by
            default as in the model's run.
        calibration: number of training examples that OpenVINO's int8 takes its ranges from.
        max_difference: largest difference of a logit; by default 1e-3 for fp32, no limit for bf16 and int8.
        min_agreement: least share of equal answers, on the validation examples where there are any, else on made-up
            inputs; 0.97 by default.
        max_drop: most points of the main metric (of 100) that may be lost on any validation split; 0.5 by default.
        batch_size: examples in a batch of the validation data.
        console: where to print; standard output by default.
        quiet: prints nothing.

    Raises:
        ConfigError: unknown or contradicting settings, a package that is not installed.
        ModelError: no model there, one that cannot be exported, or an export over a limit.
        DataError: for everything wrong with the data.
        RunError: the output exists, is being written by another process, or cannot be written.
    """
    one_process_only("codir export")
    target = Target.of(format, quantize, precision)
    limits = check.Limits.of(target, max_difference, min_agreement, max_drop)
    if calibration < 1:
        raise ConfigError(f"calibration must be at least 1 example, not {calibration}.")
    output, source = Path(at_home(output)), str(model)
    require_new(output)
    if max_length is not None and not isinstance(data, DataConfig):
        data = {"max_length": max_length, **(data or {})}
    chosen = choose_data([model], data, use_run_data)
    if target.needs_data and chosen.config is None:
        raise ConfigError(
            "OpenVINO's int8 is calibrated on real inputs, so it needs data: add --task sst2, or --train train.csv "
            "--text review --label stars. Without data: --format onnx --quantize int8, or leave out --quantize."
            + (f" {chosen.words}" if chosen.words else "")
        )
    if is_deployed(model):
        manifest = Manifest.read(Path(model).expanduser())
        raise ConfigError(
            f"{model} is an exported model already ({manifest.format}, {manifest.precision}). Export the model it was "
            f"made from: {manifest.source}"
        )
    require_packages(target)
    resolve(model)
    if chosen.words and not quiet:
        terminal(console).print(chosen.words, highlight=False, soft_wrap=True)
    with new_folder(output) as folder, cuts_unsaid():
        result = _export(source, target, limits, folder, output, chosen, max_length, calibration, batch_size)
    if not quiet:
        print_result(result, console)
    return result


def _export(
    source: str,
    target: Target,
    limits: check.Limits,
    folder: Path,
    output: Path,
    chosen: Chosen,
    max_length: int | None,
    calibration: int,
    batch_size: int,
) -> ExportResult:
    """Fills the folder: calibrates, writes, measures before and after, compares, and last of all the manifest."""
    notes: list[str] = []
    model = load_classifier(source)
    tokenizer = load_tokenizer_for(model, source)
    refuse_family(model, target, source)
    inputs = inputs_of(source)
    asked = max_length if chosen.config is None else chosen.config.max_length
    if asked is None and inputs is not None and (asked := inputs.max_length) is not None:
        notes.append(f"{inputs.words({'max_length': asked})}")
    task = _task(model, target, chosen, notes)
    batches, calibrated = [], None
    if task is not None and chosen.config is not None:
        notes += task.notes
        if target.needs_data:
            found = calibration_batches(model, tokenizer, chosen.config, task, calibration)
            batches, calibrated, more = found
            notes += more
    texts = probe_texts(task)
    paired = [text for text in texts if not isinstance(text, str)]
    sample = next(check.probes(paired or texts, tokenizer, [(3, 12)]))
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    require_disk(folder, 2 * size, "The exported model")
    with progress_bar(f"exporting to {target}"):
        export_files(model, target, folder, sample, batches, source)
        tokenizer.save_pretrained(folder)

    total, embedding = count_parameters(model)
    limit = length_limit(asked, model.config)
    manifest = Manifest(
        format=target.format,
        quantize=target.quantize,
        precision=target.kind,
        engine=target.engine,
        source=source,
        source_digest=weights_digest(model),
        settings=engine_settings(target),
        task=None if task is None else task.task.name,
        max_length=limit if limit is not None else asked,
        reads=None if inputs is None else {**inputs.values(), "max_length": asked},
        parameters=total,
        embedding_parameters=embedding,
        versions={name: version for name, version in (versions() | versions(PACKAGES)).items() if version},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command_line(),
    )
    engine = open_engine(folder, manifest)

    def measured(which: Classifier, what: str) -> EvaluationResult | None:
        if task is None:
            return None
        with progress_bar(f"measuring the {what} on {task.task.name}"):
            return evaluate_model(
                which, tokenizer, task, name=source, max_length=asked, batch_size=batch_size
            )

    before, after = measured(model, "source"), measured(engine, "export")
    shapes = check.probe_shapes(check.limit_of(model.config, None if before else asked))
    with progress_bar("comparing", len(shapes)) as progress:
        probes = check.probes(texts, tokenizer, shapes)
        compared = check.compare_models(model, engine, probes, lambda done: progress(done, len(shapes)))
    if before is not None and after is not None:
        notes += _cut(before)
        for split, logits in before.logits.items():
            compared.add(logits, after.logits[split], real=True)
    figures = compared.figures(kind_of(model.config))
    figures["limits"] = dataclasses.asdict(limits)
    figures["dropped"] = check.drops(before, after) if before is not None and after is not None else {}
    if padding := behaviour(model).padding_error:
        figures["padding_error"] = padding
        notes.append(padding_words(padding))
    if calibrated is not None:
        figures["calibration"] = calibrated
    if over := check.over_limits(figures, limits, before.task.main_metric if before else None):
        raise ModelError(
            f"{source} was exported to {target}, but not kept: {'; '.join(over)}. Ways on: "
            f"{check.ways_on(target, calibration)}."
        )
    manifest = dataclasses.replace(
        manifest,
        inputs=tuple(getattr(engine, "inputs", ()) or model_inputs(model, sample)),
        checks=figures,
        metrics_before=before.metrics if before else None,
        metrics_after=after.metrics if after else None,
        main_metric=before.task.main_metric if before else None,
        examples={split: len(labels) for split, labels in before.labels.items()} if before else {},
        data=describe(chosen.config) if chosen.config is not None and before else None,
    )
    del engine  # OpenVINO maps its weights
    size_after = sum((folder / name).stat().st_size for name in weight_files(os.listdir(folder)))
    pairs = task.task.pairs if task is not None else bool((manifest.reads or {}).get("pairs"))
    card = export_card(output.name, manifest, model.config, tokenizer, pairs=pairs, size=size_after)
    write_text(folder / "README.md", card)
    return ExportResult(output, target, manifest.write(folder), size, before, after, notes)


def _task(model: PreTrainedModel, target: Target, chosen: Chosen, notes: list[str]) -> TaskData | None:
    """Loads the validation data; those of the run may be gone, which is no mistake where none are needed."""
    if chosen.config is None:
        return None
    try:
        return validation_data(model, chosen.config)
    except (DataError, ConfigError) as error:
        if chosen.run is None:
            raise
        if target.needs_data:
            raise DataError(
                f"The data of {chosen.run} cannot be read any more, and OpenVINO's int8 needs data to calibrate on: "
                f"{error} Name them anew: --task sst2 --data-dir FOLDER, or --train FILE --validation FILE."
            ) from error
        first = str(error).splitlines()[0].rstrip(".")
        notes.append(
            f"No metric was measured: the data of {chosen.run} cannot be read any more ({first}). Name them anew by "
            "--task or --validation, or leave them out by --no-data."
        )
        return None


def _cut(result: EvaluationResult) -> list[str]:
    return [
        f"{count:,} of {len(result.labels[split]):,} {split} examples {'is' if count == 1 else 'are'} longer than "
        f"{result.max_length} tokens and {'was' if count == 1 else 'were'} cut, for source and export alike."
        for split, count in result.truncated.items()
        if count
    ]


def weights_digest(model: PreTrainedModel) -> str:
    """Returns a fingerprint of the weights in fp32, whatever files they came from."""
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
