"""Compares an exported model with the one it was made from: the same inputs through both, figures, limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from codir.deploy.writing import Batch, model_inputs
from codir.engines.engines import Classifier, DeployedClassifier
from codir.engines.formats import Target
from codir.errors import ModelError
from codir.kinds.base import Kind
from codir.kinds.classification import UNDECIDED
from codir.measure.timing import Text
from codir.models.check import behaviour
from codir.models.config_file import position_limit
from codir.models.inference import Padding, logits_without_padding, pad_batch
from codir.runs.evaluate import EvaluationResult

_LONGEST_WITHOUT_POSITIONS = 512


@dataclass(frozen=True)
class Limits:
    """What an export may differ by.

    Attributes:
        difference: the largest difference of a logit; None for no limit (bf16, int8: their answers have one).
        agreement: the least share of equal answers; for scores their correlation.
        drop: points of the main metric (of 100) that may be lost on any split.
    """

    difference: float | None
    agreement: float = 0.97
    drop: float = 0.5

    @classmethod
    def of(
        cls, target: Target, difference: float | None, agreement: float | None, drop: float | None
    ) -> Limits:
        """Returns the limits given; where none is, the target's: 1e-3 for fp32, agreement 0.97, 0.5 points."""
        difference = 1e-3 if difference is None and target.kind == "fp32" else difference
        return cls(
            difference, cls.agreement if agreement is None else agreement, cls.drop if drop is None else drop
        )


@dataclass
class Comparison:
    """Logits [n, C] of the source and of the export for the same inputs, collected batch by batch.

    Attributes:
        before, after: of made-up inputs.
        examples_before, examples_after: of the task's validation examples.
        shapes: (batch size, tokens) of the made-up batches.
    """

    before: list[np.ndarray] = field(default_factory=list)
    after: list[np.ndarray] = field(default_factory=list)
    examples_before: list[np.ndarray] = field(default_factory=list)
    examples_after: list[np.ndarray] = field(default_factory=list)
    shapes: list[tuple[int, int]] = field(default_factory=list)

    def add(self, before: np.ndarray, after: np.ndarray, real: bool = False) -> None:
        """Adds the logits [b, C] of both; `real`: for examples of the task. `ModelError` if the shapes differ."""
        if before.shape != after.shape:
            raise ModelError(
                f"The exported model gives outputs of the shape {list(after.shape)} where the source gives "
                f"{list(before.shape)}: its graph is fixed to the inputs it was traced with."
            )
        (self.examples_before if real else self.before).append(before)
        (self.examples_after if real else self.after).append(after)

    def figures(self, kind: Kind) -> dict[str, Any]:
        """Returns the figures for the manifest.

        Over all inputs: `inputs`, `largest_difference`, `mean_difference` of the logits, `finite`. Over the task's
        examples, or over all inputs where there are none: `answered`, how many; `judged`, the same in words;
        `agreement`, `changed`, `undecided`: by what the kind of prediction is compared (`Kind.same_answers`).

        Made-up inputs show what a graph does at every shape, but users never send them, and models are less sure of
        them than of whole texts: one in a hundred changes its answer for no reason that matters.
        """
        before = np.concatenate(self.before + self.examples_before)
        after = np.concatenate(self.after + self.examples_after)
        finite = bool(np.isfinite(after).all())
        with np.errstate(invalid="ignore"):
            difference = np.abs(after.astype(np.float64) - before)
        inputs = len(before)
        if self.examples_before:
            before, after = np.concatenate(self.examples_before), np.concatenate(self.examples_after)
        same = kind.same_answers(before, after)
        sizes, lengths = zip(*self.shapes, strict=True) if self.shapes else ((0,), (0,))
        return {
            "inputs": inputs,
            "largest_difference": float(difference.max()),
            "mean_difference": float(difference.mean()),
            **same,
            "agreement": same["agreement"] if finite else 0.0,
            "answered": len(before),
            "finite": finite,
            "judged": f"{len(before):,} {'validation examples' if self.examples_before else 'inputs'}",
            "answers": "classes" if kind.has_classes else "scores",
            "shortest": min(lengths),
            "longest": max(lengths),
            "smallest_batch": min(sizes),
            "largest_batch": max(sizes),
        }


def probe_shapes(limit: int | None) -> list[tuple[int, int]]:
    """Returns (batch size, tokens) pairs: batches of 1 to 33, lengths from 3 tokens to the limit."""
    longest = limit or _LONGEST_WITHOUT_POSITIONS
    sizes = {3: 1, 5: 4, 8: 8, 13: 33, 21: 33, 34: 16, 55: 8, 89: 4, 144: 2, 233: 1, 377: 1}
    return [(size, length) for length, size in sizes.items() if length < longest] + [(1, longest)]


