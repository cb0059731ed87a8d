"""Compares an exported model with the one it was made from: the same inputs through both, figures, limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from codir.deploy.exporting import model_inputs
from codir.engines.engines import Classifier, DeployedClassifier
from codir.engines.formats import Target
from codir.errors import ModelError
from codir.models.padding import Padding, pad_batch
from codir.models.positions import position_limit
from codir.models.probe import behaviour
from codir.models.unpadded import logits_without_padding
from codir.runs.evaluate import EvaluationResult

MAX_DIFFERENCE = 1e-3  # of the logits, in fp32; bf16 and int8 have no limit of their own, their answers have
MIN_AGREEMENT = 0.97
MAX_DROP = 0.5  # points of the main metric, on a scale of 100
UNDECIDED = 0.1  # the source's two best probabilities are closer than this
_LONGEST_WITHOUT_POSITIONS = 512

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Limits:
    """What an export may differ by.

    Attributes:
        difference: largest difference of a logit; None for no limit.
        agreement: least share of the task's examples (without a task: of the made-up inputs) with the same answer; of a
            regression: correlation of the scores.
        drop: points of the main metric, on any split, that may be lost.
    """

    difference: float | None
    agreement: float = MIN_AGREEMENT
    drop: float = MAX_DROP

    @classmethod
    def of(
        cls,
        target: Target,
        difference: float | None = None,
        agreement: float | None = None,
        drop: float | None = None,
    ) -> Limits:
        """Fills in the limits of a target where none is given: 1e-3 for fp32, agreement 0.97, 0.5 points."""
        default = MAX_DIFFERENCE if target.kind == "fp32" else None
        return cls(
            default if difference is None else difference,
            MIN_AGREEMENT if agreement is None else agreement,
            MAX_DROP if drop is None else drop,
        )


@dataclass
class Comparison:
    """Logits of the source and of the export, collected batch by batch.

    Attributes:
        before, after: [n, C] each.
        lengths: tokens of each input, padding included.
        batches: sizes of the batches that were run.
        real: for each array of logits, whether its inputs are examples of the task and not made up.
    """

    before: list[np.ndarray] = field(default_factory=list)
    after: list[np.ndarray] = field(default_factory=list)
    real: list[bool] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    def add(self, before: np.ndarray, after: np.ndarray, real: bool = False) -> None:
        """Adds the logits [b, C] of both for the same inputs; raises `ModelError` if the shapes differ.

        `real`: the inputs are examples of the task.
        """
        if before.shape != after.shape:
            raise ModelError(
                f"The exported model gives outputs of the shape {list(after.shape)} where the source gives "
                f"{list(before.shape)}: its graph is fixed to the inputs it was traced with."
            )
        self.before.append(before)
        self.after.append(after)
        self.real.append(real)

    def figures(self) -> dict[str, Any]:
        """Returns the figures for the manifest.

        Over all inputs: `inputs`; `largest_difference`, `mean_difference` of the logits; `finite`. Over the task's
        examples, or over all inputs where there are none: `answered`, how many; `agreement`, the share with the same
        answer (regression: Pearson's correlation of the scores, 1 if both are constant); `changed`, how many got
        another one; `undecided`, how many of these the source was itself undecided about.

        Made-up inputs (pieces of texts, joined to a length) show what a graph does at every shape, but users never send
        them, and models are less sure of them than of whole texts: one input in a hundred changes its answer for no
        reason that matters.
        """
        before, after = np.concatenate(self.before), np.concatenate(self.after)
        finite = bool(np.isfinite(after).all())
        with np.errstate(invalid="ignore"):
            difference = np.abs(after.astype(np.float64) - before)
        if any(self.real):
            before, after = (
                np.concatenate([each for each, real in zip(logits, self.real, strict=True) if real])
                for logits in (self.before, self.after)
            )
        undecided = 0
        if before.shape[1] == 1:
            agreement, changed = _correlation(before[:, 0], after[:, 0]), 0
        else:
            same = before.argmax(axis=1) == after.argmax(axis=1)
            agreement, changed = float(same.mean()), int((~same).sum())
            undecided = int((margins(before[~same]) < UNDECIDED).sum())
        return {
            "inputs": sum(map(len, self.before)),
            "largest_difference": float(difference.max()),
            "mean_difference": float(difference.mean()),
            "agreement": agreement if finite else 0.0,
            "answered": len(before),
            "changed": changed,
            "undecided": undecided,
            "finite": finite,
        }


def margins(logits: np.ndarray) -> np.ndarray:
    """Returns [n]: how far apart the two best probabilities of logits [n, C] are."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True, initial=-np.inf))
    best = np.sort(exponentials / exponentials.sum(axis=1, keepdims=True), axis=1)[:, -2:]
    return best[:, 1] - best[:, 0]


def _correlation(before: np.ndarray, after: np.ndarray) -> float:
    if np.ptp(before) == 0 or np.ptp(after) == 0 or len(before) < 2:
        return 1.0 if np.allclose(before, after, atol=1e-2) else 0.0
    return float(np.corrcoef(before, after)[0, 1])


def probe_lengths(limit: int | None) -> list[tuple[int, int]]:
    """Returns (batch size, tokens) pairs: batches of 1 to 33, lengths from 3 tokens to the limit."""
    longest = limit or _LONGEST_WITHOUT_POSITIONS
    lengths = [length for length in (3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377) if length < longest]
    sizes = {3: 1, 5: 4, 8: 8, 13: 33, 21: 33, 34: 16, 55: 8, 89: 4, 144: 2}
    return [(sizes.get(length, 1), length) for length in lengths] + [(1, longest)]


def probes(
    texts: Sequence[tuple[str, str | None]], tokenizer: PreTrainedTokenizerBase, limit: int | None
) -> Iterator[Batch]:
    """Yields padded batches of real words: of all lengths up to the limit, the shorter ones of a batch padded.

    Args:
        texts: texts, or pairs of them; they are joined where one alone is too short.
        tokenizer: of the model.
        limit: the longest input, in tokens; None for 512.
    """
    padding = Padding.of(tokenizer)
    start = 0
    for size, length in probe_lengths(limit):
        rows = []
        for number in range(size):
            # the first row has the full length, the last one half of it
            wanted = max(3, length - (length * number) // (2 * size))
            rows.append(row_of(texts, start + number, tokenizer, wanted))
        start += size
        yield pad_batch(rows, padding)


def row_of(
    texts: Sequence[tuple[str, str | None]], start: int, tokenizer: PreTrainedTokenizerBase, length: int
) -> dict[str, Any]:
    """Returns the columns of one input of (at most) `length` tokens, from as many texts as that takes."""
    first, second, taken = "", None, 0
    while True:
        text, pair = texts[(start + taken) % len(texts)]
        first = f"{first} {text}".strip()
        if pair is not None:
            second = f"{second or ''} {pair}".strip()
        taken += 1
        paired = second if length >= 6 else None  # a shorter one has no room for both and the special tokens
        row = dict(
            tokenizer(
                first,
                paired,
                truncation="longest_first",
                max_length=length,
                return_attention_mask=True,
                verbose=False,
            )
        )
        if len(row["input_ids"]) >= length or taken > length:
            return row


def compare_probes(
    source: Classifier,
    export: Classifier,
    batches: Iterator[Batch],
    into: Comparison,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Runs the batches through both models and adds the logits.

    The source gets each text without padding, the export the padded batch: what padding changes is a difference, too.
    Only an export of a model that padding changes anyway is run without, as it is everywhere.
    """
    exact = behaviour(source).padded
    behaviour(
        export
    )  # says it in one sentence if the export cannot be run at all (FNet has no bf16 on a CPU)
    for number, batch in enumerate(batches, start=1):
        size, length = batch["input_ids"].shape
        into.add(_logits(source, batch, padded=False), _logits(export, batch, padded=exact))
        into.lengths.append(length)
        into.batches.append(size)
        if progress is not None:
            progress(number)


def _logits(model: Classifier, batch: Batch, padded: bool) -> np.ndarray:
    def run(**inputs: Tensor) -> Any:
        return model(**(inputs if isinstance(model, DeployedClassifier) else model_inputs(model, inputs)))

    with torch.inference_mode():
        logits = run(**batch).logits if padded else logits_without_padding(run, batch)
        return logits.float().cpu().numpy()


def compare_results(before: EvaluationResult, after: EvaluationResult, into: Comparison) -> None:
    """Adds the logits of all validation splits."""
    for split in before.logits:
        into.add(before.logits[split], after.logits[split], real=True)


def drops(before: EvaluationResult, after: EvaluationResult) -> dict[str, float]:
    """Returns the points of the main metric lost on each split (on a scale of 100; negative: gained)."""
    name = before.task.main_metric
    return {
        split: 100 * (values[name] - after.metrics[split][name]) for split, values in before.metrics.items()
    }


def limit_of(config: Any, max_length: int | None) -> int | None:
    """Returns the longest input to check: the model's positions, or `max_length` if that is less."""
    known = [value for value in (position_limit(config), max_length) if value is not None]
    return min(known) if known else None


def over_limits(
    figures: dict[str, Any], dropped: dict[str, float], limits: Limits, target: Target, metric: str | None
) -> list[str]:
    """Returns a sentence on each limit that is passed, with the figure and the flag that raises it."""
    found = []
    if not figures["finite"]:
        return ["it gives NaN or infinity for some inputs"]
    largest = figures["largest_difference"]
    if limits.difference is not None and largest > limits.difference:
        found.append(
            f"the largest difference of a logit is {largest:.2g}, the limit {limits.difference:g} "
            "(--max-difference)"
        )
    if figures["agreement"] < limits.agreement:
        found.append(_disagreement(figures, limits.agreement))
    for split, points in dropped.items():
        if points > limits.drop:
            found.append(
                f"{metric} on {split} falls by {points:.2f} points, the limit is {limits.drop:g} (--max-drop)"
            )
    return found


def _disagreement(figures: dict[str, Any], limit: float) -> str:
    agreement = figures["agreement"]
    accepts = f"--min-agreement {max(0.0, math.floor(100 * agreement) / 100):.2f} accepts that"
    if figures["answers"] == "scores":
        return f"the scores of {figures['judged']} correlate by {agreement:.4f}, the limit is {limit:.4f} ({accepts})"
    changed = figures["changed"]
    return (
        f"{changed:,} of {figures['judged']} {'gets' if changed == 1 else 'get'} another answer (agreement "
        f"{agreement:.2%}, the limit is {limit:.2%}); about {figures['undecided']:,} of these the source was itself "
        f"undecided (its two best probabilities less than {UNDECIDED:g} apart); {accepts}"
    )


def ways_on(target: Target, calibration: int | None) -> str:
    """Says what to try after a failed check."""
    ways = []
    if target.quantize == "int8":
        if target.format == "openvino":
            if calibration is not None:
                ways.append(f"calibrate on more examples (--calibration {4 * calibration})")
            ways.append("use --format onnx --quantize int8, which measures its ranges in every call")
            ways.append("leave out --quantize: bf16 is nearly as fast")
        else:
            ways.append("use --format openvino --quantize int8 with the task's data")
            ways.append("leave out --quantize")
    elif target.kind == "bf16":
        ways.append("use fp32: --format openvino --precision fp32, or --format onnx")
    else:
        ways.append("use another format")
    ways.append("raise the limit if you can live with the difference")
    return "; ".join(ways)
