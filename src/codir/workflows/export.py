"""Exports a model to a format people deploy, and proves at once that nothing was lost."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import xxhash
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from codir.deployment.engines import Classifier, open_engine
from codir.deployment.exporting import (
    Batch,
    engine_settings,
    export_files,
    model_inputs,
    refuse_family,
    require_packages,
)
from codir.deployment.folder import Manifest, is_deployed, weight_files
from codir.deployment.formats import Target
from codir.errors import ConfigError, DataError, ModelError, RunError
from codir.models.classes import is_generic
from codir.models.loading import class_names, count_parameters, load_classifier, load_tokenizer, resolve
from codir.models.padding import Padding, pad_batch
from codir.recipes.config import DataConfig
from codir.storage import exclusive, human_bytes, require_disk, require_writable, write_text
from codir.tasks.encoding import encode_split, length_limit
from codir.tasks.task import Kind, TaskData
from codir.training.processes import one_process_only
from codir.workflows import export_checks as checks
from codir.workflows.data import load_data
from codir.workflows.environment import versions
from codir.workflows.evaluate import EvaluationResult, evaluate_model
from codir.workflows.export_card import ExportCard, export_card, source_command
from codir.workflows.progress import default_console, progress_bar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

CALIBRATION = 300  # examples: more change nothing that can be measured (docs/deployment.md)
_CALIBRATION_BATCH = (
    8  # padded batches: ranges then hold for padding, too; half the error of one text at a time
)
_PACKAGES = ("onnx", "onnxruntime", "onnxscript", "openvino", "nncf")


@dataclass
class ExportResult:
    """What was written and what the checks found.

    Attributes:
        output: the folder.
        target: format, quantisation, precision.
        manifest: what `deployment.json` says.
        source_bytes: of the source's weights in fp32.
        before, after: the task's metrics of source and export; None without a task.
        notes: what the user should know.
    """

    output: Path
    target: Target
    manifest: Manifest
    source_bytes: int
    before: EvaluationResult | None = None
    after: EvaluationResult | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def figures(self) -> dict[str, Any]:
        """The figures of the comparison, as in the manifest."""
        return self.manifest.checks

    def to_rich(self) -> Table:
        """Returns two lines, source and export: size, metrics, difference and agreement."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title=Text(f"{self.manifest.source} exported to {self.target}"),
            title_justify="left",
            box=box.SIMPLE_HEAD,
            show_edge=False,
        )
        table.add_column("model")
        table.add_column("size", justify="right")
        columns = []
        if self.before is not None and self.after is not None:
            several = len(self.before.metrics) > 1
            for split, values in self.before.metrics.items():
                columns += [(split, name) for name in values]
            for split, name in columns:
                table.add_column(f"{split} {name}" if several else name, justify="right")
        table.add_column("largest difference", justify="right")
        table.add_column("mean", justify="right")
        regression = self.figures["answers"] == "scores"
        table.add_column("correlation" if regression else "same answers", justify="right")
        first = [self.before.metrics[split][name] for split, name in columns] if self.before else []
        second = [self.after.metrics[split][name] for split, name in columns] if self.after else []
        agreement = self.figures["agreement"]
        table.add_row(
            "torch fp32", human_bytes(self.source_bytes), *(f"{value:.4f}" for value in first), "", "", ""
        )
        table.add_row(
            str(self.target),
            human_bytes(self.manifest.bytes),
            *(f"{value:.4f}" for value in second),
            f"{self.figures['largest_difference']:.2g}",
            f"{self.figures['mean_difference']:.2g}",
            f"{agreement:.4f}" if regression else f"{agreement:.2%}",
        )
        return table


