"""What a model gives for a batch: logits, one vector for each example out of a layer (Eq. 3), and vectors of tokens."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from codir.errors import ModelError

_HALF = (torch.float16, torch.bfloat16)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in _HALF else dtype


def _mean_weights(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns [B, L] weights that sum to one over the real tokens of each row (all zero for an empty row)."""
    weights = (mask != 0).to(dtype)
    return weights / weights.sum(dim=1, keepdim=True).clamp_min(1.0)


def _weighted_sum(hidden: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    if hidden.dtype in _HALF:
        # The sum converts while it reads: fp32 accumulation without an fp32 copy of [B, L, d]. A half-precision
        # product would be shorter but rounds its output, and a sum of 512 large numbers is beyond fp16.
        total = hidden.masked_fill((mask == 0).unsqueeze(2), 0).sum(dim=1, dtype=torch.float32)
        return total * weights.amax(dim=1, keepdim=True)
    # [B, 1, L] x [B, L, d]: one batched product reads the hidden states once, without a masked copy of them.
    with torch.autocast(hidden.device.type, enabled=False):
        return torch.bmm(weights.unsqueeze(1), hidden).squeeze(1)


def masked_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Returns the mean [B, d] of the real tokens' hidden states [B, L, d], zeros for a row that is all padding.

    It is fp32 for half-precision input and the input's type otherwise. `mask` is [B, L], 1 (or True) for real tokens,
    on whichever side the padding is.
    """
    return _weighted_sum(hidden, mask, _mean_weights(mask, _wide(hidden.dtype)))


def first_token(hidden: Tensor, mask: Tensor) -> Tensor:
    """Returns the hidden state [B, d] of the first real token (`[CLS]`), also where the padding is on the left.

    Types and arguments as `masked_mean`; a row that is all padding gives its position 0.
    """
    rows = torch.arange(hidden.shape[0], device=hidden.device)
    return hidden[rows, (mask != 0).to(torch.int32).argmax(dim=1)].to(_wide(hidden.dtype))


def pool_layers(hidden_states: Sequence[Tensor], mask: Tensor, how: Literal["mean", "cls"]) -> Tensor:
    """Pools every layer's output into one vector for each example (Eq. 3, before the concatenation).

    Args:
        hidden_states: one [B, L, d] tensor for each layer, the embedding layer already left out.
        mask: [B, L] 1 (or True) for real tokens, 0 for padding.
        how: `mean` over the real tokens, or `cls` for the first one.

    Returns:
        [B, layers, d], fp32 for half-precision input. Index 0 is layer 1.
    """
    if how == "mean":
        weights = _mean_weights(mask, _wide(hidden_states[0].dtype))
        return torch.stack([_weighted_sum(hidden, mask, weights) for hidden in hidden_states], dim=1)
    if how == "cls":
        return torch.stack([first_token(hidden, mask) for hidden in hidden_states], dim=1)
    raise ValueError(f"Unknown pooling {how!r}: choose 'mean' or 'cls'.")


Pooling = Literal["mean", "cls"]
TokenKind = Literal["hidden", "query", "key", "value"]


class TokenView(NamedTuple):
    """One vector for every token: what a layer gives out, or what goes into its attention.

    Attributes:
        kind: `hidden`, the layer's output; `query`, `key` or `value`, as they enter the layer's attention (after a
            rotation by position where the family has one), all heads side by side.
        layer: counted from 1; 0 is the output of the embedding layer, which has only `hidden`.
    """

    kind: TokenKind
    layer: int

    def __str__(self) -> str:
        return f"{self.kind}.{self.layer}"


@dataclass(frozen=True)
class EncoderShape:
    """Depth and width of an encoder."""

    layers: int
    width: int
    heads: int | None = field(default=None, compare=False)  # of a layer; None where there is no attention


class MaskedPredictions(NamedTuple):
    """What a masked language model predicts at P chosen positions, before the product with the vocabulary.

    The logits are `hidden @ weight.T + bias`, [P, V].
    """

    hidden: Tensor  # [P, d], in row-major order of the batch's chosen positions
    weight: Tensor  # [V, d], the output embedding (tied to the input embedding in most families)
    bias: Tensor | None  # [V]


@dataclass
class Representations:
    """Outputs of one model for a batch of B examples."""

    logits: Tensor  # [B, C] (C = 1 for regression); empty for a masked language model
    # for each pooling asked for, [B, layers, d]; the embedding layer is excluded, so that index 0 is layer 1
    pooled: dict[Pooling, Tensor] = field(default_factory=dict)
    masked: MaskedPredictions | None = None  # of a masked language model, at the masked positions
    # for each view asked for, [B, L, w]: hidden states (w = d), or queries, keys or values (w = heads * d_h)
    tokens: dict[TokenView, Tensor] = field(default_factory=dict)
    mask: Tensor | None = None  # [B, L] bool, True at real tokens; there whenever `tokens` is not empty


def represent(
    model: nn.Module,
    inputs: dict[str, Any],
    poolings: Iterable[Pooling] = (),
    positions: Tensor | None = None,
    tokens: Iterable[TokenView] = (),
) -> Representations:
    """Runs `model` (any Hugging Face sequence classifier or masked language model) once and pools every layer's output.

    Args:
        model: the encoder with its head.
        inputs: its keyword arguments; `attention_mask` [B, L] is required to pool.
        poolings: which poolings to compute; hidden states are only asked for when there is one.
        positions: [B, L] bool, for a masked language model: where its predictions are wanted. Its head sees nothing
            else, and the product with the vocabulary is left to the objectives.
        tokens: which vectors of single tokens to give; `attention_mask` is required then, too.

    Raises:
        ModelError: queries, keys or values of a model that does not show them (see `capture_attention`).
    """
    poolings, views = tuple(poolings), frozenset(tokens)
    inner = {view.layer for view in views if view.kind != "hidden"}
    with (
        contextlib.nullcontext() if positions is None else _only(model, positions) as caught,
        capture_attention(model, inner) if inner else contextlib.nullcontext({}) as attention,
    ):
        hidden = bool(poolings) or any(view.kind == "hidden" for view in views)
        outputs = model(**inputs, output_hidden_states=hidden, return_dict=True)
    if hidden and any(state.shape[1] != inputs["attention_mask"].shape[1] for state in outputs.hidden_states):
        raise ModelError(
            f"{type(model).__name__} changes the length of a text between its layers, so that losses over its layers "
            "cannot be computed. Its logits can be learned from: --recipe kd."
        )
    seen = {
        view: outputs.hidden_states[view.layer] if view.kind == "hidden" else getattr(attention[view.layer], view.kind)
        for view in views
    }
    pooled: dict[Pooling, Tensor] = {}
    for how in poolings:
        pooled[how] = pool_layers(outputs.hidden_states[1:], inputs["attention_mask"], how)
    masked = None
    if caught is not None:
        head = cast(Any, model).get_output_embeddings()
        masked = MaskedPredictions(caught["hidden"], head.weight, head.bias)
    mask = inputs["attention_mask"] != 0 if views else None
    return Representations(outputs.logits, pooled, masked, seen, mask)


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


_NAME = "codir_capture"


@dataclass
class AttentionInputs:
    """What one layer's attention was given, each [B, L, heads * d_h]."""

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
            flat = [tensor.transpose(1, 2).flatten(2) for tensor in (query, key, value)]  # [B, H, L, d] -> [B, L, H*d]
            recorder.found[recorder.calls] = AttentionInputs(*flat)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)


def _refuse_unusual(module: nn.Module, query: Tensor, settings: dict[str, Any]) -> None:
    usual = 1 / math.sqrt(query.shape[-1])
    scaling = settings.get("scaling")
    if settings.get("position_bias") is not None or (
        scaling is not None and not math.isclose(scaling, usual, rel_tol=1e-4)
    ):
        raise ModelError(f"{type(module).__name__} scales or shifts its attention in a way codir does not know.")
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
