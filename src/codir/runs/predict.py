"""Predicts labels or scores for a file of texts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from codir.data.encoding import cuts_unsaid, encode_split
from codir.data.files import load_texts
from codir.engines.engines import Classifier, load_engine
from codir.errors import ModelError
from codir.files import whole_text_file, writes
from codir.kinds import kind_of
from codir.models.check import load_tokenizer_for
from codir.models.classes import class_names
from codir.models.inference import Progress, predict_logits
from codir.printing import Console, progress_bar, terminal
from codir.record.data import DEFAULT_TEXT
from codir.record.run_data import inputs_of
from codir.training.processes import one_process_only

if TYPE_CHECKING:
    from datasets import Dataset

_BATCHES_IN_CHUNK = 64


@dataclass(kw_only=True)
class Cut:
    """What was cut off."""

    truncated: int = 0  # how many of the inputs were longer than the limit and were cut
    max_length: int | None = None  # that limit in tokens, None if there is none


@dataclass
class PredictionResult(Cut):
    """What was written, and what was cut off."""

    output: Path
    rows: int  # predictions, one for each row of the input
    counts: dict[str, int] = field(default_factory=dict)  # by class name; empty for regression


@writes(inputs=("input",))
def predict(
    model: str | Path,
    input: str | Path,
    output: str | Path,
    batch_size: int = 32,
    text: str | None = None,
    text_pair: str | None = None,
    *,
    overwrite: bool = False,
    encoding: str | None = None,
    delimiter: str | None = None,
    max_length: int | None = None,
    device: str | torch.device | None = None,
    autocast: torch.dtype | None = None,
    console: Console | None = None,
    quiet: bool = False,
) -> PredictionResult:
    """Writes one JSON object for each row of the input, in its order; the file is written whole or not at all.

    Classification: `{"text": ..., "label": "positive", "scores": {"negative": 0.02, "positive": 0.98}}` (softmax);
    regression: `{"text": ..., "score": 3.4}`; pairs also have `text_pair`. The texts are held in memory; tokens,
    logits and predictions only for 64 batches at a time.

    Args:
        model: folder or Hub id of a fine-tuned model, or an exported folder.
        input: `.txt` (one text a line; an empty line is an error, since each line gets one prediction), or CSV,
            TSV, JSON lines, JSON or Parquet.
        output: the file to write, JSON lines.
        batch_size: examples in a batch.
        text: column of the text (not for `.txt`); by default that of the model's run, else `text`.
        text_pair: column of the second text; by default that of the model's run.
        overwrite: replaces an existing output.
        encoding: of a text file that is not UTF-8.
        delimiter: of CSV and TSV, if not what the ending says.
        max_length: longer inputs are cut; by default where the model's run cut them, else at what the model has
            positions for. They are counted.
        device: where to compute; a GPU if there is one.
        autocast: `torch.bfloat16` for mixed precision; None computes in fp32.
        console: where to print the summary; standard output by default.
        quiet: prints nothing.

    Raises:
        ConfigError: the model's run was on pairs of texts, and the input has single ones, or the other way round.
        RunError: the output exists, is the input, is being written by another process, or cannot be written.
        DataError: the input cannot be read, lacks the column, or has an empty text (names the line).
        ModelError: the model cannot be loaded, or gives NaN.
    """
    one_process_only("codir predict")
    input, output = Path(input), Path(output)
    wanted = {"text": text, "text_pair": text_pair, "encoding": encoding, "delimiter": delimiter}
    if (inputs := inputs_of(model)) is not None:
        used = inputs.for_file(input, wanted)
        wanted |= used
        if max_length is None and inputs.max_length is not None:
            max_length = used["max_length"] = inputs.max_length
        if (words := inputs.words(used)) is not None and not quiet:
            terminal(console).print(words, highlight=False, markup=False, soft_wrap=True)
    texts = load_texts(input, **{**wanted, "text": wanted["text"] or DEFAULT_TEXT})
    classifier = load_engine(model)
    tokenizer = load_tokenizer_for(classifier, model)
    result = PredictionResult(output, len(texts))
    names, kind = list(class_names(classifier.config).values()), kind_of(classifier.config)
    if len(names) > 1:
        result.counts = dict.fromkeys(names, 0)
    settings: dict[str, Any] = {
        "batch_size": batch_size,
        "max_length": max_length,
        "device": device,
        "autocast": autocast,
    }
    with progress_bar("predicting", len(texts)) as bar, whole_text_file(output) as file:
        settings |= {"autocast": autocast, "progress": bar, "source": f"{input}", "name": f"{model}"}
        for part, logits in predict_texts(classifier, tokenizer, texts, result, **settings):
            for row, prediction in zip(part, kind.predictions(logits, names), strict=True):
                if "label" in prediction:
                    result.counts[prediction["label"]] += 1
                line = json.dumps({**dict(row), **prediction}, ensure_ascii=False, allow_nan=False)
                file.write(line + "\n")
    if not quiet:
        print_result(result, console)
    return result


def predict_texts(
    model: Classifier,
    tokenizer: PreTrainedTokenizerBase,
    texts: Dataset,
    cut: Cut,
    *,
    batch_size: int = 32,
    max_length: int | None = None,
    device: str | torch.device | None = None,
    autocast: torch.dtype | None = None,
    progress: Progress | None = None,
    name: str = "the model",
    source: str = "the input",
) -> Iterator[tuple[Dataset, np.ndarray]]:
    """Yields the texts, 64 batches of them at a time and in their order, with the model's logits [n, C] for them.

    Args:
        model: a classifier; batches, lengths and devices as for `predict`.
        tokenizer: its tokenizer.
        texts: columns `text` and, for pairs, `text_pair`.
        cut: gets the number of texts that were longer than the limit, and that limit.
        progress: called with (texts done, texts in all) after each batch.
        name: the model's, for messages.
        source: the texts', for messages.

    Raises:
        ModelError: a logit is not finite; names the row, counted from 1.
    """
    chunk = batch_size * _BATCHES_IN_CHUNK
    for start in range(0, len(texts), chunk):
        part = texts.select(range(start, min(start + chunk, len(texts))))
        with cuts_unsaid():  # the summary says it once, for all chunks
            encoded = encode_split(part, tokenizer, max_length, config=model.config)
        cut.truncated += encoded.truncated
        cut.max_length = encoded.max_length
        logits = predict_logits(
            model,
            encoded.dataset,
            tokenizer,
            batch_size=batch_size,
            device=device or ("cuda" if torch.cuda.is_available() else None),
            autocast=autocast,
            progress=progress and (lambda done, _, start=start: progress(start + done, len(texts))),
        )
        bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
        if len(bad):
            raise ModelError(f"{name} gives NaN or infinity for row {start + bad[0] + 1} of {source}.")
        yield part, logits


def print_result(result: PredictionResult, console: Console | None = None) -> None:
    """Prints how many predictions of which class lie where, and how many inputs were cut."""
    console = terminal(console)
    classes = ", ".join(f"{count:,} {name}" for name, count in result.counts.items())
    format = "" if result.output.suffix.lower() in (".jsonl", ".ndjson") else " (JSON lines, as always)"
    line = f"{result.rows:,} predictions in {result.output}{format}" + (f": {classes}" if classes else "")
    console.print(line, highlight=False, markup=False, soft_wrap=True)
    if result.truncated:
        counted = "1 text is" if result.truncated == 1 else f"{result.truncated:,} texts are"
        past = "was" if result.truncated == 1 else "were"
        line = f"Warning: {counted} longer than {result.max_length} tokens and {past} cut."
        console.print(line, highlight=False, markup=False, soft_wrap=True, style="yellow")
