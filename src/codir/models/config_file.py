"""What stands in a model's config.json: read, checked as a whole, and made into a config, before a model is built.

transformers checks the types of most entries and not what they say: a gap between the classes, a padding token outside
of the vocabulary or a million layers become a traceback, or hours, when the model is built; here they become a
sentence. What only the family's own code can know (dropout, precision, the rest) is left to it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import transformers
from transformers import CONFIG_MAPPING, PretrainedConfig
from transformers.activations import ACT2FN

import codir.models.bilstm  # noqa: F401 - makes transformers know the family
from codir.errors import ModelError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_MOST_LAYERS = 1_000  # building a million of them takes hours
_SHORTEST = 4  # tokens: two special ones, and text
# By the name that transformers gives an entry in every family, the least that it can be.
_SIZES = {
    **dict.fromkeys(("hidden_size", "embedding_size", "intermediate_size", "vocab_size"), 1),
    **dict.fromkeys(("num_hidden_layers", "num_attention_heads", "num_key_value_heads"), 1),
    **{"max_position_embeddings": 1, "type_vocab_size": 0},
}
# Switches of what a model gives out and of how it computes: codir sets them, in each call or for each machine.
_SWITCHES = (
    *("return_dict", "use_return_dict", "torchscript", "chunk_size_feed_forward"),
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
)
_OWN_HEAD_SIZE = ("head_dim", "d_kv", "d_head", "attention_head_size")
# Positions start at padding_idx + 1 in these families, so that many rows of the position table are never used.
_OFFSET_POSITIONS = frozenset(
    {"roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert", "data2vec-text", "ibert"}
    | {"xmod", "longformer", "mpnet", "layoutlmv3", "luke", "esm", "lilt", "markuplm"}
)
# Relative positions without a table of absolute ones.
_RELATIVE_POSITIONS = frozenset({"t5", "mt5", "umt5", "xlnet", "transfo-xl", "funnel"})


def read_settings(path: Path) -> dict[str, Any]:
    """Reads a config.json; raises `ModelError` if it cannot be read, is no JSON, or no object with names."""
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise _wrong(path, f"it cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise _wrong(path, f"it holds {_short(found)}, and a config is an object with names")
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
    kind = settings.get("model_type")
    if not kind:
        raise ModelError(f'{where} does not name its family: add "model_type": "bert" (or roberta, distilbert, ...).')
    if not (isinstance(kind, str) and kind in CONFIG_MAPPING):
        if settings.get("auto_map"):
            raise remote_code(where)
        raise ModelError(
            f"{where}: transformers {transformers.__version__} knows no models of the family {_short(kind)}"
            f"{nearest(str(kind), CONFIG_MAPPING)}. Correct model_type, or use a model of a family that it knows."
        )
    family: Any = CONFIG_MAPPING[kind]
    wrong = _wrong_labels(settings.get("id2label")) or _wrong_size(settings, getattr(family, "attribute_map", {}))
    if wrong is not None:
        raise _wrong(where, wrong)
    try:
        config = family.from_dict(_without_switches(settings))
    except Exception as error:  # whatever a family's own code makes of it
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
        raise _wrong(where, lines[-1].removeprefix("TypeError: ").removeprefix("ValueError: ")) from error
    if (wrong := _wrong_config(config)) is not None:
        raise _wrong(where, wrong)
    return config


def settle_switches(config: PretrainedConfig) -> None:
    """Sets the switches of the output to what codir counts on, in the config of a model that it did not load itself."""
    config.output_attentions = config.output_hidden_states = False
    config.return_dict = True


def remote_code(where: str) -> ModelError:
    """Returns the error for a model or a tokenizer whose code comes with it, which codir never runs."""
    return ModelError(
        f"{where} needs code of its own, which came with it (auto_map), and codir runs no code that comes with a "
        "model. Use a model of a family that transformers knows, such as BERT, RoBERTa, DeBERTa or ModernBERT."
    )


def described_weights(config: PretrainedConfig) -> int:
    """Returns about how many weights a model has: a vector for each token, place and type, and the layers' matrices."""
    width = _number(config, "hidden_size")
    # ALBERT shares them
    layers = _number(config, "num_hidden_groups") or _number(config, "num_hidden_layers")
    inner = _number(config, "intermediate_size") or 4 * width
    rows = _number(config, "vocab_size") + _number(config, "type_vocab_size")
    # which have no table of positions
    if not (hasattr(config, "rope_parameters") or hasattr(config, "rope_theta")):
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


