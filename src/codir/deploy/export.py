"""Exports a model to a format people deploy, and proves at once that nothing was lost."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from codir.config.config import DataConfig
from codir.data.encoding import cuts_unsaid, length_limit
from codir.data.glue import HUB, glue_task
from codir.deploy import check
from codir.deploy.settings import ExportSettings, settings_of
from codir.deploy.writing import export_files, manifest_of, model_inputs, require_packages
from codir.engines.engines import ONNX_FILE, OPENVINO_FILE, Classifier, DeployedClassifier, open_engine
from codir.engines.folder import Manifest, Target, is_deployed, new_folder, require_new
from codir.errors import ConfigError, ModelError
from codir.files import at_home, human_bytes, read_json, require_disk, write_text
from codir.kinds import kind_of
from codir.models.check import behaviour, load_tokenizer_for
from codir.models.classes import class_names
from codir.models.config_file import position_limit
from codir.models.loading import load_classifier, resolve
from codir.printing import Console, progress_bar, terminal
from codir.record.card import card_data, eval_results, fill_template, hub_ancestor
from codir.record.environment import command_line, short_command, short_paths, versions
from codir.record.run_data import Chosen, choose_data, inputs_of
from codir.runs.evaluate import EvaluationResult, evaluate_model
from codir.table import Column, Table, Tabular
from codir.training.processes import one_process_only

_PACKAGES = ("onnx", "onnxruntime", "onnxscript", "openvino", "nncf")


@dataclass
class ExportResult(Tabular):
    """What was written and what the checks found; `before` and `after` are None without a task."""

    output: Path
    target: Target
    manifest: Manifest  # its `checks` are the figures of the comparison
    source_bytes: int  # of the source's weights in fp32
    before: EvaluationResult | None = None
    after: EvaluationResult | None = None
    notes: list[str] = field(default_factory=list)  # what the user should know

    def table(self) -> Table:
        """Returns two lines, source and export: size, metrics, difference and agreement."""
        figures = self.manifest.checks
        before = self.before.flat_metrics() if self.before else {}
        after = self.after.flat_metrics() if self.after else {}
        scores = figures["answers"] == "scores"
        columns = (
            Column("model", left=True),
            Column("size", human_bytes),
            *(Column(name, "{:.4f}".format) for name in before),
            Column("largest difference", "{:.2g}".format),
            Column("mean", "{:.2g}".format),
            Column("correlation" if scores else "same answers", ("{:.4f}" if scores else "{:.2%}").format),
        )
        compared = (figures["largest_difference"], figures["mean_difference"], figures["agreement"])
        rows = (
            ("torch fp32", self.source_bytes, *before.values(), None, None, None),
            (str(self.target), self.manifest.bytes, *(after[name] for name in before), *compared),
        )
        return Table(f"{self.manifest.source} exported to {self.target}", columns, rows)

    def words(self) -> list[str]:
        """Returns what stands under the table, a line each: the inputs, the notes, what to do with the folder."""
        figures = self.manifest.checks
        lines = [
            f"On {figures['inputs']:,} inputs of {figures['shortest']} to {figures['longest']} tokens, in batches of "
            f"{figures['smallest_batch']} to {figures['largest_batch']}, against the source with PyTorch in fp32."
        ]
        if figures.get("calibration"):
            lines.append(f"Calibrated on {figures['calibration']}.")
        if changed := figures["changed"]:
            lines.append(
                f"{changed:,} of {figures['judged']} changed their answer; about {figures['undecided']:,} of these the "
                "source was itself undecided."
            )
        predict = f"codir predict {shlex.quote(str(self.output))} --input texts.txt --output predictions.jsonl"
        return [*lines, *self.notes, f"Written to {self.output}. It predicts by itself: {predict}"]


def export(
    model: str | Path,
    output: str | Path,
    format: str,
    *,
    data: DataConfig | Mapping[str, Any] | None = None,
    use_run_data: bool = True,
    console: Console | None = None,
    quiet: bool = False,
    **settings: Any,
) -> ExportResult:
    """Writes a folder that predicts by itself, whole or not at all, and prints what the checks found.

    The checks run source (PyTorch, fp32) and export on the same inputs: batches of 1 to 33 and lengths of 3 tokens to
    the model's limit, and with a task its whole validation data.

    Args:
        model: run folder, model folder or Hub id of a fine-tuned model.
        format: `onnx`, `openvino` or `torch-bf16`.
        data: a task or files: for the metric before and after, and for OpenVINO's int8 to calibrate on. By default
            those a run folder was made with, so that the metric is on the same examples as the run's own; single
            settings (a mapping without task and files, such as `{"max_length": 64}`) win over the run's.
        use_run_data: False: no data but those named.
        **settings: of `codir.deploy.settings.ExportSettings`.

    Raises:
        ConfigError: unknown or contradicting settings, a package that is not installed.
        ModelError: no model there, one that cannot be exported, or an export over a limit.
        DataError: for everything wrong with the data.
        RunError: the output exists, is being written by another process, or cannot be written.
    """
    one_process_only("codir export")
    wanted = settings_of(ExportSettings, settings)
    target = Target.of(format, wanted.quantize, wanted.precision)
    output = Path(at_home(output))
    require_new(output)
    chosen = choose_data([model], data, use_run_data)
    if target.needs_data and chosen.config is None:
        raise ConfigError(
            "OpenVINO's int8 is calibrated on real inputs, so it needs data: add --task or --train, or use --format "
            "onnx --quantize int8." + (f" {chosen.words}" if chosen.words else "")
        )
    if is_deployed(model):
        manifest = Manifest.read(Path(model).expanduser())
        raise ConfigError(f"{model} is an exported model already. Export the model it was made from: {manifest.source}")
    require_packages(target)
    resolve(model)
    if chosen.words and not quiet:
        terminal(console).print(chosen.words, highlight=False, soft_wrap=True)
    length = data.get("max_length") if isinstance(data, Mapping) else None
    with new_folder(output) as folder, cuts_unsaid():
        result = _export(str(model), target, wanted, folder, output, chosen, length)
    if not quiet:
        console = terminal(console)
        console.print(result.to_rich())
        for line in result.words():
            console.print(line, highlight=False, soft_wrap=line.startswith("Written"))
    return result


def _export(
    source: str,
    target: Target,
    wanted: ExportSettings,
    folder: Path,
    output: Path,
    chosen: Chosen,
    max_length: int | None,
) -> ExportResult:
    """Fills the folder: calibrates, writes, measures before and after, compares, and last of all the manifest."""
    notes: list[str] = []
    model = load_classifier(source)
    tokenizer = load_tokenizer_for(model, source)
    inputs = inputs_of(source)
    asked = max_length if chosen.config is None else chosen.config.max_length
    if asked is None and inputs is not None and (asked := inputs.max_length) is not None:
        notes.append(f"{inputs.words({'max_length': asked})}")
    task = None
    if chosen.config is not None:
        with check.of_run(chosen):
            task = check.validation_data(model, chosen.config)
    batches, calibrated = [], None
    if task is not None and chosen.config is not None:
        notes += task.notes
        if target.needs_data:
            found = check.calibration_batches(model, tokenizer, chosen.config, task, wanted.calibration)
            batches, calibrated = found[:2]
            notes += found[2]
    texts = check.probe_texts(task)
    paired = [text for text in texts if not isinstance(text, str)]
    sample = next(check.probes(paired or texts, tokenizer, [(3, 12)]))
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    require_disk(folder, 2 * size, "The exported model")
    with progress_bar(f"exporting to {target}"):
        export_files(model, target, folder, sample, batches, source)
        tokenizer.save_pretrained(folder)
    manifest = manifest_of(model, target, source)
    engine = open_engine(folder, manifest)

    def measured(which: Classifier, what: str) -> EvaluationResult | None:
        if task is None:
            return None
        with progress_bar(f"measuring the {what} on {task.task.name}"):
            return evaluate_model(which, tokenizer, task, name=source, max_length=asked, batch_size=wanted.batch_size)

    before, after = measured(model, "source"), measured(engine, "export")
    figures = _compare(model, engine, tokenizer, texts, None if before else asked, before, after)
    difference = 1e-3 if wanted.max_difference is None and target.kind == "fp32" else wanted.max_difference
    figures["limits"] = {"difference": difference, "agreement": wanted.min_agreement, "drop": wanted.max_drop}
    if padding := behaviour(model).padding_error:
        figures["padding_error"] = padding
        notes.append(_padding_words(padding))
    if calibrated is not None:
        figures["calibration"] = calibrated
    if before is not None:
        notes += before.cut()
    if over := check.over_limits(figures, before.task.main_metric if before else None):
        way = check.WAYS.get(str(target), "--format openvino --precision fp32")
        raise ModelError(f"{source} was exported to {target}, but not kept: {'; '.join(over)}. Try {way}.")
    limit = length_limit(asked, model.config)
    names = engine.inputs if isinstance(engine, DeployedClassifier) else model_inputs(model, sample)
    said: dict[str, Any] = {
        "inputs": tuple(names),
        "max_length": limit if limit is not None else asked,
        "reads": None if inputs is None else {**inputs.values(), "max_length": asked},
        "versions": {name: version for name, version in (versions() | versions(_PACKAGES)).items() if version},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "checks": figures,
    }
    if task is not None and before is not None and after is not None:
        said |= {"task": task.task.name, "main_metric": task.task.main_metric}
        said |= {"metrics_before": before.metrics, "metrics_after": after.metrics}
        said["examples"] = {split: len(labels) for split, labels in before.labels.items()}
    manifest = manifest.model_copy(update=said)
    del engine  # OpenVINO maps its weights
    manifest = manifest.write(folder)  # the card says the size of the files
    pairs = task.task.pairs if task is not None else bool((manifest.reads or {}).get("pairs"))
    write_text(folder / "README.md", _card(output.name, manifest, model.config, tokenizer, pairs))
    return ExportResult(output, target, manifest, size, before, after, notes)


def _compare(
    model: PreTrainedModel,
    engine: Classifier,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[Any],
    max_length: int | None,
    before: EvaluationResult | None,
    after: EvaluationResult | None,
) -> dict[str, Any]:
    """Returns the figures on made-up inputs, up to the positions of the model or `max_length`, and on the examples."""
    limits = [limit for limit in (position_limit(model.config), max_length) if limit is not None]
    shapes = check.probe_shapes(min(limits, default=check.LONGEST))
    with progress_bar("comparing", len(shapes)) as progress:
        batches = check.probes(texts, tokenizer, shapes)
        made_up = check.compare(model, engine, batches, lambda done: progress(done, len(shapes)))
    examples, dropped = [], {}
    if before is not None and after is not None:
        metric = before.task.main_metric
        for split, scores in before.metrics.items():
            examples.append((before.logits[split], after.logits[split]))
            dropped[split] = 100 * (scores[metric] - after.metrics[split][metric])
    sizes, lengths = zip(*shapes, strict=True)
    return {
        **check.figures(kind_of(model.config), made_up, examples),
        **{"shortest": min(lengths), "longest": max(lengths)},
        **{"smallest_batch": min(sizes), "largest_batch": max(sizes)},
        "dropped": dropped,
    }


# --- README.md: what it is, what was checked, and how to predict from the folder alone ------------------------------

_COLUMNS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


def _card(
    name: str, manifest: Manifest, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, pairs: bool
) -> str:
    base = hub_ancestor(manifest.source)
    # a file called mrpc.csv gives a task of that name, too
    glue = glue_task(manifest.task) if manifest.task and "--task" in manifest.command else None
    before, after = manifest.metrics_before or {}, manifest.metrics_after or {}
    scores = {f"{split}/{metric}": value for split, each in after.items() for metric, value in each.items()}
    data = card_data(
        name,
        eval_results(scores, "validation", glue.name if glue else manifest.task or "data", glue is not None),
        manifest.format if manifest.format in ("onnx", "openvino") else "transformers",
        pipeline_tag="text-classification",
        tags=list(dict.fromkeys(["codir", manifest.format, manifest.precision])),
        base_model=base,
        # the Hub's word for another number format of a model that is there
        base_model_relation=base and ("quantized" if base == manifest.source else "finetune"),
        datasets=[HUB] if glue else None,
    )
    made_by = Path(manifest.source).expanduser() / "environment.json"
    trained = read_json(made_by).get("command") if made_by.is_file() else None
    labels, limit = list(class_names(config).values()), manifest.max_length
    # the arguments by which tokenizers pads as transformers does
    padding = f"pad_id={tokenizer.pad_token_id}, pad_token={str(tokenizer.pad_token)!r}"
    if tokenizer.pad_token_type_id:
        padding += f", pad_type_id={tokenizer.pad_token_type_id}"
    if tokenizer.padding_side != "right":
        padding += f', direction="{tokenizer.padding_side}"'
    flag = f" --max-length {limit}" if limit else ""
    return fill_template(
        Path(__file__).with_name("card.md"),
        data,
        name=name,
        manifest=manifest,
        source=short_paths(manifest.source),
        size=human_bytes(manifest.bytes),
        labels=labels,
        regression=len(labels) == 1,
        pairs=pairs,
        limit=limit,
        packages="torch transformers" if manifest.format == "torch-bf16" else f"{manifest.engine} tokenizers numpy",
        columns=json.dumps({name: _COLUMNS[name] for name in manifest.inputs if name in _COLUMNS}),
        padding=padding,
        onnx_file=ONNX_FILE,
        openvino_file=OPENVINO_FILE,
        engine_settings=json.dumps(manifest.settings),
        predict=f"codir predict {shlex.quote(name)} --input texts.txt --output predictions.jsonl{flag}",
        checks=short_paths(manifest.checks),
        padding_words=_padding_words(manifest.checks.get("padding_error")),
        metrics=[
            (split, metric, value, after[split][metric])
            for split, each in before.items()
            for metric, value in each.items()
        ],
        commands="\n".join(short_command(each) for each in (trained, manifest.command) if each),
    )


def _padding_words(error: float | None) -> str:
    if error is None:
        return ""
    return (
        f"Padding changes this model's answers: probabilities or scores by up to {error:.2g}. It was compared without; "
        "give it one text at a time, or texts of one length, as codir does."
    )
