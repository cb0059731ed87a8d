"""The inputs an export needs: to trace the model, to calibrate int8, to compare with the source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from codir.config.data_config import DataConfig
from codir.data.encoding import encode_split
from codir.data.task import TaskData
from codir.deploy import export_checks as checks
from codir.deploy.exporting import Batch
from codir.errors import DataError
from codir.models.padding import INPUT_COLUMNS, Padding, pad_batch
from codir.runs.data import load_data_for
from codir.runs.evaluate import EvaluationResult

CALIBRATION = 300  # examples; 1,200 gave the same differences on real students, 64 slightly larger ones
_CALIBRATION_BATCH = (
    8  # padded batches: ranges then hold for padding, too; half the error of one text at a time
)

Text = tuple[str, str | None]


def validation_data(model: PreTrainedModel, data: DataConfig) -> TaskData:
    """Loads the validation data, as `codir evaluate` does."""
    loaded = load_data_for(model.config, data)
    if data.task is None and data.train is not None:
        # a run is named after its training file: one name for the same data
        loaded = replace(loaded, task=replace(loaded.task, name=Path(data.train).stem))
    return loaded


def cut_words(result: EvaluationResult) -> list[str]:
    """Returns a sentence on each split of which texts were cut."""
    return [
        f"{count:,} of {len(result.labels[split]):,} {split} examples {'is' if count == 1 else 'are'} longer than "
        f"{result.max_length} tokens and {'was' if count == 1 else 'were'} cut, for source and export alike."
        for split, count in result.truncated.items()
        if count
    ]


def calibration_batches(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: DataConfig, task: TaskData, count: int
) -> tuple[list[Batch], str, str | None]:
    """Returns padded batches of training examples for int8, where they come from, and what to say of it.

    Args:
        model: the source.
        tokenizer: its tokenizer.
        data: the task or the files.
        task: what `validation_data` returned.
        count: number of examples.
    """
    split, name, note = None, "training", None
    if data.task is not None or data.train is not None:
        try:
            limited = data.model_copy(update={"limit_train": count})
            split = load_data_for(model.config, limited, train=True).train
        except DataError:
            if data.task is None:
                raise
    if split is None:
        name = task.main_split
        whole = task.validation[name]
        split = whole.select(range(min(count, len(whole))))
        note = (
            f"There are no training data, so int8 is calibrated on {name} examples: the metric after export is a "
            "little too good. Give --train to have it right."
        )
    encoded = encode_split(split, tokenizer, data.max_length, config=model.config).dataset
    padding = Padding.of(tokenizer)
    rows = encoded.select_columns([each for each in INPUT_COLUMNS if each in encoded.column_names]).to_list()
    batches: list[Batch] = [
        pad_batch(rows[start : start + _CALIBRATION_BATCH], padding)
        for start in range(0, len(rows), _CALIBRATION_BATCH)
    ]
    return batches, f"{len(rows):,} {name} examples of {task.task.name}", note


def probe_texts(task: TaskData | None) -> list[Text]:
    """Returns texts of the task, or sentences of the built-in grammar, half of them as pairs."""
    if task is not None:
        split = task.validation[task.main_split]
        split = split.select(range(min(200, len(split))))
        firsts = list(split["text"])
        seconds = list(split["text_pair"]) if task.task.pairs else [None] * len(firsts)
        return list(zip(firsts, seconds, strict=True))
    from codir.data.grammar import load_builtin

    sentences = list(load_builtin(train=2, validation=200).validation["validation"]["text"])
    half = len(sentences) // 2
    return [
        (text, other if number % 2 else None)
        for number, (text, other) in enumerate(zip(sentences[:half], sentences[half:], strict=True))
    ]


def tracing_sample(texts: Sequence[Text], tokenizer: PreTrainedTokenizerBase) -> Batch:
    """Returns the batch a model is traced with: three rows of real words, the shorter ones padded."""
    paired = [each for each in texts if each[1] is not None] or list(texts)
    rows = [checks.row_of(paired, number, tokenizer, length) for number, length in enumerate((12, 9, 7))]
    return pad_batch(rows, Padding.of(tokenizer))
