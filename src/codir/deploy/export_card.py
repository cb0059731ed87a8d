"""README.md of an exported folder: what it is, what was checked, and how to predict from the folder alone."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from codir import markdown
from codir.engines.engines import ONNX_FILE, OPENVINO_FILE
from codir.engines.folder import Manifest
from codir.errors import RunError
from codir.markdown import code, fence, inline
from codir.models.loading import class_names
from codir.runs.card_metadata import exported_metadata, front_matter_text
from codir.storage import human_bytes, read_json

_PACKAGES = {
    "onnx": "onnxruntime tokenizers numpy",
    "openvino": "openvino tokenizers numpy",
    "torch-bf16": "torch transformers",
}
_PAIR = '("A cat sat on the mat.", "The mat is empty.")'
_TEXTS = '"A cat sat on the mat.", "It was not good at all."'


@dataclass(frozen=True)
class ExportCard:
    """What the card tells beside the manifest.

    Attributes:
        name: of the exported folder.
        manifest: its manifest.
        config: the model's config.
        tokenizer: its tokenizer.
        limit: tokens that texts are cut to, as in the checks; None for no limit.
        positions: tokens the model could take, None for no limit.
        pairs: whether the model reads pairs of texts (as far as the task says).
        commands: those by which the source and the export were made.
        bytes: of the folder's graph and weights.
    """

    name: str
    manifest: Manifest
    config: Any
    tokenizer: PreTrainedTokenizerBase
    limit: int | None
    positions: int | None
    pairs: bool
    commands: tuple[str, ...]
    bytes: int


def export_card(card: ExportCard) -> str:
    """Returns the whole README."""
    manifest = card.manifest
    parts = [
        front_matter_text(exported_metadata(card.name, manifest)),
        f"# {inline(card.name)}",
        f"A text classifier for {manifest.engine} in {manifest.precision}, exported with codir from "
        f"`{code(manifest.source)}` ({human_bytes(card.bytes)}). Classes: "
        + (", ".join(inline(label) for label in class_names(card.config).values()) + "."),
        "## Use",
        f"In this folder, with `pip install {_PACKAGES[manifest.format]}`:",
        fence(snippet(card), "python"),
        "Or with codir, from anywhere:",
        fence(
            f"codir predict {shlex.quote(card.name)} --input texts.txt --output predictions.jsonl"
            + (f" --max-length {card.limit}" if card.limit is not None else ""),
            "console",
        ),
        _cut(card),
        "## Checks",
        _checks(card),
        "## How it was made",
        fence("\n".join(card.commands), "console") if card.commands else "",
        "\n".join(f"- {name} {version}" for name, version in manifest.versions.items() if version),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _cut(card: ExportCard) -> str:
    if card.limit is None:
        return ""
    more = (
        f"; the model itself takes up to {card.positions:,}"
        if card.positions not in (None, card.limit)
        else ""
    )
    return f"Both cut texts at {card.limit:,} tokens, as codir did when it measured what is below{more}."


def snippet(card: ExportCard) -> str:
    """Returns Python that predicts from the folder alone: it uses the engine, tokenizers and numpy, nothing else."""
    if card.manifest.format == "torch-bf16":
        return _torch_snippet(card)
    regression = len(class_names(card.config)) == 1
    names = card.manifest.inputs
    sources = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    feed = ", ".join(f'"{name}": "{sources[name]}"' for name in names)
    if card.manifest.format == "onnx":
        engine = "onnxruntime"
        load = f'session = onnxruntime.InferenceSession("{ONNX_FILE}", providers=["CPUExecutionProvider"])'
        run = 'logits = session.run(["logits"], inputs)[0]'
    else:
        engine = "openvino"
        load = f'model = openvino.compile_model("{OPENVINO_FILE}", "CPU", {_python(card.manifest.settings)})'
        run = 'logits = model(inputs)["logits"]'
    lines = [
        *([] if regression else ["import json"]),
        "import numpy",
        f"import {engine}",
        "from tokenizers import Tokenizer",
        "",
        f"texts = [{_PAIR if card.pairs else _TEXTS}]",
        *_tokenizer_lines(card),
        f"columns = {{{feed}}}",
        "encoded = tokenizer.encode_batch(texts)",
        "inputs = {name: numpy.array([getattr(row, key) for row in encoded], dtype=numpy.int64) "
        "for name, key in columns.items()}",
        load,
        run,
        *_answer(regression),
    ]
    return "\n".join(lines)


def _tokenizer_lines(card: ExportCard) -> list[str]:
    tokenizer = card.tokenizer
    lines = ['tokenizer = Tokenizer.from_file("tokenizer.json")']
    if card.limit is not None:
        lines.append(f"tokenizer.enable_truncation(max_length={card.limit})  # as in the checks")
    else:
        lines.append("tokenizer.no_truncation()")
    side = f', direction="{tokenizer.padding_side}"' if tokenizer.padding_side != "right" else ""
    kind = f", pad_type_id={tokenizer.pad_token_type_id}" if tokenizer.pad_token_type_id else ""
    lines.append(
        f"tokenizer.enable_padding(pad_id={tokenizer.pad_token_id}, pad_token={str(tokenizer.pad_token)!r}{kind}{side})"
    )
    return lines


def _answer(regression: bool) -> list[str]:
    if regression:
        return ["print(logits[:, 0].tolist())"]
    return [
        'names = json.load(open("config.json", encoding="utf-8"))["id2label"]',
        "print([names[str(number)] for number in logits.argmax(axis=1)])",
    ]


def _torch_snippet(card: ExportCard) -> str:
    pair = card.pairs
    limit = f", max_length={card.limit}" if card.limit else ""
    texts = (
        ['firsts, seconds = ["A cat sat on the mat."], ["The mat is empty."]']
        if pair
        else [f"texts = [{_TEXTS}]"]
    )
    regression = len(class_names(card.config)) == 1
    answer = (
        "print(logits[:, 0].tolist())"
        if regression
        else "print([model.config.id2label[number] for number in logits.argmax(-1).tolist()])"
    )
    return "\n".join(
        [
            "import torch",
            "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
            "",
            'model = AutoModelForSequenceClassification.from_pretrained(".")  # in bf16, as config.json says',
            'tokenizer = AutoTokenizer.from_pretrained(".")',
            *texts,
            f"inputs = tokenizer({'firsts, seconds' if pair else 'texts'}, truncation=True{limit}, padding=True, "
            'return_tensors="pt")',
            "with torch.inference_mode():",
            "    logits = model(**inputs).logits.float()",
            answer,
        ]
    )


def _python(settings: Mapping[str, str]) -> str:
    return "{" + ", ".join(f'"{key}": "{value}"' for key, value in settings.items()) + "}"


def _checks(card: ExportCard) -> str:
    manifest, figures = card.manifest, card.manifest.checks
    regression = len(class_names(card.config)) == 1
    agreement = (
        f"correlation of the scores {figures['agreement']:.4f}"
        if regression
        else f"the same answer on {figures['agreement']:.2%}"
        + (f" of {figures['judged']} ({figures['changed']:,} differ)" if "judged" in figures else "")
    )
    lines = [
        f"Against the source in fp32 with PyTorch, on {figures['inputs']:,} inputs of {figures['shortest']} to "
        f"{figures['longest']} tokens in batches of {figures['smallest_batch']} to {figures['largest_batch']}: "
        f"largest difference of a logit {figures['largest_difference']:.2g}, mean "
        f"{figures['mean_difference']:.2g}; {agreement}."
    ]
    if figures.get("padding_error"):
        lines.append(padding_words(figures["padding_error"]))
    if figures.get("calibration"):
        lines.append(f"Calibrated on {inline(figures['calibration'])}.")
    before, after = manifest.metrics_before, manifest.metrics_after
    if before and after:
        rows = [
            (split, name, f"{value:.4f}", f"{after[split][name]:.4f}")
            for split, values in before.items()
            for name, value in values.items()
        ]
        headings = [manifest.task or "split", "metric", "before", "after"]
        lines.append(markdown.table(headings, rows, left=2).rstrip())
    else:
        lines.append("No task was given, so no metric was measured.")
    return "\n\n".join(lines)


def padding_words(error: float) -> str:
    """Returns what to know of a model whose answers padding changes."""
    return (
        f"Padding changes this model's answers: probabilities or scores by up to {error:.2g}. It was compared without; "
        "give it one text at a time, or texts of one length, as codir does."
    )


def source_command(source: str) -> str | None:
    """Returns the command a run folder was made with, if it says so."""
    path = Path(source) / "environment.json"
    try:
        found = read_json(path).get("command") if path.is_file() else None
    except (RunError, AttributeError):
        return None
    # `python -m codir` calls itself by its file
    return re.sub(r"^__main__\.py\b", "codir", str(found)) if found else None
