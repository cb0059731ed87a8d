"""Speed of several models side by side: they take turns, so that the machine's noise falls on all alike."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from codir.data.encoding import length_limit
from codir.errors import DataError
from codir.models.check import behaviour, evaluation_mode
from codir.models.inference import Padding, Progress, pad_batch, padding_for, parts_of_one_length

if TYPE_CHECKING:
    from datasets import Dataset

_TURN = 16  # texts in a model's turn where requests are small

Text = str | tuple[str, str | None]
Inputs = dict[str, torch.Tensor]
Clock = Callable[[], float]
Model = Any
"""A classifier of transformers, or a module that acts as one (`config`, `device`, `dtype`, keyword inputs)."""


@dataclass(frozen=True)
class Timing:
    """Time one model takes for a sequence, forward pass only (tokenising excluded)."""

    ms_per_sequence: float  # median over the rounds
    spread: float  # half of the distance between the slowest and the fastest round, in milliseconds
    speedup: float  # median over the rounds of (time of the first model / time of this one); 1 for the first
    speedup_low: float  # the smallest and the largest of these ratios
    speedup_high: float
    rounds: tuple[float, ...]  # milliseconds per sequence of each round
    sequences: int  # in a round
    batch_size: int
    max_length: int
    padded: bool  # whether every sequence was padded to `max_length`, or only to the longest of its batch
    device: str
    dtype: str
    threads: int

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Timing:
        """Restores a value from its fields, as `dataclasses.asdict` gives them."""
        return cls(**{**values, "rounds": tuple(values["rounds"])})


@dataclass(frozen=True)
class RealLengths:
    """Time one model takes for a request: a batch of texts at their real lengths, padded to its longest only."""

    batch_size: int  # texts in a request
    requests: int  # timed, all rounds together
    p50: float  # milliseconds that half and 95 % of these requests stay within
    p95: float
    mean: float
    sequences_per_second: float  # median over the rounds
    speedup: float  # median over the rounds of (time of the first model / time of this one); 1 for the first
    tokens: float  # mean number of a text


def measure(
    models: Mapping[str, tuple[Model, PreTrainedTokenizerBase]],
    texts: Sequence[Text],
    batch_size: int = 32,
    max_length: int = 128,
    rounds: int = 3,
    device: str | torch.device = "cpu",
    pad_to_max_length: bool = False,
    clock: Clock = time.perf_counter,
    progress: Progress | None = None,
) -> dict[str, Timing]:
    """Times the models on the same texts, in turns: each batch goes through every model before the next one.

    One batch per model is run before, untimed. Models are put in eval mode on `device` and given back as they came.

    Args:
        models: model and tokenizer by name; speed-ups are against the first.
        texts: texts, or (text, second text) pairs.
        batch_size: sequences in a batch.
        max_length: tokens after which a sequence is cut (also cut at the model's own limit).
        rounds: passes over the texts; the median counts.
        device: where to measure.
        pad_to_max_length: pad all sequences to `max_length` instead of to the longest of their batch.
        clock: seconds, replaced in tests.
        progress: called after each pass of a model with (passes done, passes in all).

    Raises:
        DataError: there are no texts.
    """
    _, seconds = _timed(
        models, texts, batch_size, max_length, rounds, pad_to_max_length, device=device, clock=clock, progress=progress
    )
    results, first = {}, next(iter(seconds.values())).sum(axis=1)
    for name, (model, _) in models.items():
        per_sequence, ratios = 1000 * seconds[name].sum(axis=1) / len(texts), first / seconds[name].sum(axis=1)
        results[name] = Timing(
            ms_per_sequence=float(np.median(per_sequence)),
            spread=float(np.ptp(per_sequence)) / 2,
            speedup=float(np.median(ratios)),
            speedup_low=float(min(ratios)),
            speedup_high=float(max(ratios)),
            rounds=tuple(per_sequence.tolist()),
            sequences=len(texts),
            batch_size=batch_size,
            max_length=max_length,
            padded=pad_to_max_length,
            device=device_name(device),
            dtype=str(model.dtype).removeprefix("torch."),
            threads=torch.get_num_threads(),
        )
    return results


def measure_requests(
    models: Mapping[str, tuple[Model, PreTrainedTokenizerBase]],
    texts: Sequence[Text],
    batch_size: int = 1,
    max_length: int = 128,
    rounds: int = 3,
    device: str | torch.device = "cpu",
    clock: Clock = time.perf_counter,
    progress: Progress | None = None,
) -> dict[str, RealLengths]:
    """Times single requests, as users run a model: the texts in their order, at their real lengths.

    Models take turns as in `measure`, small requests 16 texts at a time: request by request they would find the
    caches full of each other's weights, which no service does. A batch of every shape is run before, untimed: a service
    that has been up for a while has seen all lengths. All requests have `batch_size` texts: the last one is filled up
    with the first texts. Arguments and errors as for `measure`.
    """
    count = math.ceil(len(texts) / max(batch_size, 1)) * batch_size
    whole = list(itertools.islice(itertools.cycle(texts), count))
    how: dict[str, Any] = {"device": device, "clock": clock, "progress": progress}
    how |= {"all_shapes": True, "turn": max(1, _TURN // max(batch_size, 1))}
    batches, seconds = _timed(models, whole, batch_size, max_length, rounds, **how)
    results, first = {}, next(iter(seconds.values())).sum(axis=1)
    for name in models:
        requests, totals = 1000 * seconds[name].ravel(), seconds[name].sum(axis=1)
        p50, p95 = np.percentile(requests, (50, 95)).tolist()
        results[name] = RealLengths(
            batch_size=batch_size,
            requests=len(requests),
            p50=p50,
            p95=p95,
            mean=float(requests.mean()),
            sequences_per_second=len(whole) / float(np.median(totals)),
            speedup=float(np.median(first / totals)),
            tokens=sum(int(batch["attention_mask"].sum()) for batch in batches[name]) / len(whole),
        )
    return results


def time_in_turns(
    models: Mapping[str, Model],
    batches: Mapping[str, Sequence[Inputs]],
    rounds: int,
    *,
    device: str | torch.device = "cpu",
    clock: Clock = time.perf_counter,
    all_shapes: bool = False,
    turn: int = 1,
    progress: Progress | None = None,
) -> dict[str, np.ndarray]:
    """Runs every batch through every model before the next batch, the first to go changing with each.

    Args:
        models: by name; they come back to where they were, in the mode they had.
        batches: each model's own inputs; equally many for all.
        rounds: passes over the batches.
        device: where to compute.
        clock: seconds, replaced in tests.
        all_shapes: before the clock starts, run one batch of every shape instead of the first batch only.
        turn: batches in a row that are one turn of a model. Where there are several, the turn's first batch is run once
            more before, untimed: the model before has left the processor's caches full of its own weights.
        progress: called after each pass of a model with (passes done, passes in all).

    Returns:
        Seconds of each forward pass [rounds, batches] by name; copies to the device are not in them.
    """
    if not models:
        return {}
    place, order = torch.device(device), list(models)
    number_of = len(batches[order[0]])
    seconds = {name: np.zeros((rounds, number_of)) for name in order}
    before = {name: model.device for name, model in models.items()}
    warm_up = {name: list(batches[name][:1]) for name in order}
    if all_shapes:
        warm_up = {name: list({each["input_ids"].shape: each for each in batches[name]}.values()) for name in order}
    turns = [range(start, min(start + turn, number_of)) for start in range(0, number_of, turn)]
    passes = number_of + (len(turns) if turn > 1 else 0)
    done, in_all = itertools.count(1), sum(map(len, warm_up.values())) + rounds * passes * len(order)

    def run(name: str, batch: Inputs) -> float:
        taken = _forward(models[name], batch, place, clock)
        if progress is not None:
            progress(next(done), in_all)
        return taken

    with contextlib.ExitStack() as modes:
        for name, model in models.items():
            modes.enter_context(evaluation_mode(model))
            modes.callback(model.to, before[name])
        for model in models.values():
            model.to(place)
        with torch.inference_mode():
            for name in order:
                for batch in warm_up[name]:
                    run(name, batch)
            for round_, (position, numbers) in itertools.product(range(rounds), enumerate(turns)):
                first = (round_ + position) % len(order)
                for name in order[first:] + order[:first]:
                    if turn > 1:
                        run(name, batches[name][numbers[0]])
                    for number in numbers:
                        seconds[name][round_, number] = run(name, batches[name][number])
    return seconds


def _forward(model: Model, batch: Inputs, device: torch.device, clock: Clock) -> float:
    """Runs one batch and returns the seconds it took, copies to the device excluded.

    A model whose answers padding changes is run as everywhere else, on texts of one length at a time.
    """
    parts = [batch] if behaviour(model).padded else [part for _, part in parts_of_one_length(batch)]
    inputs = [{name: tensor.to(device) for name, tensor in part.items()} for part in parts]
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = clock()
    for part in inputs:
        model(**part)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def _timed(
    models: Mapping[str, tuple[Model, PreTrainedTokenizerBase]],
    texts: Sequence[Text],
    batch_size: int,
    max_length: int,
    rounds: int,
    pad_to_max_length: bool = False,
    **how: Any,
) -> tuple[dict[str, list[Inputs]], dict[str, np.ndarray]]:
    """Returns each model's own batches of the texts, in their order, and what `time_in_turns` says of them."""
    if not texts:
        raise DataError("There are no texts to measure the speed on: the validation split is empty.")
    if rounds < 1 or batch_size < 1:
        raise ValueError(f"rounds ({rounds}) and batch_size ({batch_size}) must be at least 1")
    chunks = [texts[start : start + batch_size] for start in range(0, len(texts), batch_size)]
    batches = {
        name: [encode_batch(model, tokenizer, chunk, max_length, pad_to_max_length) for chunk in chunks]
        for name, (model, tokenizer) in models.items()
    }
    return batches, time_in_turns({name: model for name, (model, _) in models.items()}, batches, rounds, **how)


def encode_batch(
    model: Model, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text], max_length: int, pad_to_max_length: bool
) -> Inputs:
    """Returns a model's inputs for a batch, cut at `max_length` and at the model's own limit, whatever runs it."""
    limit = length_limit(min(max_length, tokenizer.model_max_length), model.config)
    firsts, pairs = _columns(texts)
    encoded = tokenizer(firsts, pairs, truncation=True, max_length=limit, return_attention_mask=True)
    rows = [{name: encoded[name][number] for name in encoded} for number in range(len(texts))]
    padding = padding_for(model, Padding.of(tokenizer))
    batch = pad_batch(rows, padding, pad_to_multiple_of=limit if pad_to_max_length else None)
    if pad_to_max_length and not behaviour(model).padded:
        # it would be run without its padding, and this is to measure a length
        batch["attention_mask"].fill_(1)
    return batch


