"""What stands in a model's config.json: read, checked as a whole, and made into a config, before a model is built.

transformers checks the types of most entries and not what they say: a gap between the classes, a padding token outside
of the vocabulary or a million layers become a traceback, or hours, when the model is built; here they become a
sentence.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import transformers
from transformers import CONFIG_MAPPING, PretrainedConfig
from transformers.activations import ACT2FN

import codir.models.bilstm  # noqa: F401 - makes transformers know the family
from codir.errors import ModelError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


MOST_LAYERS = 1_000
"""Deeper models than any that was ever trained; building a million of layers takes hours."""

_DEEPEST = 32  # levels of JSON; a config has two or three
_SHORTEST = 4  # tokens: two special ones, and text
# By the name that transformers gives an entry in every family, the least that it can be.
_SIZES = {
    "hidden_size": 1,
    "embedding_size": 1,
    "intermediate_size": 1,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "vocab_size": 1,
    "max_position_embeddings": 1,
    "type_vocab_size": 0,
}
# Switches of what a model gives out and of how it computes: codir sets them, in each call or for each machine.
_SWITCHES = ("return_dict", "use_return_dict", "torchscript", "chunk_size_feed_forward")
_OUTPUT_SWITCHES = ("output_attentions", "output_hidden_states")
_ATTENTION = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
_ACTIVATIONS = ("hidden_act", "activation_function", "hidden_activation")
_SPREADS = (
    "initializer_range",
    "initializer_factor",
    "init_std",
    "embedding_initializer_range",
)  # of new weights
_OWN_HEAD_SIZE = ("head_dim", "d_kv", "d_head", "attention_head_size")
_ROTATED = ("rope_parameters", "rope_theta")  # families without a table of positions
_WAY_OUT = "Correct it, or download or save the model again."


def read_settings(path: Path) -> dict[str, Any]:
    """Reads a config.json.

    Raises:
        ModelError: it cannot be read, is no JSON, or no object with names.
    """
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.") from error
    except RecursionError as error:
        raise _damaged(str(path), "its JSON is nested far too deep") from error
    except ValueError as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}. {_WAY_OUT}") from error
    if not isinstance(found, dict):
        raise _damaged(str(path), f"it holds {_short(found)}, and a config is an object with names")
    return found


def make_config(settings: Mapping[str, Any], where: str) -> PretrainedConfig:
    """Makes a config out of what stands in a config.json, or in a recipe, and checks it.

    What a model gives out, and how its attention is computed, is set by codir and not by the folder: such switches
    (`output_attentions`, `return_dict`, `torchscript`, `attn_implementation`, ...) are passed over.

    Args:
        settings: `model_type` and the family's own settings.
        where: what messages call it: the file.

    Raises:
        ModelError: a family that transformers does not know, or a setting that no model can have.
    """
    if _depth(settings) > _DEEPEST:
        raise _damaged(where, f"its JSON is nested more than {_DEEPEST} levels deep")
    kind = _family(settings, where)
    family: Any = CONFIG_MAPPING[kind]
    _check_labels(settings, where)
    _check_dtype(settings, where)
    _check_sizes(settings, getattr(family, "attribute_map", {}), where)
    try:
        config = family.from_dict(_without_switches(settings))
    except Exception as error:  # whatever a family's own code makes of it
        raise _damaged(where, _reason(error)) from error
    _check_config(config, settings, where)
    return config


def settle_switches(config: PretrainedConfig) -> None:
    """Sets the switches of the output to what codir counts on, in the config of a model that it did not load itself."""
    for name in _OUTPUT_SWITCHES:
        setattr(config, name, False)
    config.return_dict = True


def described_weights(config: PretrainedConfig) -> int:
    """Returns about how many weights a model has: a vector for each token, place and type, and the layers' matrices."""
    width = _number(config, "hidden_size")
    layers = _number(config, "num_hidden_groups") or _number(
        config, "num_hidden_layers"
    )  # ALBERT shares them
    inner = _number(config, "intermediate_size") or 4 * width
    rows = _number(config, "vocab_size") + _number(config, "type_vocab_size")
    if not any(hasattr(config, name) for name in _ROTATED):
        rows += position_limit(config) or 0
    return rows * (_number(config, "embedding_size") or width) + layers * width * (4 * width + 2 * inner)


def require_memory(config: PretrainedConfig, where: str) -> None:
    """Raises `ModelError` for a model of random weights that is larger than the machine's whole memory."""
    weights = described_weights(config)
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows does not say
        return
    if 4 * weights > memory > 0:
        raise ModelError(
            f"{where} describes a model of about {weights:,} weights, {4 * weights / 1e9:,.0f} GB in fp32, and this "
            f"machine has {memory / 1e9:,.0f} GB of memory. Make it smaller."
        )


