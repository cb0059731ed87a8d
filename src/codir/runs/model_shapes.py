"""Shapes of masked language models from their configs alone: no weights are read, downloaded or allocated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForMaskedLM, PretrainedConfig, PreTrainedModel

from codir.errors import ModelError
from codir.models.loading import count_parameters, load_config, resolve
from codir.runs.costs import ModelShape

# Configs that everybody plans with, so that it can be done offline; what is not said is transformers' default.
_BERT: dict[str, Any] = {"vocab_size": 30522}
_ROBERTA: dict[str, Any] = {
    "vocab_size": 50265,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "pad_token_id": 1,
}
_LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
_MINI: dict[str, Any] = {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}
KNOWN: dict[str, tuple[str, dict[str, Any]]] = {
    "roberta-base": ("roberta", _ROBERTA),
    "roberta-large": ("roberta", {**_ROBERTA, **_LARGE}),
    "bert-base-uncased": ("bert", _BERT),
    "bert-large-uncased": ("bert", {**_BERT, **_LARGE}),
    "distilbert-base-uncased": ("distilbert", {**_BERT}),
    "all-MiniLM-L6-v2": ("bert", {**_BERT, **_MINI}),
}


def config_of(source: str | Path) -> PretrainedConfig:
    """Reads the config of a model.

    Args:
        source: a model folder, a config.json, one of `KNOWN` (also with its owner before it), or a Hub id, of which
            only the config is downloaded.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return load_config(path)
    if not path.is_dir() and (known := KNOWN.get(str(source).split("/")[-1])):
        family, settings = known
        return AutoConfig.for_model(family, **settings)
    return load_config(resolve(source))


def model_shape(config: PretrainedConfig) -> ModelShape:
    """Reads a model's shape off its modules, built without memory for the weights (device `meta`).

    Raises:
        ModelError: the family has no masked language model.
    """
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForMaskedLM.from_config(config)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"No masked language model can be made from this config ({config.model_type}): {error}"
        ) from error
    output = model.get_output_embeddings()
    if not isinstance(output, nn.Linear):
        raise ModelError(f"A {config.model_type} model does not say which layer gives its predictions.")
    encoder = set(model.base_model.modules())
    matrices = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not output
    }
    inner = {name: module for name, module in matrices.items() if module in encoder and "pooler" not in name}
    outer = [module for module in matrices.values() if module not in encoder]
    total, embedding = count_parameters(model)
    shared = {id(parameter) for parameter in model.base_model.parameters()}
    width, blocks = int(config.hidden_size), int(config.num_hidden_layers)
    # ALBERT runs through its few groups of weights again and again
    groups = getattr(config, "num_hidden_groups", None)
    repeats = blocks // groups if groups else 1
    return ModelShape(
        family=config.model_type,
        blocks=blocks,
        width=width,
        heads=int(config.num_attention_heads),
        intermediate=int(
            getattr(config, "intermediate_size", None) or getattr(config, "hidden_dim", 4 * width)
        ),
        vocabulary=output.out_features,
        parameters=total,
        embedding=embedding,
        encoder_weights=sum(
            module.weight.numel() * (repeats if "layer_groups" in name else 1)
            for name, module in inner.items()
        ),
        head_weights=sum(module.weight.numel() for module in outer),
        output_width=output.in_features,
        head_parameters=sum(each.numel() for each in model.parameters() if id(each) not in shared),
    )
