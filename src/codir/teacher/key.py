"""The name of a cache entry: a digest of everything the teacher's outputs depend on."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
import transformers
import xxhash
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from codir.models.probe import behaviour
from codir.models.tokens import TokenColumns

FORMAT = 1
"""Version of the files' layout; raise it when that changes."""

# Neither the folder a model was loaded from, nor the version that saved it, nor the names of its classes change what it
# computes (their number is in the shape of the weights).
NOT_CONTENT = (
    *("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"),
    *("id2label", "label2id", "problem_type"),
)


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def model_digest(model: PreTrainedModel) -> str:
    """Digest of a model's class, configuration, weights and buffers (about 0.1 s for 0.5 GB)."""
    digest = xxhash.xxh3_128()
    config = {name: value for name, value in model.config.to_dict().items() if name not in NOT_CONTENT}
    header = json.dumps(config, sort_keys=True, default=str)
    digest.update(f"{type(model).__name__}\n{header}\n".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def data_digest(columns: TokenColumns) -> str:
    """Digest of ids, token ids, masks and token types, whatever integer type they are stored in."""
    digest = xxhash.xxh3_128()
    for name, array in {"ids": columns.ids, "offsets": columns.offsets, **columns.values}.items():
        digest.update(f"{name} {len(array)}\n".encode())
        for start in range(0, len(array), 1 << 22):  # in pieces, so that no second copy of everything is made
            digest.update(np.ascontiguousarray(array[start : start + (1 << 22)], dtype=np.int64).data)
    return digest.hexdigest()


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Digest of vocabulary, rules and padding, but not of the truncation and padding last asked for."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content: dict[str, Any] = {
        "special": {name: str(value) for name, value in tokenizer.special_tokens_map.items()},
        "pad": [tokenizer.pad_token_id, tokenizer.pad_token_type_id, tokenizer.padding_side],
    }
    if backend is not None:
        rules = json.loads(backend.to_str())
        content["rules"] = {
            name: part for name, part in rules.items() if name not in ("truncation", "padding")
        }
    else:
        content["vocabulary"] = tokenizer.get_vocab()
    return xxhash.xxh3_128(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def cache_key(
    model: PreTrainedModel,
    columns: TokenColumns,
    tokenizer: PreTrainedTokenizerBase,
    autocast: torch.dtype | None,
) -> tuple[str, dict[str, Any]]:
    """Returns the key of a teacher's outputs, and the parts it was made of (for the manifest).

    The minor version of transformers is one of them: a release can mend the mathematics of a model.
    """
    parts = {
        "format": FORMAT,
        "teacher": model_digest(model),
        "data": data_digest(columns),
        "tokenizer": tokenizer_digest(tokenizer),
        "precision": str(autocast or "weights"),
        "transformers": ".".join(transformers.__version__.split(".")[:2]),
    }
    if not behaviour(model, tokenizer.pad_token_id).padded:
        parts["padding"] = "none"  # what an earlier codir computed was padded
    return xxhash.xxh3_128(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20], parts
