"""What a config says of single layers, and what becomes of it in a model of fewer layers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PretrainedConfig

from codir.errors import ModelError

_PLAIN = (bool, int, float, str, list, tuple)


def shallower_config(config: PretrainedConfig, layers: Sequence[int]) -> PretrainedConfig:
    """Returns a copy of `config` for the chosen layers (1-based); what it says of single layers goes with them.

    That is every list with one entry a layer (`layer_types`, Longformer's `attention_window`), every list of layers'
    numbers (`mlp_only_layers`), and runs of kinds (GPT Neo's `attention_types`: `[[["global", "local"], 6]]`).
    ModernBERT's and others' "every third layer" is written out as `layer_types` when their config is read.

    Raises:
        ModelError: the family's depth cannot be set, or there is a decoder, too.
    """
    require_no_decoder(config)
    depth = int(config.num_hidden_layers)
    cut = copy.deepcopy(config)  # constructors change the config they are given
    for name, value in config.to_dict().items():
        chosen = _of_layers(name, value, depth, layers)
        if chosen is not None:
            setattr(cut, name, chosen)
    try:
        cut.num_hidden_layers = len(layers)
    except (
        NotImplementedError,
        AttributeError,
    ) as error:  # Funnel's and others' depth follows from another setting
        raise ModelError(f"The depth of a {config.model_type} model cannot be set: {error}") from error
    return cut


def require_no_decoder(config: PretrainedConfig) -> None:
    """Raises `ModelError` for a model with an encoder and a decoder, whose layers are two lists."""
    if config.is_encoder_decoder:
        raise ModelError(
            f"A {config.model_type} model has an encoder and a decoder; only encoders can be cut. Choose a student of "
            "its own: another model's folder (--student), or a config (--student-config)."
        )


def _of_layers(name: str, value: Any, depth: int, layers: Sequence[int]) -> list[Any] | None:
    """Returns what is left of a setting for the chosen layers; None for one that says nothing of single layers."""
    if not isinstance(value, list | tuple) or not value or "token" in name:
        return None
    if (kinds := _run_lengths(value)) is not None and len(kinds) == depth:
        return [[[kinds[layer - 1]], 1] for layer in layers]
    if "layers" in name and _are_numbers_of_layers(value, depth):
        return [place for place, layer in enumerate(layers) if layer - 1 in value]
    # Lists of words can have the depth's length by chance (DeBERTa's pos_att_type, X-MOD's languages).
    numbers = all(isinstance(entry, int | float) for entry in value)
    if len(value) == depth and (numbers or "layer" in name or "block" in name):
        return [value[layer - 1] for layer in layers]
    return None


def _run_lengths(value: Sequence[Any]) -> list[Any] | None:
    """Writes `[[kinds, times], ...]` out as one list; None for anything else."""
    found: list[Any] = []
    for entry in value:
        if not isinstance(entry, list | tuple) or len(entry) != 2:
            return None
        kinds, times = entry
        if not isinstance(kinds, list | tuple) or not isinstance(times, int):
            return None
        found += list(kinds) * times
    return found


def _are_numbers_of_layers(value: Sequence[Any], depth: int) -> bool:
    """Whether a list names layers, counted from 0, and does not give one value for each."""
    if not all(isinstance(entry, int) and not isinstance(entry, bool) for entry in value):
        return False
    return list(value) == sorted(set(value)) and value[0] >= 0 and value[-1] < depth


def require_same_layers(
    student: nn.ModuleList, source: nn.ModuleList, layers: Sequence[int], whose: str
) -> None:
    """Checks that every layer of a student is set as the layer it was copied from, apart from its number.

    A layer's weights are half of what it computes; the other half is what the config told it: the window it sees, the
    kind of its attention. Where a family derives that from the layer's number, a layer that moves would compute
    something else.

    Args:
        student: its layers.
        source: all layers of the model it was cut out of.
        layers: the ones it has, 1-based.
        whose: class of the model, for the message.

    Raises:
        ModelError: a setting of a layer differs.
    """
    for number, layer in enumerate(layers):
        theirs = dict(source[layer - 1].named_modules())
        for path, module in student[number].named_modules():
            other = theirs.get(path)
            if type(other) is not type(module):
                continue  # ModernBERT's first layer has no norm before its attention
            for name, value in vars(module).items():
                before = vars(other).get(name)
                if name.startswith("_") or name == "training" or not isinstance(value, _PLAIN):
                    continue
                if (
                    value is True and "layer_idx" in name and number != layer - 1
                ):  # GPT-2's scale by the number
                    raise ModelError(
                        f"{whose} cannot be cut to the layers {list(layers)}: {name} makes layer {layer} compute by "
                        f"its number, which would be {number + 1}. Choose the first layers (--student-init first), or "
                        "another student (--student, --student-config)."
                    )
                if value == before or _is_number(value, before, number, layer - 1):
                    continue
                if isinstance(value, list | tuple) and list(value) == _of_layers(
                    "layers", before, len(source), layers
                ):
                    continue  # the list for all layers
                raise ModelError(
                    f"{whose} cannot be cut to the layers {list(layers)}: layer {layer} has {name} = {before!r}, "
                    f"and as layer {number + 1} of {len(layers)} it would have {value!r}. Choose other layers "
                    "(--student-init), or another student (--student, --student-config)."
                )


def _is_number(value: Any, before: Any, number: int, number_before: int) -> bool:
    """Whether two values are the numbers of their layers, counted from 0 or from 1."""
    return any(value == number + start and before == number_before + start for start in (0, 1))
