"""Which parameters belong to a model's embeddings and layers, and keeping some of them as they are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from torch import nn
from transformers import PreTrainedModel

from codir.errors import ConfigError, ModelError
from codir.models.loading import encoder_shape
from codir.models.student import layers_prefix

Part = Literal["embeddings"] | int


def parameters_of(model: PreTrainedModel, layers: Collection[int]) -> list[nn.Parameter]:
    """Returns the parameters of chosen layers.

    Args:
        model: any encoder with a head.
        layers: their numbers, counted from 1; 0 is the embedding layer, all that turns tokens into the first layer's
            input: the tables of words, positions and token types, their norm, and a projection to the layers' width.

    Raises:
        ModelError: the layers cannot be told apart (see `layers_prefix`).
    """
    prefix = layers_prefix(model) if any(layers) else None
    inside = next((name for name, module in model.named_modules() if module is model.base_model), "")
    embeddings = f"{inside}.embeddings" if inside else "embeddings"
    found: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if prefix is not None and name.startswith(prefix):
            number = int(name.removeprefix(prefix).partition(".")[0]) + 1
        elif name.startswith(embeddings):
            number = 0
        else:
            continue
        if number in layers:
            found.append(parameter)
    return found


def freeze(model: PreTrainedModel, parts: Sequence[Part]) -> None:
    """Keeps parts of a model as they are: they get no gradient, and no optimiser holds them.

    Args:
        model: is changed.
        parts: `embeddings`, and numbers of layers counted from 1.

    Raises:
        ConfigError: a layer that the model does not have.
        ModelError: a family whose embeddings or layers cannot be told apart.
    """
    depth = encoder_shape(model).layers
    numbers = [0 if part == "embeddings" else part for part in parts]
    for number in numbers:
        if not 0 <= number <= depth:
            raise ConfigError(
                f"student.freeze names layer {number}, and the student has the layers 1 to {depth}, counted from 1. "
                "What lies below them is called `embeddings`."
            )
    for number in numbers:
        kept = parameters_of(model, [number])
        if not kept:
            raise ModelError(
                f"student.freeze: the embeddings of a {model.config.model_type} model are not understood. Leave them "
                "out of student.freeze."
            )
        for parameter in kept:
            parameter.requires_grad_(False)


def describe_frozen(model: PreTrainedModel, parts: Sequence[Part]) -> str:
    """Says what is kept: `the embeddings, layer 1; 12.3 of 22.7 million parameters are never trained`."""
    named = [f"layer {part}" for part in parts if isinstance(part, int)]
    if "embeddings" in parts:
        named.insert(0, "the embeddings")
    every = list(model.parameters())
    frozen = sum(each.numel() for each in every if not each.requires_grad)
    total = sum(each.numel() for each in every)
    return f"{', '.join(named)}: {frozen:,} of {total:,} parameters are never trained"
