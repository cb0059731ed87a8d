"""Loads classifiers and tokenizers from a folder or the Hub, and says plainly what is wrong with one that cannot be."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
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
from codir.manifest import EXPORT_MANIFEST, EXPORT_MARK, model_checked, require_model
from codir.models.classes import new_head, require_one_answer, said_kind
from codir.models.config_file import described_weights, make_config, read_settings, remote_code
from codir.models.representations import EncoderShape

# What a tokenizer is saved as, in all families.
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab*", "merges.txt", "*.codes", "s*.model")
# A config that describes so many times the weights that are there, and this many more, is of another model.
_TIMES, _MORE = 4, 10_000_000
_AGAIN = "Download or save the model again."


def load_classifier(
    path_or_hub_id: str | Path,
    *,
    require_head: bool = True,
    labels: Callable[[PretrainedConfig], object] | None = None,
    dtype: torch.dtype = torch.float32,
    exported: bool = False,
) -> PreTrainedModel:
    """Loads a sequence classifier in eval mode, in fp32 unless told otherwise (a bf16 checkpoint would train as bf16).

    Args:
        path_or_hub_id: a model folder (a run folder is one) or a Hub id.
        require_head: the classifier's weights must be there. False is for fine-tuning: a head that is missing or
            has another number of classes, or is of another kind (regression, multi-label), is made anew, with torch's
            global generator (seed that first).
        labels: writes what the outputs stand for into the config (`Kind.write`); by default they are as it says.
        dtype: `torch.bfloat16` for inference in bf16.
        exported: it is an exported model, whose manifest may not be written yet.

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
    model, absent, wrong_shapes = _load(AutoModelForSequenceClassification, source, config, dtype, exported)
    if require_head:
        for name, (found, wanted) in wrong_shapes.items():
            raise ModelError(
                f"The classifier of {source} has other classes than asked for: {name} has the shape {list(found)}, "
                f"wanted {list(wanted)}. Use a model fine-tuned on these labels."
            )
        if absent:
            raise ModelError(
                f"{source} is not fine-tuned: it has no classifier weights ({', '.join(absent[:4])}). `codir finetune "
                f"--model {shlex.quote(str(source))} --task TASK --output DIR` makes a teacher of it."
            )
    # another kind, though its shape happens to fit
    if before not in (None, said_kind(config)) and not absent:
        new_head(model)
    return model


def load_pretrained(auto: Any, source: str | Path, config: PretrainedConfig) -> tuple[PreTrainedModel, list[str]]:
    """Loads a model with any kind of head in fp32 and eval mode; also returns the head's weights that are new.

    Args:
        auto: one of transformers' Auto classes.
        source: what `resolve` returned.
        config: the model's config.

    Raises:
        ModelError: as `load_classifier`.
    """
    return _load(auto, source, config)[:2]


