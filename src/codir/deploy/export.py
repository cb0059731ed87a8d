"""Exports a model to a format people deploy, and proves at once that nothing was lost."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import xxhash
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from codir.config.data_config import DataConfig
from codir.data.encoding import cuts_unsaid, length_limit
from codir.data.task import TaskData
from codir.deploy import export_checks as checks
from codir.deploy.card import export_card, padding_words
from codir.deploy.export_data import (
    CALIBRATION,
    Text,
    calibration_batches,
    cut_words,
    probe_texts,
    tracing_sample,
    validation_data,
)
from codir.deploy.export_result import ExportResult, print_result
from codir.deploy.exporting import (
    Batch,
    engine_settings,
    export_files,
    model_inputs,
    refuse_family,
    require_packages,
)
from codir.engines.engines import Classifier, open_engine
from codir.engines.folder import Manifest, is_deployed, new_folder, require_new, weight_files
from codir.engines.formats import Target
from codir.errors import ConfigError, DataError, ModelError
from codir.locks import at_home
from codir.models.check import load_tokenizer_for
from codir.models.loading import class_names, count_parameters, load_classifier, resolve
from codir.models.probe import behaviour
from codir.printing import Console, progress_bar, terminal
from codir.runs.environment import command_line, versions
from codir.runs.evaluate import EvaluationResult, evaluate_model
from codir.runs.run_data import Chosen, choose_data, describe
from codir.runs.run_inputs import inputs_of
from codir.storage import require_disk, write_text
from codir.training.processes import one_process_only

_PACKAGES = ("onnx", "onnxruntime", "onnxscript", "openvino", "nncf")


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
    limits = checks.Limits.of(target, max_difference, min_agreement, max_drop)
    if calibration < 1:
        raise ConfigError(f"calibration must be at least 1 example, not {calibration}.")
    output = Path(at_home(output))
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
        terminal(console).print(chosen.words, highlight=False, markup=False, soft_wrap=True)
    with new_folder(output) as folder:
        job = _Job(str(model), target, limits, folder, output, batch_size)
        result = job.run(chosen, max_length, calibration)
    if not quiet:
        print_result(result, console)
    return result


@dataclass
class _Job:
    """One export: what it was asked for, and its steps."""

    source: str
    target: Target
    limits: checks.Limits
    folder: Path
    output: Path
    batch_size: int
    notes: list[str] = field(default_factory=list)

    def run(self, chosen: Chosen, max_length: int | None, calibration: int) -> ExportResult:
        with cuts_unsaid():
            return self._run(chosen, max_length, calibration)

    def _run(self, chosen: Chosen, max_length: int | None, calibration: int) -> ExportResult:
        data = chosen.config
        model = load_classifier(self.source)
        tokenizer = load_tokenizer_for(model, self.source)
        refuse_family(model, self.target, self.source)
        asked = max_length if data is None else data.max_length
        inputs = inputs_of(self.source)
        if asked is None and inputs is not None and (asked := inputs.max_length) is not None:
            self.notes.append(f"{inputs.words({'max_length': asked})}")
        limit = length_limit(asked, model.config)
        task = None if data is None else self._load(model, chosen)
        self.notes += task.notes if task is not None else []
        examples: list[Batch] = []
        calibrated = None
        if data is not None and task is not None and self.target.needs_data:
            examples, calibrated, note = calibration_batches(model, tokenizer, data, task, calibration)
            self.notes += [note] if note else []
        texts = probe_texts(task)
        sample = tracing_sample(texts, tokenizer)
        size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
        require_disk(self.folder, 2 * size, "The exported model")
        with progress_bar(f"exporting to {self.target}"):
            export_files(model, self.target, self.folder, sample, examples, self.source)
            tokenizer.save_pretrained(self.folder)
        manifest = self._manifest(model, task, limit if limit is not None else asked)
        if inputs is not None:
            manifest = dataclasses.replace(manifest, reads={**inputs.values(), "max_length": asked})
        engine = open_engine(self.folder, manifest)
        manifest = dataclasses.replace(
            manifest, inputs=tuple(getattr(engine, "inputs", ()) or model_inputs(model, sample))
        )
        before = after = None
        if task is not None:
            before = self._evaluate(model, tokenizer, task, asked, "source")
            after = self._evaluate(engine, tokenizer, task, asked, "export")
            self.notes += cut_words(before)
        figures = self._compare(model, engine, texts, tokenizer, asked, before, after)
        if (found := behaviour(model)).padding_error:
            figures["padding_error"] = found.padding_error
            self.notes.append(padding_words(found.padding_error))
        if calibrated is not None:
            figures["calibration"] = calibrated
        self._require(figures, before, after, calibration if calibrated is not None else None)
        manifest = dataclasses.replace(
            manifest,
            checks=figures,
            metrics_before=before.metrics if before else None,
            metrics_after=after.metrics if after else None,
            main_metric=before.task.main_metric if before else None,
            examples={split: len(labels) for split, labels in before.labels.items()} if before else {},
            data=describe(data) if data is not None and before else None,
        )
        del engine  # OpenVINO maps its weights
        manifest = self._finish(manifest, model, tokenizer, task)
        return ExportResult(self.output, self.target, manifest, size, before, after, self.notes)

    def _load(self, model: PreTrainedModel, chosen: Chosen) -> TaskData | None:
        """Loads the validation data; those of the run may be gone, which is no mistake where none are needed."""
        assert chosen.config is not None
        try:
            return validation_data(model, chosen.config)
        except (DataError, ConfigError) as error:
            if chosen.run is None:
                raise
            if self.target.needs_data:
                raise DataError(
                    f"The data of {chosen.run} cannot be read any more, and OpenVINO's int8 needs data to calibrate "
                    f"on: {error} Name them anew: --task sst2 --data-dir FOLDER, or --train FILE --validation FILE."
                ) from error
            self.notes.append(
                f"No metric was measured: the data of {chosen.run} cannot be read any more ({_first_line(error)}). "
                "Name them anew by --task or --validation, or leave them out by --no-data."
            )
            return None

    def _manifest(self, model: PreTrainedModel, task: TaskData | None, limit: int | None) -> Manifest:
        total, embedding = count_parameters(model)
        found: dict[str, str] = {name: str(version) for name, version in versions().items() if version}
        return Manifest(
            format=self.target.format,
            quantize=self.target.quantize,
            precision=self.target.kind,
            engine=self.target.engine,
            source=self.source,
            source_digest=weights_digest(model),
            settings=engine_settings(self.target),
            task=None if task is None else task.task.name,
            max_length=limit,
            parameters=total,
            embedding_parameters=embedding,
            versions=found | _package_versions(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=command_line(),
        )

    def _evaluate(
        self,
        model: Classifier,
        tokenizer: PreTrainedTokenizerBase,
        task: TaskData,
        max_length: int | None,
        what: str,
    ) -> EvaluationResult:
        with progress_bar(f"measuring the {what} on {task.task.name}"):
            return evaluate_model(
                model, tokenizer, task, name=self.source, max_length=max_length, batch_size=self.batch_size
            )

    def _compare(
        self,
        model: PreTrainedModel,
        engine: Classifier,
        texts: Sequence[Text],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int | None,
        before: EvaluationResult | None,
        after: EvaluationResult | None,
    ) -> dict[str, Any]:
        comparison = checks.Comparison()
        limit = checks.limit_of(model.config, None if before else max_length)
        with progress_bar("comparing", len(checks.probe_lengths(limit))) as progress:
            total = len(checks.probe_lengths(limit))
            checks.compare_probes(
                model,
                engine,
                checks.probes(texts, tokenizer, limit),
                comparison,
                lambda done: progress(done, total),
            )
        if before is not None and after is not None:
            checks.compare_results(before, after, comparison)
        figures = comparison.figures()
        figures["judged"] = f"{figures['answered']:,} " + ("validation examples" if before else "inputs")
        figures |= {
            "answers": "scores" if len(class_names(model.config)) == 1 else "classes",
            "shortest": min(comparison.lengths),
            "longest": max(comparison.lengths),
            "smallest_batch": min(comparison.batches),
            "largest_batch": max(comparison.batches),
            "limits": dataclasses.asdict(self.limits),
        }
        return figures

    def _require(
        self,
        figures: dict[str, Any],
        before: EvaluationResult | None,
        after: EvaluationResult | None,
        calibration: int | None,
    ) -> None:
        dropped = checks.drops(before, after) if before is not None and after is not None else {}
        figures["dropped"] = dropped
        metric = before.task.main_metric if before is not None else None
        over = checks.over_limits(figures, dropped, self.limits, self.target, metric)
        if over:
            raise ModelError(
                f"{self.source} was exported to {self.target}, but not kept: {'; '.join(over)}. Ways on: "
                f"{checks.ways_on(self.target, calibration)}."
            )

    def _finish(
        self,
        manifest: Manifest,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        task: TaskData | None,
    ) -> Manifest:
        """Writes README.md and then the manifest."""
        size = sum((self.folder / name).stat().st_size for name in weight_files(os.listdir(self.folder)))
        pairs = task.task.pairs if task is not None else bool((manifest.reads or {}).get("pairs"))
        card = export_card(self.output.name, manifest, model.config, tokenizer, pairs=pairs, size=size)
        write_text(self.folder / "README.md", card)
        return manifest.write(self.folder)


def weights_digest(model: PreTrainedModel) -> str:
    """Returns a fingerprint of the weights in fp32, whatever files they came from."""
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")


def _package_versions() -> dict[str, str]:
    from importlib import metadata

    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
