"""Builds students: fewer layers of the teacher, or any other model. From a config alone: `student_config`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal, cast

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from codir.errors import ConfigError, ModelError, nearest
from codir.models.classes import is_generic
from codir.models.labels import class_names, copy_labels, said_kind
from codir.models.loading import encoder_shape, load_classifier, load_config, resolve
from codir.models.shallower import require_no_decoder, require_same_layers, shallower_config

Initialisation = Literal["spread", "ends", "first", "last", "random"] | Sequence[int]
_NAMED = ("spread", "ends", "first", "last", "random")


def spread_layers(teacher_layers: int, layers: int) -> list[int]:
    """Evenly spread layers, the last one included: layer floor(i * T / S) for i = 1..S, 1-based.

    12 layers to 6 gives 2, 4, 6, 8, 10, 12; 12 to 5 gives 2, 4, 7, 9, 12.
    """
    return [step * teacher_layers // layers for step in range(1, layers + 1)]


def end_to_end_layers(teacher_layers: int, layers: int) -> list[int]:
    """Evenly spread layers, the first and the last one included, 1-based; the last alone for a student of one layer.

    12 layers to 6 gives 1, 3, 5, 8, 10, 12, which is what DistilBERT starts from.
    """
    if layers == 1:
        return [teacher_layers]
    return [1 + round(step * (teacher_layers - 1) / (layers - 1)) for step in range(layers)]


def chosen_layers(
    teacher_layers: int, layers: int | None, init: Initialisation, whose: str = "the teacher"
) -> list[int]:
    """Returns the teacher's layers (1-based) that a student starts from; for `random` those it would be compared with.

    Args:
        teacher_layers: T.
        layers: S; by default half of T, or the length of the list.
        init: `spread`, `ends`, `first`, `last`, `random` or an increasing list of 1-based layer numbers.
        whose: what messages call the model that the layers are taken from.

    Raises:
        ConfigError: an unknown name, or a list that is not increasing, or disagrees with `layers`.
        ModelError: the teacher does not have that many layers.
    """
    if isinstance(init, str):
        if init not in _NAMED:
            raise ConfigError(
                f"Unknown initialisation {init!r}{nearest(init, _NAMED)}: "
                f"choose {', '.join(_NAMED)} or a list of layers."
            )
        layers = max(1, teacher_layers // 2) if layers is None else layers
        if layers < 1:
            raise ConfigError(f"A student needs at least one layer, not {layers}.")
        require_depth(layers, teacher_layers, whose)
        if init == "first":
            return list(range(1, layers + 1))
        if init == "last":
            return list(range(teacher_layers - layers + 1, teacher_layers + 1))
        return (
            end_to_end_layers(teacher_layers, layers)
            if init == "ends"
            else spread_layers(teacher_layers, layers)
        )
    chosen = [int(number) for number in init]
    if not chosen or any(b <= a for a, b in pairwise(chosen)) or chosen[0] < 1:
        raise ConfigError(
            f"The student's layers {chosen} must be an increasing list of the layers of {whose}, counted from 1."
        )
    if layers is not None and layers != len(chosen):
        raise ConfigError(
            f"The student is to have {layers} layers, but the list names {len(chosen)}: {chosen}."
        )
    if chosen[-1] > teacher_layers:
        raise ModelError(
            f"The student is to start from layer {chosen[-1]}, but {whose} has {teacher_layers}."
        )
    return chosen


def require_depth(layers: int, teacher_layers: int, whose: str = "the teacher") -> None:
    """Raises `ModelError` for a student that is deeper than its teacher, or than the model it is cut out of."""
    if layers > teacher_layers and whose != "the teacher":
        raise ModelError(
            f"A student of {layers} layers cannot be cut out of {whose}, which has {teacher_layers}. "
            f"Choose at most {teacher_layers}."
        )
    if layers > teacher_layers:
        raise ModelError(
            f"A student of {layers} layers is deeper than its teacher, which has {teacher_layers}. "
            f"Choose at most {teacher_layers}, or a deeper teacher."
        )


def build_student(
    teacher: PreTrainedModel,
    layers: int | None = None,
    init: Initialisation = "spread",
    seed: int = 0,
) -> PreTrainedModel:
    """Makes a student of the teacher's family and width with fewer layers.

    The chosen layers, the embeddings, the pooler and the classifier are copied; nothing is shared with the teacher.
    Works for every family that keeps its layers in one list (BERT, RoBERTa, XLM-R, CamemBERT, DistilBERT, ELECTRA,
    MPNet, DeBERTa, ModernBERT, ...). A parameter that the family has in some layers only (ModernBERT's first layer has
    no attention norm) is left out, or initialised, where the student's layer differs in that from the one it came
    from.

    Args:
        teacher: a fine-tuned classifier; it is not changed.
        layers: number of layers; by default half of the teacher's, or the length of the list.
        init: which layers to start from: `spread` (see `spread_layers`), `ends` (see `end_to_end_layers`), `first`,
            `last`, an increasing list of 1-based layer numbers; or `random`, a fresh initialisation of everything.
        seed: of the fresh initialisation; torch's global generator is left as it was.

    Returns:
        The student, fp32, on the CPU, in eval mode.

    Raises:
        ModelError: more layers than the teacher has, or a family whose layers cannot be told apart (ALBERT shares one).
        ConfigError: see `chosen_layers`.
    """
    depth = encoder_shape(teacher).layers
    chosen = chosen_layers(depth, layers, init)
    prefix = "" if init == "random" else layers_prefix(teacher)
    student = fresh_model(type(teacher), shallower_config(teacher.config, chosen), seed)
    if init == "random":
        return student
    weights: dict[str, torch.Tensor] = {}
    position = {layer - 1: number for number, layer in enumerate(chosen)}
    for name, tensor in teacher.state_dict().items():
        if name.startswith(prefix):
            number, _, rest = name.removeprefix(prefix).partition(".")
            if int(number) not in position:
                continue
            name = f"{prefix}{position[int(number)]}.{rest}"
        weights[name] = tensor
    try:
        report = student.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        why = str(error).strip().splitlines()[-1].strip()
        raise ModelError(f"{type(teacher).__name__} cannot be cut to {len(chosen)} layers: {why}") from error
    if odd := [
        name for name in (*report.missing_keys, *report.unexpected_keys) if not name.startswith(prefix)
    ]:
        raise ModelError(
            f"{type(teacher).__name__} cannot be cut to {len(chosen)} layers: {odd[0]} depends on their number."
        )
    require_same_layers(
        _layers(student, prefix), _layers(teacher, prefix), chosen, whose=type(teacher).__name__
    )
    return student


def _layers(model: PreTrainedModel, prefix: str) -> nn.ModuleList:
    return cast(nn.ModuleList, model.get_submodule(prefix.removesuffix(".")))


def student_from_model(path_or_id: str | Path, teacher: PreTrainedModel, *, seed: int = 0) -> PreTrainedModel:
    """Takes any model folder or Hub id as the student.

    Its classifier is kept if it has the teacher's classes, in whatever order (logits are matched by name); otherwise it
    gets a new one with the teacher's classes.

    Args:
        path_or_id: of the student.
        teacher: whose classes the student gets.
        seed: of a new classifier.

    Raises:
        ModelError: as `load_classifier`, or the student is deeper than the teacher.
    """
    source = resolve(path_or_id)
    config = load_config(source)
    same = _same_kind(config, teacher.config) and _same_classes(
        class_names(config), class_names(teacher.config)
    )
    if same and any("SequenceClassification" in name for name in config.architectures or []):
        try:
            student = load_classifier(source, require_head=True)
        except ModelError:  # the architecture promises a classifier and the weights have none
            same = False
        else:
            require_depth(encoder_shape(student).layers, encoder_shape(teacher).layers)
            return student
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        student = load_classifier(
            source, require_head=False, labels=lambda config: copy_labels(config, teacher.config)
        )
    require_depth(encoder_shape(student).layers, encoder_shape(teacher).layers)
    # What is outside the encoder starts anew also where shapes happen to fit: it was trained for other classes.
    fresh = fresh_model(type(student), copy.deepcopy(student.config), seed).state_dict()
    inside = f"{student.base_model_prefix}."
    student.load_state_dict(
        {name: tensor for name, tensor in fresh.items() if not name.startswith(inside)}, strict=False
    )
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
    require_no_decoder(model.config)
    encoder = model.base_model
    found = [
        name
        for name, module in encoder.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth and len(module.state_dict())
    ]
    # the outermost list; lists inside of a layer are longer names
    outer = [
        name for name in found if not any(name != other and name.startswith(f"{other}.") for other in found)
    ]
    if len(outer) != 1 or _is_shared(model):
        raise ModelError(
            f"{type(model).__name__} does not keep its {depth} layers in one list (ALBERT shares one layer, Funnel "
            "shortens the text between layers), so layers cannot be chosen from it. Use init='random', or another "
            "student (a model folder or a config)."
        )
    inside = next(name for name, module in model.named_modules() if module is encoder)
    return f"{inside}.{outer[0]}." if inside else f"{outer[0]}."


def _is_shared(model: PreTrainedModel) -> bool:
    return bool(getattr(model.config, "num_hidden_groups", None))


def _same_kind(one: PretrainedConfig, other: PretrainedConfig) -> bool:
    first, second = said_kind(one), said_kind(other)
    if None not in (first, second):
        return first == second
    return (one.num_labels == 1) == (other.num_labels == 1)


def _same_classes(one: Mapping[int, str], other: Mapping[int, str]) -> bool:
    first, second = ([str(name) for name in names.values()] for names in (one, other))
    if len(first) != len(second):
        return False
    alike = sorted(map(str.casefold, first)) == sorted(map(str.casefold, second))
    return alike or len(first) == 1 or (is_generic(first) and is_generic(second))
