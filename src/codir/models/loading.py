"""Loads classifiers and tokenizers from a folder or the Hub, and says plainly what is wrong with one that cannot be."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from codir.errors import ModelError
from codir.manifest import model_checked, require_model
from codir.models.config_file import described_weights, make_config, read_settings, remote_code
from codir.models.labels import new_head, require_one_answer, said_kind
from codir.models.representations import EncoderShape
from codir.models.weight_files import count_weights, listing

# What a tokenizer is saved as, in all families.
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab*", "merges.txt", "*.codes", "s*.model")
# They say how a tokenizer is used; alone they are none.
_TOKENIZER_EXTRAS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
# A config that describes so many times the weights that are there, and this many more, is of another model.
_TIMES, _MORE = 4, 10_000_000


def load_classifier(
    path_or_hub_id: str | Path,
    *,
    require_head: bool = True,
    labels: Callable[[PretrainedConfig], object] | None = None,
    dtype: torch.dtype = torch.float32,
    exported: bool = False,
) -> PreTrainedModel:
    """Loads a sequence classifier, in fp32 unless told otherwise (a bf16 checkpoint would load, and train, as bf16).

    Args:
        path_or_hub_id: a model folder (a run folder is one) or a Hub id.
        require_head: the classifier's weights must be there. False is for fine-tuning: a head that is missing or
            has another number of classes, or is of another kind (regression, multi-label), is made anew, with torch's
            global generator (seed that first).
        labels: Writes what the outputs stand for into the config (`Kind.write`); by default they are as it says.
        dtype: `torch.bfloat16` for inference in bf16.
        exported: it is an exported model, whose manifest may not be written yet.

    Returns:
        The model in eval mode.

    Raises:
        ModelError: no such folder or Hub id, no model folder, damaged or pickled weights, no classifier among them, a
            family without sequence classifier, the Hub cannot be reached, the model gives more than one answer to a
            text (`require_one_answer`).
    """
    source = resolve(path_or_hub_id)
    config = load_config(source)
    before = said_kind(config)
    if labels is not None:
        labels(config)
    require_one_answer(config, str(source))
    model, report = _load(AutoModelForSequenceClassification, source, config, dtype, exported)
    absent = _absent(source, model, report)
    if require_head and absent:
        _refuse_head(source, absent, report)
    if (
        before not in (None, said_kind(config)) and not absent
    ):  # of another kind, though its shape happens to fit
        new_head(model)
    return model


def load_pretrained(
    auto: Any, source: str | Path, config: PretrainedConfig
) -> tuple[PreTrainedModel, list[str]]:
    """Loads a model of any kind of head in fp32 and eval mode.

    Args:
        auto: one of transformers' Auto classes.
        source: what `resolve` returned.
        config: the model's config.

    Returns:
        The model, and the names of the head's weights that were missing and are new.

    Raises:
        ModelError: as `load_classifier`.
    """
    model, report = _load(auto, source, config)
    return model, _absent(source, model, report)


def _load(
    auto: Any,
    source: str | Path,
    config: PretrainedConfig,
    dtype: torch.dtype = torch.float32,
    exported: bool = False,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    if isinstance(source, Path):
        held, described = count_weights(source, exported), described_weights(config)
        if described > _TIMES * held + _MORE and not getattr(config, "quantization_config", None):
            raise ModelError(
                f"{source / 'config.json'} describes a model of about {described:,} weights, and the weights beside "
                f"it are {held:,}: the two do not belong together. Download or save the model again."
            )
    whole = model_checked(source) if isinstance(source, Path) else contextlib.nullcontext()
    try:
        with whole, _quiet_transformers():
            return auto.from_pretrained(
                str(source),
                config=config,
                dtype=dtype,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                trust_remote_code=False,
            )
    except ModelError:
        raise
    except Exception as error:  # whatever a family's own code makes of a config that no model can have
        raise _explain(source, error) from error


def load_tokenizer(path_or_hub_id: str | Path) -> PreTrainedTokenizerBase:
    """Loads a model's tokenizer; raises `ModelError` if there is none or it cannot be read."""
    return read_tokenizer(resolve(path_or_hub_id))


