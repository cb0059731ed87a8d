"""The models of a planned pre-training, from their configs alone, what they cost, and what devices compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForMaskedLM, PretrainedConfig

from codir.config.pretraining import PretrainConfig
from codir.data.corpus import Corpus
from codir.errors import ConfigError, DataError, ModelError
from codir.models.config_file import position_limit
from codir.models.layers import chosen_layers
from codir.models.loading import count_parameters, load_config, load_tokenizer, resolve
from codir.models.narrowing import narrow_config
from codir.models.origins import read_config
from codir.models.student import shallower_config

# Peak of 16-bit and of fp32 products of dense matrices in TFLOP/s, memory in GB, the 16-bit format; from data sheets.
DEVICES: dict[str, tuple[float, float, int, Literal["bf16", "fp16"]]] = {
    "t4": (65, 8.1, 16, "fp16"),
    "v100": (125, 15.7, 32, "fp16"),
    "a10": (125, 31.2, 24, "bf16"),
    "l4": (121, 30.3, 24, "bf16"),
    "l40s": (362, 91.6, 48, "bf16"),
    "a100": (312, 19.5, 80, "bf16"),
    "h100": (989, 67, 80, "bf16"),
    "h200": (989, 67, 141, "bf16"),
}

# Architectures that are known without a download; what is not said is transformers' default, which is BERT-base.
_ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1}
_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
KNOWN: dict[str, tuple[str, dict[str, Any]]] = {
    "roberta-base": ("roberta", _ROBERTA),
    "roberta-large": ("roberta", {**_ROBERTA, **_LARGE}),
    "bert-base-uncased": ("bert", {}),
    "bert-large-uncased": ("bert", _LARGE),
    "distilbert-base-uncased": ("distilbert", {}),
}


def config_of(source: str | Path) -> PretrainedConfig:
    """Reads a model's config: of a folder, a config.json, one of `KNOWN` (also with its owner before it), a Hub id."""
    path = Path(source).expanduser()
    if not path.exists() and (known := KNOWN.get(str(source).split("/")[-1])):
        return AutoConfig.for_model(known[0], **known[1])
    return load_config(path if path.is_file() else resolve(source))


def student_config_of(
    config: PretrainConfig, teacher: PretrainedConfig | None, corpus: Corpus | None
) -> PretrainedConfig:
    """Returns the student's config: its own, or one cut out of the teacher's (without a teacher the corpus's)."""
    wanted = config.student
    if wanted.model is not None:
        return config_of(wanted.model)
    if wanted.config is not None:
        return read_config(wanted.config) if isinstance(wanted.config, Mapping) else config_of(wanted.config)
    if teacher is None and corpus is not None and corpus.config_path is not None:
        teacher = config_of(corpus.config_path)
    if teacher is None:
        raise ConfigError(
            "Nothing says what the student looks like: add --teacher MODEL (the student is cut out of it), --student "
            "MODEL, or --student-config config.json."
        )
    cut = shallower_config(teacher, chosen_layers(int(teacher.num_hidden_layers), wanted.layers, wanted.init))
    if wanted.width is None and wanted.intermediate is None:
        return cut
    return narrow_config(cut, wanted.width, wanted.intermediate)


def require_fit(
    config: PretrainConfig,
    corpus: Corpus | None,
    length: int,
    teacher: PretrainedConfig | None,
    student: PretrainedConfig,
) -> None:
    """Refuses models whose positions or vocabulary do not reach for the corpus."""
    both: Sequence[tuple[str, str | None, PretrainedConfig | None]] = (
        ("teacher", config.teacher, teacher),
        ("student", config.student.model, student),
    )
    for whose, source, each in both:
        if each is None:
            continue
        limit = position_limit(each)
        if limit is not None and length > limit:
            raise ModelError(
                f"The {whose} has positions for {limit} tokens, and blocks of {length} are planned: use --block "
                f"{limit}, or prepare the corpus so."
            )
        if corpus is None:
            continue
        if source is not None and Path(source).expanduser().is_dir():
            corpus.check_tokenizer(load_tokenizer(source), f"the {whose} {source}")
        if int(each.vocab_size) < corpus.vocab_size:
            raise DataError(
                f"The corpus {corpus.path} was prepared with a tokenizer of {corpus.vocab_size:,} tokens, and the "
                f"{whose} has a vocabulary of {int(each.vocab_size):,}: prepare one for it with `codir corpus "
                "--tokenizer`."
            )


@dataclass(frozen=True)
class ModelCosts:
    """What is counted of a masked language model; `weights` are the numbers a token is multiplied with on its way."""

    layers: int
    width: int
    intermediate: int
    vocabulary: int
    parameters: int
    head_parameters: int
    weights: int
    head_flops: int

    @classmethod
    def of(cls, config: PretrainedConfig) -> ModelCosts:
        """Reads it off the modules, built without memory for the weights (device `meta`)."""
        try:
            with torch.device("meta"):
                model = AutoModelForMaskedLM.from_config(config)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"No masked language model can be made from this config ({config.model_type}): {error}"
            ) from error
        output = model.get_output_embeddings()
        if not isinstance(output, nn.Linear):
            raise ModelError(f"A {config.model_type} model does not say which layer gives its predictions.")
        encoder, shared = set(model.base_model.modules()), set(model.base_model.parameters())
        matrices = {name: each for name, each in model.named_modules() if isinstance(each, nn.Linear)}
        layers, width = int(config.num_hidden_layers), int(config.hidden_size)
        # ALBERT runs through its few groups of weights again and again
        repeats = layers // getattr(config, "num_hidden_groups", layers)
        return cls(
            layers=layers,
            width=width,
            intermediate=int(
                getattr(config, "intermediate_size", None) or getattr(config, "hidden_dim", 4 * width)
            ),
            vocabulary=output.out_features,
            parameters=count_parameters(model)[0],
            head_parameters=sum(each.numel() for each in model.parameters() if each not in shared),
            weights=sum(
                each.weight.numel() * (repeats if "layer_groups" in name else 1)
                for name, each in matrices.items()
                if each in encoder and "pooler" not in name
            ),
            # the product with the vocabulary included
            head_flops=2 * sum(each.weight.numel() for each in matrices.values() if each not in encoder),
        )

    def flops_of_token(self, length: int) -> int:
        """One forward pass: 2 x weights, and for scores and weighted values 2 x 2 x L x d in each layer."""
        return 2 * self.weights + 4 * length * self.width * self.layers

    def kept_for_backward(self, precision: str, recompute: bool) -> int:
        """Bytes kept of a token for the backward pass, about: for layers as BERT's, attention fused.

        In fp32 34 d + 8 f a layer, in 16 bits 30 d + 4 f; with gradient checkpointing one layer's, and 4 d of each.
        """
        d, f = self.width, self.intermediate
        layer = 34 * d + 8 * f if precision == "fp32" else 30 * d + 4 * f
        return layer + 4 * d * self.layers if recompute else layer * self.layers
