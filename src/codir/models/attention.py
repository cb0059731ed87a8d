"""Queries, keys and values as they enter a model's attention, for the losses that compare attention.

transformers calls attention through a table of functions (`AttentionInterface`). For the time of one forward pass the
model is pointed at an entry of ours, which keeps what it is given and leaves the computation to `sdpa`. So nothing is
computed twice, no matrix of attention is built unless a loss builds it, and every family that uses the table works.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from codir.errors import ModelError

_NAME = "codir_capture"


@dataclass
class AttentionInputs:
    """What one layer's attention was given.

    Attributes:
        query: [B, L, heads * d_h].
        key: [B, L, heads * d_h].
        value: [B, L, heads * d_h].
    """

    query: Tensor
    key: Tensor
    value: Tensor


@dataclass
class _Recorder:
    wanted: frozenset[int]
    calls: int
    found: dict[int, AttentionInputs]


_active: ContextVar[_Recorder | None] = ContextVar("codir_attention_recorder", default=None)


def shows_attention(model: nn.Module) -> bool:
    """Whether queries and keys tell the model's whole attention and `capture_attention` can read them."""
    return bool(getattr(model, "_supports_sdpa", False)) and not _has_position_bias(model)


def require_attention(model: nn.Module, side: str) -> None:
    """Raises `ModelError` if losses over attention cannot read `model`; `side` is the teacher or the student."""
    if not shows_attention(model):
        raise ModelError(
            f"{side} is a {type(model).__name__}, whose attention cannot be compared: it has none, or adds a bias by "
            "position to it. BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA, DistilBERT and ModernBERT can be. Choose an "
            "objective over hidden states or pooled layers instead (`codir recipes` lists what each needs)."
        )


@contextlib.contextmanager
def capture_attention(model: nn.Module, layers: Collection[int]) -> Iterator[dict[int, AttentionInputs]]:
    """Gives, after a forward pass of `model` inside the block, the inputs of the attention of `layers` (from 1).

    Raises:
        ModelError: see `require_attention`; or a layer's attention is scaled or windowed in a way of its own.
    """
    require_attention(model, "The model")
    config = cast(Any, model).config
    before = config._attn_implementation
    recorder = _Recorder(frozenset(layers), 0, {})
    token = _active.set(recorder)
    config._attn_implementation = _NAME
    try:
        yield recorder.found
    finally:
        config._attn_implementation = before
        _active.reset(token)
    if missing := recorder.wanted - set(recorder.found):
        raise ModelError(
            f"{type(model).__name__} ran the attention of {recorder.calls} layers, not of layer {min(missing)}."
        )


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **settings: Any,
) -> tuple[Tensor, None]:
    recorder = _active.get()
    if recorder is not None:
        recorder.calls += 1
        if recorder.calls in recorder.wanted:
            _refuse_unusual(module, query, settings)
            flat = [
                tensor.transpose(1, 2).flatten(2) for tensor in (query, key, value)
            ]  # [B, H, L, d] -> [B, L, H*d]
            recorder.found[recorder.calls] = AttentionInputs(*flat)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)


def _refuse_unusual(module: nn.Module, query: Tensor, settings: dict[str, Any]) -> None:
    usual = 1 / math.sqrt(query.shape[-1])
    scaling = settings.get("scaling")
    if settings.get("position_bias") is not None or (
        scaling is not None and not math.isclose(scaling, usual, rel_tol=1e-4)
    ):
        raise ModelError(
            f"{type(module).__name__} scales or shifts its attention in a way codir does not know."
        )
    window = settings.get("sliding_window")
    if window is not None and query.shape[2] > window:
        raise ModelError(
            f"{type(module).__name__} sees a window of {window} tokens and the text has {query.shape[2]}: its "
            f"attention cannot be compared. Set data.max_length to {window}, or match layers that see everything."
        )


def _has_position_bias(model: nn.Module) -> bool:
    return any("relative_attention_bias" in name for name, _ in model.named_parameters())


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)
