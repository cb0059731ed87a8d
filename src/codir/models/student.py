"""Builds students of fewer layers of the teacher, and keeps parts of a student as they are."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any, Literal, cast

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from codir.errors import ConfigError, ModelError
from codir.models.layers import Initialisation, chosen_layers
from codir.models.loading import encoder_shape

Part = Literal["embeddings"] | int
_PLAIN = (bool, int, float, str, list, tuple)


def build_student(
    teacher: PreTrainedModel, layers: int | None = None, init: Initialisation = "spread", seed: int = 0
) -> PreTrainedModel:
    """Makes a student of the teacher's family and width with fewer layers, fp32, on the CPU, in eval mode.

    The chosen layers, the embeddings, the pooler and the classifier are copied; nothing is shared with the teacher.
    Works for every family that keeps its layers in one list (BERT, RoBERTa, XLM-R, CamemBERT, DistilBERT, ELECTRA,
    MPNet, DeBERTa, ModernBERT, ...). A parameter that the family has in some layers only (ModernBERT's first layer has
    no attention norm) is left out, or initialised, where the student's layer differs in that from the one it came
    from.

    Args:
        teacher: a fine-tuned classifier; it is not changed.
        layers: number of layers; by default half of the teacher's, or the length of the list.
        init: which layers to start from (see `chosen_layers`); `random` is a fresh initialisation of everything.
        seed: seed of the fresh initialisation; torch's global generator is left as it was.

    Raises:
        ModelError: more layers than the teacher has, or a family whose layers cannot be told apart (ALBERT shares one).
        ConfigError: see `chosen_layers`.
    """
    chosen = chosen_layers(encoder_shape(teacher).layers, layers, init)
    prefix = "" if init == "random" else layers_prefix(teacher)
    student = fresh_model(type(teacher), shallower_config(teacher.config, chosen), seed)
    if init == "random":
        return student
    weights: dict[str, torch.Tensor] = {}
    for name, tensor in teacher.state_dict().items():
        if name.startswith(prefix):
            number, _, rest = name.removeprefix(prefix).partition(".")
            if int(number) + 1 not in chosen:
                continue
            name = f"{prefix}{chosen.index(int(number) + 1)}.{rest}"
        weights[name] = tensor
    kind = type(teacher).__name__
    try:
        report = student.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        why = str(error).strip().splitlines()[-1].strip()
        raise ModelError(f"{kind} cannot be cut to {len(chosen)} layers: {why}") from error
    for name in (*report.missing_keys, *report.unexpected_keys):
        if not name.startswith(prefix):
            raise ModelError(f"{kind} cannot be cut to {len(chosen)} layers: {name} depends on their number.")
    own, source = (cast(nn.ModuleList, each.get_submodule(prefix.removesuffix("."))) for each in (student, teacher))
    _require_same_layers(own, source, chosen, kind)
    return student


def fresh_model(kind: type[PreTrainedModel], config: PretrainedConfig, seed: int) -> PreTrainedModel:
    """Returns a seeded, freshly initialised fp32 model in eval mode; torch's global generator is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(config).float().eval()


def layers_prefix(model: PreTrainedModel) -> str:
    """Returns what the names of the layers' parameters begin with, such as `bert.encoder.layer.`.

    Raises:
        ModelError: the layers are not one list: they share weights, or there is a decoder as well.
    """
    depth = encoder_shape(model).layers
    _require_no_decoder(model.config)
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth and len(module.state_dict())
    ]
    # the outermost list; lists inside of a layer are longer names
    outer = [name for name in found if not any(name.startswith(f"{other}.") for other in found)]
    if len(outer) != 1 or getattr(model.config, "num_hidden_groups", None):
        raise ModelError(
            f"{type(model).__name__} does not keep its {depth} layers in one list (ALBERT shares one layer, Funnel "
            "shortens the text between layers), so layers cannot be chosen from it. Use init='random', or another "
            "student (a model folder or a config)."
        )
    return f"{outer[0]}."


# --- a config for fewer layers


