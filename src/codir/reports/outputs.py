"""One pass of each model over some validation examples: logits and pooled layers, and how alike these are."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from codir.config.config import DataConfig
from codir.data.encoding import encode
from codir.data.task import Task
from codir.errors import CodirError
from codir.kinds import kind_named
from codir.models.check import behaviour, load_tokenizer_for
from codir.models.classes import class_names
from codir.models.inference import forward_dataset
from codir.models.loading import load_classifier, load_config
from codir.models.representations import Pooling
from codir.printing import progress_bar
from codir.record.data import load_data_for
from codir.reports.files import RunFiles

# A representation whose spread is this small beside its size is constant up to rounding.
_CONSTANT = 1e-12


@dataclass(frozen=True)
class Examples:
    """The validation examples that the models are run over: rows `numbers` [n] of a split of `whole` rows."""

    task: Task
    split: Dataset
    numbers: np.ndarray
    whole: int

    @cached_property
    def labels(self) -> np.ndarray:
        """[n] class ids or scores."""
        return np.asarray(self.split["label"])

    @cached_property
    def texts(self) -> list[tuple[str, str | None]]:
        """[n] (text, second text or None)."""
        firsts = [str(text) for text in self.split["text"]]
        paired = "text_pair" in self.split.column_names
        seconds = [str(text) for text in self.split["text_pair"]] if paired else [None] * len(firsts)
        return list(zip(firsts, seconds, strict=True))

    @property
    def classes(self) -> list[str]:
        """[n] names of the true classes; empty for scores."""
        names = self.task.labels
        return [] if names is None else [names[int(label)] for label in self.labels]


@dataclass(frozen=True)
class Outputs:
    """What one model gives for n examples."""

    name: str
    logits: np.ndarray  # [n, C], columns in the order of the data's classes; [n, 1] scores
    pooled: dict[Pooling, np.ndarray]  # [n, layers, d] float32; empty for a model that is not one encoder
    names: dict[int, str]  # the model's own class names by its ids


def load_examples(run: RunFiles, student: Path, most: int, data_dir: Path | None) -> Examples:
    """Loads the main validation split of a run's data, at most `most` examples of it (a fixed random subset).

    Raises:
        CodirError: the data cannot be had.
    """
    values = {key: value for key, value in run.section("data").items() if value is not None}
    values |= {} if data_dir is None else {"data_dir": data_dir}
    for key in ("data_dir", "train", "validation"):
        if key in values and (found := run.find(values[key])) is not None:
            values[key] = found if key == "data_dir" else str(found)
    try:
        config = DataConfig(**values)
    except ValueError as error:
        raise CodirError(f"the data section of its codir.yaml is not understood: {error}") from error
    data = load_data_for(load_config(student), config)
    whole = split = data.validation[data.main_split]
    numbers = np.arange(len(whole))
    if most < len(whole):
        numbers = np.sort(np.random.default_rng(0).choice(len(whole), size=most, replace=False))
        split = whole.select(numbers.tolist(), keep_in_memory=True)
    return Examples(data.task, split, numbers, len(whole))


def run_model(
    path: str | Path, name: str, examples: Examples, max_length: int, poolings: Sequence[Pooling] = ("mean",)
) -> Outputs:
    """Runs a model (a folder or a name of the Hub) once over the examples, with a bar.

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
    logits = np.full((len(encoded), len(names)), np.nan, np.float32)
    pooled: dict[Pooling, np.ndarray] = {}
    device = "cuda" if torch.cuda.is_available() else None
    how = {"poolings": poolings if behaviour(model).no_layers is None else (), "device": device}
    with progress_bar(f"{name} on {len(encoded):,} examples", len(encoded)) as move:
        for ids, outputs in forward_dataset(model, encoded, tokenizer, progress=move, **how):
            logits[ids] = outputs.logits.cpu().numpy()
            for pooling, layers in outputs.pooled.items():
                shape = len(encoded), *layers.shape[1:]
                pooled.setdefault(pooling, np.zeros(shape, np.float32))[ids] = layers.float().cpu().numpy()
    if not np.isfinite(logits).all():
        raise CodirError(f"{name} gives NaN or infinity.")
    return Outputs(name, logits[:, list(order)], pooled, names)


@torch.no_grad()
def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    """Compares every layer of one model with every layer of another, on the same n examples (Kornblith et al. 2019).

    With centred columns, CKA = ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F), the same as HSIC(K, L) over the root of
    HSIC(K, K) HSIC(L, L) with the Gram matrices K = X X^T and L = Y Y^T (section 3). It does not change with rotations
    and scaling of either side, nor with an order of the examples, but it does with other invertible maps. Each layer's
    Gram matrix is computed once, so that the pairs cost n^2 each whatever the widths.

    Args:
        x: [n, a, p] representations of n examples by a layers, of any floating type; computed in fp64.
        y: [n, b, q].

    Returns:
        [a, b] in fp64, 0 to 1. A representation that is the same for every example has no spread to compare: 0.

    Raises:
        ValueError: fewer than two examples, other shapes, or values that are not finite.
    """
    if x.dim() != 3 or y.dim() != 3 or x.shape[0] != y.shape[0]:
        raise ValueError(f"CKA compares [n, a, p] with [n, b, q], not {tuple(x.shape)} with {tuple(y.shape)}")
    if x.shape[0] < 2:
        raise ValueError(f"CKA needs at least two examples, and there are {x.shape[0]}")
    return (_unit_grams(x) @ _unit_grams(y).T).clamp(0.0, 1.0)


def _unit_grams(layers: Tensor) -> Tensor:
    """[layers, n * n]: the Gram matrices of the centred layers, each scaled to length one (zero if constant)."""
    grams = []
    for layer in layers.detach().cpu().double().unbind(dim=1):
        if not torch.isfinite(layer).all():
            raise ValueError("CKA needs finite representations")
        centred = layer - layer.mean(dim=0)
        spread = torch.linalg.vector_norm(centred)
        if spread <= _CONSTANT * torch.linalg.vector_norm(layer):
            grams.append(layer.new_zeros(len(layer) ** 2))
            continue
        centred = centred / spread  # first, so that no product can overflow or vanish
        gram = (centred @ centred.T).flatten()
        grams.append(gram / torch.linalg.vector_norm(gram))
    return torch.stack(grams)