def _damaged(where: str, what: str) -> ModelError:
    return ModelError(f"{where}: {what.rstrip('.')}. {_WAY_OUT}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _depth(value: Any) -> int:
    """Returns how deep a value is nested, without recursion, and no further than it matters."""
    level, depth = [value], 0
    while level and depth <= _DEEPEST:
        depth += 1
        inner = [list(each.values()) if isinstance(each, Mapping) else each for each in level]
        level = [one for each in inner if isinstance(each, list | tuple) for one in each]
    return depth


def _family(settings: Mapping[str, Any], where: str) -> str:
    kind = settings.get("model_type")
    if not kind:
        raise ModelError(
            f'{where} does not name its family: add "model_type": "bert" (or roberta, distilbert, ...).'
        )
    if isinstance(kind, str) and kind in CONFIG_MAPPING:
        return kind
    if settings.get("auto_map"):
        raise remote_code(where)
    raise ModelError(
        f"{where}: transformers {transformers.__version__} knows no models of the family {_short(kind)}"
        f"{nearest(str(kind), CONFIG_MAPPING)}. Correct model_type, or use a model of a family that it knows."
    )


def remote_code(where: str) -> ModelError:
    """Returns the error for a model or a tokenizer whose code comes with it, which codir never runs."""
    return ModelError(
        f"{where} needs code of its own, which came with it (auto_map), and codir runs no code that comes with a "
        "model. Use a model of a family that transformers knows, such as BERT, RoBERTa, DeBERTa or ModernBERT."
    )


def _check_labels(settings: Mapping[str, Any], where: str) -> None:
    names, count = settings.get("id2label"), settings.get("num_labels")
    if count is not None and (not _is_whole(count) or count < 1):
        raise _damaged(where, f"num_labels is {_short(count)} and has to be a number of outputs, at least 1")
    if names is None:
        return
    if not isinstance(names, Mapping) or not names:
        wanted = 'and has to name every class by its number, as {"0": "negative", "1": "positive"}'
        raise _damaged(where, f"id2label is {_short(names)} {wanted}")
    ids = [str(number) for number in names]
    wanted_ids = [str(number) for number in range(len(ids))]
    if missing := [number for number in wanted_ids if number not in ids]:
        raise _damaged(
            where,
            f"id2label names {len(ids)} classes, which are numbered {', '.join(ids[:8])}"
            f"{', ...' if len(ids) > 8 else ''}: number {missing[0]} is missing",
        )
    seen: dict[str, Any] = {}
    for number, name in names.items():
        if not isinstance(name, str | int | float):
            raise _damaged(where, f"id2label gives class {number} the name {_short(name)}, which is no text")
        if str(name) in seen:
            raise _damaged(
                where, f"id2label gives the classes {seen[str(name)]} and {number} one name, {name!r}"
            )
        seen[str(name)] = number
    if count is not None and count != len(ids):
        raise _damaged(where, f"num_labels is {count} and id2label names {len(ids)} classes")
    _check_inverse(settings.get("label2id"), seen, where)


def _check_inverse(numbers: Any, of_names: Mapping[str, Any], where: str) -> None:
    """Refuses a `label2id` that is none, or has the same names with other numbers; other names are passed over."""
    if numbers is None:
        return
    if not isinstance(numbers, Mapping) or not all(map(_is_id, numbers.values())):
        raise _damaged(
            where,
            f"label2id is {_short(numbers)} and has to give every class's name its number, or to be left out",
        )
    if set(map(str, numbers)) == set(of_names):
        for name, number in numbers.items():
            if int(number) != int(of_names[str(name)]):
                raise _damaged(
                    where,
                    f"the class {name!r} is number {of_names[str(name)]} in id2label and {number} in label2id",
                )


def _check_dtype(settings: Mapping[str, Any], where: str) -> None:
    for name in ("dtype", "torch_dtype"):
        value = settings.get(name)
        if value is None or value == "auto" or isinstance(value, torch.dtype | Mapping):
            continue
        known = getattr(torch, value, None) if isinstance(value, str) else None
        if not isinstance(known, torch.dtype):
            raise _damaged(where, f"{name} is {_short(value)}, which PyTorch does not know; float32 is usual")


def _check_sizes(settings: Mapping[str, Any], spellings: Mapping[str, str], where: str) -> None:
    for name, least in _SIZES.items():
        for spelling in {name, spellings.get(name, name)}:
            value = settings.get(spelling)
            if value is None or isinstance(value, list | tuple | Mapping):
                continue  # the family's own code says whether it can be
            if not _is_whole(value):
                raise _damaged(where, f"{spelling} is {_short(value)} and has to be a whole number")
            if value < least:
                raise _damaged(where, f"{spelling} is {value} and has to be at least {least}")
            if name == "num_hidden_layers" and value > MOST_LAYERS:
                raise _damaged(
                    where, f"{spelling} is {_long(value)}, and no model has more than {MOST_LAYERS:,} layers"
                )


def _without_switches(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves out the switches of the output and of the attention, also in sections for parts of a model."""
    kept: dict[str, Any] = {}
    for name, value in settings.items():
        switch = name in _SWITCHES or name in _OUTPUT_SWITCHES or name in _ATTENTION
        if switch or (name.startswith("output_") and isinstance(value, bool)):
            continue
        kept[name] = (
            _without_switches(value) if name.endswith("_config") and isinstance(value, Mapping) else value
        )
    return kept


def _check_config(config: PretrainedConfig, settings: Mapping[str, Any], where: str) -> None:
    """Checks what depends on the family's defaults, too."""
    names = settings.get("architectures")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise _damaged(where, f"architectures is {_short(names)} and has to be a list of names, or left out")
    pad, rows = getattr(config, "pad_token_id", None), _number(config, "vocab_size")
    if pad is not None and _is_whole(pad) and rows and not 0 <= pad < rows:
        raise ModelError(
            f"{where}: pad_token_id is {pad}, outside of the vocabulary of {rows:,} tokens. Set it to the id of the "
            "tokenizer's padding token, or leave it out."
        )
    width, heads = _number(config, "hidden_size"), _number(config, "num_attention_heads")
    if width and heads and width % heads and not any(getattr(config, name, None) for name in _OWN_HEAD_SIZE):
        raise _damaged(where, f"{heads:,} attention heads do not divide a width of {width:,}")
    if (limit := position_limit(config)) is not None and limit < _SHORTEST:
        raise _damaged(where, f"it has positions for {limit} tokens, which leaves no room for text")
    for name in _ACTIVATIONS:
        value = getattr(config, name, None)
        if isinstance(value, str) and value not in ACT2FN:
            raise _damaged(
                where, f"{name} is {value!r}, which transformers does not know{nearest(value, ACT2FN)}"
            )
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if name.endswith(("dropout", "_prob", "_pdrop", "dropout_rate", "layerdrop")) and not 0 <= value <= 1:
            raise _damaged(where, f"{name} is {value} and has to be a share from 0 to 1")
        if name in _SPREADS and not 0 <= value < float("inf"):
            raise _damaged(where, f"{name} is {value} and has to be a number from 0")
        if name.endswith(("_eps", "_epsilon")) and not 0 <= value < float("inf"):
            raise _damaged(where, f"{name} is {value} and has to be a small number above 0")


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_id(value: Any) -> bool:
    """Whether a value is the number of a class; transformers takes `"0"` for one, too."""
    return _is_whole(value) or (
        isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10
    )


def _long(value: int) -> str:
    return f"{value:,}" if value < 10**15 else "a number of many digits"


def _number(config: PretrainedConfig, name: str) -> int:
    """Returns a size, under the name it has in the family; 0 where it has none."""
    value = getattr(config, name, None)
    return value if _is_whole(value) else 0


def _reason(error: Exception) -> str:
    """Returns what a family's own check said, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("TypeError: ").removeprefix("ValueError: ") if lines else repr(error)


# Positions start at padding_idx + 1 in these families, so that many rows of the position table are never used.
_OFFSET_POSITIONS = frozenset(
    {
        "roberta",
        "xlm-roberta",
        "xlm-roberta-xl",
        "roberta-prelayernorm",
        "camembert",
        "data2vec-text",
        "ibert",
        "xmod",
    }
    | {"longformer", "mpnet", "layoutlmv3", "luke", "esm", "lilt", "markuplm"}
)
# Relative positions without a table of absolute ones.
_RELATIVE_POSITIONS = frozenset({"t5", "mt5", "umt5", "xlnet", "transfo-xl", "funnel"})


def position_limit(config: PreTrainedConfig) -> int | None:
    """Returns the longest input, in tokens, that a model has positions for; None if positions are only relative.

    BERT and its like: `max_position_embeddings`. RoBERTa's positions start at `padding_idx + 1`, so its table of 514
    holds 512. DeBERTa without absolute positions in its input, T5, XLNet: no limit.
    """
    family = getattr(config, "model_type", "")
    if family in _RELATIVE_POSITIONS:
        return None
    if family in ("deberta", "deberta-v2") and not getattr(config, "position_biased_input", True):
        return None
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None or positions <= 0:
        return None
    if family in _OFFSET_POSITIONS:
        padding = getattr(config, "pad_token_id", None)
        return positions - (1 if padding is None else padding) - 1
    return positions