def shallower_config(config: PretrainedConfig, layers: Sequence[int]) -> PretrainedConfig:
    """Returns a copy of `config` for the chosen layers (from 1); what it says of single layers goes with them.

    That is every list with one entry a layer (`layer_types`, Longformer's `attention_window`), every list of layers'
    numbers (`mlp_only_layers`), and runs of kinds (GPT Neo's `attention_types`: `[[["global", "local"], 6]]`).
    ModernBERT's and others' "every third layer" is written out as `layer_types` when their config is read.

    Raises:
        ModelError: the family's depth cannot be set, or there is a decoder, too.
    """
    _require_no_decoder(config)
    cut = copy.deepcopy(config)  # constructors change the config they are given
    for name, value in config.to_dict().items():
        if (left := _of_layers(name, value, int(config.num_hidden_layers), layers)) is not None:
            setattr(cut, name, left)
    try:
        cut.num_hidden_layers = len(layers)
    except (
        NotImplementedError,
        AttributeError,
    ) as error:  # Funnel's and others' follows from another setting
        raise ModelError(f"The depth of a {config.model_type} model cannot be set: {error}") from error
    return cut


def _require_no_decoder(config: PretrainedConfig) -> None:
    if config.is_encoder_decoder:
        raise ModelError(
            f"A {config.model_type} model has an encoder and a decoder; only encoders can be cut. Choose a student of "
            "its own: another model's folder (--student), or a config (--student-config)."
        )


def _of_layers(name: str, value: Any, depth: int, layers: Sequence[int]) -> list[Any] | None:
    """Returns what is left of a setting for the chosen layers; None for one that says nothing of single layers."""
    if not isinstance(value, list | tuple) or not value or "token" in name:
        return None
    if all(isinstance(run, list | tuple) and len(run) == 2 and isinstance(run[0], list | tuple) for run in value):
        kinds = [kind for run, times in value for kind in list(run) * times]
        return [[[kinds[layer - 1]], 1] for layer in layers] if len(kinds) == depth else None
    whole = all(type(entry) is int for entry in value)
    if "layers" in name and whole and list(value) == sorted(set(value)) and value[0] >= 0 and value[-1] < depth:
        return [place for place, layer in enumerate(layers) if layer - 1 in value]
    # Lists of words can have the depth's length by chance (DeBERTa's pos_att_type, X-MOD's languages).
    numbers = all(isinstance(entry, int | float) for entry in value)
    if len(value) == depth and (numbers or "layer" in name or "block" in name):
        return [value[layer - 1] for layer in layers]
    return None


def _require_same_layers(student: nn.ModuleList, source: nn.ModuleList, layers: Sequence[int], whose: str) -> None:
    """Raises `ModelError` if a layer of a student is set otherwise than the layer it was copied from.

    A layer's weights are half of what it computes; the other half is what the config told it: the window it sees, the
    kind of its attention. Where a family derives that from the layer's number, a layer that moves would compute
    something else.
    """
    for number, layer in enumerate(layers):
        theirs = dict(source[layer - 1].named_modules())
        for path, module in student[number].named_modules():
            if type(theirs.get(path)) is not type(module):
                continue  # ModernBERT's first layer has no norm before its attention
            for name, value in vars(module).items():
                before = vars(theirs[path]).get(name)
                if name.startswith("_") or name == "training" or not isinstance(value, _PLAIN):
                    continue
                same = value == before or (value, before) in ((number, layer - 1), (number + 1, layer))
                if isinstance(value, list | tuple) and not same:  # the list for all layers
                    same = list(value) == _of_layers("layers", before, len(source), layers)
                if value is True and "layer_idx" in name:  # GPT-2's scale by the number
                    same = number == layer - 1
                if not same:
                    raise ModelError(
                        f"{whose} cannot be cut to the layers {list(layers)}: {name} makes layer {layer} compute "
                        f"otherwise as layer {number + 1} of {len(layers)}. Choose the first layers (--student-init "
                        "first), or another student (--student, --student-config)."
                    )


# --- parts that are never trained


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
    embeddings = f"{inside}.embeddings".removeprefix(".")
    found: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if prefix is not None and name.startswith(prefix):
            number = int(name.removeprefix(prefix).partition(".")[0]) + 1
        else:
            number = 0 if name.startswith(embeddings) else None
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
    """Says what is kept: `the embeddings, layer 1: 12,300,000 of 22,700,000 parameters are never trained`."""
    named = ["the embeddings"] if "embeddings" in parts else []
    named += [f"layer {part}" for part in parts if isinstance(part, int)]
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    frozen, total = sum(size for size, trained in sizes if not trained), sum(size for size, _ in sizes)
    return f"{', '.join(named)}: {frozen:,} of {total:,} parameters are never trained"