def export(
    model: str | Path,
    output: str | Path,
    format: str,
    *,
    quantize: str | None = None,
    precision: str | None = None,
    data: DataConfig | None = None,
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
        data: a task or files: for the metric before and after, and for OpenVINO's int8 to calibrate on.
        max_length: texts are cut to this many tokens in checks and calibration, where `data` does not say it.
        calibration: number of training examples that OpenVINO's int8 takes its ranges from.
        max_difference: largest difference of a logit; by default 1e-3 for fp32, no limit for bf16 and int8.
        min_agreement: least share of equal answers; 0.97 by default.
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
    output = Path(output)
    _check_output(output)
    if target.format == "openvino" and target.quantize == "int8" and data is None:
        raise ConfigError(
            "OpenVINO's int8 is calibrated on real inputs, so it needs data: add --task sst2, or --train train.csv "
            "--text review --label stars. Without data: --format onnx --quantize int8, or leave out --quantize."
        )
    if is_deployed(model):
        manifest = Manifest.read(Path(model).expanduser())
        raise ConfigError(
            f"{model} is an exported model already ({manifest.format}, {manifest.precision}). Export the model it was "
            f"made from: {manifest.source}"
        )
    require_packages(target)
    resolve(model)
    with _staging(output) as folder:
        job = _Job(str(model), target, limits, folder, output, batch_size, console, quiet)
        return job.run(data, max_length, calibration)


def _check_output(output: Path) -> None:
    if output.is_file():
        raise RunError(f"{output} is a file, not a folder. Choose another --output.")
    if output.is_dir() and any(output.iterdir()):
        what = "already holds an exported model" if is_deployed(output) else "is not empty"
        raise RunError(
            f"{output} {what}, and codir export never overwrites. Choose another --output, or delete that folder "
            "first."
        )


@contextlib.contextmanager
def _staging(output: Path) -> Iterator[Path]:
    """Yields a folder beside the output that gets its name if the block succeeds; else nothing is left.

    Its name follows from the output's, so that a second process that exports to the same output is refused.
    """
    require_writable(output.absolute().parent)
    partial = output.absolute().parent / f".{output.name}.partial"
    with exclusive(partial):
        try:
            _check_output(output)  # again: another process may have finished in between
            folder = partial / "folder"
            if folder.exists():  # of a process that was killed here
                shutil.rmtree(folder)
            folder.mkdir()
            yield folder
            for path in folder.rglob("*"):
                if path.is_file():
                    path.chmod(0o644)  # safetensors writes for its owner alone
                    with open(path, "rb") as file:
                        os.fsync(file.fileno())
            if output.is_dir():
                output.rmdir()
            os.rename(folder, output)
        except FileExistsError as error:
            raise RunError(
                f"{output} appeared while the model was exported. Choose another --output."
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@dataclass
class _Job:
    """One export: what it was asked for, and its steps."""

    source: str
    target: Target
    limits: checks.Limits
    folder: Path
    output: Path
    batch_size: int
    console: Console | None
    quiet: bool
    notes: list[str] = field(default_factory=list)

    def run(self, data: DataConfig | None, max_length: int | None, calibration: int) -> ExportResult:
        model = load_classifier(self.source)
        tokenizer = load_tokenizer(self.source)
        refuse_family(model, self.target, self.source)
        asked = max_length if data is None else data.max_length
        limit = length_limit(asked, model.config)
        task = None if data is None else self._task(model, data)
        examples: list[Batch] = []
        calibrated = None
        if (
            data is not None
            and task is not None
            and self.target == Target("openvino", "int8", self.target.precision)
        ):
            examples, calibrated = self._calibration(model, tokenizer, data, task, calibration)
        texts = _texts(task)
        sample = _sample(texts, tokenizer)
        size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
        require_disk(self.folder, 2 * size, "The exported model")
        with self._step(f"exporting to {self.target}"):
            export_files(model, self.target, self.folder, sample, examples, self.source)
            tokenizer.save_pretrained(self.folder)
        manifest = self._manifest(model, task, limit if limit is not None else asked)
        engine = open_engine(self.folder, manifest)
        manifest = dataclasses.replace(
            manifest, inputs=tuple(getattr(engine, "inputs", ()) or model_inputs(model, sample))
        )
        before = after = None
        if task is not None:
            before = self._evaluate(model, tokenizer, task, asked, "source")
            after = self._evaluate(engine, tokenizer, task, asked, "export")
        figures = self._compare(model, engine, texts, tokenizer, asked, before, after)
        if calibrated is not None:
            figures["calibration"] = calibrated
        self._require(figures, before, after, calibration if calibrated is not None else None)
        manifest = dataclasses.replace(
            manifest,
            checks=figures,
            metrics_before=before.metrics if before else None,
            metrics_after=after.metrics if after else None,
        )
        del engine  # OpenVINO maps its weights
        manifest = self._finish(manifest, model, tokenizer, task)
        result = ExportResult(self.output, self.target, manifest, size, before, after, self.notes)
        if not self.quiet:
            print_result(result, self.console)
        return result

    def _task(self, model: PreTrainedModel, data: DataConfig) -> TaskData:
        """Loads the validation data, as `codir evaluate` does."""
        labels, kind = _labels(model)
        task = load_data(data, train=False, labels=labels, kind=kind)
        self.notes += task.notes
        return task

    def _calibration(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        data: DataConfig,
        task: TaskData,
        count: int,
    ) -> tuple[list[Batch], str]:
        """Returns padded batches of training examples, and in words where they come from."""
        split, name = None, "training"
        if data.task is not None or data.train is not None:
            labels, kind = _labels(model)
            try:
                found = load_data(data.model_copy(update={"limit_train": count}), labels=labels, kind=kind)
                split = found.train
            except DataError:
                if data.task is None:
                    raise
        if split is None:
            name = task.main_split
            whole = task.validation[name]
            split = whole.select(range(min(count, len(whole))))
            self.notes.append(
                f"There are no training data, so int8 is calibrated on {name} examples: the metric after export is a "
                "little too good. Give --train to have it right."
            )
        encoded = encode_split(split, tokenizer, data.max_length, config=model.config).dataset
        padding = Padding.of(tokenizer)
        columns = [
            name for name in ("input_ids", "attention_mask", "token_type_ids") if name in encoded.column_names
        ]
        rows = encoded.select_columns(columns).to_list()
        batches: list[Batch] = [
            pad_batch(rows[start : start + _CALIBRATION_BATCH], padding)
            for start in range(0, len(rows), _CALIBRATION_BATCH)
        ]
        return batches, f"{len(rows):,} {name} examples of {task.task.name}"

    def _manifest(self, model: PreTrainedModel, task: TaskData | None, limit: int | None) -> Manifest:
        total, embedding = count_parameters(model)
        found: dict[str, str] = {name: str(version) for name, version in versions().items() if version}
        return Manifest(
            format=self.target.format,
            quantize=self.target.quantize,
            precision=self.target.kind,
            engine=self.target.engine,
            source=self.source,
            source_digest=_digest(model),
            settings=engine_settings(self.target),
            task=None if task is None else task.task.name,
            max_length=limit,
            parameters=total,
            embedding_parameters=embedding,
            versions=found | _package_versions(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]) if sys.argv else "",
        )

    def _evaluate(
        self,
        model: Classifier,
        tokenizer: PreTrainedTokenizerBase,
        task: TaskData,
        max_length: int | None,
        what: str,
    ) -> EvaluationResult:
        with self._step(f"measuring the {what} on {task.task.name}"):
            return evaluate_model(
                model, tokenizer, task, name=self.source, max_length=max_length, batch_size=self.batch_size
            )

    def _compare(
        self,
        model: PreTrainedModel,
        engine: Classifier,
        texts: Sequence[tuple[str, str | None]],
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
        commands = [source_command(self.source), manifest.command]
        card = ExportCard(
            name=self.output.name,
            manifest=manifest,
            config=model.config,
            tokenizer=tokenizer,
            limit=length_limit(None, model.config),
            pairs=task is not None and task.task.pairs,
            main_metric=None if task is None else task.task.main_metric,
            commands=tuple(command for command in commands if command),
            bytes=size,
        )
        write_text(self.folder / "README.md", export_card(card))
        return manifest.write(self.folder)

    @contextlib.contextmanager
    def _step(self, what: str) -> Iterator[None]:
        """Shows on the terminal what is going on."""
        with progress_bar(what):
            yield


def _labels(model: PreTrainedModel) -> tuple[list[str], Kind]:
    names = list(class_names(model.config).values())
    kind: Kind = "regression" if len(names) == 1 else "classification"
    return ([str(number) for number in range(len(names))] if is_generic(names) else names), kind


def _texts(task: TaskData | None) -> list[tuple[str, str | None]]:
    """Returns texts of the task, or sentences of the built-in grammar, half of them as pairs."""
    if task is not None:
        split = task.validation[task.main_split]
        split = split.select(range(min(200, len(split))))
        firsts = list(split["text"])
        seconds = list(split["text_pair"]) if task.task.pairs else [None] * len(firsts)
        return list(zip(firsts, seconds, strict=True))
    from codir.tasks.grammar import load_builtin

    sentences = list(load_builtin(train=2, validation=200).validation["validation"]["text"])
    half = len(sentences) // 2
    return [
        (text, other if number % 2 else None)
        for number, (text, other) in enumerate(zip(sentences[:half], sentences[half:], strict=True))
    ]


def _sample(texts: Sequence[tuple[str, str | None]], tokenizer: PreTrainedTokenizerBase) -> Batch:
    """Returns the batch a model is traced with: three rows of real words, the shorter ones padded."""
    paired = [each for each in texts if each[1] is not None] or list(texts)
    rows = [checks.row_of(paired, number, tokenizer, length) for number, length in enumerate((12, 9, 7))]
    return pad_batch(rows, Padding.of(tokenizer))


def _digest(model: PreTrainedModel) -> str:
    """Returns a fingerprint of the weights in fp32, whatever files they came from."""
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def _package_versions() -> dict[str, str]:
    from importlib import metadata

    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def print_result(result: ExportResult, console: Console | None = None) -> None:
    """Prints the table, the inputs it is from, the notes, and what to do with the folder."""
    console = console or default_console()
    figures = result.figures
    console.print(result.to_rich())
    line = (
        f"On {figures['inputs']:,} inputs of {figures['shortest']} to {figures['longest']} tokens, in batches of "
        f"{figures['smallest_batch']} to {figures['largest_batch']}, against the source with PyTorch in fp32."
    )
    console.print(line, highlight=False, markup=False)
    if figures.get("calibration"):
        console.print(f"Calibrated on {figures['calibration']}.", highlight=False, markup=False)
    for note in result.notes:
        console.print(note, highlight=False, markup=False)
    console.print(
        f"Written to {result.output}. It predicts by itself: codir predict {result.output} --input texts.txt --output "
        "predictions.jsonl",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
