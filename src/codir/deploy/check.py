"""Is an export as good as its source? Inputs for both, the figures of what differs, and the limits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from codir.config.config import DataConfig
from codir.data import BUILT_IN
from codir.data.encoding import encode_split
from codir.data.task import TaskData
from codir.deploy.writing import Batch, model_inputs
from codir.engines.engines import Classifier, DeployedClassifier
from codir.errors import ConfigError, DataError, ModelError
from codir.kinds.base import Kind
from codir.measure.timing import Text, texts_of
from codir.models.check import behaviour
from codir.models.inference import INPUT_COLUMNS, Padding, logits_without_padding, pad_batch
from codir.record.data import load_data, load_data_for
from codir.record.run_data import Chosen

# what to try where a check fails; of what is not here fp32
WAYS = {
    "onnx int8": "--format openvino --quantize int8",
    "openvino int8": "--format onnx --quantize int8",
    "openvino fp32": "--format onnx",
}
LONGEST = 512  # tokens, for a model without positions
_CALIBRATION_BATCH = 8  # padded batches: ranges then hold for padding, too; half the error of one text at a time
_TEXTS = 200
Pair = tuple[np.ndarray, np.ndarray]


@contextlib.contextmanager
def of_run(chosen: Chosen) -> Iterator[None]:
    """Says of data that cannot be read, where nobody named them, whose they are and how to do without."""
    try:
        yield
    except (DataError, ConfigError) as error:
        if chosen.run is None:
            raise
        raise DataError(
            f"The data of {chosen.run} cannot be read: {str(error).rstrip('.')}. Name them anew by --task or "
            "--validation, or leave them out by --no-data."
        ) from error


def validation_data(model: PreTrainedModel, data: DataConfig) -> TaskData:
    """Loads the validation data as `codir evaluate` does, under the name that a run on the same files has."""
    loaded = load_data_for(model.config, data)
    if data.task is None and data.train is not None:
        loaded = replace(loaded, task=replace(loaded.task, name=Path(data.train).stem))
    return loaded


def calibration_batches(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: DataConfig, task: TaskData, count: int
) -> tuple[list[dict[str, Tensor]], str, list[str]]:
    """Returns padded batches of `count` training examples for int8, where they come from, and notes on that.

    Where there are no training data (`task` is what `validation_data` returned), they are validation examples.
    """
    split, name, notes = None, "training", []
    if data.task is not None or data.train is not None:
        limited = data.model_copy(update={"limit_train": count})
        try:
            split = load_data_for(model.config, limited, train=True).train
        except DataError:
            if data.task is None:
                raise
    if split is None:
        name = task.main_split
        split = task.validation[name].select(range(min(count, len(task.validation[name]))))
        notes = [
            f"There are no training data, so int8 is calibrated on {name} examples: the metric after export is a "
            "little too good. Give --train to have it right."
        ]
    encoded = encode_split(split, tokenizer, data.max_length, config=model.config).dataset
    rows = encoded.select_columns([each for each in INPUT_COLUMNS if each in encoded.column_names]).to_list()
    chunks = [rows[start : start + _CALIBRATION_BATCH] for start in range(0, len(rows), _CALIBRATION_BATCH)]
    batches = [pad_batch(chunk, tokenizer) for chunk in chunks]
    return batches, f"{len(rows):,} {name} examples of {task.task.name}", notes


def probe_texts(task: TaskData | None) -> list[Text]:
    """Returns texts of the task, or sentences of the built-in grammar, half of them as pairs."""
    if task is not None:
        return texts_of(task.validation[task.main_split], _TEXTS)
    built_in = load_data(DataConfig(task=BUILT_IN, limit_validation=_TEXTS), train=False)
    texts = [str(text) for text in texts_of(built_in.validation["validation"])]
    half = len(texts) // 2
    return [*texts[:half:2], *zip(texts[1:half:2], texts[half::2], strict=False)]


def probe_shapes(longest: int) -> list[tuple[int, int]]:
    """Returns (batch size, tokens) pairs: batches of 1 to 33, lengths from 3 tokens to the longest."""
    sizes = {3: 1, 5: 4, 8: 8, 13: 33, 21: 33, 34: 16, 55: 8, 89: 4, 144: 2, 233: 1, 377: 1}
    return [(size, length) for length, size in sizes.items() if length < longest] + [(1, longest)]


def probes(
    texts: Sequence[Text], tokenizer: PreTrainedTokenizerBase, shapes: Sequence[tuple[int, int]]
) -> Iterator[dict[str, Tensor]]:
    """Yields a padded batch of texts for each shape (batch size, tokens), joined where one alone is too short.

    The first row has the full length, the last one about half of it.
    """
    padding, start = Padding.of(tokenizer), 0
    for size, length in shapes:
        lengths = [max(3, length - (length * number) // (2 * size)) for number in range(size)]
        rows = [_row(texts, start + number, tokenizer, each) for number, each in enumerate(lengths)]
        yield pad_batch(rows, padding)
        start += size


def _row(texts: Sequence[Text], start: int, tokenizer: PreTrainedTokenizerBase, length: int) -> dict[str, Any]:
    """Returns the columns of one input of (at most) `length` tokens, from as many texts as that may take."""
    several = [texts[(start + number) % len(texts)] for number in range(length)]
    firsts, seconds = zip(*((each, "") if isinstance(each, str) else each for each in several), strict=True)
    # a shorter one has no room for both and the special tokens
    paired = " ".join(filter(None, seconds)) if length >= 6 else ""
    cut: dict[str, Any] = {"truncation": "longest_first", "max_length": length, "verbose": False}
    most = 16 * length  # characters; no more need be read for so many tokens
    return dict(tokenizer(" ".join(firsts)[:most], paired[:most] or None, return_attention_mask=True, **cut))


def compare(
    source: Classifier,
    export: Classifier,
    batches: Iterator[dict[str, Tensor]],
    progress: Callable[[int], None],
) -> list[Pair]:
    """Runs batches through both models and returns their logits [b, C] for each.

    The source gets each text without padding, the export the padded batch: what padding changes is a difference, too.
    Only an export of a model that padding changes anyway is run without, as it is everywhere.

    Raises:
        ModelError: the graph is fixed to the inputs it was traced with, or the export cannot be run at all.
    """
    found: list[Pair] = []
    exact = behaviour(source).padded
    behaviour(export)  # says in one sentence if it cannot be run at all (FNet has no bf16 on a CPU)
    for batch in batches:
        before, after = _logits(source, batch, padded=False), _logits(export, batch, padded=exact)
        if before.shape != after.shape:
            raise ModelError(
                f"The exported model gives outputs of the shape {list(after.shape)} where the source gives "
                f"{list(before.shape)}: its graph is fixed to the inputs it was traced with."
            )
        found.append((before, after))
        progress(len(found))
    return found


def _logits(model: Classifier, batch: Batch, padded: bool) -> np.ndarray:
    def run(**inputs: Tensor) -> Any:
        return model(**(inputs if isinstance(model, DeployedClassifier) else model_inputs(model, inputs)))

    with torch.inference_mode():
        logits = run(**batch).logits if padded else logits_without_padding(run, dict(batch))
        return logits.float().cpu().numpy()


def figures(kind: Kind, made_up: Sequence[Pair], examples: Sequence[Pair] = ()) -> dict[str, Any]:
    """Returns the figures for the manifest.

    Over all inputs: `inputs`, `largest_difference`, `mean_difference` of the logits, `finite`. Over the task's
    examples, or over all inputs where there are none: `answered`, how many; `judged`, the same in words;
    `agreement`, `changed`, `undecided`: by what the kind of prediction is compared (`Kind.same_answers`).

    Made-up inputs show what a graph does at every shape, but users never send them, and models are less sure of
    them than of whole texts: one in a hundred changes its answer for no reason that matters.

    Args:
        made_up: logits [b, C] of the source and of the export for made-up batches.
        examples: likewise, for the validation splits.
    """
    before, after = map(np.concatenate, zip(*made_up, *examples, strict=True))
    finite = bool(np.isfinite(after).all())
    with np.errstate(invalid="ignore"):
        difference = np.abs(after.astype(np.float64) - before)
    inputs = len(before)
    if examples:
        before, after = map(np.concatenate, zip(*examples, strict=True))
    same = kind.same_answers(before, after)
    return {
        "inputs": inputs,
        "largest_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
        **same,
        "agreement": same["agreement"] if finite else 0.0,
        "answered": len(before),
        "finite": finite,
        "judged": f"{len(before):,} {'validation examples' if examples else 'inputs'}",
        "answers": "classes" if kind.has_classes else "scores",
    }


def over_limits(figures: dict[str, Any], metric: str | None) -> list[str]:
    """Returns each limit that is passed, with the figure and the flag that raises it.

    Beside what `figures` returned there are `limits` (`difference`, which may be None, `agreement` and `drop`) and
    `dropped`, the points of the main metric lost on each split.
    """
    if not figures["finite"]:
        return ["it gives NaN or infinity for some inputs"]
    limits, found = figures["limits"], []
    largest, share = figures["largest_difference"], figures["agreement"]
    if limits["difference"] is not None and largest > limits["difference"]:
        limit = f"the limit is {limits['difference']:g} (--max-difference)"
        found.append(f"the largest difference of a logit is {largest:.2g}, {limit}")
    if share < limits["agreement"]:
        what = f"the scores of {figures['judged']} correlate by {share:.4f}"
        if figures["answers"] == "classes":
            what = f"{figures['changed']:,} of {figures['judged']} change their answer (agreement {share:.2%})"
        found.append(f"{what}, the limit is {limits['agreement']:g} (--min-agreement)")
    return found + [
        f"{metric} on {split} falls by {points:.2f} points, the limit is {limits['drop']:g} (--max-drop)"
        for split, points in figures["dropped"].items()
        if points > limits["drop"]
    ]