def read_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """Loads the tokenizer in a folder (a `Path`), whether a model lies there or not, or of a Hub id.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    # the config that transformers would read for itself has been through no check
    own = isinstance(source, Path) and (source / "config.json").is_file()
    known = {"config": load_config(source)} if own else {}
    try:
        with _quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(str(source), trust_remote_code=False, **known)
    except Exception as error:  # every family reads its files with code of its own
        raise _explain_tokenizer(source, error) from error
    limit: Any = tokenizer.model_max_length
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit >= 1:
        raise _explain_tokenizer(
            source, ValueError(f"its model_max_length is {limit!r}, which is no number of tokens")
        )
    needed = sorted({*type(tokenizer).vocab_files_names.values(), "tokenizer.json"})
    if not type(tokenizer).vocab_files_names or not isinstance(source, Path):
        return tokenizer  # characters or bytes, which need no file
    # transformers makes a tokenizer of special tokens alone where a family's vocabulary is missing
    if not any((source / name).is_file() for name in needed):
        raise _explain_tokenizer(source, FileNotFoundError(f"none of {', '.join(needed)} is there"))
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise _explain_tokenizer(source, ValueError("it knows no words, only special tokens"))
    return tokenizer


def load_config(source: str | Path) -> PretrainedConfig:
    """Loads and checks a model's config (`make_config`).

    Args:
        source: what `resolve` returned, or a config.json.

    Raises:
        ModelError: as `load_classifier`.
    """
    if isinstance(source, Path):
        require_model(source, weights=False)
        path = source / "config.json" if source.is_dir() else source
        where, settings = str(path), read_settings(path)
    else:
        where = source
        try:
            settings = PretrainedConfig.get_config_dict(source)[0]
        except Exception as error:
            raise _explain(source, error) from error
    config = make_config(settings, where)
    config.name_or_path = str(source)
    return config


def encoder_shape(model: nn.Module) -> EncoderShape:
    """Reads depth and width off a model's config; raises `ModelError` for a family that does not name them."""
    config = getattr(model, "config", None)
    layers = getattr(config, "num_hidden_layers", None)
    width = getattr(config, "hidden_size", None)
    if not isinstance(layers, int) or not isinstance(width, int):
        raise ModelError(
            f"{type(model).__name__} does not say how many layers it has and how wide they are "
            f"(num_hidden_layers = {layers!r}, hidden_size = {width!r}). Use a plain transformer encoder."
        )
    heads = getattr(config, "num_attention_heads", None)
    return EncoderShape(layers, width, heads if isinstance(heads, int) else None)


def count_parameters(model: PreTrainedModel) -> tuple[int, int]:
    """Counts parameters, tied ones once.

    Returns:
        total: all of them.
        embedding: those of the embedding layer: words, positions, token types and their norm (Table 3 of the paper:
            39.0 million in RoBERTa-base).
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    encoder = model.base_model
    words = cast(PreTrainedModel, encoder).get_input_embeddings()
    embedding: dict[int, int] = {}
    for child in encoder.children():
        if isinstance(child, nn.Embedding) or any(module is words for module in child.modules()):
            embedding.update({id(parameter): parameter.numel() for parameter in child.parameters()})
    return total, sum(embedding.values())


def resolve(path_or_hub_id: str | Path) -> str | Path:
    """Tells a model folder (returned as `Path`) from a Hub id (returned as `str`).

    Raises:
        ModelError: it is a path, and there is no folder.
    """
    text = str(path_or_hub_id)
    path = Path(text).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{text} is no model folder: config.json is missing; it holds {listing(path)}.")
        return path
    if path.exists():
        raise ModelError(f"{text} is a file. Give the folder that holds config.json and model.safetensors.")
    parts = text.split("/")
    parent = path.parent
    # `runs/teacher` could be a Hub id, too; a folder `runs` right here says that it is not
    beside = len(parts) == 2 and parts[0] not in ("", ".", "..") and parent.is_dir()
    if (
        isinstance(path_or_hub_id, Path)
        or len(parts) > 2
        or text.startswith((".", "/", "~"))
        or "\\" in text
        or beside
    ):
        near = (
            f" {parent} holds {listing(parent)}." if parent.is_dir() else f" Nor is there a folder {parent}."
        )
        raise ModelError(f"The model folder {text} does not exist.{near}")
    return text


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Switches off the table of missing weights and the progress bar: `_check_report` says it in one sentence."""
    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def _absent(source: str | Path, model: PreTrainedModel, report: dict[str, Any]) -> list[str]:
    """Returns the head's weights that were missing or of another shape; the encoder's raise `ModelError`."""
    inside = f"{model.base_model_prefix}."
    mismatched = {entry[0]: entry[1:] for entry in report["mismatched_keys"]}
    absent = sorted({*report["missing_keys"], *mismatched})
    # a pooler belongs to the head: checkpoints of masked-LM training have none
    body = [name for name in absent if name.startswith(inside) and "pooler" not in name]
    if body:
        why = f" (shapes {mismatched[body[0]]})" if body[0] in mismatched else ""
        raise ModelError(
            f"{source} lacks {len(body)} of the encoder's weights, the first is {body[0]}{why}. "
            "Its config.json and its weights do not belong together; download or save the model again."
        )
    return absent


