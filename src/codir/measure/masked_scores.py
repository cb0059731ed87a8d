"""How well masked language models predict held-out tokens: the table of a pre-training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from codir.models.check import evaluation_mode
from codir.models.inference import precision
from codir.models.loading import count_parameters, encoder_shape
from codir.models.representations import represent
from codir.models.vocabulary import chunked_loss, token_cross_entropy
from codir.table import Column, Table, Tabular
from codir.training.collators import MaskedBlockCollator
from codir.training.masking import IGNORED


@dataclass
class MaskedRow:
    """One model of the table; scores are of the masked tokens of the held-out blocks, None where there are none."""

    name: str  # as shown
    layers: int
    width: int
    parameters: int
    embedding_parameters: int  # part of them
    loss: float | None = None  # mean cross-entropy in nats
    accuracy: float | None = None  # share that it predicts first
    agreement: float | None = None  # share for which it predicts what the teacher predicts; None without a teacher

    @property
    def perplexity(self) -> float | None:
        """exp(loss) of the masked tokens."""
        return None if self.loss is None else math.exp(min(self.loss, 700.0))


@dataclass
class MaskedTable(Tabular):
    """The models of a pre-training side by side, on the same masked tokens."""

    rows: list[MaskedRow]  # in the order shown
    positions: int  # number of masked tokens behind the scores
    held_out: int  # number of blocks they are in
    head_trained: bool = True  # whether the training read the student's predictions, and so trained its head

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> MaskedTable:
        """Restores what `to_json` returned."""
        return cls(**{**values, "rows": [MaskedRow(**row) for row in values["rows"]]})

    def table(self) -> Table:
        """Returns the table; what is unknown is `-`."""
        columns = (
            Column("model", left=True),
            Column("layers"),
            Column("params", _millions),
            Column("embed.", _millions),
            Column("loss", "{:.3f}".format),
            Column("perplexity", "{:.1f}".format),
            Column("accuracy", "{:.3f}".format),
            Column("agrees", "{:.3f}".format),
        )
        rows = [
            (
                *(row.name, f"{row.layers} x {row.width}", row.parameters, row.embedding_parameters),
                *(row.loss, row.perplexity, row.accuracy, row.agreement),
            )
            for row in self.rows
        ]
        return Table("Held-out masked tokens", columns, rows, self.caption())

    def caption(self) -> str:
        """Says what was measured."""
        if not self.positions:
            return "The corpus has no held-out blocks: nothing was scored."
        said = f"{self.positions:,} masked tokens of {self.held_out:,} held-out blocks, the same for every model."
        if self.head_trained:
            return said
        return f"{said[:-1]}; the student's head was not trained, so its scores say little of it: fine-tune it to see."


def _millions(value: float) -> str:
    return f"{value / 1e6:.1f} M"


def described(name: str, model: PreTrainedModel) -> MaskedRow:
    """Returns a row without scores."""
    shape = encoder_shape(model)
    total, embedding = count_parameters(model)
    return MaskedRow(name, shape.layers, shape.width, total, embedding)


@dataclass
class Predictions:
    """What a model says of the P masked tokens of the held-out blocks."""

    losses: np.ndarray  # [P] cross-entropy in nats
    first: np.ndarray  # [P] the token it finds most probable
    expected: np.ndarray  # [P] the token that stood there

    def fill(self, row: MaskedRow, teacher: Predictions | None = None) -> MaskedRow:
        """Writes the scores into a row."""
        if self.losses.size:
            row.loss = float(self.losses.mean())
            row.accuracy = float((self.first == self.expected).mean())
            row.agreement = float((self.first == teacher.first).mean()) if teacher is not None else None
        return row


@torch.no_grad()
def predict_masked(
    model: PreTrainedModel,
    blocks: Dataset,
    collator: MaskedBlockCollator,
    batch_size: int = 32,
    autocast: torch.dtype | None = None,
    progress: Callable[[int, int], Any] = lambda done, in_all: None,
) -> Predictions:
    """Predicts the masked tokens of held-out blocks, the same ones for every model.

    Args:
        model: a masked language model, on the device to compute on; it is left in the mode it was in.
        blocks: with `input_ids` and `example_id`.
        collator: masks them; its `evaluation()` is used.
        batch_size: blocks at a time.
        autocast: type of mixed precision, None for that of the weights.
        progress: called with blocks done and in all.
    """
    device, fixed = model.device, collator.evaluation()
    empty = torch.zeros(0, dtype=torch.long)
    parts: list[tuple[Tensor, Tensor, Tensor]] = [(empty.float(), empty, empty)]
    with evaluation_mode(model), precision(device, autocast):
        for start in range(0, len(blocks), batch_size):
            columns = blocks[start : start + batch_size]
            batch = fixed([dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)])
            inputs = {name: tensor.to(device) for name, tensor in batch["inputs"].items()}
            parts.append(_one_batch(model, inputs, batch["labels"].to(device)))
            progress(min(start + batch_size, len(blocks)), len(blocks))
    return Predictions(*(torch.cat(column).numpy() for column in zip(*parts, strict=True)))


def _one_batch(model: PreTrainedModel, inputs: dict[str, Tensor], labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    positions = labels != IGNORED
    expected = labels[positions]
    losses = torch.zeros(expected.shape, device=labels.device)
    first = torch.zeros_like(expected)

    def collect(logits: Tensor, teacher: Tensor | None, rows: slice) -> Tensor:
        losses[rows] = token_cross_entropy(logits, expected[rows])
        first[rows] = logits.argmax(dim=1)
        return losses[rows].sum()

    predicted = represent(model, inputs, (), positions).masked
    assert predicted is not None
    chunked_loss(predicted, collect)
    return losses.cpu(), first.cpu(), expected.cpu()


def block_metrics(sums: np.ndarray) -> dict[str, float]:
    """Turns [n, 3] sums of blocks (cross-entropy, right, predicted) into metrics of the evaluation during training."""
    loss, right, count = np.asarray(sums, dtype=np.float64).sum(axis=0)
    count = max(count, 1.0)
    return {"mlm_loss": loss / count, "perplexity": math.exp(min(loss / count, 700.0)), "accuracy": right / count}
