"""README.md of an exported folder: what it is, what was checked, and how to predict from the folder alone."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from codir.data.glue import HUB, glue_task
from codir.engines.engines import ONNX_FILE, OPENVINO_FILE
from codir.engines.folder import Manifest
from codir.errors import RunError
from codir.files import human_bytes, read_json
from codir.models.labels import class_names
from codir.record.card import card_data, eval_results, fill_template, hub_ancestor
from codir.record.environment import short_command, short_paths

_PACKAGES = {
    "onnx": "onnxruntime tokenizers numpy",
    "openvino": "openvino tokenizers numpy",
    "torch-bf16": "torch transformers",
}
_COLUMNS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


def export_card(
    name: str,
    manifest: Manifest,
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    pairs: bool,
    size: int,
) -> str:
    """Returns the whole README.

    Args:
        name: The exported folder's name.
        manifest: Its manifest.
        config: The model's config.
        tokenizer: Its tokenizer.
        pairs: Whether the model reads pairs of texts, as far as that is known.
        size: The bytes of the folder's graph and weights.
    """
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
    limit, checks = manifest.max_length, manifest.checks
    labels = list(class_names(config).values())
    commands = [short_command(each) for each in (_source_command(manifest.source), manifest.command) if each]
    flag = f" --max-length {limit}" if limit else ""
    return fill_template(
        Path(__file__).with_name("card.md"),
        data,
        name=name,
        manifest=manifest,
        source=short_paths(manifest.source),
        size=human_bytes(size),
        labels=labels,
        regression=len(labels) == 1,
        pairs=pairs,
        limit=limit,
        packages=_PACKAGES[manifest.format],
        columns=json.dumps({name: _COLUMNS[name] for name in manifest.inputs if name in _COLUMNS}),
        padding=_padding(tokenizer),
        onnx_file=ONNX_FILE,
        openvino_file=OPENVINO_FILE,
        engine_settings=json.dumps(manifest.settings),
        predict=f"codir predict {shlex.quote(name)} --input texts.txt --output predictions.jsonl{flag}",
        checks=short_paths(checks),
        padding_words=padding_words(checks["padding_error"]) if checks.get("padding_error") else "",
        metrics=[
            (split, metric, value, after[split][metric])
            for split, each in before.items()
            for metric, value in each.items()
            if split in after
        ],
        commands="\n".join(commands),
    )


def padding_words(error: float) -> str:
    """Returns what to know of a model whose answers padding changes."""
    return (
        f"Padding changes this model's answers: probabilities or scores by up to {error:.2g}. It was compared without; "
        "give it one text at a time, or texts of one length, as codir does."
    )


def _padding(tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns the arguments by which tokenizers pads as transformers does."""
    words = f"pad_id={tokenizer.pad_token_id}, pad_token={str(tokenizer.pad_token)!r}"
    if tokenizer.pad_token_type_id:
        words += f", pad_type_id={tokenizer.pad_token_type_id}"
    return words if tokenizer.padding_side == "right" else f'{words}, direction="{tokenizer.padding_side}"'


def _source_command(source: str) -> str | None:
    """Returns the command a run folder was made with, if it says so."""
    path = Path(source).expanduser() / "environment.json"
    try:
        return read_json(path).get("command") if path.is_file() else None
    except (RunError, AttributeError):
        return None