def probes(
    texts: Sequence[Text], tokenizer: PreTrainedTokenizerBase, shapes: Sequence[tuple[int, int]]
) -> Iterator[dict[str, Tensor]]:
    """Yields padded batches of real words: the first row has the full length, the last one about half of it.

    Args:
        texts: texts, or pairs of them; they are joined where one alone is too short.
        tokenizer: the model's.
        shapes: (batch size, tokens) of each batch.
    """
    padding, start = Padding.of(tokenizer), 0
    for size, length in shapes:
        lengths = [max(3, length - (length * number) // (2 * size)) for number in range(size)]
        yield pad_batch(
            [_row(texts, start + number, tokenizer, each) for number, each in enumerate(lengths)], padding
        )
        start += size


def _row(
    texts: Sequence[Text], start: int, tokenizer: PreTrainedTokenizerBase, length: int
) -> dict[str, Any]:
    """Returns the columns of one input of (at most) `length` tokens, from as many texts as that takes."""
    first, second, taken = "", "", 0
    while True:
        text = texts[(start + taken) % len(texts)]
        one, other = (text, None) if isinstance(text, str) else text
        first, second, taken = f"{first} {one}".strip(), f"{second} {other or ''}".strip(), taken + 1
        # a shorter one has no room for both and the special tokens
        paired = second if second and length >= 6 else None
        cut: dict[str, Any] = {"truncation": "longest_first", "max_length": length, "verbose": False}
        row = dict(tokenizer(first, paired, return_attention_mask=True, **cut))
        if len(row["input_ids"]) >= length or taken > length:
            return row


def compare_models(
    source: Classifier,
    export: Classifier,
    batches: Iterator[dict[str, Tensor]],
    progress: Callable[[int], None] | None = None,
) -> Comparison:
    """Runs batches through both models and returns their logits.

    The source gets each text without padding, the export the padded batch: what padding changes is a difference, too.
    Only an export of a model that padding changes anyway is run without, as it is everywhere.
    """
    found, exact = Comparison(), behaviour(source).padded
    behaviour(export)  # says in one sentence if it cannot be run at all (FNet has no bf16 on a CPU)
    for number, batch in enumerate(batches, start=1):
        found.add(_logits(source, batch, padded=False), _logits(export, batch, padded=exact))
        found.shapes.append((batch["input_ids"].shape[0], batch["input_ids"].shape[1]))
        if progress is not None:
            progress(number)
    return found


def _logits(model: Classifier, batch: Batch, padded: bool) -> np.ndarray:
    def run(**inputs: Tensor) -> Any:
        return model(**(inputs if isinstance(model, DeployedClassifier) else model_inputs(model, inputs)))

    with torch.inference_mode():
        logits = run(**batch).logits if padded else logits_without_padding(run, dict(batch))
        return logits.float().cpu().numpy()


def drops(before: EvaluationResult, after: EvaluationResult) -> dict[str, float]:
    """Returns the points of the main metric lost on each split (on a scale of 100; negative: gained)."""
    name = before.task.main_metric
    return {
        split: 100 * (values[name] - after.metrics[split][name]) for split, values in before.metrics.items()
    }


def limit_of(config: PretrainedConfig, max_length: int | None) -> int | None:
    """Returns the longest input to check: the model's positions, or `max_length` if that is less."""
    known = [value for value in (position_limit(config), max_length) if value is not None]
    return min(known) if known else None


def over_limits(figures: dict[str, Any], limits: Limits, metric: str | None) -> list[str]:
    """Returns a sentence on each limit that is passed, with the figure and the flag that raises it."""
    if not figures["finite"]:
        return ["it gives NaN or infinity for some inputs"]
    found = []
    largest, share = figures["largest_difference"], figures["agreement"]
    if limits.difference is not None and largest > limits.difference:
        found.append(
            f"the largest difference of a logit is {largest:.2g}, the limit {limits.difference:g} "
            "(--max-difference)"
        )
    if share < limits.agreement:
        accepts = f"--min-agreement {max(0.0, math.floor(100 * share) / 100):.2f} accepts that"
        changed, judged = figures["changed"], figures["judged"]
        if figures["answers"] == "scores":
            found.append(
                f"the scores of {judged} correlate by {share:.4f}, the limit is {limits.agreement:.4f} ({accepts})"
            )
        else:
            found.append(
                f"{changed:,} of {judged} {'gets' if changed == 1 else 'get'} another answer (agreement {share:.2%}, "
                f"the limit is {limits.agreement:.2%}); about {figures['undecided']:,} of these the source was itself "
                f"undecided (its two best probabilities less than {UNDECIDED:g} apart); {accepts}"
            )
    return found + [
        f"{metric} on {split} falls by {points:.2f} points, the limit is {limits.drop:g} (--max-drop)"
        for split, points in figures.get("dropped", {}).items()
        if points > limits.drop
    ]


def ways_on(target: Target, calibration: int) -> str:
    """Says what to try after a failed check."""
    ways = {
        "onnx int8": "use --format openvino --quantize int8 with the task's data; leave out --quantize",
        "openvino int8": f"calibrate on more examples (--calibration {4 * calibration}); use --format onnx --quantize "
        "int8, which measures its ranges in every call; leave out --quantize: bf16 is nearly as fast",
        "openvino bf16": "use fp32: --format openvino --precision fp32, or --format onnx",
        "torch-bf16": "use fp32: --format openvino --precision fp32, or --format onnx",
    }
    return (
        f"{ways.get(str(target), 'use another format')}; raise the limit if you can live with the difference"
    )
