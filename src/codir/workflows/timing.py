"""Speed of several models side by side: they take turns, so that the machine's noise falls on all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from codir.errors import DataError
from codir.tasks.encoding import length_limit

Text = str | tuple[str, str | None]


@dataclass(frozen=True)
class Timing:
    """Time one model takes for a sequence, forward pass only (tokenising excluded).

    Attributes:
        ms_per_sequence: median over the rounds, in milliseconds.
        spread: half of the distance between the slowest and the fastest round, in milliseconds.
        speedup: median over the rounds of (time of the first model / time of this one); 1 for the first.
        speedup_low, speedup_high: the smallest and the largest of these ratios.
        rounds: milliseconds per sequence of each round.
        sequences: number of sequences in a round.
        batch_size, max_length: as measured; batches are padded to their longest sequence unless `padded`.
        padded: whether every sequence was padded to `max_length`.
        device, dtype, threads: where it was measured.
    """

    ms_per_sequence: float
    spread: float
    speedup: float
    speedup_low: float
    speedup_high: float
    rounds: tuple[float, ...]
    sequences: int
    batch_size: int
    max_length: int
    padded: bool
    device: str
    dtype: str
    threads: int

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Timing:
        """Restores what `to_dict` returned."""
        return cls(**{**values, "rounds": tuple(values["rounds"])})


def measure(
    models: Mapping[str, tuple[PreTrainedModel, PreTrainedTokenizerBase]],
    texts: Sequence[Text],
    batch_size: int = 32,
    max_length: int = 128,
    rounds: int = 3,
    device: str | torch.device = "cpu",
    pad_to_max_length: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Times the models on the same texts, in turns: each batch goes through every model before the next one.

    Who goes first changes with every batch. One batch per model is run before, untimed. Models are put in eval
    mode on `device` for the measurement and given back as they came.

    Args:
        models: model and tokenizer by name; speed-ups are against the first.
        texts: texts, or (text, second text) pairs.
        batch_size: sequences in a batch.
        max_length: tokens after which a sequence is cut (also cut at the model's own limit).
        rounds: passes over the texts; the median counts.
        device: where to measure.
        pad_to_max_length: pad all sequences to `max_length` instead of to the longest of their batch.
        clock: seconds, replaced in tests.

    Returns:
        One `Timing` for each name, in the order given.

    Raises:
        DataError: there are no texts.
    """
    if not texts:
        raise DataError("There are no texts to measure the speed on: the validation split is empty.")
    if rounds < 1 or batch_size < 1:
        raise ValueError(f"rounds ({rounds}) and batch_size ({batch_size}) must be at least 1")
    if not models:
        return {}
    device = torch.device(device)
    chunks = [texts[start : start + batch_size] for start in range(0, len(texts), batch_size)]
    batches = {
        name: [_encode(model, tokenizer, chunk, max_length, pad_to_max_length) for chunk in chunks]
        for name, (model, tokenizer) in models.items()
    }
    before = {name: (model.training, model.device) for name, (model, _) in models.items()}
    seconds = {name: [0.0] * rounds for name in models}
    order = list(models)
    try:
        for model, _ in models.values():
            model.eval().to(device)  # type: ignore[arg-type]
        with torch.inference_mode():
            for name, (model, _) in models.items():
                _forward(model, batches[name][0], device, clock)
            for round_ in range(rounds):
                for number in range(len(chunks)):
                    turn = (round_ + number) % len(order)
                    for name in order[turn:] + order[:turn]:
                        batch = batches[name][number]
                        seconds[name][round_] += _forward(models[name][0], batch, device, clock)
    finally:
        for name, (model, _) in models.items():
            was_training, was_on = before[name]
            model.train(was_training).to(was_on)  # type: ignore[arg-type]
    first = seconds[order[0]]
    results = {}
    for name, (model, _) in models.items():
        per_sequence = [1000 * total / len(texts) for total in seconds[name]]
        ratios = [a / b if b > 0 else float("nan") for a, b in zip(first, seconds[name], strict=True)]
        results[name] = Timing(
            ms_per_sequence=statistics.median(per_sequence),
            spread=(max(per_sequence) - min(per_sequence)) / 2,
            speedup=statistics.median(ratios),
            speedup_low=min(ratios),
            speedup_high=max(ratios),
            rounds=tuple(per_sequence),
            sequences=len(texts),
            batch_size=batch_size,
            max_length=max_length,
            padded=pad_to_max_length,
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
            dtype=str(model.dtype).removeprefix("torch."),
            threads=torch.get_num_threads(),
        )
    return results


def _encode(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Text],
    max_length: int,
    pad_to_max_length: bool,
) -> dict[str, torch.Tensor]:
    limit = length_limit(min(max_length, tokenizer.model_max_length), model.config)
    firsts = [text if isinstance(text, str) else text[0] for text in texts]
    seconds = [None if isinstance(text, str) else text[1] for text in texts]
    pairs = [second or "" for second in seconds] if any(second is not None for second in seconds) else None
    encoded = tokenizer(
        firsts,
        pairs,
        truncation=True,
        max_length=limit,
        padding="max_length" if pad_to_max_length else True,
        return_tensors="pt",
    )
    return dict(encoded)


def _forward(
    model: PreTrainedModel, batch: dict[str, torch.Tensor], device: torch.device, clock: Callable[[], float]
) -> float:
    """Runs one batch and returns the seconds it took, copies to the device excluded."""
    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = clock()
    model(**inputs)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def model_size(folder: str | Path) -> int:
    """Returns the bytes of the safetensors files in a model folder (0 where there are none)."""
    return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
