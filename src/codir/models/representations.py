"""What the losses see of a model: logits and the pooled output of every block (Eq. 3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from codir.functional.pooling import pool_blocks

Pooling = Literal["mean", "cls"]


@dataclass(frozen=True)
class EncoderShape:
    """Depth and width of an encoder.

    Attributes:
        blocks: number of transformer blocks.
        width: hidden size d.
    """

    blocks: int
    width: int


@dataclass
class MaskedPredictions:
    """What a masked language model predicts at P chosen positions, before the multiplication with the vocabulary.

    The logits are `hidden @ weight.T + bias`, [P, V]; they are left for the objectives to compute a chunk at a time.

    Attributes:
        hidden: [P, d], in row-major order of the batch's chosen positions.
        weight: [V, d], the output embedding (tied to the input embedding in most families).
        bias: [V], or None.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None


@dataclass
class Representations:
    """Outputs of one model for a batch of B examples.

    Attributes:
        logits: [B, C] (C = 1 for regression).
        pooled: for each pooling asked for, [B, blocks, d]: every block's pooled output, the embedding layer
            excluded, so that index 0 is block 1.
        masked: of a masked language model, its predictions at the masked positions; `logits` is empty then.
    """

    logits: Tensor
    pooled: dict[Pooling, Tensor] = field(default_factory=dict)
    masked: MaskedPredictions | None = None


def represent(model: nn.Module, inputs: dict[str, Any], poolings: Iterable[Pooling] = ()) -> Representations:
    """Runs `model` (any Hugging Face sequence classifier) once and pools the output of every block.

    Args:
        model: the encoder with its classifier head.
        inputs: its keyword arguments; `attention_mask` [B, L] is required to pool.
        poolings: which poolings to compute; hidden states are only asked for when there is one.
    """
    poolings = tuple(poolings)
    outputs = model(**inputs, output_hidden_states=bool(poolings), return_dict=True)
    pooled: dict[Pooling, Tensor] = {}
    for how in poolings:
        pooled[how] = pool_blocks(outputs.hidden_states[1:], inputs["attention_mask"], how)
    return Representations(outputs.logits, pooled)
