"""The data of an export: for the metric before and after, to calibrate int8, texts to trace and to compare with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from codir.config.config import DataConfig
from codir.data import BUILT_IN
from codir.data.encoding import encode_split
from codir.data.task import TaskData
from codir.errors import DataError
from codir.measure.timing import Text, texts_of
from codir.models.inference import INPUT_COLUMNS, Padding, pad_batch
from codir.record.data import load_data, load_data_for

_BATCH = 8  # padded batches: ranges then hold for padding, too; half the error of one text at a time
_PROBE_TEXTS = 200


def validation_data(model: PreTrainedModel, data: DataConfig) -> TaskData:
    """Loads the validation data, as `codir evaluate` does."""
    loaded = load_data_for(model.config, data)
    if data.task is None and data.train is not None:
        # a run is named after its training file: one name for the same data
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
        whole = task.validation[name]
        split = whole.select(range(min(count, len(whole))))
        notes = [
            f"There are no training data, so int8 is calibrated on {name} examples: the metric after export is a "
            "little too good. Give --train to have it right."
        ]
    encoded = encode_split(split, tokenizer, data.max_length, config=model.config).dataset
    rows = encoded.select_columns([each for each in INPUT_COLUMNS if each in encoded.column_names]).to_list()
    padding = Padding.of(tokenizer)
    batches = [pad_batch(rows[start : start + _BATCH], padding) for start in range(0, len(rows), _BATCH)]
    return batches, f"{len(rows):,} {name} examples of {task.task.name}", notes


def probe_texts(task: TaskData | None) -> list[Text]:
    """Returns texts of the task, or sentences of the built-in grammar, half of them as pairs."""
    if task is not None:
        return texts_of(task.validation[task.main_split], _PROBE_TEXTS)
    built_in = load_data(DataConfig(task=BUILT_IN, limit_validation=_PROBE_TEXTS), train=False)
    texts = [str(text) for text in texts_of(built_in.validation["validation"])]
    half = len(texts) // 2
    return [*texts[:half:2], *zip(texts[1:half:2], texts[half::2], strict=False)]
