"""One pass of each model over some validation examples: logits and pooled blocks, for everything that needs models."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from codir.config.data_config import DataConfig
from codir.data.encoding import encode
from codir.data.task import Task
from codir.errors import CodirError
from codir.kinds import kind_named
from codir.models.check import load_tokenizer_for
from codir.models.inference import forward_dataset
from codir.models.loading import class_names, load_classifier
from codir.models.probe import behaviour
from codir.models.representations import Pooling
from codir.printing import progress_bar
from codir.reports.run_files import RunFiles
from codir.runs.data import load_data_for

_FOLDERS = ("data_dir", "train", "validation")


@dataclass(frozen=True)
class Examples:
    """The validation examples that the models are run over.

    Attributes:
        task: kind and classes.
        split: columns `text`, (`text_pair`), `label`.
        numbers: [n] rows of the whole validation split that they are.
        whole: length of that split.
        source: where the data came from.
    """

    task: Task
    split: Dataset
    numbers: np.ndarray
    whole: int
    source: str

    @property
    def labels(self) -> np.ndarray:
        """[n] class ids or scores."""
        return np.asarray(self.split["label"])

    @property
    def texts(self) -> list[tuple[str, str | None]]:
        """[n] (text, second text or None)."""
        firsts = [str(text) for text in self.split["text"]]
        if "text_pair" not in self.split.column_names:
            return [(first, None) for first in firsts]
        return list(zip(firsts, [str(text) for text in self.split["text_pair"]], strict=True))


@dataclass(frozen=True)
class Outputs:
    """What one model gives for n examples.

    Attributes:
        name: of the model.
        logits: [n, C], columns in the order of the data's classes; [n, 1] scores.
        pooled: by pooling, [n, blocks, d] float32; empty for a model whose layers are not one encoder's.
        classes: the model's own class names by its ids.
    """

    name: str
    logits: np.ndarray
    pooled: dict[Pooling, np.ndarray]
    classes: dict[int, str]

    @property
    def probabilities(self) -> np.ndarray:
        """[n, C] softmax of the logits, in fp64."""
        from scipy.special import softmax

        return softmax(self.logits.astype(np.float64), axis=1)


def load_examples(run: RunFiles, student: Path, most: int, data_dir: Path | None = None) -> Examples:
    """Loads the main validation split of a run's data, at most `most` examples of it (a fixed random subset).

    Args:
        run: the run.
        student: model folder, whose classes are taken where only the validation file says what the labels are.
        most: number of examples.
        data_dir: folder of the task's data, instead of the one that the run names.

    Raises:
        CodirError: the data cannot be had.
    """
    section = run.section("data")
    values = {key: section[key] for key in DataConfig.model_fields if section.get(key) is not None}
    if data_dir is not None:
        values["data_dir"] = data_dir
    for key in _FOLDERS:
        if key in values and (found := run.find(values[key])) is not None:
            values[key] = found if key == "data_dir" else str(found)
    try:
        config = DataConfig(**values)
    except ValueError as error:  # an older or younger codir's settings
        raise CodirError(f"the data section of its codir.yaml is not understood: {error}") from error
    data = load_data_for(_config_of(student), config)
    split = data.validation[data.main_split]
    numbers = np.arange(len(split))
    if most < len(split):
        numbers = np.sort(np.random.default_rng(0).choice(len(split), size=most, replace=False))
        split = split.select(numbers.tolist(), keep_in_memory=True)
    return Examples(data.task, split, numbers, len(data.validation[data.main_split]), data.source)


def _config_of(folder: Path) -> Any:
    from codir.models.loading import load_config

    return load_config(folder)


def run_model(
    path: str | Path,
    name: str,
    examples: Examples,
    max_length: int | None,
    poolings: Sequence[Pooling] = ("mean",),
    batch_size: int = 32,
) -> Outputs:
    """Runs a model once over the examples, with a bar.

    Args:
        path: folder or Hub id.
        name: what it is called.
        examples: the texts.
        max_length: tokens after which they are cut.
        poolings: how its blocks are pooled.
        batch_size: examples in a batch.

    Raises:
        CodirError: the model cannot be loaded, or has other classes than the data.
    """
    model = load_classifier(path)
    tokenizer = load_tokenizer_for(model, path)
    names = class_names(model.config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the run itself has given it
        order = kind_named(examples.task.kind).match(examples.task.labels, model.config, name)
    encoded = encode(examples.split, tokenizer, max_length, config=model.config)
    logits: np.ndarray | None = None
    pooled: dict[Pooling, np.ndarray] = {}
    with progress_bar(f"{name} on {len(encoded):,} examples", len(encoded)) as move:
        batches = forward_dataset(
            model,
            encoded,
            tokenizer,
            poolings=poolings if behaviour(model).no_layers is None else (),
            batch_size=batch_size,
            device="cuda" if torch.cuda.is_available() else None,
            progress=move,
        )
        for ids, outputs in batches:
            if logits is None:
                logits = np.zeros((len(encoded), outputs.logits.shape[1]), np.float32)
                pooled = {
                    how: np.zeros((len(encoded), *blocks.shape[1:]), np.float32)
                    for how, blocks in outputs.pooled.items()
                }
            logits[ids] = outputs.logits.cpu().numpy()
            for how, blocks in outputs.pooled.items():
                pooled[how][ids] = blocks.float().cpu().numpy()
    if logits is None:
        raise CodirError(f"There is no example to run {name} over.")
    if not np.isfinite(logits).all():
        raise CodirError(f"{name} gives NaN or infinity.")
    return Outputs(name, logits[:, list(order)], pooled, names)