def position_limit(config: PreTrainedConfig) -> int | None:
    """Returns the longest input, in tokens, that a model has positions for; None if positions are only relative.

    BERT and its like: `max_position_embeddings`. RoBERTa's positions start at `padding_idx + 1`, so its table of 514
    holds 512. DeBERTa without absolute positions in its input, T5, XLNet: no limit.
    """
    family = getattr(config, "model_type", "")
    positions = getattr(config, "max_position_embeddings", None)
    of_deberta = family in ("deberta", "deberta-v2") and not getattr(config, "position_biased_input", True)
    if family in _RELATIVE_POSITIONS or of_deberta or positions is None or positions <= 0:
        return None
    if family in _OFFSET_POSITIONS:
        padding = getattr(config, "pad_token_id", None)
        return positions - (1 if padding is None else padding) - 1
    return positions


def _wrong(where: str | Path, what: str) -> ModelError:
    return ModelError(f"{where}: {what.rstrip('.')}. Correct it, or download or save the model again.")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(config: PretrainedConfig, name: str) -> int:
    """Returns a size, under the name it has in the family; 0 where it has none."""
    value = getattr(config, name, None)
    return value if _is_whole(value) else 0


def _wrong_labels(names: Any) -> str | None:
    if names is None:
        return None
    if not isinstance(names, Mapping) or not names:
        named = '{"0": "negative", "1": "positive"}'
        return f"id2label is {_short(names)} and has to name every class by its number, as {named}"
    ids = list(map(str, names))
    if missing := [number for number in map(str, range(len(ids))) if number not in ids]:
        shown = ", ".join(ids[:8])
        return f"id2label names {len(ids)} classes, which are numbered {shown}: number {missing[0]} is missing"
    seen: dict[str, str] = {}
    for number, name in names.items():
        if not isinstance(name, str | int | float):
            return f"id2label gives class {number} the name {_short(name)}, which is no text"
        if str(name) in seen:
            return f"id2label gives the classes {seen[str(name)]} and {number} one name, {name!r}"
        seen[str(name)] = str(number)
    return None


def _wrong_size(settings: Mapping[str, Any], spellings: Mapping[str, str]) -> str | None:
    """Checks sizes, by the names that they have in all families or in this one."""
    for name, least in _SIZES.items():
        for spelling in {name, spellings.get(name, name)}:
            value = settings.get(spelling)
            if value is None or isinstance(value, list | tuple | Mapping):
                continue  # the family's own code says whether it can be
            if not _is_whole(value) or value < least:
                return f"{spelling} is {_short(value)} and has to be a whole number, at least {least}"
            if name == "num_hidden_layers" and value > _MOST_LAYERS:
                return f"{spelling} is {_short(value)}, and no model has more than {_MOST_LAYERS:,} layers"
    return None


def _wrong_config(config: PretrainedConfig) -> str | None:
    """Checks what depends on the family's defaults, too."""
    pad, rows = getattr(config, "pad_token_id", None), _number(config, "vocab_size")
    if pad is not None and _is_whole(pad) and rows and not 0 <= pad < rows:
        return (
            f"pad_token_id is {pad}, outside of the vocabulary of {rows:,} tokens. Set it to the id of the tokenizer's "
            "padding token, or leave it out"
        )
    width, heads = _number(config, "hidden_size"), _number(config, "num_attention_heads")
    if width and heads and width % heads and not any(getattr(config, name, None) for name in _OWN_HEAD_SIZE):
        return f"{heads:,} attention heads do not divide a width of {width:,}"
    if (limit := position_limit(config)) is not None and limit < _SHORTEST:
        return f"it has positions for {limit} tokens, which leaves no room for text"
    for name in ("hidden_act", "activation_function", "hidden_activation"):
        value = getattr(config, name, None)
        if isinstance(value, str) and value not in ACT2FN:
            return f"{name} is {value!r}, which transformers does not know{nearest(value, ACT2FN)}"
    return None


def _without_switches(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves out the switches of the output and of the attention, also in sections for parts of a model."""
    return {
        name: _without_switches(value) if name.endswith("_config") and isinstance(value, Mapping) else value
        for name, value in settings.items()
        if name not in _SWITCHES and not (name.startswith("output_") and isinstance(value, bool))
    }