def token_lengths(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text]) -> list[int]:
    """Returns the number of tokens of each text, uncut."""
    encoded = tokenizer(*_columns(texts), truncation=False, verbose=False)
    return [len(ids) for ids in encoded["input_ids"]]  # type: ignore[union-attr]


def _columns(texts: Sequence[Text]) -> tuple[list[str], list[str] | None]:
    both = [(text, None) if isinstance(text, str) else text for text in texts]
    paired = any(second is not None for _, second in both)
    return [first for first, _ in both], [second or "" for _, second in both] if paired else None


def texts_of(split: Dataset, most: int | None = None) -> list[Text]:
    """Returns the texts of a split (its first `most`), pairs as tuples."""
    chosen = split if most is None else split.select(range(min(most, len(split))))
    pairs = chosen["text_pair"] if "text_pair" in chosen.column_names else [None] * len(chosen)
    return [
        (first, second) if second is not None else first for first, second in zip(chosen["text"], pairs, strict=True)
    ]


def device_name(device: str | torch.device) -> str:
    """Returns what a device is called: `cpu`, or the GPU's name."""
    place = torch.device(device)
    return torch.cuda.get_device_name(place) if place.type == "cuda" else str(place)


def model_size(folder: str | Path) -> int:
    """Returns the bytes of a model's safetensors files in its folder (0 where there are none)."""
    return sum(path.stat().st_size for path in Path(folder).glob("model*.safetensors"))