def _load(
    auto: Any,
    source: str | Path,
    config: PretrainedConfig,
    dtype: torch.dtype = torch.float32,
    exported: bool = False,
) -> tuple[PreTrainedModel, list[str], dict[str, Any]]:
    """Returns a model, the head's weights that are new, and the shapes (found, wanted) of those that did not fit."""
    if isinstance(source, Path):
        held, described = _count_weights(source, exported), described_weights(config)
        if described > _TIMES * held + _MORE and not getattr(config, "quantization_config", None):
            raise ModelError(
                f"{source / 'config.json'} describes a model of about {described:,} weights, and the weights beside "
                f"it are {held:,}: the two do not belong together. {_AGAIN}"
            )
    whole = model_checked(source) if isinstance(source, Path) else contextlib.nullcontext()
    try:
        with whole, _quiet_transformers():
            model, report = auto.from_pretrained(
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
    wrong_shapes = {entry[0]: entry[1:] for entry in report["mismatched_keys"]}
    absent = sorted({*report["missing_keys"], *wrong_shapes})
    # a pooler belongs to the head: checkpoints of masked-LM training have none
    inside = f"{model.base_model_prefix}."
    body = [name for name in absent if name.startswith(inside) and "pooler" not in name]
    if body:
        why = f" (shapes {wrong_shapes[body[0]]})" if body[0] in wrong_shapes else ""
        raise ModelError(
            f"{source} lacks {len(body)} of the encoder's weights, the first is {body[0]}{why}. "
            f"Its config.json and its weights do not belong together. {_AGAIN}"
        )
    return model, absent, wrong_shapes


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
        limit: Any = tokenizer.model_max_length
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit >= 1:
            raise ValueError(f"its model_max_length is {limit!r} in tokenizer_config.json, no number of tokens")
        # transformers makes a tokenizer of special tokens alone where a family's vocabulary is missing; characters and
        # bytes need no file
        if type(tokenizer).vocab_files_names and isinstance(source, Path):
            needed = sorted({*type(tokenizer).vocab_files_names.values(), "tokenizer.json"})
            if not any((source / name).is_file() for name in needed):
                raise FileNotFoundError(f"none of {', '.join(needed)} is there")
            if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
                raise ValueError("it knows no words, only special tokens")
    except Exception as error:  # every family reads its files with code of its own
        raise _explain_tokenizer(source, error) from error
    return tokenizer


def load_config(source: str | Path) -> PretrainedConfig:
    """Loads and checks (`make_config`) the config of what `resolve` returned; or a config.json."""
    if isinstance(source, Path):
        require_model(source, weights=False)
        path = source / "config.json" if source.is_dir() else source
        settings = read_settings(path)
    else:
        path = source
        try:
            settings = PretrainedConfig.get_config_dict(source)[0]
        except Exception as error:
            raise _explain(source, error) from error
    config = make_config(settings, str(path))
    config.name_or_path = str(source)
    return config


def encoder_shape(model: nn.Module) -> EncoderShape:
    """Reads depth and width off a model's config; raises `ModelError` for a family that does not name them."""
    config = getattr(model, "config", None)
    layers, width, heads = (
        getattr(config, name, None) for name in ("num_hidden_layers", "hidden_size", "num_attention_heads")
    )
    if not isinstance(layers, int) or not isinstance(width, int):
        raise ModelError(
            f"{type(model).__name__} does not say how many layers it has and how wide they are "
            f"(num_hidden_layers = {layers!r}, hidden_size = {width!r}). Use a plain transformer encoder."
        )
    return EncoderShape(layers, width, heads if isinstance(heads, int) else None)


def count_parameters(model: PreTrainedModel) -> tuple[int, int]:
    """Counts parameters, tied ones once.

    Returns:
        total: all of them.
        embedding: those of the embedding layer: words, positions, token types and their norm (Table 3 of the paper:
            39.0 million in RoBERTa-base).
    """
    encoder = cast(PreTrainedModel, model.base_model)
    words = encoder.get_input_embeddings()
    embedding: dict[int, int] = {}
    for child in encoder.children():
        if isinstance(child, nn.Embedding) or any(module is words for module in child.modules()):
            embedding.update({id(parameter): parameter.numel() for parameter in child.parameters()})
    return sum(parameter.numel() for parameter in model.parameters()), sum(embedding.values())


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
    parts, parent = text.split("/"), path.parent
    spelt = isinstance(path_or_hub_id, Path) or text.startswith((".", "/", "~")) or "\\" in text
    # `runs/teacher` could be a Hub id, too; a folder `runs` right here says that it is not
    if spelt or len(parts) > 2 or (len(parts) == 2 and parts[0] and parent.is_dir()):
        near = f"{parent} holds {listing(parent)}" if parent.is_dir() else f"Nor is there a folder {parent}"
        raise ModelError(f"The model folder {text} does not exist. {near}.")
    return text


def listing(folder: Path, most: int = 12) -> str:
    """Returns the names in a folder, for messages."""
    try:
        names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    except OSError as error:
        return f"what cannot be listed ({error.strerror})"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}" or "nothing"