def _refuse_head(source: str | Path, absent: list[str], report: dict[str, Any]) -> NoReturn:
    """Raises the `ModelError` for a classifier that is missing or has other classes."""
    for name, *shapes in report["mismatched_keys"]:
        raise ModelError(
            f"The classifier of {source} has other classes than asked for: {name} has the shape "
            f"{list(shapes[0])}, wanted {list(shapes[1])}. Use a model fine-tuned on these labels."
        )
    raise ModelError(
        f"{source} is not fine-tuned: it has no classifier weights ({', '.join(absent[:4])}"
        f"{', ...' if len(absent) > 4 else ''}). "
        f"`codir finetune --model {shlex.quote(str(source))} --task TASK --output DIR` makes a "
        "teacher of it."
    )


def _explain(source: str | Path, error: Exception, what: str = "the model") -> ModelError:
    """Returns the `ModelError` that says in one or two sentences what a library's exception means."""
    text = str(error)
    low = text.lower()
    if "trust_remote_code" in low:
        return remote_code(str(source))
    if isinstance(source, Path):
        pass
    elif "couldn't connect" in low or "offline" in low or "connection" in low or "name resolution" in low:
        return ModelError(
            f"There is no folder {source} here, and the Hugging Face Hub cannot be reached, nor is a model of that "
            "name in its local cache. Check the connection (and HF_HUB_OFFLINE), or give a model folder."
        )
    elif "not a valid model identifier" in low or "repository not found" in low or "404" in low:
        return ModelError(
            f"{source} is neither a folder here nor a model on the Hugging Face Hub "
            "(a private one needs `hf auth login`)."
        )
    elif "safetensors" in low and ("no file named" in low or "does not appear to have" in low):
        return ModelError(
            f"{source} has no safetensors weights on the Hub, only pickled ones, which can run code when they are "
            "read. Convert it once with transformers (from_pretrained, then save_pretrained) if you trust it."
        )
    if "unrecognized configuration class" in low:
        return ModelError(
            f"{source} is of a family without a sequence classifier, so it can be neither teacher nor student. "
            "Use an encoder such as BERT, RoBERTa, DistilBERT, DeBERTa or ModernBERT."
        )
    return ModelError(
        f"Cannot load {what} from {source}: {text.strip().splitlines()[0] if text.strip() else error!r}"
    )


def _explain_tokenizer(source: str | Path, error: Exception) -> ModelError:
    """Returns the `ModelError` for a tokenizer that is missing or cannot be read, which are two things."""
    if not isinstance(source, Path):
        return _explain(source, error, "the tokenizer")
    if "trust_remote_code" in str(error):
        return remote_code(f"The tokenizer of {source}")
    files = sorted(path.name for name in _TOKENIZER_FILES for path in source.glob(name))
    if not files:
        return ModelError(
            f"{source} holds no tokenizer; it holds {listing(source)}. Copy the files of the tokenizer that the model "
            "was trained with (tokenizer.json, tokenizer_config.json) into it."
        )
    again = "Copy the tokenizer's files again from where the model is from."
    files += [name for name in _TOKENIZER_EXTRAS if (source / name).is_file()]
    for name in files:
        path = source / name
        if name.endswith(".json"):
            try:
                if not isinstance(json.loads(path.read_bytes()), dict):
                    return ModelError(f"{path} is damaged: it holds no object with names. {again}")
            except (ValueError, RecursionError, OSError) as damage:
                return ModelError(f"{path} is damaged: {damage}. {again}")
    pieces = "tokenizer.json" not in files and any(name.endswith(".model") for name in files)
    if pieces and importlib.util.find_spec("sentencepiece") is None:
        return ModelError(
            f"The tokenizer in {source} ({', '.join(files)}) is of SentencePiece, whose package is not installed: "
            "`pip install sentencepiece`; or copy its tokenizer.json there, which needs no package."
        )
    text = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ModelError(
        f"The tokenizer in {source} ({', '.join(files)}) cannot be read: {text[0] if text else repr(error)}. {again}"
    )
