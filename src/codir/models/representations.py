"""What the losses see of a model: logits and the pooled output of every block (Eq. 3)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from torch import Tensor, nn

from codir.functional.pooling import pool_blocks
from codir.functional.vocabulary import MaskedPredictions

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


def represent(
    model: nn.Module,
    inputs: dict[str, Any],
    poolings: Iterable[Pooling] = (),
    positions: Tensor | None = None,
) -> Representations:
    """Runs `model` (any Hugging Face sequence classifier or masked language model) once and pools every block's output.

    Args:
        model: the encoder with its head.
        inputs: its keyword arguments; `attention_mask` [B, L] is required to pool.
        poolings: which poolings to compute; hidden states are only asked for when there is one.
        positions: [B, L] bool, for a masked language model: where its predictions are wanted. Its head sees nothing
            else, and the product with the vocabulary is left to the objectives.
    """
    poolings = tuple(poolings)
    with contextlib.nullcontext() if positions is None else _only(model, positions) as caught:
        outputs = model(**inputs, output_hidden_states=bool(poolings), return_dict=True)
    pooled: dict[Pooling, Tensor] = {}
    for how in poolings:
        pooled[how] = pool_blocks(outputs.hidden_states[1:], inputs["attention_mask"], how)
    masked = None
    if caught is not None:
        head = cast(Any, model).get_output_embeddings()
        masked = MaskedPredictions(caught["hidden"], head.weight, head.bias)
    return Representations(outputs.logits, pooled, masked)


@contextlib.contextmanager
def _only(model: Any, positions: Tensor) -> Iterator[dict[str, Tensor]]:
    """Makes a masked language model's head see the chosen positions only, and keeps what it would multiply.

    Every family's head is some layers and then a linear map to the vocabulary, named by `get_output_embeddings`. Its
    input is taken out before the product and replaced by nothing, so that the model's own logits are empty.
    """
    caught: dict[str, Tensor] = {}

    def choose(encoder: nn.Module, args: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[positions].unsqueeze(0)  # [1, P, d]
        return output

    def catch(head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (hidden,) = args
        caught["hidden"] = hidden.squeeze(0)
        return (hidden[:, :0],)

    hooks = [
        model.base_model.register_forward_hook(choose),
        model.get_output_embeddings().register_forward_pre_hook(catch),
    ]
    try:
        yield caught
    finally:
        for hook in hooks:
            hook.remove()