def _count_weights(folder: Path, exported: bool) -> int:
    """Returns how many weights a folder's safetensors files hold, as their headers say; errors as `load_classifier`."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        files = ["model.safetensors"]
    elif index.is_file():
        try:
            files = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
            if any(Path(name).name != name for name in files):
                raise ValueError("it names files that are not in the folder")
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise ModelError(f"{index} is damaged: {str(error) or error!r}. {_AGAIN}") from error
    else:
        raise _no_weights(folder)
    total = 0
    for path in (folder / name for name in files):
        if not path.is_file():
            raise ModelError(f"{path} is missing, though {index.name} lists it. {_AGAIN}")
        try:
            with safe_open(path, framework="pt") as file:  # checks the header against the length of the file
                shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 - no mapping
                mark = (file.metadata() or {}).get(EXPORT_MARK)
        except (SafetensorError, OSError) as error:
            if not os.access(path, os.R_OK):  # safetensors calls that missing
                raise ModelError(f"{path} may not be read: permission denied. Ask its owner for it.") from error
            size = path.stat().st_size
            raise ModelError(f"{path} ({size} bytes) is truncated or damaged: {error}. {_AGAIN}") from error
        if not shapes:
            raise ModelError(f"{path} holds no weights. {_AGAIN}")
        if mark is not None and not exported and not (folder / EXPORT_MANIFEST).is_file():
            raise ModelError(
                f"{folder} holds an exported model ({mark}) without its {EXPORT_MANIFEST}, so nothing says that it is "
                "whole. Copy the whole folder again, or export the model again: `codir export`."
            )
        total += sum(map(math.prod, shapes))
    return total


def _no_weights(folder: Path) -> ModelError:
    if pickled := sorted([*folder.glob("pytorch_model*.bin"), *folder.glob("*.pt"), *folder.glob("*.ckpt")]):
        return ModelError(
            f"{folder} holds its weights as a pickle ({pickled[0].name}), which can run code when it is read, so "
            "codir does not. If you trust where it comes from, convert it once:\n"
            '  python -c "from transformers import AutoModelForSequenceClassification as M; '
            f"M.from_pretrained('{folder}').save_pretrained('{folder}-safetensors')\"\n"
            "copy the tokenizer's files over and use that folder."
        )
    if (folder / "deployment.json").is_file():
        return ModelError(
            f"{folder} is an exported model, which cannot be trained, distilled or exported again. Use the model it "
            "was made from: its deployment.json names it."
        )
    return ModelError(f"{folder} is no model folder: model.safetensors is missing; it holds {listing(folder)}.")


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Switches off the table of missing weights and the progress bar: codir says it in one sentence."""
    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def _explain(source: str | Path, error: Exception, what: str = "the model") -> ModelError:
    """Returns the `ModelError` that says in one or two sentences what a library's exception means."""
    line = (str(error).strip().splitlines() or [repr(error)])[0]
    low = str(error).lower()
    if "trust_remote_code" in low:
        return remote_code(str(source))
    if "unrecognized configuration class" in low:
        return ModelError(
            f"{source} is of a family without a sequence classifier, so it can be neither teacher nor student. "
            "Use an encoder such as BERT, RoBERTa, DistilBERT, DeBERTa or ModernBERT."
        )
    if isinstance(source, Path):
        return ModelError(f"Cannot load {what} from {source}: {line}")
    if any(words in low for words in ("couldn't connect", "offline", "connection", "name resolution")):
        return ModelError(
            f"There is no folder {source} here, and the Hugging Face Hub cannot be reached, nor is a model of that "
            "name in its local cache. Check the connection (and HF_HUB_OFFLINE), or give a model folder."
        )
    return ModelError(
        f"Cannot load {what} from {source}, which is no folder here, from the Hugging Face Hub: {line} A private one "
        "needs `hf auth login`, and its weights have to be safetensors."
    )


def _explain_tokenizer(source: str | Path, error: Exception) -> ModelError:
    """Returns the `ModelError` for a tokenizer that is missing or cannot be read, which are two things."""
    if isinstance(source, str) or "trust_remote_code" in str(error):
        return _explain(source, error, "the tokenizer")
    if not (files := sorted(path.name for name in _TOKENIZER_FILES for path in source.glob(name))):
        return ModelError(
            f"{source} holds no tokenizer; it holds {listing(source)}. Copy the files of the tokenizer that the model "
            "was trained with (tokenizer.json, tokenizer_config.json) into it."
        )
    again = "Copy the tokenizer's files again from where the model is from."
    for path in (source / name for name in ("tokenizer.json", "tokenizer_config.json")):
        try:
            if path.is_file() and not isinstance(json.loads(path.read_bytes()), dict):
                raise ValueError("it holds no object with names")
        except (ValueError, RecursionError, OSError) as damage:
            return ModelError(f"{path} is damaged: {damage}. {again}")
    pieces = "tokenizer.json" not in files and any(name.endswith(".model") for name in files)
    if pieces and importlib.util.find_spec("sentencepiece") is None:
        return ModelError(
            f"The tokenizer in {source} ({', '.join(files)}) is of SentencePiece, whose package is not installed: "
            "`pip install sentencepiece`; or copy its tokenizer.json there, which needs no package."
        )
    line = (str(error).strip().splitlines() or [repr(error)])[0]
    return ModelError(f"The tokenizer in {source} ({', '.join(files)}) cannot be read: {line}. {again}")
