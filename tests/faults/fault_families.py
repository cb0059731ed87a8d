"""Tiny classifiers of random weights, one of every family that transformers has a sequence classifier of.

The sizes are the smallest that each family's code takes; a family is named by its `model_type`.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

_WIDTHS: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
_GPT: dict[str, Any] = {"n_positions": 64, "n_embd": 32, "n_layer": 4, "n_head": 2}
_T5: dict[str, Any] = {
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 2,
    "decoder_start_token_id": 0,
}
_BART: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 3,
}
_SETTINGS: dict[str, dict[str, Any]] = {
    "albert": {**_WIDTHS, "embedding_size": 16},
    "bart": _BART,
    "big_bird": {**_WIDTHS, "block_size": 4, "num_random_blocks": 1, "attention_type": "block_sparse"},
    "convbert": {**_WIDTHS, "embedding_size": 32, "head_ratio": 1},
    "deberta-v2": {**_WIDTHS, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "conv_kernel_size": 3},
    "deberta": {**_WIDTHS, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "distilbert": {"dim": 32, "n_layers": 4, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 64},
    "electra": {**_WIDTHS, "embedding_size": 16},
    "funnel": {"block_sizes": [2, 2], "d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 64},
    "gemma2": {**_WIDTHS, "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 8},
    "gpt2": _GPT,
    "mbart": _BART,
    "bloom": {"n_layer": 4, "n_head": 2, "hidden_size": 32},
    "gpt_neo": {
        "max_position_embeddings": 64,
        "hidden_size": 32,
        "num_layers": 4,
        "num_heads": 2,
        "intermediate_size": 64,
        "attention_types": [[["global", "local"], 2]],
    },
    "llama": {**_WIDTHS, "num_key_value_heads": 2},
    "longformer": {**_WIDTHS, "attention_window": [4, 8, 4, 16]},
    "mistral": {**_WIDTHS, "num_key_value_heads": 2},
    "mobilebert": {**_WIDTHS, "embedding_size": 32, "intra_bottleneck_size": 16, "num_feedforward_networks": 2},
    "modernbert": {**_WIDTHS, "local_attention": 8, "global_attn_every_n_layers": 2},
    "nystromformer": {**_WIDTHS, "conv_kernel_size": 5},
    "perceiver": {
        "num_latents": 8,
        "d_latents": 32,
        "d_model": 32,
        "num_blocks": 1,
        "num_self_attends_per_block": 2,
        "num_self_attention_heads": 2,
        "num_cross_attention_heads": 2,
        "max_position_embeddings": 64,
    },
    "qwen2": {**_WIDTHS, "num_key_value_heads": 2},
    "qwen3": {**_WIDTHS, "num_key_value_heads": 2, "head_dim": 16},
    "reformer": {
        "hidden_size": 32,
        "attention_head_size": 16,
        "num_attention_heads": 2,
        "attn_layers": ["local", "lsh", "local", "lsh"],
        "feed_forward_size": 64,
        "max_position_embeddings": 64,
        "axial_pos_shape": [8, 8],
        "axial_pos_embds_dim": [16, 16],
        "local_attn_chunk_length": 4,
        "lsh_attn_chunk_length": 4,
        "num_buckets": 4,
        "num_hashes": 1,
        "is_decoder": False,
    },
    "rembert": {**_WIDTHS, "input_embedding_size": 32, "output_embedding_size": 32},
    "roformer": {**_WIDTHS, "embedding_size": 32},
    "squeezebert": {**_WIDTHS, "embedding_size": 32},
    "t5": _T5,
    "xlm": {"emb_dim": 32, "n_layers": 4, "n_heads": 2, "max_position_embeddings": 64, "pad_index": 0},
    "xlnet": {"d_model": 32, "n_layer": 4, "n_head": 2, "d_inner": 64},
    "xmod": {**_WIDTHS, "default_language": "en_XX", "languages": ["en_XX"]},
    "yoso": {**_WIDTHS, "use_expectation": True, "num_hash": 2, "hash_code_len": 3},
}


def family(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    seed: int = 0,
    labels: tuple[str, ...] = (),
    **settings: Any,
) -> PreTrainedModel:
    """Returns a classifier of a family in eval mode, its weights large enough to tell texts apart.

    Args:
        name: the family's `model_type`.
        tokenizer: whose tokens it takes.
        seed: of its weights.
        labels: names of its classes; `negative` and `positive` by default.
        settings: of its config, on top of the smallest sizes.
    """
    names = labels or ("negative", "positive")
    values: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "cls_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        **_SETTINGS.get(name, _WIDTHS),
        **settings,
        "id2label": dict(enumerate(names)),
        "label2id": {label: number for number, label in enumerate(names)},
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(name, **values))
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(0.0, 0.2)
    return model.eval()


def family_dir(folder: Path, name: str, tokenizer: PreTrainedTokenizerBase, **settings: Any) -> Path:
    """Saves a classifier of a family and its tokenizer, which gives no token types; arguments as `family`."""
    family(name, tokenizer, **settings).save_pretrained(folder)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(folder)
    return folder
