"""Cuts a narrower model out of a wider one: the dimensions, heads and neurons with the largest weights are kept.

No data are read. In this order, each choice within what the ones before it left:

1. Dimensions of the hidden states: by the sum of the squares of all their weights in the embeddings and in all layers.
   They are the same everywhere, because what a layer adds, it adds to the same vector (a rotation into a few principal
   directions would not pass through the layer norms).
2. Heads, of each layer by itself: by |W_O W_V|_F, the norm of what a head can write of what it reads.
3. Feed-forward neurons, of each layer by itself: by |w_in| |w_out|; likewise the neurons inside the classifier's
   head (BERT's pooler).

What is kept stays in its order, with its weights as they were: a model cut to its own size is that model, bit for bit.
The layer norms then take their means over fewer dimensions, so what a narrower student computes at first is only near
to what it was cut from; training has to repair it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from codir.errors import ConfigError
from codir.models.student import fresh_model, layers_prefix


def _axes(text: str) -> dict[str, str]:
    """Reads `module:axes` for each module: what the axes of its weight stand for; its bias has the first of them.

    d: the hidden states, a: all heads side by side, f: feed-forward neurons, c: neurons of the head, h: heads, .: stays
    as it is.
    """
    return dict(pair.split(":") for pair in text.split())


_LAYER = _axes(
    "attention.self.query:ad attention.self.key:ad attention.self.value:ad attention.output.dense:da "
    "attention.output.LayerNorm:d intermediate.dense:fd output.dense:df output.LayerNorm:d"
)
_EMBEDDINGS = _axes(
    "embeddings.word_embeddings:.d embeddings.position_embeddings:.d embeddings.token_type_embeddings:.d "
    "embeddings.LayerNorm:d"
)
# Where the embeddings have a width of their own, they keep it, and their map to the layers' width is cut.
_OWN_WIDTH = {**{name: axes.replace("d", ".") for name, axes in _EMBEDDINGS.items()}, "embeddings_project": "d."}
_BERT = _EMBEDDINGS | _axes(
    "pooler.dense:cd classifier:.c cls.predictions:. cls.predictions.transform.dense:dd "
    "cls.predictions.transform.LayerNorm:d cls.predictions.decoder:.d"
)
_ELECTRA = _EMBEDDINGS | _axes("classifier.dense:cd classifier.out_proj:.c")
_ROBERTA = _ELECTRA | _axes("lm_head.dense:dd lm_head.layer_norm:d lm_head.decoder:.d lm_head:.")


@dataclass(frozen=True)
class _Family:
    """How a family names its parts."""

    layer: Mapping[str, str]  # axes of the modules of a layer
    rest: Mapping[str, str]  # of all others, without the name of the encoder
    # modules of a layer that make the values, map the heads' results back, and the two of the feed-forward network
    values: str = "attention.self.value"
    output: str = "attention.output.dense"
    inner: str = "intermediate.dense"
    outer: str = "output.dense"
    feed_forward: str = "intermediate_size"  # the config's name of the number of neurons


_FAMILIES = {
    "bert": _Family(_LAYER, _BERT),
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert"), _Family(_LAYER, _ROBERTA)),
    "electra": _Family(_LAYER, _ELECTRA),
    "distilbert": _Family(
        _axes(
            "attention.q_lin:ad attention.k_lin:ad attention.v_lin:ad attention.out_lin:da sa_layer_norm:d "
            "ffn.lin1:fd ffn.lin2:df output_layer_norm:d"
        ),
        _EMBEDDINGS | _axes("pre_classifier:cd classifier:.c vocab_transform:dd vocab_layer_norm:d vocab_projector:.d"),
        *("attention.v_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2", "hidden_dim"),
    ),
    "mpnet": _Family(
        _axes(
            "attention.attn.q:ad attention.attn.k:ad attention.attn.v:ad attention.attn.o:da attention.LayerNorm:d "
            "intermediate.dense:fd output.dense:df output.LayerNorm:d"
        ),
        _ROBERTA | {"encoder.relative_attention_bias": ".h"},
        *("attention.attn.v", "attention.attn.o"),
    ),
}
# A table of positions that all layers share gives each head its own bias: all layers keep the same heads.
_SHARED_HEADS = ("mpnet",)


@dataclass(frozen=True)
class Kept:
    """What a narrower model keeps of the wider one; all numbers from 0, in increasing order."""

    dimensions: tuple[int, ...]  # of the hidden states
    heads: tuple[tuple[int, ...], ...]  # of each layer
    neurons: tuple[tuple[int, ...], ...]  # of the feed-forward network of each layer
    head_neurons: tuple[int, ...]  # of the hidden layer inside the classifier's head; empty where there is none
    width: int  # of the wider model, and so are the two below
    total_heads: int
    intermediate: int

    def describe(self) -> str:
        """Says how much is kept: `192 of 384 dimensions, 6 of 12 heads and 768 of 1,536 neurons of each layer`."""
        return (
            f"{len(self.dimensions):,} of {self.width:,} dimensions, {len(self.heads[0])} of {self.total_heads} heads "
            f"and {len(self.neurons[0]):,} of {self.intermediate:,} feed-forward neurons of each layer: those with the "
            "largest weights"
        )


def narrow_config(
    config: PretrainedConfig, width: int | None = None, intermediate: int | None = None
) -> PretrainedConfig:
    """Returns a copy of a config for a narrower model; the heads keep their size.

    Args:
        config: of a BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA, DistilBERT or MPNet model.
        width: hidden size, a multiple of the size of a head; by default as it is.
        intermediate: feed-forward neurons; by default in proportion to the width.

    Raises:
        ConfigError: another family; a size that is larger than the model's, or no multiple of the size of a head.
    """
    family, old, heads, neurons = _sizes(config)
    size = old // heads
    width = old if width is None else width
    intermediate = max(1, neurons * width // old) if intermediate is None else intermediate
    for name, value, most in (("width", width, old), ("intermediate", intermediate, neurons)):
        if not 0 < value <= most:
            what = "wide" if name == "width" else "feed-forward neurons large"
            raise ConfigError(
                f"student.{name} is {value}, and the model it is cut out of is {most} {what}: choose at most {most}."
            )
    if width % size:
        near = sorted({max(size, width // size * size), min(old, (width // size + 1) * size)})
        raise ConfigError(
            f"student.width is {width}, and a head of the model it is cut out of has {size} dimensions: a width must "
            f"be a multiple of that, for example {' or '.join(map(str, near))}."
        )
    cut = copy.deepcopy(config)
    cut.hidden_size, cut.num_attention_heads = width, width // size
    setattr(cut, family.feed_forward, intermediate)
    own = getattr(config, "embedding_size", old)
    if own == old and hasattr(config, "embedding_size"):
        cut.embedding_size = width
    elif own == width != old:
        raise ConfigError(
            f"student.width is {width}, which is the width of the embeddings of this {config.model_type} model. They "
            "would need no map to the layers' width then, and there is one: choose another width."
        )
    return cut


def narrow_student(
    model: PreTrainedModel, width: int | None = None, intermediate: int | None = None
) -> tuple[PreTrainedModel, Kept]:
    """Cuts a narrower model out of `model`, fp32, on the CPU, in eval mode; see the module for what is kept.

    Args:
        model: a classifier or masked language model of a family that `narrow_config` knows; nothing is shared with it.
        width: see `narrow_config`.
        intermediate: likewise.

    Raises:
        ConfigError: see `narrow_config`; or the model has parameters that are not the family's own.
    """
    config = narrow_config(model.config, width, intermediate)
    kept = _choose(model, config)
    size = kept.width // kept.total_heads
    weights = {}
    for name, _, tensor, axes, layer in _weights(model):
        heads = kept.heads[layer or 0]
        chosen: dict[str, Sequence[int]] = {
            "d": kept.dimensions,
            "a": [head * size + place for head in heads for place in range(size)],
            "f": kept.neurons[layer or 0],
            "c": kept.head_neurons,
            "h": heads,
        }
        for axis, letter in enumerate(axes):
            if letter in chosen:
                tensor = tensor.index_select(axis, torch.tensor(chosen[letter], device=tensor.device))
        weights[name] = tensor.float().cpu().clone()
    narrower = fresh_model(type(model), config, seed=0)  # every weight is replaced
    narrower.load_state_dict(weights)
    return narrower, kept


@torch.no_grad()
def _choose(model: PreTrainedModel, config: PretrainedConfig) -> Kept:
    """Chooses what a model of the narrower `config` keeps of `model`; see the module."""
    family, width, heads, neurons = _sizes(model.config)
    _, fewer, fewer_heads, fewer_neurons = _sizes(config)
    depth = int(model.config.num_hidden_layers)
    squares = torch.zeros(width, dtype=torch.float64)
    layers: list[dict[str, Tensor]] = [{} for _ in range(depth)]
    rest: list[tuple[Tensor, str]] = []
    judged = {f"{module}.weight" for module in (family.values, family.output, family.inner, family.outer)}
    for _, local, weight, axes, layer in _weights(model):
        tensor = weight.double().cpu()
        if layer is not None and local in judged:
            layers[layer][local] = tensor
        if "c" in axes and len(axes) == 2:
            rest.append((tensor, axes))
        if "d" in axes and (layer is not None or local.startswith("embeddings")):
            others = [axis for axis, letter in enumerate(axes) if letter != "d"]
            squares += tensor.square().sum(dim=others) if others else tensor.square()
    dimensions = list(_largest(squares, fewer))
    of_heads, of_neurons = [], []
    for layer_weights in layers:
        values, output, inner, outer = (
            layer_weights[f"{module}.weight"] for module in (family.values, family.output, family.inner, family.outer)
        )
        values = values[:, dimensions].reshape(heads, width // heads, -1)
        output = output[dimensions].reshape(-1, heads, width // heads).permute(1, 0, 2)
        # |O V|_F^2 = tr(O^T O V V^T), without the d x d products
        products = (output.transpose(1, 2) @ output) * (values @ values.transpose(1, 2))
        of_heads.append(products.sum(dim=(1, 2)).clamp(min=0).sqrt())
        of_neurons.append(inner[:, dimensions].norm(dim=1) * outer[dimensions].norm(dim=0))
    if model.config.model_type in _SHARED_HEADS:
        of_heads = [torch.stack(of_heads).sum(dim=0)] * depth
    of_head_neurons = torch.ones(width, dtype=torch.float64)
    for tensor, axes in rest:
        of_head_neurons *= tensor[:, dimensions].norm(dim=1) if axes == "cd" else tensor.norm(dim=0)
    return Kept(
        tuple(dimensions),
        tuple(_largest(scores, fewer_heads) for scores in of_heads),
        tuple(_largest(scores, fewer_neurons) for scores in of_neurons),
        _largest(of_head_neurons, fewer) if rest else (),
        width,
        heads,
        neurons,
    )


def _largest(scores: Tensor, count: int) -> tuple[int, ...]:
    """Returns the places of the largest scores, in increasing order; of equal ones the first."""
    return tuple(sorted(torch.sort(scores, descending=True, stable=True).indices[:count].tolist()))


def _weights(model: PreTrainedModel) -> Iterator[tuple[str, str, Tensor, str, int | None]]:
    """Yields each tensor of a model: its name, that inside its layer or the encoder, itself, its axes, its layer."""
    family, width, _, _ = _sizes(model.config)
    prefix, rest = layers_prefix(model), dict(family.rest)
    if getattr(model.config, "embedding_size", width) != width:
        rest |= _OWN_WIDTH
    for name, tensor in model.state_dict().items():
        layer, local = None, name.removeprefix(f"{model.base_model_prefix}.")
        if name.startswith(prefix):
            number, _, local = name.removeprefix(prefix).partition(".")
            layer = int(number)
        module, _, kind = local.rpartition(".")
        axes = (rest if layer is None else family.layer).get(module)
        if axes is None:
            raise ConfigError(
                f"{type(model).__name__} has the parameter {name}, of which it is not known how it becomes narrower. "
                "Build the student from a config of its own (student.config), or leave student.width and "
                "student.intermediate out."
            )
        axes = axes[0] if kind == "bias" else axes
        if len(axes) != tensor.dim():
            raise ConfigError(f"{name} has the shape {list(tensor.shape)}, which is not its family's.")
        yield name, local, tensor, axes, layer


def _sizes(config: PretrainedConfig) -> tuple[_Family, int, int, int]:
    """Returns the family, width, heads and feed-forward neurons."""
    family = _FAMILIES.get(config.model_type)
    if family is None:
        raise ConfigError(
            f"A narrower student (student.width, student.intermediate) cannot be cut out of a {config.model_type} "
            f"model, only out of {', '.join(sorted(_FAMILIES))}. Build it from a config of its own instead "
            "(student.config), which starts with random weights."
        )
    neurons = int(getattr(config, family.feed_forward))
    return family, int(config.hidden_size), int(config.num_attention_heads), neurons
